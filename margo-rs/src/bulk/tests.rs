use super::*;
use crate::{Engine, Wait};
use std::time::Duration;

fn engine() -> Engine {
    Engine::listen("native+tcp://127.0.0.1").wait().unwrap()
}

/// A loop to itself needs no peer: what is checked here are regions, not transports.
#[test]
fn data_moves_both_ways_between_regions_of_one_engine() {
    let engine = engine();
    let source = engine.expose(vec![vec![1u8; 300_000], vec![2; 3], vec![], vec![3; 5_000_000]], Permission::ReadOnly);
    let source = source.unwrap();
    let target = engine.expose(vec![0u8; 5_300_003], Permission::WriteOnly).unwrap();
    let expected = || [vec![1u8; 300_000], vec![2; 3], vec![3; 5_000_000]].concat();
    let staged = engine.stage(vec![0; 5_300_003]).unwrap();
    engine.pull(source.descriptor(), &staged).wait().unwrap();
    engine.push(&staged, target.descriptor()).wait().unwrap();
    assert!(staged.into_inner().wait() == expected());
    assert!(target.into_inner().wait() == expected());
    assert_eq!(source.into_inner().wait().len(), 4);
    assert_eq!(engine.load().regions, 0);
}

#[test]
fn parts_go_where_they_are_told_and_nowhere_else() {
    let engine = engine();
    let source = engine.expose((0..100).collect::<Vec<u8>>(), Permission::ReadOnly).unwrap();
    let target = engine.stage(vec![vec![255u8; 4], vec![255; 6]]).unwrap();
    engine.pull(source.descriptor().slice(10..14), target.slice(2..6)).wait().unwrap();
    let mut part = [0; 3];
    target.read_at(3, &mut part).unwrap();
    assert_eq!(part, [11, 12, 13]);
    assert_eq!(target.into_inner().wait().concat(), [255, 255, 10, 11, 12, 13, 255, 255, 255, 255]);
}

#[test]
fn local_mistakes_are_told_before_anything_moves() {
    let engine = engine();
    let source = engine.expose(vec![1; 10], Permission::ReadOnly).unwrap();
    let target = engine.stage(vec![0; 10]).unwrap();
    let pull = |from: RemoteRange, to: LocalRange| engine.pull(from, to).wait().unwrap_err();
    let all = || source.descriptor().slice(..);
    let error = pull(all(), target.slice(..9));
    assert!(matches!(error, BulkError::LengthMismatch { remote: 10, local: 9 }), "{error}");
    let error = pull(all(), target.slice(1..11));
    assert!(matches!(error, BulkError::LocalOutOfBounds { offset: 1, length: 10, size: 10 }), "{error}");
    assert_eq!(pull(source.descriptor().slice(1..11), target.slice(..)).refusal(), Some(Refusal::OutOfBounds));
    let error = engine.push(&target, source.descriptor()).wait().unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::WrongDirection));
    let constant: &'static [u8] = b"constant";
    let error = engine.expose(constant, Permission::ReadWrite).unwrap_err();
    assert!(matches!(error, BulkError::ReadOnlyMemory), "{error}");
    let constant = engine.stage(constant).unwrap();
    assert!(matches!(constant.write_at(0, b"x"), Err(BulkError::ReadOnlyMemory)));
    let error = engine.pull(source.descriptor().slice(..8), &constant).wait().unwrap_err();
    assert!(matches!(error, BulkError::ReadOnlyMemory), "{error}");
    assert_eq!(target.into_inner().wait(), [0; 10]);
}

#[test]
fn memory_is_given_back_only_when_its_last_pin_is_gone() {
    let engine = engine();
    let region = engine.expose(vec![5; 10], Permission::ReadWrite).unwrap();
    let window = region_window(&region);
    let pinned = window.pin().unwrap();
    let mut taking = Box::pin(region.into_inner());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(taking.as_mut().poll(&mut cx).is_pending());
    assert_eq!(window.pin().err(), Some(Withdrawn), "no new pins meanwhile");
    assert_eq!(window.read(0..1, |_| ()), Err(Withdrawn), "nor new uses");
    let waiting = std::thread::spawn(move || taking.wait());
    std::thread::sleep(Duration::from_millis(10));
    assert!(!waiting.is_finished());
    drop(pinned);
    assert_eq!(waiting.join().unwrap(), [5; 10]);
}

fn region_window(region: &Region) -> Window {
    region.window(Access::Read, 0, region.len() as usize).unwrap()
}

#[test]
fn a_dropped_region_frees_its_memory_though_windows_remain() {
    struct Counted {
        bytes: Vec<u8>,
        _alive: std::sync::Arc<()>,
    }
    // SAFETY: as for the vector.
    #[allow(unsafe_code)]
    unsafe impl Memory for Counted {
        fn segments(&mut self) -> Vec<Segment> {
            self.bytes.segments()
        }
    }
    let engine = engine();
    let alive = std::sync::Arc::new(());
    let region = engine.expose(Counted { bytes: vec![1; 10], _alive: alive.clone() }, Permission::ReadOnly).unwrap();
    let window = region.window(Access::Read, 0, 10).unwrap();
    assert_eq!(std::sync::Arc::strong_count(&alive), 2);
    drop(region);
    assert_eq!(std::sync::Arc::strong_count(&alive), 1);
    assert_eq!(window.copy_out(0, &mut [0; 4]), Err(Withdrawn));
    assert_eq!(engine.load().regions, 0);
}

#[test]
fn regions_outlive_their_engine_as_memory_only() {
    let engine = engine();
    let region = engine.expose(vec![5; 10], Permission::ReadOnly).unwrap();
    engine.shutdown().wait();
    assert!(matches!(region.read_at(0, &mut [0]), Err(BulkError::ShutDown)));
    assert!(matches!(engine.stage(vec![0]), Err(BulkError::ShutDown)));
    assert_eq!(region.into_inner().wait(), [5; 10]);
}

#[test]
fn a_pooled_buffer_comes_back_cleared_and_under_another_key() {
    let engine = engine();
    let pool = BulkPool::new(&engine, 1, 100_000, Permission::ReadWrite);
    assert_eq!(pool.available(), 1);
    let first = pool.take().wait().unwrap();
    let old = first.descriptor().clone();
    first.write_at(10, b"secret").unwrap();
    assert!(pool.try_take().unwrap().is_none());
    let waiting = {
        let pool = pool.clone();
        std::thread::spawn(move || pool.take().wait().unwrap())
    };
    drop(first);
    let second = waiting.join().unwrap();
    let mut bytes = [1; 20];
    second.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 20]);
    let here = engine.stage(vec![0; 100_000]).unwrap();
    assert_eq!(engine.pull(&old, &here).wait().unwrap_err().refusal(), Some(Refusal::Revoked));
    engine.pull(second.descriptor(), &here).wait().unwrap();
    drop(second);
    assert_eq!((pool.available(), engine.load().regions), (1, 1));
}

#[test]
fn a_pool_allocates_no_more_than_it_was_made_for() {
    let engine = engine();
    let pool = BulkPool::new(&engine, 3, 10, Permission::Private);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            std::thread::spawn(move || (0..100).for_each(|_| drop(pool.take().wait().unwrap())))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((pool.available(), engine.load().regions), (3, 0));
    // One that gives up waiting leaves its turn to another.
    let taken: Vec<_> = (0..3).map(|_| pool.try_take().unwrap().unwrap()).collect();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut gives_up = Box::pin(pool.take());
    assert!(gives_up.as_mut().poll(&mut cx).is_pending());
    let patient = {
        let pool = pool.clone();
        std::thread::spawn(move || drop(pool.take().wait().unwrap()))
    };
    std::thread::sleep(Duration::from_millis(5));
    drop(taken);
    drop(gives_up);
    patient.join().unwrap();
    assert!(matches!(BulkPool::new(&engine, 0, 10, Permission::Private).take().wait(), Err(BulkError::EmptyPool)));
}

#[test]
fn a_mapped_file_can_be_exposed() {
    let engine = engine();
    let path = std::env::temp_dir().join(format!("margo-rs-bulk-{}", std::process::id()));
    std::fs::write(&path, vec![7; 10_000]).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // SAFETY: nobody else knows the file, whose name is gone.
    #[allow(unsafe_code)]
    let mapped = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    let region = engine.expose(mapped, Permission::ReadWrite).unwrap();
    let here = engine.stage(vec![0; 10_000]).unwrap();
    engine.pull(region.descriptor(), &here).wait().unwrap();
    here.write_at(5000, b"changed").unwrap();
    engine.push(&here, region.descriptor()).wait().unwrap();
    assert_eq!(region.into_inner().wait()[4998..5008], *b"\x07\x07changed\x07");
    // SAFETY: as above, and the other mapping is gone.
    #[allow(unsafe_code)]
    let mapped = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    assert!(matches!(engine.expose(mapped, Permission::WriteOnly), Err(BulkError::ReadOnlyMemory)));
}

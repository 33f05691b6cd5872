//! Bulk transfers: what arrives, who may, and what is left when they end early.

use crate::support::*;
use margo_rs::bulk::{BulkDescriptor, BulkError, BulkTransfer, Permission, Refusal};
use margo_rs::{Blame, Engine, Rpc, Wait};
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

conformance! {
    regions_of_every_size_arrive_whole_both_ways,
    segments_of_both_ends_need_not_match,
    parts_go_where_they_are_told_and_nowhere_else,
    a_server_pulls_and_pushes_over_its_callers_connection,
    data_goes_directly_between_two_engines_that_a_third_one_brought_together,
    transfers_of_an_engine_with_itself_follow_the_same_rules,
    a_descriptor_with_a_wrong_key_moves_nothing,
    a_region_taken_back_is_out_of_reach,
    the_owner_checks_bounds_whatever_the_descriptor_says,
    the_owner_checks_the_direction_whatever_the_descriptor_says,
    a_descriptor_of_a_restarted_owner_is_stale,
    taking_a_region_back_ends_the_transfers_that_run,
    taking_the_local_region_back_ends_the_transfer,
    a_dropped_transfer_touches_no_memory_any_more,
    a_transfer_ends_at_its_deadline,
    many_transfers_and_calls_share_a_connection,
    small_calls_are_answered_while_a_large_transfer_runs,
    shutting_down_ends_transfers_and_gives_memory_back,
    transfers_can_be_awaited,
}

/// The sum of the bytes that the caller exposes, which the server pulls.
const CHECK: Rpc<BulkDescriptor, u64> = Rpc::new("check");
/// Has the server push a pattern into the region of the caller's.
const FILL: Rpc<BulkDescriptor, ()> = Rpc::new("fill");

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

fn with_bulk_handlers(engine: &Engine) {
    let here = engine.clone();
    let check = move |request: margo_rs::Request, data: BulkDescriptor| {
        let here = here.clone();
        async move {
            let region = here.stage(vec![0; data.len() as usize])?;
            request.endpoint().ok_or("the caller is gone")?.pull(&data, &region).await?;
            Ok(sum(&region.into_inner().await))
        }
    };
    engine.register(CHECK, check).expect("free");
    let here = engine.clone();
    let fill = move |request: margo_rs::Request, data: BulkDescriptor| {
        let here = here.clone();
        async move {
            let region = here.stage(pattern(data.len() as usize))?;
            request.endpoint().ok_or("the caller is gone")?.push(&region, &data).await?;
            Ok(())
        }
    };
    engine.register(FILL, fill).expect("free");
}

/// The descriptor with some bytes of its encoded form changed, behind those of Mercury's.
fn forged(descriptor: &BulkDescriptor, change: impl FnOnce(&mut [u8])) -> BulkDescriptor {
    let mut bytes = descriptor.as_bytes().to_vec();
    change(&mut bytes[descriptor.mercury_bytes().map_or(0, <[u8]>::len)..]);
    BulkDescriptor::from_bytes(&bytes).expect("still a descriptor")
}

fn assert_refused(result: Result<(), BulkError>, refusal: Refusal) {
    let error = result.expect_err("refused");
    assert_eq!(error.refusal(), Some(refusal), "{error}");
    assert_eq!(error.blame(), Blame::Server);
}

/// Polls a transfer once. `false` if it was quick enough to be over.
fn begin(transfer: std::pin::Pin<&mut BulkTransfer>) -> bool {
    match transfer.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => true,
        Poll::Ready(result) => {
            result.unwrap();
            false
        }
    }
}

fn regions_of_every_size_arrive_whole_both_ways(setup: Setup) {
    let pair = setup.pair();
    let chunk = 256 * 1024;
    for size in [0, 1, 15, 4095, 4096, 4097, 65_536, chunk - 1, chunk, chunk + 1, 2 * chunk + 5000, 5_000_011] {
        let source = pair.server.expose(pattern(size), Permission::ReadOnly).unwrap();
        let target = pair.server.expose(vec![0; size], Permission::WriteOnly).unwrap();
        let here = pair.client.stage(vec![0; size]).unwrap();
        pair.to.pull(source.descriptor(), &here).wait().unwrap();
        pair.to.push(&here, target.descriptor()).wait().unwrap();
        assert!(here.into_inner().wait() == pattern(size), "{size} bytes pulled");
        assert!(target.into_inner().wait() == pattern(size), "{size} bytes pushed");
    }
    pair.assert_healthy();
}

fn segments_of_both_ends_need_not_match(setup: Setup) {
    let pair = setup.pair();
    // More segments than go into one system call, some empty, some longer than a frame.
    let sizes = (0..60).map(|n| if n % 7 == 0 { 0 } else { n * 531 }).chain([300_000, 1, 700_001]);
    let segments: Vec<Vec<u8>> = sizes.map(pattern).collect();
    let all = segments.concat();
    let source = pair.server.expose(segments, Permission::ReadOnly).unwrap();
    let target = pair
        .server
        .expose(all.chunks(90_001).map(|part| vec![0; part.len()]).collect::<Vec<_>>(), Permission::WriteOnly);
    let target = target.unwrap();
    let here = pair.client.stage(all.chunks(50_021).map(|part| vec![0; part.len()]).collect::<Vec<_>>()).unwrap();
    pair.to.pull(source.descriptor(), &here).wait().unwrap();
    pair.to.push(&here, target.descriptor()).wait().unwrap();
    assert!(here.into_inner().wait().concat() == all);
    assert!(target.into_inner().wait().concat() == all);
    pair.assert_healthy();
}

fn parts_go_where_they_are_told_and_nowhere_else(setup: Setup) {
    let pair = setup.pair();
    let source = pair.server.expose(pattern(1_000_000), Permission::ReadWrite).unwrap();
    let here = pair.client.stage(vec![0xee; 600_000]).unwrap();
    pair.to.pull(source.descriptor().slice(300_000..800_000), here.slice(50_000..550_000)).wait().unwrap();
    pair.to.push(here.slice(..10), source.descriptor().slice(999_990..)).wait().unwrap();
    let here = here.into_inner().wait();
    assert!(here[50_000..550_000] == pattern(1_000_000)[300_000..800_000]);
    assert!(here[..50_000].iter().chain(&here[550_000..]).all(|byte| *byte == 0xee));
    let source = source.into_inner().wait();
    assert!(source[..999_990] == pattern(1_000_000)[..999_990]);
    assert_eq!(source[999_990..], [0xee; 10]);
    pair.assert_healthy();
}

fn a_server_pulls_and_pushes_over_its_callers_connection(setup: Setup) {
    let pair = setup.pair();
    with_bulk_handlers(&pair.server);
    for size in [0, 100, 70_000, 3_000_000] {
        let region = pair.client.expose(pattern(size), Permission::ReadOnly).unwrap();
        assert_eq!(region.descriptor().owner(), None, "a client does not listen");
        assert_eq!(pair.to.call(CHECK, region.descriptor()).wait().unwrap(), sum(&pattern(size)));
        let region = pair.client.expose(vec![0; size], Permission::WriteOnly).unwrap();
        pair.to.call(FILL, region.descriptor()).wait().unwrap();
        assert!(region.into_inner().wait() == pattern(size));
    }
    let region = pair.client.expose(pattern(10), Permission::ReadOnly).unwrap();
    let here = pair.server.stage(vec![0; 10]).unwrap();
    let error = pair.server.pull(region.descriptor(), &here).wait().unwrap_err();
    assert!(matches!(error, BulkError::OwnerUnknown), "{error}");
    drop(region);
    pair.assert_healthy();
    assert_eq!(pair.client.load().regions, 0);
}

fn data_goes_directly_between_two_engines_that_a_third_one_brought_together(setup: Setup) {
    let (owner, worker) = (setup.serve(), setup.serve());
    let engine = worker.clone();
    let check = move |_, data: BulkDescriptor| {
        let engine = engine.clone();
        async move {
            let region = engine.stage(vec![0; data.len() as usize])?;
            engine.pull(&data, &region).await?;
            engine.push(region.slice(..5), data.slice(5..10)).await?;
            Ok(sum(&region.into_inner().await))
        }
    };
    worker.register(CHECK, check).unwrap();
    let region = owner.expose(pattern(400_000), Permission::ReadWrite).unwrap();
    assert_eq!(region.descriptor().owner(), Some(owner.address()));
    // The go-between has the descriptor from the owner in bytes, and passes it on.
    let relayed = BulkDescriptor::from_bytes(region.descriptor().as_bytes()).unwrap();
    let client = setup.client().connect().unwrap();
    let to = client.lookup(worker.address()).wait().unwrap();
    assert_eq!(to.call(CHECK, &relayed).wait().unwrap(), sum(&pattern(400_000)));
    let region = region.into_inner().wait();
    assert_eq!(region[5..10], pattern(400_000)[..5]);
}

fn transfers_of_an_engine_with_itself_follow_the_same_rules(setup: Setup) {
    let engine = setup.serve();
    let source = engine.expose(pattern(3_000_000), Permission::ReadOnly).unwrap();
    let here = engine.stage(vec![0; 3_000_000]).unwrap();
    engine.pull(source.descriptor(), &here).wait().unwrap();
    let to = engine.lookup(engine.address()).wait().unwrap();
    let lied = forged(source.descriptor(), |bytes| bytes[16] = 3);
    assert_refused(to.push(&here, &lied).wait(), Refusal::WrongDirection);
    let lied = forged(source.descriptor(), |bytes| bytes[12] = 1);
    assert_refused(to.pull(lied.slice(1..3_000_001), &here).wait(), Refusal::OutOfBounds);
    drop(source);
    let lied = forged(&lied, |bytes| bytes[12] = 0);
    assert_refused(to.pull(&lied, &here).wait(), Refusal::Revoked);
    assert!(here.into_inner().wait() == pattern(3_000_000));
    assert_idle(&engine);
}

fn a_descriptor_with_a_wrong_key_moves_nothing(setup: Setup) {
    let pair = setup.pair();
    let region = pair.server.expose(pattern(1_000_000), Permission::ReadWrite).unwrap();
    let here = pair.client.stage(vec![0xee; 1_000_000]).unwrap();
    // Each byte of region id and secret. What is beyond the ids given out and what has the wrong secret look the same.
    for at in (32..56).step_by(5) {
        for bit in [0x01, 0x80] {
            let wrong = forged(region.descriptor(), |bytes| bytes[at] ^= bit);
            for result in [pair.to.pull(&wrong, &here).wait(), pair.to.push(&here, &wrong).wait()] {
                let refusal = result.expect_err("refused").refusal();
                assert!(matches!(refusal, Some(Refusal::Forged)), "byte {at}: {refusal:?}");
            }
        }
    }
    let wrong = forged(region.descriptor(), |bytes| bytes[24] ^= 1);
    assert_refused(pair.to.pull(&wrong, &here).wait(), Refusal::Stale);
    assert!(here.into_inner().wait().iter().all(|byte| *byte == 0xee));
    assert!(region.into_inner().wait() == pattern(1_000_000));
    pair.assert_healthy();
}

fn a_region_taken_back_is_out_of_reach(setup: Setup) {
    let pair = setup.pair();
    let first = pair.server.expose(pattern(100_000), Permission::ReadWrite).unwrap();
    let second = pair.server.expose(pattern(100_000), Permission::ReadWrite).unwrap();
    let (one, two) = (first.descriptor().clone(), second.descriptor().clone());
    let here = pair.client.stage(vec![0xee; 100_000]).unwrap();
    let memory = first.into_inner().wait();
    drop(second);
    for descriptor in [&one, &two] {
        assert_refused(pair.to.pull(descriptor, &here).wait(), Refusal::Revoked);
        assert_refused(pair.to.push(&here, descriptor).wait(), Refusal::Revoked);
    }
    // Another region of the same memory does not bring the old descriptor back.
    let again = pair.server.expose(memory, Permission::ReadWrite).unwrap();
    assert_refused(pair.to.push(&here, &one).wait(), Refusal::Revoked);
    assert!(again.into_inner().wait() == pattern(100_000));
    assert!(here.into_inner().wait().iter().all(|byte| *byte == 0xee));
    pair.assert_healthy();
}

fn the_owner_checks_bounds_whatever_the_descriptor_says(setup: Setup) {
    let pair = setup.pair();
    let region = pair.server.expose(pattern(1000), Permission::ReadWrite).unwrap();
    let here = pair.client.stage(vec![0xee; 2000]).unwrap();
    // It claims to be as large as can be.
    let wide = forged(region.descriptor(), |bytes| bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes()));
    let end = u64::MAX;
    for range in [0..1001, 1000..1001, 999..1001, 1001..1001, end - 1..end, end - 2000..end, end - 1000..end - 1000] {
        let length = range.end - range.start;
        assert_refused(pair.to.pull(wide.slice(range.clone()), here.slice(..length)).wait(), Refusal::OutOfBounds);
        assert_refused(pair.to.push(here.slice(..length), wide.slice(range)).wait(), Refusal::OutOfBounds);
    }
    pair.to.pull(wide.slice(1000..1000), here.slice(..0)).wait().unwrap();
    assert!(here.into_inner().wait().iter().all(|byte| *byte == 0xee));
    assert!(region.into_inner().wait() == pattern(1000));
    pair.assert_healthy();
}

fn the_owner_checks_the_direction_whatever_the_descriptor_says(setup: Setup) {
    let pair = setup.pair();
    let here = pair.client.stage(vec![0xee; 300_000]).unwrap();
    for (permission, may_pull, may_push) in [
        (Permission::ReadOnly, true, false),
        (Permission::WriteOnly, false, true),
        (Permission::ReadWrite, true, true),
        (Permission::Private, false, false),
    ] {
        let region = pair.server.expose(vec![0xee; 300_000], permission).unwrap();
        let free = forged(region.descriptor(), |bytes| bytes[16] = 3);
        for (result, may) in
            [(pair.to.pull(&free, &here).wait(), may_pull), (pair.to.push(&here, &free).wait(), may_push)]
        {
            if may {
                result.unwrap();
            } else {
                assert_refused(result, Refusal::WrongDirection);
            }
        }
    }
    pair.assert_healthy();
}

fn a_descriptor_of_a_restarted_owner_is_stale(setup: Setup) {
    let server = setup.serve();
    let region = server.expose(pattern(10), Permission::ReadOnly).unwrap();
    let old = region.descriptor().clone();
    server.shutdown().wait();
    drop(region);
    let location = old.owner().unwrap().location();
    let server = setup.server_at(&format!("{}://{location}", setup.protocol()));
    let Ok(server) = server.listen().wait() else {
        // Somebody else has taken the port.
        return;
    };
    let client = setup.client().connect().unwrap();
    let here = client.stage(vec![0; 10]).unwrap();
    assert_refused(client.pull(&old, &here).wait(), Refusal::Stale);
    drop(server);
}

fn taking_a_region_back_ends_the_transfers_that_run(setup: Setup) {
    let pair = setup.pair();
    let size = 40_000_000;
    let mut cut = 0;
    for round in 0..100 {
        let region = pair.server.expose(vec![1; size], Permission::ReadWrite).unwrap();
        let here = pair.client.stage(vec![2; size]).unwrap();
        let descriptor = region.descriptor().clone();
        let (to, pull) = (pair.to.clone(), round % 2 == 0);
        let moving = thread::spawn(move || {
            let result = if pull { to.pull(&descriptor, &here).wait() } else { to.push(&here, &descriptor).wait() };
            (result, here)
        });
        thread::sleep(Duration::from_millis(round / 2 % 5));
        // No transfer has the memory when it is here.
        let memory = region.into_inner().wait();
        let before = sum(&memory);
        let (result, here) = moving.join().unwrap();
        assert_eq!(sum(&memory), before);
        if let Err(error) = result {
            assert_eq!(error.refusal(), Some(Refusal::Revoked), "{error}");
            cut += 1;
        }
        drop(here);
        if cut >= 6 {
            break;
        }
    }
    assert!(cut > 0, "no transfer ran long enough");
    pair.assert_healthy();
}

fn taking_the_local_region_back_ends_the_transfer(setup: Setup) {
    let pair = setup.pair();
    let size = 40_000_000;
    let region = pair.server.expose(vec![1; size], Permission::ReadWrite).unwrap();
    let mut cut = 0;
    for round in 0..100 {
        let here = pair.client.stage(vec![2; size]).unwrap();
        let mut moving = if round % 2 == 0 {
            pin!(pair.to.pull(region.descriptor(), &here))
        } else {
            pin!(pair.to.push(&here, region.descriptor()))
        };
        if !begin(moving.as_mut()) {
            continue;
        }
        drop(here);
        if let Err(error) = moving.wait() {
            assert!(matches!(error, BulkError::LocalRevoked), "{error}");
            cut += 1;
        }
        if cut >= 6 {
            break;
        }
    }
    assert!(cut > 0, "no transfer ran long enough");
    pair.assert_healthy();
}

fn a_dropped_transfer_touches_no_memory_any_more(setup: Setup) {
    let pair = setup.pair();
    let size = 10_000_000;
    let region = pair.server.expose(vec![1; size], Permission::ReadWrite).unwrap();
    let mut cut = 0;
    for _ in 0..12 {
        let here = pair.client.stage(vec![2; size]).unwrap();
        {
            let mut moving = pin!(pair.to.pull(region.descriptor(), &here));
            cut += u32::from(begin(moving.as_mut()));
        }
        // The region is used on, for something else.
        here.write_at(0, &vec![3; size]).unwrap();
        assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
        let memory = here.into_inner().wait();
        if setup.is_mercury() {
            // What the network was moving has arrived, but nothing does after this.
            let before = sum(&memory);
            assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
            assert_eq!(sum(&memory), before);
        } else {
            assert!(memory.iter().all(|byte| *byte == 3));
        }
        let here = pair.client.stage(vec![2; size]).unwrap();
        let mut moving = pin!(pair.to.push(&here, region.descriptor()));
        cut += u32::from(begin(moving.as_mut()));
    }
    assert!(cut > 0, "no transfer ran long enough");
    pair.assert_healthy();
}

fn a_transfer_ends_at_its_deadline(setup: Setup) {
    const HOLD: Rpc<(), ()> = Rpc::new("hold");
    let pair = setup.pair();
    // A handler that breaks the rules and blocks the thread that would serve the transfer.
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let hold = move |_, ()| {
        let _ = held.lock().unwrap().recv();
        async { Ok(()) }
    };
    pair.server.register(HOLD, hold).unwrap();
    let region = pair.server.expose(vec![1; 1000], Permission::ReadWrite).unwrap();
    let here = pair.client.stage(vec![2; 1000]).unwrap();
    let call = pair.to.call(HOLD, &()).start();
    let short = Duration::from_millis(30);
    for result in [
        pair.to.pull(region.descriptor(), &here).timeout(short).wait(),
        in_tokio(pair.to.push(&here, region.descriptor()).timeout(short)),
    ] {
        let error = result.expect_err("nobody serves it");
        assert!(matches!(error, BulkError::DeadlineExceeded { after } if after == short), "{error}");
        assert_eq!(error.blame(), Blame::Time);
    }
    assert_eq!(here.into_inner().wait(), [2; 1000]);
    release.send(()).unwrap();
    call.wait().unwrap();
    pair.assert_healthy();
}

fn many_transfers_and_calls_share_a_connection(setup: Setup) {
    let pair = setup.pair();
    let threads: Vec<_> = (0..8usize)
        .map(|n| {
            let (server, client, to) = (pair.server.clone(), pair.client.clone(), pair.to.clone());
            thread::spawn(move || {
                for round in 0..6 {
                    let size = 1 + (n * 7919 + round * 104_729) % 700_000;
                    let region = server.expose(vec![0; size], Permission::ReadWrite).unwrap();
                    let out = client.stage(pattern(size)).unwrap();
                    to.push(&out, region.descriptor()).wait().unwrap();
                    assert_eq!(to.call(SUM, &(n as i64, 1)).wait().unwrap(), n as i64 + 1);
                    let back = client.stage(vec![0; size]).unwrap();
                    to.pull(region.descriptor(), &back).wait().unwrap();
                    assert!(back.into_inner().wait() == pattern(size));
                    assert!(region.into_inner().wait() == pattern(size));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((pair.client.load().regions, pair.server.load().regions), (0, 0));
    pair.assert_healthy();
}

fn small_calls_are_answered_while_a_large_transfer_runs(setup: Setup) {
    let pair = setup.pair();
    let size = 100_000_000;
    let region = pair.server.expose(vec![1; size], Permission::ReadOnly).unwrap();
    let here = pair.client.stage(vec![2; size]).unwrap();
    let (to, descriptor) = (pair.to.clone(), region.descriptor().clone());
    let moving = thread::spawn(move || {
        to.pull(&descriptor, &here).wait().unwrap();
        here
    });
    let mut answered = 0;
    while !moving.is_finished() {
        assert_eq!(pair.to.call(SUM, &(answered, 1)).wait().unwrap(), answered + 1);
        answered += 1;
    }
    // One at the beginning and one at the end would prove nothing.
    assert!(answered > 3, "{answered}");
    assert!(moving.join().unwrap().into_inner().wait().iter().all(|byte| *byte == 1));
    pair.assert_healthy();
}

fn shutting_down_ends_transfers_and_gives_memory_back(setup: Setup) {
    let pair = setup.pair();
    let size = 40_000_000;
    let region = pair.server.expose(vec![1; size], Permission::ReadOnly).unwrap();
    let here = pair.client.stage(vec![2; size]).unwrap();
    let mut moving = pin!(pair.to.pull(region.descriptor(), &here));
    if begin(moving.as_mut()) {
        pair.client.shutdown().wait();
        // Its last byte may have come before.
        if let Err(error) = moving.wait() {
            assert!(matches!(error, BulkError::ShutDown), "{error}");
        }
    }
    pair.client.shutdown().wait();
    assert_eq!(here.into_inner().wait().len(), size);
    assert!(matches!(pair.client.stage(vec![0]), Err(BulkError::ShutDown)));
    let here = pair.server.stage(vec![0; size]).unwrap();
    pair.server.shutdown().wait();
    assert!(matches!(pair.server.pull(region.descriptor(), &here).wait(), Err(BulkError::ShutDown)));
    assert!(region.into_inner().wait().iter().all(|byte| *byte == 1));
    assert_eq!(here.into_inner().wait().len(), size);
}

fn transfers_can_be_awaited(setup: Setup) {
    let pair = setup.pair();
    in_tokio(async {
        let tasks: Vec<_> = (0..20usize)
            .map(|n| {
                let (server, client, to) = (pair.server.clone(), pair.client.clone(), pair.to.clone());
                tokio::spawn(async move {
                    let region = server.expose(pattern(n * 50_000), Permission::ReadWrite).unwrap();
                    let here = client.stage(vec![0; n * 50_000]).unwrap();
                    to.pull(region.descriptor(), &here).await.unwrap();
                    to.push(&here, region.descriptor()).await.unwrap();
                    assert!(here.into_inner().await == pattern(n * 50_000));
                    assert!(region.into_inner().await == pattern(n * 50_000));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    pair.assert_healthy();
}

//! Memory of the engine's own: transports may move it another way after a while, and nobody may notice but by the time.

use crate::support::*;
use margo_rs::bulk::{BulkError, BulkMemory, BulkPool, Permission, Refusal};
use margo_rs::{Engine, Wait};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

conformance! {
    memory_of_the_engines_arrives_whole_both_ways_however_often,
    parts_of_lent_memory_go_where_they_are_told_and_nowhere_else,
    memory_that_peers_have_seen_comes_back_whole_and_can_be_used_on,
    a_pools_buffer_has_nothing_of_its_earlier_lives,
    lent_memory_that_is_taken_back_ends_the_transfers_and_nothing_else,
    lent_transfers_end_when_they_are_dropped_late_or_their_region_goes,
    many_regions_are_lent_over_one_connection_at_a_time,
    the_engines_end_gives_lent_memory_back,
}

/// More often than any transport needs to find that it should do something about it.
const OFTEN: usize = 10;

fn filled(engine: &Engine, bytes: &[u8]) -> BulkMemory {
    let mut memory = engine.allocate(bytes.len());
    assert!(memory.iter().all(|byte| *byte == 0));
    memory.copy_from_slice(bytes);
    memory
}

fn memory_of_the_engines_arrives_whole_both_ways_however_often(setup: Setup) {
    let pair = setup.pair();
    for size in [0, 1, 4097, 32_767, 32_768, 32_769, 600_001, 4_200_001] {
        let source = pair.server.expose(filled(&pair.server, &pattern(size)), Permission::ReadOnly).unwrap();
        let target = pair.server.expose(pair.server.allocate(size), Permission::ReadWrite).unwrap();
        let here = pair.client.stage(pair.client.allocate(size)).unwrap();
        for round in 0..OFTEN {
            // What changes while peers see the memory is what they get.
            let mut expected = pattern(size);
            if size > 0 {
                expected[size / 2] = round as u8;
                source.write_at(size as u64 / 2, &[round as u8]).unwrap();
            }
            pair.to.pull(source.descriptor(), &here).wait().unwrap();
            pair.to.push(here.lend(), target.descriptor()).wait().unwrap();
            let mut found = vec![0; size];
            target.read_at(0, &mut found).unwrap();
            assert!(found == expected, "{size} bytes, round {round}");
            target.write_at(0, &vec![0; size]).unwrap();
        }
    }
    pair.assert_healthy();
}

fn parts_of_lent_memory_go_where_they_are_told_and_nowhere_else(setup: Setup) {
    let pair = setup.pair();
    let size = 1_000_000;
    let source = pair.server.expose(filled(&pair.server, &pattern(size)), Permission::ReadOnly).unwrap();
    let target = pair.server.expose(vec![1; size], Permission::ReadWrite).unwrap();
    let here = pair.client.stage(filled(&pair.client, &vec![2; size])).unwrap();
    let part = 300_000..699_999u64;
    for _ in 0..3 * OFTEN {
        pair.to.pull(source.descriptor().slice(part.clone()), here.slice(100_000..499_999)).wait().unwrap();
        // Only the whole region is ever lent by a push.
        pair.to.push(here.slice(200_000..500_000), target.descriptor().slice(600_000..900_000)).wait().unwrap();
    }
    let outside = source.descriptor().slice(part.start..part.start + size as u64);
    assert!(matches!(
        pair.to.pull(outside, &here).wait(),
        Err(BulkError::Refused { refusal: Refusal::OutOfBounds, .. })
    ));
    let mut expected = vec![2; size];
    expected[100_000..499_999].copy_from_slice(&pattern(size)[300_000..699_999]);
    let here = here.into_inner().wait();
    assert!(here[..] == expected[..]);
    let mut there = vec![1; size];
    there[600_000..900_000].copy_from_slice(&expected[200_000..500_000]);
    assert!(target.into_inner().wait() == there);
    pair.assert_healthy();
}

fn memory_that_peers_have_seen_comes_back_whole_and_can_be_used_on(setup: Setup) {
    let pair = setup.pair();
    let size = 400_000;
    let mut memory = filled(&pair.server, &pattern(size));
    let mut expected = pattern(size);
    for life in 0..3 {
        let region = pair.server.expose(memory, Permission::ReadWrite).unwrap();
        let here = pair.client.stage(vec![0; size]).unwrap();
        for _ in 0..OFTEN {
            pair.to.pull(region.descriptor(), &here).wait().unwrap();
        }
        assert!(here.into_inner().wait() == expected, "life {life}");
        let old = region.descriptor().clone();
        memory = region.into_inner().wait();
        assert!(memory[..] == expected[..], "life {life}");
        memory[life] ^= 0xff;
        memory[size - 1] = life as u8;
        expected[life] ^= 0xff;
        expected[size - 1] = life as u8;
        let here = pair.client.stage(vec![0; size]).unwrap();
        let error = pair.to.pull(&old, &here).wait().unwrap_err();
        assert_eq!(error.refusal(), Some(Refusal::Revoked), "{error}");
    }
    assert!(memory[..] == expected[..]);
    pair.assert_healthy();
}

fn a_pools_buffer_has_nothing_of_its_earlier_lives(setup: Setup) {
    let pair = setup.pair();
    let size = 200_000;
    let pool = BulkPool::new(&pair.server, 1, size, Permission::ReadWrite);
    let here = pair.client.stage(vec![0; size]).unwrap();
    for life in 1..6 {
        let buffer = pool.take().wait().unwrap();
        pair.to.pull(buffer.descriptor(), &here).wait().unwrap();
        let mut found = vec![0xee; size];
        here.read_at(0, &mut found).unwrap();
        assert!(found.iter().all(|byte| *byte == 0), "life {life}");
        buffer.write_at(0, &vec![life; size]).unwrap();
        for _ in 0..OFTEN {
            pair.to.pull(buffer.descriptor(), &here).wait().unwrap();
        }
        here.read_at(0, &mut found).unwrap();
        assert!(found.iter().all(|byte| *byte == life), "life {life}");
    }
    pair.assert_healthy();
}

fn lent_memory_that_is_taken_back_ends_the_transfers_and_nothing_else(setup: Setup) {
    let pair = setup.pair();
    let size = 1_000_000;
    for _ in 0..4 {
        let region = pair.server.expose(filled(&pair.server, &vec![7; size]), Permission::ReadOnly).unwrap();
        let (to, descriptor) = (pair.to.clone(), region.descriptor().clone());
        let (client, begun) = (pair.client.clone(), std::sync::Arc::new(AtomicBool::new(false)));
        let seen = begun.clone();
        let pulling = thread::spawn(move || {
            let here = client.stage(vec![7; size]).unwrap();
            for round in 0.. {
                if let Err(error) = to.pull(&descriptor, &here).wait() {
                    assert_eq!(error.refusal(), Some(Refusal::Revoked), "{error}");
                    break;
                }
                if round == OFTEN {
                    begun.store(true, Ordering::Release);
                }
            }
            here.into_inner().wait()
        });
        eventually("the other side has begun", || seen.load(Ordering::Acquire));
        let mut memory = region.into_inner().wait();
        // What is written from now on is nobody else's business. Data that was promised may have come as zeros.
        memory.fill(9);
        let here = pulling.join().unwrap();
        assert!(here.iter().all(|byte| [0, 7].contains(byte)));
        assert!(memory.iter().all(|byte| *byte == 9));
    }
    pair.assert_healthy();
}

fn lent_transfers_end_when_they_are_dropped_late_or_their_region_goes(setup: Setup) {
    let pair = setup.pair();
    let size = 5_000_000;
    let region = pair.server.expose(filled(&pair.server, &vec![1; size]), Permission::ReadWrite).unwrap();
    let here = pair.client.stage(filled(&pair.client, &vec![1; size])).unwrap();
    for _ in 0..OFTEN {
        pair.to.pull(region.descriptor(), &here).wait().unwrap();
        pair.to.push(here.lend(), region.descriptor()).wait().unwrap();
    }
    for micros in [0, 100, 300, 1000] {
        let short = Duration::from_micros(micros);
        for result in [
            pair.to.pull(region.descriptor(), &here).timeout(short).wait(),
            pair.to.push(here.lend(), region.descriptor()).timeout(short).wait(),
        ] {
            assert!(matches!(result, Ok(()) | Err(BulkError::DeadlineExceeded { .. })), "{result:?}");
        }
    }
    // The memory that data goes to is gone in the middle of it.
    let to = pair.to.clone();
    let descriptor = region.descriptor().clone();
    let pulling = {
        let local = pair.client.stage(vec![0; size]).unwrap();
        let slice = local.slice(..);
        let pulling = thread::spawn(move || to.pull(&descriptor, slice).wait());
        thread::sleep(Duration::from_micros(300));
        drop(local);
        pulling
    };
    let result = pulling.join().unwrap();
    assert!(matches!(result, Ok(()) | Err(BulkError::LocalRevoked)), "{result:?}");
    // What was promised and then given up may have come as zeros.
    assert!(region.into_inner().wait().iter().all(|byte| [0, 1].contains(byte)));
    assert!(here.into_inner().wait().iter().all(|byte| [0, 1].contains(byte)));
    pair.assert_healthy();
}

fn many_regions_are_lent_over_one_connection_at_a_time(setup: Setup) {
    let pair = setup.pair();
    let size = 32_768;
    // More than one side keeps at a time.
    let regions: Vec<_> = (0..80u8)
        .map(|n| pair.server.expose(filled(&pair.server, &vec![n; size]), Permission::ReadOnly).unwrap())
        .collect();
    let here = pair.client.stage(vec![0; size]).unwrap();
    for round in 0..OFTEN {
        for (n, region) in regions.iter().enumerate() {
            pair.to.pull(region.descriptor(), &here).wait().unwrap();
            let mut found = vec![0; size];
            here.read_at(0, &mut found).unwrap();
            assert!(found.iter().all(|byte| usize::from(*byte) == n), "region {n}, round {round}");
        }
    }
    pair.assert_healthy();
}

fn the_engines_end_gives_lent_memory_back(setup: Setup) {
    let pair = setup.pair();
    let size = 300_000;
    let region = pair.server.expose(filled(&pair.server, &pattern(size)), Permission::ReadOnly).unwrap();
    let here = pair.client.stage(filled(&pair.client, &vec![3; size])).unwrap();
    let target = pair.server.expose(vec![0; size], Permission::WriteOnly).unwrap();
    for _ in 0..OFTEN {
        pair.to.pull(region.descriptor(), &here).wait().unwrap();
        pair.to.push(here.lend(), target.descriptor()).wait().unwrap();
    }
    pair.client.shutdown().wait();
    pair.server.shutdown().wait();
    let (mut here, mut there) = (here.into_inner().wait(), region.into_inner().wait());
    assert!(here[..] == pattern(size)[..] && there[..] == pattern(size)[..]);
    drop(pair);
    here.fill(5);
    there.fill(6);
    assert!(here.iter().all(|byte| *byte == 5) && there.iter().all(|byte| *byte == 6));
}

//! Back-pressure: what is slowed, what is refused, and that nothing grows without bound.

use crate::stranger::Stranger;
use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::{CallError, Rpc, Wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

conformance! {
    callers_are_slowed_to_what_a_server_takes,
    callers_are_slowed_to_the_bytes_a_server_takes,
    one_at_a_time_is_enough_for_everybody,
    cancelling_callers_are_not_refused_either,
    answers_that_nobody_has_looked_at_take_no_room,
    an_engine_over_its_total_says_so,
    a_caller_with_deadlines_does_not_pile_up_requests,
    times_that_never_end_are_limits_too,
}

fn callers_are_slowed_to_what_a_server_takes(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_in_flight = 3), setup.client());
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work: Rpc<u64, u64> = Rpc::new("work");
    let (counted, seen) = (now.clone(), most.clone());
    pair.server
        .register(work, move |_, n| {
            let (now, most) = (counted.clone(), seen.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(n)
            }
        })
        .unwrap();
    in_tokio(async {
        let tasks: Vec<_> = (0..100u64)
            .map(|n| {
                let to = pair.to.clone();
                tokio::spawn(async move { assert_eq!(to.call(work, &n).await.unwrap(), n) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    thread::scope(|scope| {
        for n in 0..12 {
            let to = &pair.to;
            scope.spawn(move || assert_eq!(to.call(work, &n).wait().unwrap(), n));
        }
    });
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
    pair.assert_healthy();
}

fn callers_are_slowed_to_the_bytes_a_server_takes(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_bytes = 100_000), setup.client());
    in_tokio(async {
        let tasks: Vec<_> = (0..40usize)
            .map(|n| {
                let to = pair.to.clone();
                tokio::spawn(async move {
                    let blob = Blob(pattern(30_000 + n));
                    assert!(to.call(ECHO, &blob).await.unwrap() == blob);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    // One that is larger than that passes alone.
    let blob = Blob(pattern(200_000));
    assert!(pair.to.call(ECHO, &blob).wait().unwrap() == blob);
    pair.assert_healthy();
}

/// The answer reaches the caller, who calls again at once, maybe before the server has put the request away.
fn one_at_a_time_is_enough_for_everybody(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_in_flight = 1), setup.client());
    let pooled: Rpc<u64, u64> = Rpc::new("pooled");
    pair.server
        .register(pooled, |_, n| async move {
            tokio::task::yield_now().await;
            Ok(n)
        })
        .unwrap();
    let blocking: Rpc<u64, u64> = Rpc::new("blocking");
    pair.server.register_blocking(blocking, |_, n| Ok(n)).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            let to = &pair.to;
            scope.spawn(move || {
                for n in 0..100 {
                    assert_eq!(to.call(pooled, &n).wait().unwrap(), n);
                    assert_eq!(to.call(blocking, &n).wait().unwrap(), n);
                    assert_eq!(to.call(SUM, &(1, 1)).wait().unwrap(), 2);
                }
            });
        }
    });
    pair.assert_healthy();
}

/// A cancel frees the caller's place at once; the server needs a moment.
fn cancelling_callers_are_not_refused_either(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_in_flight = 2), setup.client());
    for n in 0..100 {
        drop(pair.to.call(HANG, &()).start());
        drop(pair.to.call(HANG, &()).start());
        assert_eq!(pair.to.call(SUM, &(n, 1)).wait().unwrap(), n + 1);
    }
    pair.assert_healthy();
}

fn answers_that_nobody_has_looked_at_take_no_room(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_in_flight = 2), setup.client());
    let mut early = Vec::new();
    for n in 0..50 {
        early.push(pair.to.call(SUM, &(n, 1)).start());
        early.push(pair.to.call(SUM, &(n, 1)).start());
        assert_eq!(pair.to.call(SUM, &(n, 2)).wait().unwrap(), n + 2);
    }
    for (at, call) in early.into_iter().enumerate() {
        assert_eq!(call.wait().unwrap(), at as i64 / 2 + 1);
    }
    pair.assert_healthy();
}

fn an_engine_over_its_total_says_so(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_in_flight_total = 4), setup.client());
    let others = setup.client().connect().unwrap();
    let theirs = others.lookup(pair.server.address()).wait().unwrap();
    let hanging: Vec<_> = (0..4).map(|_| pair.to.call(HANG, &()).start()).collect();
    comes_to("there are 4 requests", || pair.server.load(), |load| load.requests == 4);
    for to in [&pair.to, &theirs] {
        match to.call(SUM, &(1, 2)).wait() {
            Err(CallError::Overloaded { peer }) => assert_eq!(&peer, pair.server.address()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pair.server.load().requests, 4);
    drop(hanging);
    assert_idle(&pair.server);
    assert_eq!(theirs.call(SUM, &(1, 2)).wait().unwrap(), 3);
    pair.assert_healthy();
}

/// Against a server that reads nothing, calls that time out leave their bytes in the queue; it must not grow for ever.
fn a_caller_with_deadlines_does_not_pile_up_requests(setup: Setup) {
    if setup.is_mercury() {
        // Mercury gives up what was cancelled, and such a server needs our own protocol.
        return;
    }
    let stranger = Stranger::new(setup);
    let address = stranger.address.clone();
    let stuck = thread::spawn(move || stranger.greet_and_stop());
    let client = setup.client().limits(|limits| limits.max_queued = 1 << 20).connect().unwrap();
    let to = client.lookup(&address).wait().unwrap();
    let _stream = stuck.join().unwrap();
    let before = resident();
    let mut refused = 0;
    for _ in 0..20_000 {
        let call = to.call_raw(plain_id("nobody"), &[1; 16_000]).timeout(LONG).start();
        // Dropped: what was sent of it stays in the queue.
        drop(call);
        match to.send_raw(plain_id("nobody"), &[]).wait() {
            Ok(_) => {}
            Err(CallError::Overloaded { .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
    // 320 MB were asked for; the kernel takes a few of them.
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MiB", grown >> 20);
    assert_idle(&client);
}

/// Memory of this process in use, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// The kernel takes less; that must not be what a user finds out when nobody can be reached.
fn times_that_never_end_are_limits_too(setup: Setup) {
    let forever = |limits: &mut margo_rs::Limits| {
        for limit in [
            &mut limits.handshake_timeout,
            &mut limits.connect_timeout,
            &mut limits.keepalive,
            &mut limits.unacknowledged_timeout,
            &mut limits.stall_timeout,
            &mut limits.shutdown_grace,
            &mut limits.default_timeout,
        ] {
            *limit = Duration::MAX;
        }
    };
    let pair = setup.pair_of(setup.server().limits(forever), setup.client().limits(forever));
    pair.assert_healthy();
    let large = Blob(vec![7; 300_000]);
    assert!(pair.to.call(ECHO, &large).wait().unwrap() == large);
    pair.client.shutdown().wait();
    pair.server.shutdown().wait();
}

//! Deadlines and cancellation, on both sides.

use crate::stranger::Stranger;
use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::{Blame, CallError, Endpoint, Engine, Rpc, Wait};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

conformance! {
    a_call_ends_at_its_deadline,
    a_call_to_self_ends_at_its_deadline,
    a_deadline_holds_while_connecting,
    each_call_has_its_own_deadline_while_it_waits,
    timeouts_without_end_are_taken,
    a_timeout_of_zero_sends_nothing,
    a_dropped_call_drops_the_handlers_future,
    a_deadline_drops_the_handlers_future,
    a_cancelled_request_tells_a_blocking_handler,
    a_cancelled_request_tells_who_holds_its_responder,
    a_call_that_was_never_sent_can_be_dropped,
    a_large_request_can_be_cancelled_half_way,
    the_server_knows_the_callers_deadline,
    a_late_answer_reaches_nobody,
    a_cancelled_wait_for_room_leaves_room_to_others,
    a_call_leaves_its_executor_to_others,
    a_cancel_that_comes_before_a_blocking_handler_begins_is_seen,
    fire_and_forget_outlives_its_sender,
}

const SHORT: Duration = Duration::from_millis(20);

/// Counts the futures of its handler.
const GUARDED: Rpc<(), ()> = Rpc::new("guarded");

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Registers a handler that never ends; returns how many of its futures exist.
fn guard(server: &Engine) -> Arc<AtomicUsize> {
    let alive = Arc::new(AtomicUsize::new(0));
    let count = alive.clone();
    server
        .register(GUARDED, move |_, ()| {
            count.fetch_add(1, Ordering::SeqCst);
            let alive = Alive(count.clone());
            async move {
                std::future::pending::<()>().await;
                drop(alive);
                Ok(())
            }
        })
        .unwrap();
    alive
}

fn assert_times_out(to: &Endpoint) {
    match to.call(HANG, &()).timeout(SHORT).wait() {
        Err(error @ CallError::DeadlineExceeded { after: SHORT, .. }) => {
            assert_eq!(error.blame(), Blame::Time);
            let (name, peer) = (HANG.name(), to.address());
            assert_eq!(error.to_string(), format!("no answer to {name:?} from {peer} within {SHORT:?}"));
        }
        other => panic!("{other:?}"),
    }
    match in_tokio(to.call(HANG, &()).timeout(SHORT)) {
        Err(CallError::DeadlineExceeded { after: SHORT, .. }) => {}
        other => panic!("{other:?}"),
    }
    match to.call(HANG, &()).timeout(SHORT).start().wait() {
        Err(CallError::DeadlineExceeded { after: SHORT, .. }) => {}
        other => panic!("{other:?}"),
    }
    let calls: Vec<_> = (0..50).map(|_| to.call(HANG, &()).timeout(SHORT).start()).collect();
    for call in calls {
        assert!(matches!(call.wait(), Err(CallError::DeadlineExceeded { .. })));
    }
}

fn a_call_ends_at_its_deadline(setup: Setup) {
    let pair = setup.pair();
    assert_times_out(&pair.to);
    pair.assert_healthy();
}

fn a_call_to_self_ends_at_its_deadline(setup: Setup) {
    let engine = setup.serve();
    let me = engine.lookup(engine.address()).wait().unwrap();
    assert_times_out(&me);
    assert_idle(&engine);
    // Cancelled, too.
    let alive = guard(&engine);
    let call = me.call(GUARDED, &()).start();
    comes_to("a handler runs", || alive.load(Ordering::SeqCst), |alive| *alive == 1);
    drop(call);
    comes_to("no handler is left", || alive.load(Ordering::SeqCst), |alive| *alive == 0);
    assert_idle(&engine);
}

fn a_deadline_holds_while_connecting(setup: Setup) {
    let pair = setup.pair_of(setup.server(), setup.client().limits(|limits| limits.connect_timeout = LONG));
    // The server dies, and somebody who says nothing takes its port.
    let location = pair.server.address().location().to_owned();
    pair.server.shutdown().wait();
    let _silent = Stranger::taking_over(setup, &location);
    comes_to("no connection is left", || pair.client.load(), |load| load.links == 0);
    match pair.to.call(SUM, &(1, 1)).timeout(SHORT).wait() {
        Err(CallError::DeadlineExceeded { after: SHORT, .. }) => {}
        // libfabric may notice that it is somebody else.
        Err(CallError::Unreachable(_)) if setup.is_mercury() => {}
        other => panic!("{other:?}"),
    }
    match in_tokio(pair.to.call(SUM, &(1, 1)).timeout(SHORT)) {
        Err(CallError::DeadlineExceeded { after: SHORT, .. }) => {}
        Err(CallError::Unreachable(_)) if setup.is_mercury() => {}
        other => panic!("{other:?}"),
    }
    assert_idle(&pair.client);
}

/// One task that waits with two calls: the later one's deadline is the earlier.
fn each_call_has_its_own_deadline_while_it_waits(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_in_flight = 1), setup.client());
    let first = pair.to.call(HANG, &()).start();
    in_tokio(async {
        let mut long = pin!(pair.to.call(SUM, &(1, 1)).timeout(LONG));
        let mut short = pin!(pair.to.call(SUM, &(1, 2)).timeout(SHORT));
        let ended = std::future::poll_fn(|cx| {
            assert!(long.as_mut().poll(cx).is_pending());
            short.as_mut().poll(cx)
        })
        .await;
        assert!(matches!(ended, Err(CallError::DeadlineExceeded { after: SHORT, .. })), "{ended:?}");
        drop(first);
        assert_eq!(long.await.unwrap(), 2);
    });
    // The same while a connection is made.
    let silent = Stranger::new(setup);
    let address = &silent.address;
    let client = setup.client().limits(|limits| limits.connect_timeout = SHORT * 3).connect().unwrap();
    match client.lookup(address).wait() {
        Err(margo_rs::ConnectError::Timeout { after, .. }) => assert_eq!(after, SHORT * 3),
        // Mercury's shared memory knows which processes are there.
        Err(margo_rs::ConnectError::Unreachable { .. }) if setup.address == NA_SM.address => {}
        other => panic!("{other:?}"),
    }
    pair.assert_healthy();
}

fn timeouts_without_end_are_taken(setup: Setup) {
    let forever = Duration::MAX;
    let limits = move |limits: &mut margo_rs::Limits| {
        limits.connect_timeout = forever;
        limits.handshake_timeout = forever;
        limits.default_timeout = forever;
        limits.shutdown_grace = forever;
        limits.keepalive = Duration::from_secs(3600);
    };
    let pair = setup.pair_of(setup.server().limits(limits), setup.client().limits(limits));
    assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    assert_eq!(pair.to.call(SUM, &(1, 2)).timeout(forever).wait().unwrap(), 3);
    assert_eq!(in_tokio(pair.to.call(SUM, &(1, 2)).timeout(forever)).unwrap(), 3);
    assert_times_out(&pair.to);
    pair.assert_healthy();
    pair.server.shutdown().wait();
    pair.client.shutdown().wait();
}

fn a_timeout_of_zero_sends_nothing(setup: Setup) {
    let pair = setup.pair();
    let alive = guard(&pair.server);
    let error = pair.to.call(GUARDED, &()).timeout(Duration::ZERO).wait().unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { after: Duration::ZERO, .. }));
    assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    pair.assert_healthy();
}

fn a_dropped_call_drops_the_handlers_future(setup: Setup) {
    let pair = setup.pair();
    let alive = guard(&pair.server);
    let started = pair.to.call(GUARDED, &()).start();
    comes_to("a handler runs", || alive.load(Ordering::SeqCst), |alive| *alive == 1);
    drop(started);
    comes_to("no handler is left", || alive.load(Ordering::SeqCst), |alive| *alive == 0);
    // A future that was polled, and one that lost a race.
    let mut polled = Box::pin(pair.to.call(GUARDED, &()));
    assert!(polled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    comes_to("a handler runs", || alive.load(Ordering::SeqCst), |alive| *alive == 1);
    drop(polled);
    comes_to("no handler is left", || alive.load(Ordering::SeqCst), |alive| *alive == 0);
    in_tokio(async {
        let lost = tokio::time::timeout(SHORT, pair.to.call(GUARDED, &())).await;
        assert!(lost.is_err());
    });
    comes_to("no handler is left", || alive.load(Ordering::SeqCst), |alive| *alive == 0);
    pair.assert_healthy();
}

fn a_deadline_drops_the_handlers_future(setup: Setup) {
    let pair = setup.pair();
    let alive = guard(&pair.server);
    let call = pair.to.call(GUARDED, &()).timeout(SHORT * 5).start();
    comes_to("a handler runs", || alive.load(Ordering::SeqCst), |alive| *alive == 1);
    assert!(matches!(call.wait(), Err(CallError::DeadlineExceeded { .. })));
    comes_to("no handler is left", || alive.load(Ordering::SeqCst), |alive| *alive == 0);
    pair.assert_healthy();
}

fn a_cancelled_request_tells_a_blocking_handler(setup: Setup) {
    let pair = setup.pair();
    let (came, events) = mpsc::channel();
    let block: Rpc<(), ()> = Rpc::new("block");
    pair.server
        .register_blocking(block, move |request, ()| {
            assert!(!request.is_cancelled());
            came.send("began").unwrap();
            request.cancelled().wait();
            assert!(request.is_cancelled());
            came.send("cancelled").unwrap();
            Ok(())
        })
        .unwrap();
    let call = pair.to.call(block, &()).start();
    assert_eq!(events.recv().unwrap(), "began");
    drop(call);
    assert_eq!(events.recv().unwrap(), "cancelled");
    // The caller's engine goes away.
    let call = pair.to.call(block, &()).start();
    assert_eq!(events.recv().unwrap(), "began");
    let ended = pair.client.shutdown();
    assert_eq!(events.recv().unwrap(), "cancelled");
    assert!(matches!(call.wait(), Err(CallError::ShutDown)));
    ended.wait();
    assert_idle(&pair.server);
}

fn a_cancelled_request_tells_who_holds_its_responder(setup: Setup) {
    let pair = setup.pair();
    let (give, held) = mpsc::channel();
    let keep: Rpc<(), ()> = Rpc::new("keep");
    pair.server
        .register_deferred(keep, move |request, (), responder| {
            give.send((request, responder)).unwrap();
            async {}
        })
        .unwrap();
    let call = pair.to.call(keep, &()).start();
    let (request, responder) = held.recv().unwrap();
    drop(call);
    request.cancelled().wait();
    responder.respond(&());
    pair.assert_healthy();
}

fn a_call_that_was_never_sent_can_be_dropped(setup: Setup) {
    let pair = setup.pair();
    let alive = guard(&pair.server);
    drop(pair.to.call(GUARDED, &()));
    drop(pair.to.call_raw(plain_id("guarded"), &[]));
    assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    pair.assert_healthy();
}

fn a_large_request_can_be_cancelled_half_way(setup: Setup) {
    let pair = setup.pair();
    let large = Blob(pattern(16 << 20));
    for _ in 0..5 {
        let call = pair.to.call(ECHO, &large).start();
        drop(call);
        assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
        // The response is under way when it is cancelled.
        let call = pair.to.call(FETCH, &(16 << 20)).start();
        assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
        drop(call);
    }
    assert!(pair.to.call(ECHO, &large).wait().unwrap() == large);
    pair.assert_healthy();
}

fn the_server_knows_the_callers_deadline(setup: Setup) {
    let pair = setup.pair();
    let left: Rpc<(), u64> = Rpc::new("left");
    pair.server
        .register(left, |request, ()| async move {
            let left = request.deadline().ok_or("no deadline")?.saturating_duration_since(std::time::Instant::now());
            Ok(left.as_millis() as u64)
        })
        .unwrap();
    let left = pair.to.call(left, &()).timeout(Duration::from_secs(3000)).wait().unwrap();
    assert!((2_000_000..=3_000_000).contains(&left), "{left}");
}

fn a_late_answer_reaches_nobody(setup: Setup) {
    let pair = setup.pair();
    let (give, held) = mpsc::channel();
    let keep: Rpc<u32, u32> = Rpc::new("keep");
    pair.server
        .register_deferred(keep, move |_, n, responder| {
            give.send((n, responder)).unwrap();
            async {}
        })
        .unwrap();
    for round in 0..50 {
        let late = pair.to.call(keep, &round).start();
        let (_, responder) = held.recv().unwrap();
        drop(late);
        // The next call takes the slot of the one before.
        let next = pair.to.call(keep, &(round + 1000)).start();
        responder.respond(&round);
        let (n, responder) = held.recv().unwrap();
        responder.respond(&n);
        assert_eq!(next.wait().unwrap(), round + 1000);
    }
    pair.assert_healthy();
}

/// Callers that give up while they wait for room must not take the wake-up with them.
fn a_cancelled_wait_for_room_leaves_room_to_others(setup: Setup) {
    // With four in flight, the link is not half idle when one of them ends.
    let pair = setup.pair_of(setup.server().limits(|limits| limits.max_in_flight = 4), setup.client());
    let (give, held) = mpsc::channel();
    let keep: Rpc<(), ()> = Rpc::new("keep");
    pair.server
        .register_deferred(keep, move |_, (), responder| {
            give.send(responder).unwrap();
            async {}
        })
        .unwrap();
    let calls: Vec<_> = (0..4).map(|_| pair.to.call(keep, &()).start()).collect();
    let mut responders: Vec<_> = (0..4).map(|_| held.recv().unwrap()).collect();
    in_tokio(async {
        // One that was started, one that was dropped, one whose deadline passes, and then one that waits.
        let started = pair.to.call(SUM, &(1, 1)).start();
        let (to, other) = (pair.to.clone(), pair.to.clone());
        let dropped = tokio::spawn(async move { to.call(SUM, &(2, 2)).await });
        let expired = tokio::spawn(async move { other.call(SUM, &(3, 3)).timeout(SHORT).await });
        tokio::task::yield_now().await;
        let to = pair.to.clone();
        let waiting = tokio::spawn(async move { to.call(SUM, &(4, 4)).await });
        tokio::time::sleep(SHORT).await;
        dropped.abort();
        assert!(dropped.await.is_err());
        assert!(matches!(expired.await.unwrap(), Err(CallError::DeadlineExceeded { .. })));
        responders.pop().unwrap().respond(&());
        assert_eq!(waiting.await.unwrap().unwrap(), 8);
        assert_eq!(started.await.unwrap(), 2);
    });
    for responder in responders {
        responder.respond(&());
    }
    for call in calls {
        call.wait().unwrap();
    }
    pair.assert_healthy();
}

/// However progress is made, a task that waits for a call must not hold up the timers and tasks around it.
fn a_call_leaves_its_executor_to_others(setup: Setup) {
    let pair = setup.pair();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let hanging = tokio::spawn(pair.to.call(HANG, &()));
        assert!(tokio::time::timeout(SHORT, pair.to.call(HANG, &())).await.is_err());
        tokio::time::sleep(SHORT).await;
        hanging.abort();
        assert!(hanging.await.is_err());
    });
    pair.assert_healthy();
}

fn a_cancel_that_comes_before_a_blocking_handler_begins_is_seen(setup: Setup) {
    let pair = setup.pair();
    let (go, gate) = mpsc::channel::<()>();
    let (began, seen) = mpsc::channel();
    let gate = std::sync::Mutex::new(gate);
    let block: Rpc<(), ()> = Rpc::new("block");
    pair.server
        .register_blocking(block, move |request, ()| {
            began.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            // Asks only now, long after the cancel.
            request.cancelled().wait();
            assert!(request.is_cancelled());
            Ok(())
        })
        .unwrap();
    let call = pair.to.call(block, &()).start();
    seen.recv().unwrap();
    drop(call);
    // The server has seen the cancel when it answers what was sent after it.
    assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    go.send(()).unwrap();
    pair.assert_healthy();
}

/// Nobody waits for it, so it does not end with whoever sent it.
fn fire_and_forget_outlives_its_sender(setup: Setup) {
    const LOG: Rpc<u32, ()> = Rpc::new("log").disable_response();
    let Pair { server, client, to } = setup.pair();
    let (tell, told) = mpsc::channel();
    let gate = Arc::new(tokio::sync::Notify::new());
    let open = gate.clone();
    server
        .register(LOG, move |_, n| {
            let (tell, gate) = (tell.clone(), gate.clone());
            async move {
                tell.send(n)?;
                gate.notified().await;
                tell.send(n + 1)?;
                Ok(())
            }
        })
        .unwrap();
    to.call(LOG, &7).wait().unwrap();
    assert_eq!(told.recv().unwrap(), 7);
    drop((to, client));
    comes_to("no connection is left", || server.load(), |load| load.links == 0);
    open.notify_one();
    assert_eq!(told.recv().unwrap(), 8);
    assert_idle(&server);
}

//! How engines start and end, and what becomes of those who depend on them.

use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::{Blame, CallError, ConnectError, Engine, RegisterError, Rpc, Wait};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

conformance! {
    remote_shutdown_is_refused_unless_allowed,
    a_guard_decides_about_remote_shutdown,
    shutdown_lets_running_handlers_end,
    shutdown_delivers_a_large_last_answer,
    shutdown_does_not_wait_for_ever,
    shutdown_fails_outstanding_calls,
    callbacks_run_last_pushed_first_and_may_still_call,
    the_last_handle_ends_the_engine,
    the_last_handle_may_be_dropped_in_a_handler,
    a_dropped_client_is_noticed_by_its_server,
    many_may_wait_for_the_end,
    an_ended_engine_refuses_everything,
    a_panicking_callback_stops_nothing,
    a_sleep_in_a_finalize_callback_is_over_at_once,
    a_callback_that_comes_too_late_is_dropped,
}

fn remote_shutdown_is_refused_unless_allowed(setup: Setup) {
    let pair = setup.pair();
    let refused = pair.to.shutdown_remote().wait().unwrap_err();
    assert!(matches!(&refused, CallError::Rejected { message } if message.contains("not allowed")), "{refused:?}");
    pair.assert_healthy();
    pair.server.enable_remote_shutdown(|_| true);
    pair.to.shutdown_remote().wait().unwrap();
    pair.server.wait().wait();
}

fn a_guard_decides_about_remote_shutdown(setup: Setup) {
    let pair = setup.pair();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    pair.server.enable_remote_shutdown(move |request| {
        assert!(request.peer().as_str().starts_with(setup.protocol()));
        count.fetch_add(1, Ordering::Relaxed) == 1
    });
    assert!(pair.to.shutdown_remote().wait().is_err());
    pair.assert_healthy();
    pair.to.shutdown_remote().wait().unwrap();
    pair.server.wait().wait();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

const GATED: Rpc<u32, u32> = Rpc::new("gated");

/// A handler that waits until it is let go.
fn gate(server: &Engine) -> (mpsc::Receiver<()>, Arc<tokio::sync::Semaphore>) {
    let (came, arrived) = mpsc::channel();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let open = gate.clone();
    server
        .register(GATED, move |_, n| {
            came.send(()).unwrap();
            let gate = gate.clone();
            async move {
                gate.acquire().await?.forget();
                Ok(n + 1)
            }
        })
        .unwrap();
    (arrived, open)
}

fn shutdown_lets_running_handlers_end(setup: Setup) {
    let pair = setup.pair_of(setup.server().limits(|limits| limits.shutdown_grace = LONG), setup.client());
    let (arrived, open) = gate(&pair.server);
    let calls: Vec<_> = (0..8).map(|n| pair.to.call(GATED, &n).start()).collect();
    (0..8).for_each(|_| arrived.recv().unwrap());
    let ended = pair.server.shutdown();
    // New requests are refused, from old connections and new ones.
    let refused = loop {
        match pair.to.call(SUM, &(1, 1)).wait() {
            Ok(_) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CallError::PeerShuttingDown { .. } | CallError::Unreachable(_)), "{refused:?}");
    assert!(setup.client().connect().unwrap().lookup(pair.server.address()).wait().is_err());
    assert_eq!(pair.server.load().requests, 8);
    open.add_permits(8);
    for (n, call) in (0..8).zip(calls) {
        assert_eq!(call.wait().unwrap(), n + 1);
    }
    ended.wait();
    assert_eq!(pair.server.load().links, 0);
}

/// It is larger than any socket buffer, so it cannot all be sent when the handler ends.
fn shutdown_delivers_a_large_last_answer(setup: Setup) {
    const SIZE: usize = 48 << 20;
    let pair = setup.pair_of(setup.server().limits(|limits| limits.shutdown_grace = LONG), setup.client());
    let (give, held) = mpsc::channel();
    let keep: Rpc<(), Blob> = Rpc::new("keep");
    pair.server
        .register_deferred(keep, move |_, (), responder| {
            give.send(responder).unwrap();
            async {}
        })
        .unwrap();
    let call = pair.to.call(keep, &()).start();
    let responder = held.recv().unwrap();
    let ended = pair.server.shutdown();
    responder.respond(&Blob(vec![7; SIZE]));
    assert_eq!(call.wait().unwrap().0.len(), SIZE);
    ended.wait();
}

fn shutdown_does_not_wait_for_ever(setup: Setup) {
    let grace = Duration::from_millis(20);
    let pair = setup.pair_of(setup.server().limits(|limits| limits.shutdown_grace = grace), setup.client());
    let call = pair.to.call(HANG, &()).start();
    comes_to("there is one request", || pair.server.load(), |load| load.requests == 1);
    pair.server.shutdown().wait();
    assert!(matches!(call.wait(), Err(CallError::ConnectionLost { .. })));
    assert_idle(&pair.server);
}

fn shutdown_fails_outstanding_calls(setup: Setup) {
    let pair = setup.pair();
    let calls: Vec<_> = (0..10).map(|_| pair.to.call(HANG, &()).start()).collect();
    let me = pair.client.lookup(pair.server.address()).wait().unwrap();
    pair.client.shutdown().wait();
    for call in calls {
        assert!(matches!(call.wait(), Err(CallError::ShutDown)));
    }
    for to in [&pair.to, &me] {
        let error = to.call(SUM, &(1, 2)).wait().unwrap_err();
        assert!(matches!(error, CallError::ShutDown), "{error:?}");
        assert_eq!(error.blame(), Blame::Caller);
    }
    assert_idle(&pair.client);
    assert_idle(&pair.server);
}

fn callbacks_run_last_pushed_first_and_may_still_call(setup: Setup) {
    let pair = setup.pair();
    let order = Arc::new(Mutex::new(Vec::new()));
    let engine = setup.serve();
    let to = engine.lookup(pair.server.address()).wait().unwrap();
    let note = |text: &'static str| {
        let order = order.clone();
        move || order.lock().unwrap().push(text.to_owned())
    };
    engine.push_finalize_callback(note("finalize 1"));
    engine.push_prefinalize_callback(note("prefinalize 1"));
    engine.push_finalize_callback(note("finalize 2"));
    let (own, seen) = (engine.lookup(engine.address()).wait().unwrap(), order.clone());
    engine.push_prefinalize_callback(move || {
        let (out, me) = (to.call(SUM, &(1, 2)).wait(), own.call(SUM, &(3, 4)).wait());
        seen.lock().unwrap().push(format!("called {} {}", out.unwrap(), me.unwrap()));
    });
    let (again, seen) = (pair.client.lookup(engine.address()).wait().unwrap(), order.clone());
    engine.push_finalize_callback(move || {
        let error = again.call(SUM, &(1, 2)).wait().unwrap_err();
        seen.lock().unwrap().push(format!("network is gone: {:?}", error.blame()));
    });
    engine.shutdown().wait();
    let expected = ["called 3 7", "prefinalize 1", "network is gone: Network", "finalize 2", "finalize 1"];
    assert_eq!(*order.lock().unwrap(), expected);
}

fn the_last_handle_ends_the_engine(setup: Setup) {
    let pair = setup.pair();
    let order = Arc::new(Mutex::new(Vec::new()));
    for name in ["prefinalize", "finalize"] {
        let order = order.clone();
        let note = move || order.lock().unwrap().push(name);
        match name {
            "finalize" => pair.server.push_finalize_callback(note),
            _ => pair.server.push_prefinalize_callback(note),
        }
    }
    let ended = pair.server.wait();
    let clone = pair.server.clone();
    let call = pair.to.call(HANG, &()).start();
    drop(pair.server);
    assert_eq!(pair.to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    drop(clone);
    ended.wait();
    assert!(matches!(call.wait(), Err(CallError::ConnectionLost { .. })));
    assert!(matches!(pair.to.call(SUM, &(1, 2)).wait(), Err(CallError::Unreachable(_))));
    assert_eq!(*order.lock().unwrap(), ["prefinalize", "finalize"]);
    assert_idle(&pair.client);
}

/// The engine then ends on its own progress thread, from inside its transport.
fn the_last_handle_may_be_dropped_in_a_handler(setup: Setup) {
    let Pair { server, client, to } = setup.pair();
    let handle = Arc::new(Mutex::new(None));
    let last: Rpc<(), ()> = Rpc::new("last");
    let store = handle.clone();
    server
        .register(last, move |_, ()| {
            drop(store.lock().unwrap().take());
            async { Ok(()) }
        })
        .unwrap();
    let ended = server.wait();
    *handle.lock().unwrap() = Some(server);
    let outcome = to.call(last, &()).wait();
    assert!(matches!(outcome, Ok(()) | Err(CallError::ConnectionLost { .. })), "{outcome:?}");
    ended.wait();
    assert_idle(&client);
}

fn a_dropped_client_is_noticed_by_its_server(setup: Setup) {
    let Pair { server, client, to } = setup.pair();
    let call = to.call(HANG, &()).start();
    comes_to("there is one request", || server.load(), |load| load.requests == 1);
    drop(client);
    assert!(matches!(call.wait(), Err(CallError::ShutDown)));
    assert_idle(&server);
    comes_to("no connection is left", || server.load(), |load| load.links == 0);
}

fn many_may_wait_for_the_end(setup: Setup) {
    let engine = setup.serve();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let engine = engine.clone();
            thread::spawn(move || engine.wait().wait())
        })
        .collect();
    drop(engine.shutdown());
    engine.shutdown().wait();
    waiting.into_iter().for_each(|thread| thread.join().unwrap());
    engine.wait().wait();
    in_tokio(engine.wait());
}

fn an_ended_engine_refuses_everything(setup: Setup) {
    let pair = setup.pair();
    let me = pair.server.lookup(pair.server.address()).wait().unwrap();
    pair.server.shutdown().wait();
    assert!(matches!(me.call(SUM, &(1, 2)).wait(), Err(CallError::ShutDown)));
    assert!(matches!(pair.server.lookup(pair.server.address()).wait(), Err(ConnectError::ShutDown)));
    let other: Rpc<(), ()> = Rpc::new("other");
    assert_eq!(pair.server.register(other, |_, ()| async { Ok(()) }), Err(RegisterError::ShutDown));
    comes_to("no connection is left", || pair.client.load(), |load| load.links == 0);
    let error = pair.to.call(SUM, &(1, 2)).wait().unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error:?}");
    // Whoever looked at the others last may be about to let go of one.
    comes_to("only its link to itself is left, which `me` holds", || pair.server.load(), |load| load.links == 1);
    drop(me);
}

fn a_panicking_callback_stops_nothing(setup: Setup) {
    let engine = setup.serve();
    let (ran, seen) = mpsc::channel();
    engine.push_finalize_callback(move || ran.send(()).unwrap());
    engine.push_finalize_callback(|| panic!("in a finalize callback"));
    engine.push_prefinalize_callback(|| panic!("in a prefinalize callback"));
    engine.shutdown().wait();
    seen.recv().unwrap();
}

fn a_sleep_in_a_finalize_callback_is_over_at_once(setup: Setup) {
    let engine = setup.serve();
    let timer = engine.timer();
    engine.push_finalize_callback(move || timer.sleep(LONG * 1000).wait());
    engine.shutdown().wait();
}

fn a_callback_that_comes_too_late_is_dropped(setup: Setup) {
    let engine = setup.serve();
    let (owned, late) = (Arc::new(()), engine.clone());
    let kept = owned.clone();
    engine.push_finalize_callback(move || late.push_prefinalize_callback(move || drop(kept)));
    engine.shutdown().wait();
    drop(engine);
    comes_to("nobody else owns it", || Arc::strong_count(&owned), |owners| *owners == 1);
}

//! Calls that wait for each other, for a session, for a pool: none hangs, none is lost, none keeps others out.

use std::thread;
use std::time::Duration;

use margo_rs::{Engine, Rpc, Wait};
use mochi_auth::{AuthServer, CallError, Connection, Rule};
use mochi_test_support::comes_to;

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Longer than what goes into the session of short requests.
fn long() -> String {
    "x".repeat(20_000)
}

#[test]
fn a_started_call_that_nobody_polls_keeps_nobody_from_a_session() {
    let auth = serve(builder());
    let (_engine, server) = connect(&auth, ALICE);
    let started = server.call(ECHO, &long()).start();
    assert_eq!(server.call(ECHO, &long()).wait().unwrap().len(), 20_000);
    assert_eq!(started.wait().unwrap().len(), 20_000);
}

/// A slow long call holds others back once they are three eighths of a window ahead of it; until their deadlines.
#[test]
fn a_call_that_may_not_run_ahead_keeps_its_deadline() {
    const SLOW: Rpc<String, ()> = Rpc::new("slow");
    let auth = serve(builder().window(64).max_in_flight(32));
    auth.register(SLOW, |_, _| std::future::pending()).unwrap();
    let (_engine, server) = connect(&auth, ALICE);
    server.call(ECHO, &long()).wait().unwrap();
    let slow = server.call(SLOW, &long()).start();
    let error = (0..60).find_map(|_| server.call(ECHO, &long()).timeout(SECOND / 2).wait().err()).expect("a limit");
    assert!(matches!(error, CallError::Transport(margo_rs::CallError::DeadlineExceeded { .. })), "{error}");
    assert_eq!(server.call(WHO, &()).wait().unwrap().0, ALICE.uid, "short ones do not notice");
    drop(slow);
    assert_eq!(server.call(ECHO, &long()).wait().unwrap().len(), 20_000);
}

/// The window looks at messages when they arrive, not when a thread is free for their handler.
#[test]
fn a_request_that_waits_for_its_pool_is_served() {
    const NAP: Rpc<u64, u64> = Rpc::new("nap");
    let engine = Engine::builder(transport()).rpc_threads(2).pool("narrow", 1).default_timeout(LONG);
    let auth = serve_on(&engine.listen().wait().unwrap(), builder().window(64).max_in_flight(32));
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    let provider = auth.provider(PROVIDER).pool("narrow").unwrap();
    let nap = move |_, n: u64| {
        gate.lock().unwrap().recv().unwrap();
        async move { Ok(n) }
    };
    provider.register(NAP, nap).unwrap();
    let (_engine, server) = connect(&auth, ALICE);
    let naps: Vec<_> = (0..3).map(|n| server.provider(PROVIDER).call(NAP, &n).start()).collect();
    for n in 0..300 {
        assert_eq!(server.call(ECHO, &n.to_string()).wait().unwrap(), n.to_string());
    }
    (0..3).for_each(|_| go.send(()).unwrap());
    for (n, nap) in (0..3).zip(naps) {
        assert_eq!(nap.wait().unwrap(), n);
    }
}

/// As of a plain call: with a session that stands, and where one would have to be made.
#[test]
fn waiting_in_an_asynchronous_handler_is_refused_and_sends_nothing() {
    const ONWARD: Rpc<bool, ()> = Rpc::new("onward");
    let (onward, auth) = (serve(builder().half_open(LONG)), serve(builder()));
    let (engine, connection) = connect(&onward, BOB);
    let handler = move |_, at_once: bool| {
        let refuse = |connection: &Connection| match connection.call(WHO, &()).wait() {
            Err(CallError::Transport(margo_rs::CallError::WouldDeadlock)) => {}
            other => panic!("{other:?}"),
        };
        let late = (!at_once).then(|| connection.clone());
        if at_once {
            refuse(&connection);
        }
        async move {
            late.iter().for_each(refuse);
            Ok(())
        }
    };
    auth.register(ONWARD, handler).unwrap();
    let (_engine, server) = connect(&auth, ALICE);
    let refused = || [true, false].map(|at_once| server.call(ONWARD, &at_once).wait().unwrap());
    refused();
    assert_eq!(onward.counts().half_open, 1, "nothing came in that session");
    onward.engine().shutdown().wait();
    comes_to("no connection is left", || engine.load(), |load| load.links == 0);
    refused();
}

#[test]
fn peer_credentials_recover_after_a_server_was_away() {
    let listen = |address: &str| Engine::builder(address).rpc_threads(2).default_timeout(LONG).listen().wait().unwrap();
    let serve = |engine: &Engine| serve_on(engine, AuthServer::builder().peer_credentials().rule(Rule::anyone()));
    let auth = serve(&listen("native+sm"));
    let address = auth.engine().address().clone();
    let engine = Engine::builder("native+sm").default_timeout(10 * SECOND).connect().unwrap();
    let server = Connection::builder().peer_credentials().open(&engine, &address).wait().unwrap();
    server.call(WHO, &()).wait().unwrap();
    auth.engine().shutdown().wait();
    drop(auth);
    comes_to("no connection is left", || engine.load(), |load| load.links == 0);
    assert!(matches!(server.call(WHO, &()).wait(), Err(CallError::NoSession(_))));
    let _again = serve(&listen(address.as_str()));
    server.call(WHO, &()).wait().unwrap();
}

#[test]
fn one_way_calls_and_slow_ones_keep_their_session() {
    const NOTE: Rpc<u64, ()> = Rpc::<u64, ()>::new("note").disable_response();
    let auth = serve(builder());
    auth.register(NOTE, |_, _| async { Ok(()) }).unwrap();
    let (_engine, server) = connect(&auth, ALICE);
    let (_engine, other) = connect(&auth, BOB);
    let slow = other.call(HANG, &()).start();
    for n in 0..7 {
        server.call(NOTE, &n).wait().unwrap();
        thread::sleep(SECOND);
    }
    assert_eq!(other.call(WHO, &()).wait().unwrap().0, BOB.uid);
    drop(slow);
    assert_eq!(auth.counts().sessions, 2);
}

#[test]
fn a_replaced_session_without_calls_is_closed() {
    let auth = serve(builder());
    let (_engine, server) = connect(&auth, ALICE);
    for _ in 0..5 {
        assert_eq!(server.call(WHO, &()).wait().unwrap().0, ALICE.uid);
        server.reauthenticate().wait().unwrap();
    }
    comes_to("there is one session", || auth.counts(), |counts| counts.sessions == 1);
}

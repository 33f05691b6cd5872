//! How connections are closed: what is in flight is finished, nothing else is begun.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Barrier;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use margo_rs::codec::Blob;
use margo_rs::{Rpc, Wait};
use mochi_auth::{AuthServer, CallError};
use mochi_test_support::{comes_to, eventually};
use tokio::sync::watch;

use crate::support::*;

/// Answers when it is told to.
const GATE: Rpc<(), u32> = Rpc::new("gate");

fn serve_gate(auth: &AuthServer) -> watch::Sender<bool> {
    let (go, gate) = watch::channel(false);
    let wait = move |_, ()| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await?;
            Ok(5)
        }
    };
    auth.register(GATE, wait).unwrap();
    go
}

fn runs(auth: &AuthServer, calls: u32) -> bool {
    auth.sessions().iter().map(|session| session.running).sum::<u32>() == calls
}

#[test]
fn closing_ends_the_session_for_all_clones() {
    let auth = serve(builder());
    let (_engine, server) = connect(&auth, ALICE);
    let clone = server.clone();
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    assert_eq!(auth.counts().sessions, 1);
    server.close().wait().unwrap();
    assert_eq!(auth.counts().sessions, 0);
    assert!(matches!(clone.call(WHO, &()).wait(), Err(CallError::Closed)));
    server.close().wait().unwrap();
}

#[test]
fn the_last_clone_closes() {
    let auth = serve(builder());
    let (_engine, server) = connect(&auth, ALICE);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    let clone = server.clone();
    drop(server);
    assert_eq!(clone.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    drop(clone);
    comes_to("no session is left", || auth.counts(), |counts| counts.sessions == 0);
}

#[test]
fn a_close_waits_for_the_calls_in_flight_and_takes_no_more() {
    let auth = serve(builder());
    let go = serve_gate(&auth);
    let (_engine, server) = connect(&auth, ALICE);
    let call = server.call(GATE, &()).start();
    eventually("the handlers run", || runs(&auth, 1));
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.close().wait());
        let other = scope.spawn(|| server.close().wait());
        comes_to("no session is left", || auth.counts(), |counts| counts.sessions == 0);
        assert!(matches!(server.call(WHO, &()).wait(), Err(CallError::Closed)));
        assert!(!closing.is_finished() && !other.is_finished(), "the call still runs");
        go.send(true).unwrap();
        closing.join().unwrap().unwrap();
        other.join().unwrap().unwrap();
    });
    assert_eq!(call.wait().unwrap(), 5);
}

/// Nobody has looked at the answers yet: that is no reason to wait for anything but the server.
#[test]
fn calls_that_were_only_started_are_finished_too() {
    const LENGTH: Rpc<Blob, u64> = Rpc::new("length");
    let auth = serve(builder());
    auth.register(LENGTH, |_, Blob(bytes)| async move { Ok(bytes.len() as u64) }).unwrap();
    for round in 0..30 {
        let (_engine, server) = connect(&auth, ALICE);
        let calls: Vec<_> = (0..20).map(|n| server.call(ECHO, &n.to_string()).start()).collect();
        server.close().wait().unwrap();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().expect("in flight"), n.to_string(), "{round}");
        }
        assert_eq!(auth.counts().sessions, 0);
    }
    // Long ones have a session of their own, and take longer to get there than a short message.
    let (_engine, server) = connect(&auth, ALICE);
    server.call(LENGTH, &Blob(vec![1; 100_000])).wait().unwrap();
    thread::scope(|scope| {
        let length = || server.call(LENGTH, &Blob(vec![1; 4_000_000])).wait();
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(length)).collect();
        server.close().wait().unwrap();
        for call in calls {
            let outcome = call.join().unwrap();
            assert!(matches!(outcome, Ok(4_000_000) | Err(CallError::Closed)), "{outcome:?}");
        }
    });
    assert_eq!(auth.counts().sessions, 0);
}

/// A transport may fetch what does not fit into a message after a shorter one has come, which the close is.
#[test]
fn a_close_overtakes_requests_of_no_size() {
    const CALLS: usize = 8;
    let auth = serve(builder());
    for size in [1_000, 5_000, 12_000, 15_500, 20_000] {
        for round in 0..10 {
            let (_engine, server) = connect(&auth, ALICE);
            let text = "x".repeat(size);
            server.call(ECHO, &text).wait().unwrap();
            let started = Barrier::new(CALLS + 1);
            thread::scope(|scope| {
                let call = || {
                    let call = server.call(ECHO, &text).start();
                    started.wait();
                    call.wait()
                };
                let calls: Vec<_> = (0..CALLS).map(|_| scope.spawn(call)).collect();
                started.wait();
                server.close().wait().unwrap();
                for call in calls {
                    let outcome = call.join().unwrap().map(|text| text.len());
                    assert!(matches!(outcome, Ok(len) if len == size), "{size} bytes, round {round}: {outcome:?}");
                }
            });
        }
    }
}

#[test]
fn calls_that_wait_for_their_turn_are_told_at_once() {
    let auth = serve(builder().window(64).max_in_flight(1));
    let go = serve_gate(&auth);
    let (_engine, server) = connect(&auth, ALICE);
    let call = server.call(GATE, &()).start();
    eventually("the handlers run", || runs(&auth, 1));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| server.call(WHO, &()).wait())).collect();
        let closing = scope.spawn(|| server.close().wait());
        for waiting in waiting {
            let error = waiting.join().unwrap().unwrap_err();
            assert!(matches!(error, CallError::Closed) && error.had_no_effect(), "{error}");
        }
        go.send(true).unwrap();
        closing.join().unwrap().unwrap();
    });
    assert_eq!(call.wait().unwrap(), 5);
}

/// Its calls may be slow, and their deadlines far away; then they may be given up, too.
#[test]
fn a_close_that_is_given_up_can_be_taken_up_again() {
    let auth = serve(builder());
    let go = serve_gate(&auth);
    let (_engine, server) = connect(&auth, ALICE);
    let call = server.call(GATE, &()).start();
    eventually("the handlers run", || runs(&auth, 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for _ in 0..3 {
            tokio::time::timeout(Duration::from_millis(20), server.close()).await.ok();
            assert!(matches!(server.call(WHO, &()).await, Err(CallError::Closed)));
        }
    });
    go.send(true).unwrap();
    assert_eq!(call.wait().unwrap(), 5);
    server.close().wait().unwrap();
    assert_eq!(auth.counts().sessions, 0);
}

/// Also when it was given up after the server had been told: what a later `close` promises is the same.
#[test]
fn a_close_that_is_taken_up_again_waits_for_the_handlers_too() {
    let auth = serve(builder());
    let go = serve_gate(&auth);
    let (_engine, server) = connect(&auth, ALICE);
    let call = server.call(GATE, &()).start();
    eventually("the handlers run", || runs(&auth, 1));
    {
        let mut closing = pin!(server.close());
        let waits = poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx).is_pending())).wait();
        assert!(waits, "the call still runs");
        comes_to("no session is left", || auth.counts(), |counts| counts.sessions == 0);
    }
    {
        // Whoever is told at once is told within this: the server has nothing else to do.
        let mut closing = pin!(server.close());
        let mut polled = || poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx).is_pending())).wait();
        for _ in 0..50 {
            assert!(polled(), "the call still runs");
            thread::sleep(Duration::from_millis(2));
        }
    }
    go.send(true).unwrap();
    server.close().wait().unwrap();
    assert_eq!(call.wait().unwrap(), 5);
}

#[test]
fn a_close_takes_no_longer_than_the_calls_may() {
    let auth = serve(builder());
    let engine = margo_rs::Engine::builder(transport()).default_timeout(Duration::from_secs(5)).connect().unwrap();
    let server = by_key(ALICE).open(&engine, auth.engine().address()).wait().unwrap();
    let call = server.call(HANG, &()).timeout(Duration::from_millis(300)).start();
    eventually("the handlers run", || runs(&auth, 1));
    // The call may be given up on either side first.
    let outcome = server.close().wait();
    let in_time = matches!(outcome, Ok(()) | Err(CallError::Transport(margo_rs::CallError::DeadlineExceeded { .. })));
    assert!(in_time, "{outcome:?}");
    assert_eq!(auth.counts().sessions, 0, "it is closed all the same");
    drop(call);
}

/// Sessions that were replaced while calls ran in them are ended as well.
#[test]
fn a_close_ends_the_sessions_before_the_current_one() {
    let auth = serve(builder());
    let go = serve_gate(&auth);
    let (_engine, server) = connect(&auth, ALICE);
    let mut calls = Vec::new();
    for round in 1..=3 {
        calls.push(server.call(GATE, &()).start());
        eventually("the handlers run", || runs(&auth, round));
        server.reauthenticate().wait().unwrap();
    }
    assert_eq!(auth.counts().sessions, 4);
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.close().wait());
        comes_to("there are fewer than 4 sessions", || auth.counts(), |counts| counts.sessions < 4);
        go.send(true).unwrap();
        closing.join().unwrap().unwrap();
    });
    assert_eq!(auth.counts().sessions, 0);
    calls.into_iter().for_each(|call| assert_eq!(call.wait().unwrap(), 5));
}

/// Whatever a session's end runs beside: a call is served, or was never begun.
#[test]
fn calls_race_with_new_sessions_and_with_the_close_and_none_is_lost() {
    let auth = serve(builder());
    for _ in 0..5 {
        let (_engine, server) = connect(&auth, ALICE);
        thread::scope(|scope| {
            let calling: Vec<_> = (0..4)
                .map(|caller| {
                    let server = server.clone();
                    scope.spawn(move || {
                        for n in 0.. {
                            let text = format!("{caller} {n}");
                            match server.call(ECHO, &text).wait() {
                                Ok(answer) => assert_eq!(answer, text),
                                Err(CallError::Closed) => return n,
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                        unreachable!("it is closed before")
                    })
                })
                .collect();
            for _ in 0..20 {
                server.reauthenticate().wait().unwrap();
            }
            server.close().wait().unwrap();
            assert!(calling.into_iter().map(|calling| calling.join().unwrap()).sum::<i32>() > 0);
        });
        assert_eq!(auth.counts().sessions, 0);
    }
}

/// The last clone and the last call, in whatever order.
#[test]
fn the_last_call_closes_when_no_clone_is_left() {
    let auth = serve(builder());
    let go = serve_gate(&auth);
    let (_engine, server) = connect(&auth, ALICE);
    let call = server.call(GATE, &()).start();
    eventually("the handlers run", || runs(&auth, 1));
    server.reauthenticate().wait().unwrap();
    drop(server);
    go.send(true).unwrap();
    assert_eq!(call.wait().unwrap(), 5);
    comes_to("no session is left", || auth.counts(), |counts| counts.sessions == 0);
}

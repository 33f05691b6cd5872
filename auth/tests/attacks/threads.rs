//! Attacks that hope for a race.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use margo_rs::{Rpc, Wait};
use mochi_auth::CallError;
use mochi_test_support::comes_to;

use crate::record;
use crate::stage::*;
use crate::stand_in::StandIn;
use crate::tap::{Fate, Tap, Way};
use crate::wire;

/// For calls that may be answered by silence.
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn eight_threads_on_one_session_run_each_call_once_while_all_is_replayed() {
    const CALLS: usize = 8 * 100;
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(ECHO, &String::new()).wait().unwrap();
    let before = site.before();
    let (attacker, replays) = (stage.attacker(&site), Arc::new(Mutex::new(Vec::new())));
    let sent = replays.clone();
    let mut requests = HashMap::new();
    tap.plan(move |seen| {
        let seq = seen.bytes[wire::SEQ].to_vec();
        match seen.way {
            Way::ToServer => drop(requests.insert(seq, seen.bytes.clone())),
            // It was served: now once more.
            Way::ToClient => sent.lock().unwrap().push(attacker.send(seen.rpc, &requests[&seq])),
        }
        Fate::Pass
    });
    thread::scope(|scope| {
        for thread in 0..8 {
            let server = server.clone();
            scope.spawn(move || {
                for n in 0..CALLS / 8 {
                    let text = format!("{thread} {n}");
                    assert_eq!(server.call(ECHO, &text).wait().unwrap(), text);
                }
            });
        }
    });
    assert_eq!(replays.lock().unwrap().len(), CALLS);
    let found = before.ran(&stage, &site, CALLS, CALLS);
    assert!(found.iter().all(|line| line.field("reason").contains("seen before")));
}

/// The same request over eight connections at once: one of them is served.
#[test]
fn of_eight_copies_that_arrive_at_once_one_is_served() {
    const ROUNDS: usize = 30;
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attackers: Vec<_> = (0..8).map(|_| stage.attacker(&site)).collect();
    let alice = StandIn::open(&attackers[0], ALICE);
    alice.call::<_, String>(&attackers[0], ECHO, &String::new());
    let before = site.before();
    for _ in 0..ROUNDS {
        let (request, _) = alice.request(ECHO, &"once".to_owned());
        thread::scope(|scope| {
            for attacker in &attackers {
                let request = &request;
                scope.spawn(move || {
                    let call = attacker.send(ECHO.id(margo_rs::ProviderId::DEFAULT), request);
                    attacker.fence();
                    drop(call);
                });
            }
        });
    }
    before.ran(&stage, &site, 7 * ROUNDS, ROUNDS);
}

const RUN: Rpc<(), ()> = Rpc::new("run");

/// What handlers do in the tests below: they take a while, and count.
struct Running {
    begun: AtomicUsize,
    go: AtomicBool,
}

fn serve_running(site: &Site) -> Arc<Running> {
    let running = Arc::new(Running { begun: AtomicUsize::new(0), go: AtomicBool::new(false) });
    let inside = running.clone();
    let run = move |_, ()| {
        let inside = inside.clone();
        async move {
            inside.begun.fetch_add(1, Ordering::SeqCst);
            while !inside.go.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    };
    site.auth.register(RUN, run).unwrap();
    running
}

/// In the examples in C, a close freed what a running handler was using.
#[test]
fn a_close_that_races_with_handlers_takes_nothing_from_them() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let running = serve_running(&site);
    for _ in 0..10 {
        running.go.store(false, Ordering::SeqCst);
        let begun = running.begun.load(Ordering::SeqCst);
        let server = stage.connect(&site, ALICE);
        let certain: Vec<_> = (0..4).map(|_| server.call(RUN, &()).start()).collect();
        comes_to("the handlers have begun", || running.begun.load(Ordering::SeqCst), |count| *count == begun + 4);
        let outcomes = thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let server = server.clone();
                    // Fewer than 64 in all: beyond that Mercury's na+sm does not keep their order, and a close may overtake some.
                    scope.spawn(move || (0..12).map(|_| server.call(RUN, &()).start()).collect::<Vec<_>>())
                })
                .collect();
            let closing = scope.spawn(|| server.close().wait().expect("closed"));
            comes_to("no session is left", || site.auth.counts(), |counts| counts.sessions == 0);
            running.go.store(true, Ordering::SeqCst);
            closing.join().unwrap();
            let calls = callers.into_iter().flat_map(|caller| caller.join().unwrap());
            calls.map(|call| call.wait()).collect::<Vec<_>>()
        });
        for call in certain {
            call.wait().expect("what ran before the close ends and answers");
        }
        for outcome in outcomes {
            assert!(matches!(outcome, Ok(()) | Err(CallError::Closed)), "{outcome:?}");
        }
        assert_eq!(site.auth.counts().sessions, 0);
    }
    honest_call(&stage, &site);
}

/// After a revocation nothing more is said, not even to what ran; and the server goes on.
#[test]
fn a_revocation_that_races_with_handlers_silences_them() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let running = serve_running(&site);
    let server = stage.connect(&site, ALICE);
    let call = server.call(RUN, &()).timeout(SHORT).start();
    comes_to("the handlers have begun", || running.begun.load(Ordering::SeqCst), |count| *count == 1);
    assert_eq!(site.auth.revoke_uid(ALICE.uid), 1);
    running.go.store(true, Ordering::SeqCst);
    let error = call.wait().unwrap_err();
    assert!(matches!(error, CallError::Transport(margo_rs::CallError::DeadlineExceeded { .. })), "{error}");

    // All the time, from outside.
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let server = server.clone();
                scope.spawn(move || (0..50).filter(|_| server.call(RUN, &()).timeout(SHORT).wait().is_ok()).count())
            })
            .collect();
        while callers.iter().any(|caller| !caller.is_finished()) {
            site.auth.revoke_all();
            thread::sleep(Duration::from_millis(1));
        }
        callers.into_iter().for_each(|caller| assert!(caller.join().unwrap() <= 50));
    });
    honest_call(&stage, &site);
    assert!(record::refusals().iter().all(|line| !line.field("reason").contains("tag")), "nothing was garbled");
}

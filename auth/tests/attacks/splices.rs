//! Messages replayed, reordered, sent back, and moved between calls, sessions, users and servers.

use std::sync::{Arc, Mutex};

use margo_rs::{ProviderId, Wait};
use mochi_auth::CallError;
use mochi_auth::session::ReplyRefused;
use mochi_test_support::eventually;

use crate::stage::*;
use crate::stand_in::StandIn;
use crate::tap::{Fate, Tap, Way};
use crate::wire;

fn echo_id() -> margo_rs::RpcId {
    ECHO.id(ProviderId::DEFAULT)
}

#[test]
fn a_replayed_request_runs_nothing() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let (attacker, other) = (stage.attacker(&site), stage.attacker(&site));
    let alice = StandIn::open(&attacker, ALICE);
    let (request, call) = alice.request(ECHO, &"once".to_owned());
    let reply = attacker.ask(echo_id(), &request);
    assert_eq!(alice.read::<String>(call, reply).unwrap(), "once");
    let before = site.before();
    let count = attacker.send_all(echo_id(), vec![request.clone(); 20]) + other.send_all(echo_id(), vec![request; 20]);
    let found = before.unharmed(&stage, &site, count);
    assert!(found.iter().all(|line| line.field("reason").contains("seen before")), "{found:?}");
}

/// Everything of a whole session, recorded on the path: sent again to the same server, while the session lives and after
/// its end, and to another server of the same keys and name.
#[test]
fn a_recorded_session_played_again_does_nothing() {
    let stage = Stage::enter();
    let (site, other) = (stage.serve(builder()), stage.serve(builder()));
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    for n in 0..20 {
        assert_eq!(server.call(ECHO, &n.to_string()).wait().unwrap(), n.to_string());
    }
    let mut recorded = tap.take();
    recorded.retain(|seen| seen.way == Way::ToServer && seen.rpc != AUTHENTICATE);
    assert_eq!(recorded.len(), 20);
    let play = |site: &Site| {
        let attacker = stage.attacker(site);
        recorded.iter().map(|seen| attacker.send_all(seen.rpc, [seen.bytes.clone()])).sum::<usize>()
    };
    for site in [&site, &other] {
        let before = site.before();
        let count = play(site);
        before.unharmed(&stage, site, count);
    }
    server.close().wait().unwrap();
    let close = tap.take().into_iter().find(|seen| seen.way == Way::ToServer).expect("a close");
    for site in [&site, &other] {
        let before = site.before();
        let count = play(site) + stage.attacker(site).send_all(close.rpc, [close.bytes.clone()]);
        let found = before.unharmed(&stage, site, count);
        assert!(found.iter().all(|line| line.field("reason") == "unknown session"), "{found:?}");
    }
}

#[test]
fn a_replayed_or_forged_close_ends_no_other_session() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let (one, other) = (StandIn::open(&attacker, ALICE), StandIn::open(&attacker, ALICE));
    for alice in [&one, &other] {
        alice.call::<_, (u32, u32)>(&attacker, WHO, &());
    }
    let close = one.close();
    assert!(mochi_auth::protocol::BareError::parse(&attacker.ask(AUTHENTICATE, &close)).is_err());
    assert_eq!(site.open_sessions(), 1);
    let before = site.before();
    let moved = wire::with(&close, wire::SESSION, other.session.id().as_bytes());
    let count = attacker.send_all(AUTHENTICATE, [close.clone(), moved]) + attacker.send_all(echo_id(), [close]);
    before.unharmed(&stage, &site, count);
    assert_eq!(other.call::<_, String>(&attacker, ECHO, &"on".to_owned()), "on");
}

#[test]
fn messages_do_not_pass_for_those_of_the_other_direction() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    let (request, _) = alice.request(ECHO, &"mirror".to_owned());
    let reply = attacker.ask(echo_id(), &request);
    let before = site.before();
    // The server gets its own reply: as it is, as a request, and as one with a number that is still free.
    let as_request = wire::with(&reply, wire::TYPE..wire::TYPE + 1, &[1]);
    let renumbered = wire::with(&as_request, wire::SEQ, &77u64.to_le_bytes());
    let count = attacker.send_all(echo_id(), [reply, as_request, renumbered]);
    before.unharmed(&stage, &site, count);

    // The client gets its own request: as it is, and as a reply.
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(WHO, &()).wait().unwrap();
    let before = site.before();
    for kind in [1, 2, 3] {
        tap.plan(move |seen| Fate::Answer(wire::with(&seen.bytes, wire::TYPE..wire::TYPE + 1, &[kind])));
        let error = server.call(ECHO, &"mirror".to_owned()).wait().unwrap_err();
        assert!(matches!(error, CallError::Tampered { .. }), "{error}");
    }
    before.unharmed(&stage, &site, 0);
}

/// The attacker lets two calls of one session through, and swaps what comes back.
#[test]
fn replies_cannot_be_swapped_between_calls() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    alice.call::<_, String>(&attacker, ECHO, &String::new());
    let (first, call_1) = alice.request(ECHO, &"1".to_owned());
    let (second, call_2) = alice.request(ECHO, &"2".to_owned());
    let before = site.before();
    let (reply_1, reply_2) = (attacker.ask(echo_id(), &first), attacker.ask(echo_id(), &second));
    assert!(matches!(alice.read::<String>(call_1, reply_2.clone()), Err(ReplyRefused::OtherCall)));
    let renumbered = wire::with(&reply_1, wire::SEQ, &reply_2[wire::SEQ]);
    assert!(matches!(alice.read::<String>(call_2, renumbered), Err(ReplyRefused::Open(_))));
    before.ran(&stage, &site, 0, 2);
}

/// The same through a connection: an old reply in place of a new one, also of the same RPC with the same arguments.
#[test]
fn an_old_reply_is_not_taken_for_a_new_one() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(ECHO, &"balance".to_owned()).wait().unwrap();
    let old = tap.take().into_iter().rfind(|seen| seen.way == Way::ToClient).expect("a reply").bytes;
    let before = site.before();
    let renumber = Arc::new(Mutex::new(Vec::new()));
    for renumbered in [false, true] {
        let (old, seq) = (old.clone(), renumber.clone());
        tap.plan(move |seen| match seen.way {
            Way::ToServer => {
                *seq.lock().unwrap() = seen.bytes[wire::SEQ].to_vec();
                Fate::Pass
            }
            Way::ToClient if renumbered => Fate::Replace(wire::with(&old, wire::SEQ, &seq.lock().unwrap())),
            Way::ToClient => Fate::Replace(old.clone()),
        });
        let error = server.call(ECHO, &"balance".to_owned()).wait().unwrap_err();
        assert!(matches!(error, CallError::Tampered { .. }), "{error}");
    }
    before.ran(&stage, &site, 0, 2);
}

#[test]
fn messages_cannot_be_moved_between_sessions_and_users() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let sessions = [ALICE, ALICE, BOB].map(|user| StandIn::open(&attacker, user));
    for session in &sessions {
        session.call::<_, (u32, u32)>(&attacker, WHO, &());
    }
    let before = site.before();
    let mut count = 0;
    let mut runs = 0;
    for from in &sessions {
        for to in sessions.iter().filter(|to| to.session.id() != from.session.id()) {
            let (request, _) = from.request(ECHO, &"mine".to_owned());
            let moved = wire::with(&request, wire::SESSION, to.session.id().as_bytes());
            count += attacker.send_all(echo_id(), [moved]);
            // And the reply of one, to the other.
            let (_, call) = to.request(ECHO, &"mine".to_owned());
            let reply = attacker.ask(echo_id(), &request);
            runs += 1;
            let reply = wire::with(&reply, wire::SESSION, to.session.id().as_bytes());
            assert!(to.read::<String>(call, reply).is_err());
        }
    }
    before.ran(&stage, &site, count, runs);
}

/// Whoever delivers a message of Alice's, it is Alice's; it does not become Bob's by coming over his connection, and does
/// not act for her twice.
#[test]
fn a_message_of_alice_over_the_connection_of_bob_is_of_alice() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let (hers, his) = (stage.attacker(&site), stage.attacker(&site));
    let (alice, bob) = (StandIn::open(&hers, ALICE), StandIn::open(&his, BOB));
    for (via, session) in [(&hers, &alice), (&his, &bob)] {
        session.call::<_, String>(via, ECHO, &String::new());
    }
    let before = site.before();
    let (request, call) = alice.request(WHO, &());
    let reply = his.ask(WHO.id(ProviderId::DEFAULT), &request);
    assert_eq!(alice.read::<(u32, u32)>(call, reply).unwrap(), (ALICE.uid, ALICE.gid));
    let count = hers.send_all(WHO.id(ProviderId::DEFAULT), [request]);
    before.ran(&stage, &site, count, 1);
}

#[test]
fn requests_may_come_in_any_order_up_to_the_window() {
    const WINDOW: usize = 64;
    let stage = Stage::enter();
    let site = stage.serve(builder().window(WINDOW as u16).max_in_flight(32));
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    alice.call::<_, String>(&attacker, ECHO, &String::new());
    let mut requests: Vec<_> = (0..WINDOW + 6).map(|n| alice.request(ECHO, &n.to_string())).collect();
    let before = site.before();
    // The newest first: those that are then too far behind are not served, whatever they are.
    let (_, too_old) = {
        requests.reverse();
        requests.split_at(WINDOW)
    };
    let too_old: Vec<_> = too_old.iter().map(|(wire, _)| wire.clone()).collect();
    for (n, (wire, call)) in requests.into_iter().take(WINDOW).enumerate() {
        let reply = attacker.ask(echo_id(), &wire);
        assert_eq!(alice.read::<String>(call, reply).unwrap(), (WINDOW + 5 - n).to_string());
    }
    let count = attacker.send_all(echo_id(), too_old);
    assert_eq!(count, 6);
    let found = before.ran(&stage, &site, count, WINDOW);
    assert!(found.iter().all(|line| line.field("reason").contains("older than the window")), "{found:?}");
}

/// An attacker may hold a request back as long as he likes: it is served once or not at all.
#[test]
fn requests_that_were_held_back_are_served_once_or_not_at_all() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(WHO, &()).wait().unwrap();
    tap.take();
    let before = site.before();
    tap.hold(true);
    let call = server.call(ECHO, &"late".to_owned()).start();
    let seen = Mutex::new(Vec::new());
    eventually("a message is seen", || {
        seen.lock().unwrap().extend(tap.take());
        !seen.lock().unwrap().is_empty()
    });
    // He sends it himself; when he then lets it go, it is a replay.
    let request = seen.lock().unwrap().remove(0).bytes;
    let attacker = stage.attacker(&site);
    attacker.ask(echo_id(), &request);
    tap.hold(false);
    before.ran(&stage, &site, 1, 1);
    drop(call);
}

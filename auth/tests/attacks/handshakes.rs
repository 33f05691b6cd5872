//! Attacks on the handshake.

use margo_rs::Wait;
use mochi_auth::mechanism::Initiator;
use mochi_auth::mechanism::key_file::KeyFileInitiator;
use mochi_auth::protocol::client::HandshakeError;
use mochi_auth::protocol::{BareError, HELLO_MAX, Hello, Protection};
use mochi_auth::{ConnectionBuilder, OpenError};

use crate::stage::*;
use crate::stand_in::{StandIn, hello, random};
use crate::tap::{Fate, Tap, Way};
use crate::wire::{self, flips, other_lengths};

/// Sends what must be refused to `authenticate`: each is answered NO, whatever is wrong with it.
fn all_refused(attacker: &Attacker, messages: impl IntoIterator<Item = Vec<u8>>) -> usize {
    let messages: Vec<_> = messages.into_iter().collect();
    // More at once than this, and the server would ask for cookies.
    for some in messages.chunks(64) {
        let calls: Vec<_> = some.iter().map(|message| attacker.send(AUTHENTICATE, message)).collect();
        for call in calls {
            let answer = call.wait().expect("an answer");
            let answer = BareError::parse(&answer).expect("a bare error");
            assert!(matches!(answer, BareError::No { .. } | BareError::Version { .. }), "{answer:?}");
        }
    }
    messages.len()
}

#[test]
fn every_flipped_bit_of_a_hello_is_refused() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let (good, sent) = hello(ALICE, SERVICE, Protection::Sealed);
    let before = site.before();
    let count = all_refused(&attacker, flips(&good));
    assert_eq!((count, site.auth.counts().sessions), (good.len() * 8, 0));
    before.unharmed(&stage, &site, count);
    assert!(sent.receive(&attacker.ask(AUTHENTICATE, &good)).is_ok(), "unchanged it is taken");
}

#[test]
fn every_truncation_and_extension_of_a_hello_is_refused() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let (good, _) = hello(ALICE, SERVICE, Protection::Sealed);
    let before = site.before();
    let mut count = all_refused(&attacker, other_lengths(&good));
    // With the length field made right.
    count += all_refused(
        &attacker,
        other_lengths(&good).filter(|wire| wire.len() >= 4).map(|mut wire| {
            let len = u16::try_from(wire.len()).expect("short");
            wire[2..4].copy_from_slice(&len.to_le_bytes());
            wire
        }),
    );
    assert_eq!(site.auth.counts().sessions, 0);
    before.unharmed(&stage, &site, count);
}

/// How it is refused does not tell what the server took it for.
#[test]
fn what_is_no_message_at_all_is_refused_like_a_malformed_hello() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let before = site.before();
    let malformed = [vec![], vec![0xa1], vec![0xa1, 4], vec![0xa1, 8], vec![0xa1; 4000], [0xa1, 8].repeat(2000)];
    for message in &malformed {
        let answer = attacker.ask(AUTHENTICATE, message);
        assert_eq!(BareError::parse(&answer).expect("a bare error"), BareError::No { echo: [0; 16] });
    }
    // Of another version, whatever it is there.
    for message in [[0xa2, 4], [0xa2, 8]] {
        let answer = attacker.ask(AUTHENTICATE, &message);
        assert_eq!(BareError::parse(&answer).expect("a bare error"), BareError::Version { echo: [0; 16] });
    }
    before.unharmed(&stage, &site, malformed.len() + 2);
}

/// Somebody may have closed it meanwhile, or it has ended: the second of two says nothing else than a stranger's would.
#[test]
fn a_close_of_a_session_that_is_gone_is_told_so_by_its_id() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    let closes = [alice.close(), alice.close()];
    let before = site.before();
    assert!(BareError::parse(&attacker.ask(AUTHENTICATE, &closes[0])).is_err(), "a sealed answer");
    let gone = BareError::No { echo: *alice.session.id().as_bytes() };
    assert_eq!(BareError::parse(&attacker.ask(AUTHENTICATE, &closes[1])), Ok(gone));
    let log_id = format!("{:016x}", u64::from_be_bytes(alice.session.id().log_id()));
    let found = before.unharmed(&stage, &site, 1);
    assert_eq!((found[0].field("session"), found[0].field("reason")), (log_id.as_str(), "unknown session"));
}

#[test]
fn oversized_hellos_and_tokens_are_refused() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let (good, _) = hello(ALICE, SERVICE, Protection::Sealed);
    let before = site.before();
    let grown = |len: usize| {
        let mut wire = good.clone();
        wire.resize(len, b'A');
        wire[2..4].copy_from_slice(&(len as u16).to_le_bytes());
        let at = good.len() - 48 - 2; // the token's length
        wire[at..at + 2].copy_from_slice(&((len - at - 2) as u16).to_le_bytes());
        wire
    };
    let lens = [good.len() + 1, 4096, 4097, 16 << 10, HELLO_MAX, HELLO_MAX + 1, 1 << 20, 8 << 20];
    let count = all_refused(&attacker, lens.into_iter().map(grown));
    before.unharmed(&stage, &site, count);
}

/// Each of these handshakes is a real one, of which the client refuses the end.
#[test]
fn every_flipped_bit_of_a_hello_reply_is_noticed() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    every_reply_is_refused(&stage, &site, wire::flip);
}

#[test]
fn every_truncation_and_extension_of_a_hello_reply_is_noticed() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    every_reply_is_refused(&stage, &site, wire::other_length);
}

fn every_reply_is_refused(stage: &Stage, site: &Site, change: fn(&[u8], usize) -> Option<Vec<u8>>) {
    let attacker = stage.attacker(site);
    let reply = StandIn::open(&attacker, ALICE).hello_reply;
    let count = (0..).take_while(|number| change(&reply, *number).is_some()).count();
    assert!(count > 100);
    let tap = Tap::before(stage, site);
    let engine = stage.client();
    let before = site.before();
    for number in 0..count {
        tap.plan(move |seen| match seen.way {
            Way::ToServer => Fate::Pass,
            Way::ToClient => Fate::Replace(change(&seen.bytes, number).expect("as long as the one before")),
        });
        let error = by_key(ALICE).open(&engine, tap.address()).wait().err();
        assert!(matches!(error, Some(OpenError::Server { .. })), "{number}: {error:?}");
    }
    before.unharmed(stage, site, 0);
    tap.plan(|_| Fate::Pass);
    by_key(ALICE).open(&engine, tap.address()).wait().expect("unchanged it is taken");
}

#[test]
fn a_replayed_hello_leads_to_no_session_that_can_be_used() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let (victim, attacker) = (stage.attacker(&site), stage.attacker(&site));
    let alice = StandIn::open(&victim, ALICE);
    let (request, call) = alice.request(ECHO, &"mine".to_owned());
    let before = site.before();
    let answer = attacker.ask(AUTHENTICATE, &alice.hello);
    assert_ne!(answer[wire::REPLY_SESSION], alice.hello_reply[wire::REPLY_SESSION]);
    // All that he could try to call in it: what Alice sealed for her own session.
    let moved = wire::with(&request, wire::SESSION, &answer[wire::REPLY_SESSION]);
    attacker.send_all(ECHO.id(margo_rs::ProviderId::DEFAULT), [moved]);
    let found = before.unharmed(&stage, &site, 1);
    assert_eq!(found[0].field("reason"), "wrong tag");
    let reply = victim.ask(ECHO.id(margo_rs::ProviderId::DEFAULT), &request);
    assert_eq!(alice.read::<String>(call, reply).unwrap(), "mine");
}

/// Also where one's name begins with the other's.
#[test]
fn a_hello_is_good_for_no_other_server() {
    let stage = Stage::enter();
    let here = stage.serve(builder().service("tcp://h:1234"));
    let there = stage.serve(builder().service("tcp://h:12345").service("tcp://h:123"));
    let attacker = stage.attacker(&there);
    let before = there.before();
    let (named, _) = hello(ALICE, "tcp://h:1234", Protection::Sealed);
    let (addressed, _) = hello(ALICE, here.address(), Protection::Sealed);
    let count = all_refused(&attacker, [named.clone(), addressed.clone()]);
    let found = before.unharmed(&stage, &there, count);
    assert!(found.iter().all(|line| line.field("reason").contains("another server")), "{found:?}");
    // Each was good where it belongs.
    for wire in [named, addressed] {
        assert!(BareError::parse(&stage.attacker(&here).ask(AUTHENTICATE, &wire)).is_err());
    }
}

#[test]
fn messages_of_the_handshake_are_not_taken_back_by_whom_they_are_from() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    let before = site.before();
    // The server's own answer, as it is and dressed up as a HELLO.
    let mut dressed = alice.hello_reply.clone();
    dressed[wire::TYPE] = alice.hello[wire::TYPE];
    let count = all_refused(&attacker, [alice.hello_reply.clone(), dressed]);
    // The client's own HELLO, likewise.
    let tap = Tap::before(&stage, &site);
    for kind in [None, Some(alice.hello_reply[wire::TYPE])] {
        tap.plan(move |seen| {
            let mut mirrored = seen.bytes.clone();
            mirrored[wire::TYPE] = kind.unwrap_or(mirrored[wire::TYPE]);
            Fate::Answer(mirrored)
        });
        let error = by_key(ALICE).open(&stage.client(), tap.address()).wait().unwrap_err();
        assert!(matches!(error, OpenError::Server { source: HandshakeError::Malformed(_), .. }), "{error}");
    }
    before.unharmed(&stage, &site, count);
}

#[test]
fn an_answer_to_another_hello_is_not_taken() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let before = site.before();
    let tap = Tap::before(&stage, &site);
    for user in [ALICE, BOB] {
        let other = StandIn::open(&attacker, user).hello_reply;
        tap.plan(move |_| Fate::Answer(other.clone()));
        let error = by_key(ALICE).open(&stage.client(), tap.address()).wait().unwrap_err();
        assert!(matches!(error, OpenError::Server { source: HandshakeError::WrongFinished, .. }), "{error}");
    }
    before.unharmed(&stage, &site, 0);
}

#[test]
fn a_known_user_with_a_key_of_low_order_is_refused() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let before = site.before();
    let mut one = [0; 32];
    one[0] = 1;
    let count = all_refused(
        &attacker,
        [[0; 32], one].map(|point| {
            // Bound to Alice's key like any other, so that only the point is wrong.
            let (good, _) = hello(ALICE, SERVICE, Protection::Sealed);
            let mut wire = wire::with(&good, wire::HELLO_KEY, &point);
            let th1 = Hello::parse(&wire).expect("its form is right").th1();
            let token = KeyFileInitiator::new(key_of(ALICE)).token(th1, &random()).wait().unwrap().token;
            let at = wire.len() - token.len();
            wire[at..].copy_from_slice(&token);
            wire
        }),
    );
    let found = before.unharmed(&stage, &site, count);
    assert!(found.iter().all(|line| line.field("reason").contains("low order")), "{found:?}");
}

#[test]
fn a_server_key_of_low_order_is_refused() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let before = site.before();
    tap.plan(|seen| match seen.way {
        Way::ToServer => Fate::Pass,
        Way::ToClient => Fate::Replace(wire::with(&seen.bytes, wire::REPLY_KEY, &[0; 32])),
    });
    let error = by_key(ALICE).open(&stage.client(), tap.address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::Server { source: HandshakeError::LowOrderPoint, .. }), "{error}");
    before.unharmed(&stage, &site, 0);
}

/// Whoever does not hold the key may pass on what he likes: he is neither of the two.
#[test]
fn whoever_answers_in_the_servers_place_is_found_out() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let other_key = |options: ConnectionBuilder| options.service(SERVICE);
    // A server of the same name that knows other keys.
    let mut keys = mochi_auth::mechanism::key_file::KeyRing::new();
    keys.add(key_of(BOB), ALICE).unwrap();
    let rogue = stage.serve(mochi_auth::AuthServer::builder().key_ring(keys).service(SERVICE));
    let before = site.before();
    let error = other_key(by_key(ALICE)).open(&stage.client(), rogue.address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::Refused(_)), "{error}");
    assert_eq!(rogue.auth.counts().sessions, 0);
    before.unharmed(&stage, &site, 1);
}

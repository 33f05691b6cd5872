//! Attacks on sealed requests and replies: bits, lengths, fields.

use margo_rs::{ProviderId, Wait};
use mochi_auth::CallError;
use mochi_auth::protocol::{BareError, Protection, SEQ_END};

use crate::stage::*;
use crate::stand_in::StandIn;
use crate::tap::{Fate, Tap, Way};
use crate::wire::{self, flipped, flips, other_lengths};

const TEXT: &str = "transfer 100";

fn echo_id() -> margo_rs::RpcId {
    ECHO.id(ProviderId::DEFAULT)
}

/// A server whose sessions may be either.
fn both() -> mochi_auth::AuthServerBuilder {
    builder().protections(&[Protection::Sealed, Protection::IntegrityOnly])
}

/// Changes of a request are refused one by one, and then the request itself is served.
fn refuses(protection: Protection, change: fn(&[u8]) -> Vec<Vec<u8>>) {
    let stage = Stage::enter();
    let site = stage.serve(both());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open_with(&attacker, ALICE, protection);
    // In use, so that no forgery could be the first to open it.
    assert_eq!(alice.call::<_, String>(&attacker, ECHO, &TEXT.to_owned()), TEXT);
    let (request, call) = alice.request(ECHO, &TEXT.to_owned());
    let before = site.before();
    let count = attacker.send_all(echo_id(), change(&request));
    assert!(count > 100);
    before.unharmed(&stage, &site, count);
    let reply = attacker.ask(echo_id(), &request);
    assert_eq!(alice.read::<String>(call, reply).unwrap(), TEXT, "unchanged it is served");
}

#[test]
fn every_flipped_bit_of_a_request_is_refused() {
    refuses(Protection::Sealed, |request| flips(request).collect());
}

#[test]
fn every_flipped_bit_of_an_integrity_only_request_is_refused() {
    refuses(Protection::IntegrityOnly, |request| flips(request).collect());
}

#[test]
fn every_truncation_and_extension_of_a_request_is_refused() {
    refuses(Protection::Sealed, |request| other_lengths(request).collect());
}

#[test]
fn every_truncation_and_extension_of_a_request_that_states_its_new_length_is_refused() {
    refuses(Protection::Sealed, |request| {
        let longer_than_overhead = other_lengths(request).filter(|wire| wire.len() >= 64);
        let states_it = longer_than_overhead.map(|wire| {
            let len = u32::try_from(wire.len() - 64).expect("short");
            wire::with(&wire, wire::BODY_LEN, &len.to_le_bytes())
        });
        // One has the length that the request had: a byte out of the middle and one at the end would be that.
        states_it.filter(|wire| wire != request).chain(flips(request).take(100)).collect()
    });
}

/// A forged request does not make a half-open session one in use, either.
#[test]
fn no_changed_request_opens_a_session() {
    let stage = Stage::enter();
    let site = stage.serve(both());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    let (request, _) = alice.request(ECHO, &TEXT.to_owned());
    let before = site.before();
    let count = attacker.send_all(echo_id(), flips(&request));
    assert_eq!(site.auth.counts().half_open, 1);
    before.unharmed(&stage, &site, count);
}

/// The handler runs once for each of these calls, and the client is told of no result.
fn notices(protection: Protection, change: fn(&[u8], usize) -> Option<Vec<u8>>) {
    let stage = Stage::enter();
    let site = stage.serve(both());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open_with(&attacker, ALICE, protection);
    let (request, _) = alice.request(WHO, &());
    let reply = attacker.ask(WHO.id(ProviderId::DEFAULT), &request);
    let count = (0..).take_while(|number| change(&reply, *number).is_some()).count();
    assert!(count > 100);

    let tap = Tap::before(&stage, &site);
    let options = by_key(ALICE).protection(protection);
    let server = options.open(&stage.client(), tap.address()).wait().expect("a session");
    server.call(WHO, &()).wait().expect("unchanged it is taken");
    let before = site.before();
    for number in 0..count {
        tap.plan(move |seen| match seen.way {
            Way::ToServer => Fate::Pass,
            Way::ToClient => Fate::Replace(change(&seen.bytes, number).expect("as long as the one before")),
        });
        let error = server.call(WHO, &()).wait().unwrap_err();
        assert!(matches!(error, CallError::Tampered { .. }) && !error.had_no_effect(), "{number}: {error}");
    }
    before.ran(&stage, &site, 0, count);
    tap.plan(|_| Fate::Pass);
    assert_eq!(server.call(WHO, &()).wait().expect("the session goes on"), (ALICE.uid, ALICE.gid));
}

#[test]
fn every_flipped_bit_of_a_reply_is_noticed() {
    notices(Protection::Sealed, wire::flip);
}

#[test]
fn every_flipped_bit_of_an_integrity_only_reply_is_noticed() {
    notices(Protection::IntegrityOnly, wire::flip);
}

#[test]
fn every_truncation_and_extension_of_a_reply_is_noticed() {
    notices(Protection::Sealed, wire::other_length);
}

/// A request reaches the handler it was sealed for, or none.
#[test]
fn a_request_is_good_for_one_rpc_of_one_provider() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    alice.call::<_, (u32, u32)>(&attacker, WHO, &());
    let (request, _) = alice.request(WHO, &());
    let (of_provider, _) = alice.request_of(WHO, PROVIDER, &());
    let (who, who_there) = (WHO.id(ProviderId::DEFAULT), WHO.id(PROVIDER));
    let before = site.before();
    // As they are, somewhere else.
    let mut count = attacker.send_all(echo_id(), [request.clone(), of_provider.clone()]);
    count += attacker.send_all(who_there, [request.clone()]);
    count += attacker.send_all(who, [of_provider.clone()]);
    let found = before.unharmed(&stage, &site, count);
    assert!(found.iter().all(|line| line.field("reason").contains("another RPC")), "{found:?}");

    // With the header made to fit.
    let before = site.before();
    let to = |wire: &[u8], rpc: margo_rs::RpcId| {
        let wire = wire::with(wire, wire::RPC, &rpc.as_u64().to_le_bytes());
        wire::with(&wire, wire::PROVIDER, &rpc.provider_id().as_u16().to_le_bytes())
    };
    let mut count = attacker.send_all(echo_id(), [to(&request, echo_id()), to(&of_provider, echo_id())]);
    count += attacker.send_all(who_there, [to(&request, who_there)]);
    count += attacker.send_all(who, [to(&of_provider, who)]);
    let found = before.unharmed(&stage, &site, count);
    assert!(found.iter().all(|line| line.field("reason") == "wrong tag"), "{found:?}");
}

#[test]
fn type_flags_epoch_and_number_are_covered() {
    let stage = Stage::enter();
    let site = stage.serve(both());
    let attacker = stage.attacker(&site);
    for protection in [Protection::Sealed, Protection::IntegrityOnly] {
        let alice = StandIn::open_with(&attacker, ALICE, protection);
        alice.call::<_, String>(&attacker, ECHO, &TEXT.to_owned());
        let (request, _) = alice.request(ECHO, &TEXT.to_owned());
        let before = site.before();
        let all = |at: usize| (0..=255).map(move |value| (at, value));
        let changed = [wire::TYPE, wire::FLAGS, wire::EPOCH].into_iter().flat_map(all);
        let changed = changed.map(|(at, value)| wire::with(&request, at..at + 1, &[value]));
        let numbers = [1, 2, 3, 1000, 2047, 2048, 2049, 1 << 32, SEQ_END - 1, SEQ_END, u64::MAX].into_iter();
        let numbers = numbers.map(|seq: u64| wire::with(&request, wire::SEQ, &seq.to_le_bytes()));
        let changed: Vec<_> = changed.chain(numbers).filter(|wire| *wire != request).collect();
        // A close that nobody sealed is sent where closes go, too.
        let closes = [wire::with(&request, wire::TYPE..wire::TYPE + 1, &[8])];
        let count = attacker.send_all(echo_id(), changed) + attacker.send_all(AUTHENTICATE, closes);
        before.unharmed(&stage, &site, count);
        assert_eq!(alice.call::<_, String>(&attacker, ECHO, &TEXT.to_owned()), TEXT, "no number was used up");
    }
}

#[test]
fn a_plain_call_reaches_no_handler() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let before = site.before();
    let plain = margo_rs::codec::to_vec(&TEXT.to_owned()).unwrap();
    let count = attacker.send_all(echo_id(), [plain, Vec::new(), vec![0; 64], vec![0xA1; 64], vec![0; 100_000]]);
    let found = before.unharmed(&stage, &site, count);
    assert!(found.iter().all(|line| line.field("reason").contains("must authenticate")), "{found:?}");
}

/// A known limit, see docs/threats.md: the layer below says of its own which RPCs there are. It says so of providers that
/// are there and of those that are not in the same way.
#[test]
fn which_rpcs_there_are_can_be_learned_without_a_session_and_no_more() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let before = site.before();
    let endpoint = stage.client().lookup(site.address()).wait().expect("the server is there");
    let ask = |id| endpoint.call_raw(id, b"anything").wait();
    for (name, provider) in [("no such", ProviderId::DEFAULT), ("no such", PROVIDER), ("who", ProviderId::new(8))] {
        let error = ask(margo_rs::RpcId::new(name, provider)).unwrap_err();
        assert!(matches!(error, margo_rs::CallError::NoSuchRpc { .. }), "{error}");
    }
    assert!(is_plain_refusal(&ask(WHO.id(PROVIDER))));
    before.unharmed(&stage, &site, 1);
}

/// In the examples in C, a server before its first login took a MAC under a key of zeros.
#[test]
fn before_anybody_authenticated_no_message_is_taken() {
    let stage = Stage::enter();
    let (site, elsewhere) = (stage.serve(builder()), stage.serve(builder()));
    let alice = StandIn::open(&stage.attacker(&elsewhere), ALICE);
    let attacker = stage.attacker(&site);
    let before = site.before();
    let (request, _) = alice.request(ECHO, &TEXT.to_owned());
    let zeros = wire::with(&request, wire::SESSION, &[0; 16]);
    let count = attacker.send_all(echo_id(), [request, zeros]);
    let found = before.unharmed(&stage, &site, count);
    assert!(found.iter().all(|line| line.field("reason") == "unknown session"), "{found:?}");
}

#[test]
fn a_stolen_session_id_without_the_key_is_worth_nothing() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let victim = stage.connect(&site, ALICE);
    victim.call(WHO, &()).wait().unwrap();
    let id = *site.auth.sessions()[0].id.as_bytes();
    // The thief is a user himself, and seals with the keys of his own session.
    let bob = StandIn::open(&attacker, BOB);
    bob.call::<_, String>(&attacker, ECHO, &TEXT.to_owned());
    let before = site.before();
    let (request, _) = bob.request(ECHO, &TEXT.to_owned());
    let stolen = (0..50).map(|seq: u64| {
        let wire = wire::with(&request, wire::SESSION, &id);
        wire::with(&wire, wire::SEQ, &seq.to_le_bytes())
    });
    let mut count = attacker.send_all(echo_id(), stolen);
    count += attacker.send_all(AUTHENTICATE, [wire::with(&bob.close(), wire::SESSION, &id)]);
    before.unharmed(&stage, &site, count);
    assert_eq!(victim.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid), "no number of hers was used up");
}

#[test]
fn payloads_beyond_the_limit_are_refused_whatever_they_state() {
    let stage = Stage::enter();
    let site = stage.serve(builder().max_message(10_000));
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    alice.call::<_, String>(&attacker, ECHO, &TEXT.to_owned());
    let (request, call) = alice.request(ECHO, &TEXT.to_owned());
    let before = site.before();
    let long = |body: usize, stated: u32| {
        let mut wire = wire::with(&request, wire::BODY_LEN, &stated.to_le_bytes());
        wire.resize(body.next_multiple_of(16) + 64, 0);
        wire
    };
    let huge = [long(10_001, 10_001), long(5_000_000, 5_000_000), long(100, u32::MAX), long(5_000_000, 100)];
    let mut count = attacker.send_all(echo_id(), huge);
    count += attacker.send_all(AUTHENTICATE, [flipped(&long(5_000_000, 5_000_000), 0)]);
    let found = before.unharmed(&stage, &site, count);
    assert_eq!(found.iter().filter(|line| line.field("reason").contains("longer than agreed")).count(), 2, "{found:?}");
    let reply = attacker.ask(echo_id(), &request);
    assert_eq!(alice.read::<String>(call, reply).unwrap(), TEXT);
}

#[test]
fn nos_to_a_flood_of_unknown_sessions_are_few() {
    const FLOOD: usize = 1500;
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let attacker = stage.attacker(&site);
    let (request, _) = StandIn::open(&attacker, ALICE).request(ECHO, &TEXT.to_owned());
    let unknown = wire::with(&request, wire::SESSION, &[9; 16]);
    let before = site.before();
    let mut calls: Vec<_> = (0..FLOOD).map(|_| attacker.send(echo_id(), &unknown)).collect();
    attacker.fence();
    let answered = calls.iter_mut().filter_map(poll_once).inspect(|answer| {
        assert!(matches!(BareError::parse(answer.as_ref().unwrap()), Ok(BareError::No { .. })));
    });
    assert!((1..FLOOD / 2).contains(&answered.count()), "ten a second");
    before.unharmed(&stage, &site, FLOOD);
}

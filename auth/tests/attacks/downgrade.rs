//! Forged refusals and lost messages: nobody lowers what he asks for, and nothing is sent twice.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use margo_rs::Wait;
use mochi_auth::protocol::{BareError, Hello, Protection, Suite};
use mochi_auth::{CallError, OpenError};

use crate::stage::*;
use crate::tap::{Fate, Tap, Way};

const BARE: [BareError; 3] =
    [BareError::No { echo: [7; 16] }, BareError::Retry { cookie: [8; 16] }, BareError::Version { echo: [9; 16] }];

/// Short: the calls of these tests are meant to end by their deadline.
const SHORT: Duration = Duration::from_secs(1);

/// What a HELLO asks for.
fn wish(hello: &[u8]) -> (u8, bool, bool, bool, [u8; 32]) {
    let hello = Hello::parse(hello).expect("a HELLO");
    let offers = |suite| hello.suites().contains(suite);
    let (aes, chacha) = (offers(Suite::Aes256Gcm), offers(Suite::ChaCha20Poly1305));
    (hello.mechanism() as u8, aes, chacha, hello.protection() == Protection::Sealed, *hello.server().as_bytes())
}

#[test]
fn forged_refusals_of_a_handshake_lower_nothing() {
    let stage = Stage::enter();
    let site = stage.serve(builder().protections(&[Protection::Sealed, Protection::IntegrityOnly]));
    let tap = Tap::before(&stage, &site);
    let before = site.before();
    for bare in BARE {
        tap.plan(move |_| Fate::Answer(bare.encode().to_vec()));
        // Whoever is asked to come again does so until his time is over.
        let time = if matches!(bare, BareError::Retry { .. }) { 2 * SHORT } else { LONG };
        let options = by_key(ALICE).suites(&[Suite::ChaCha20Poly1305]).handshake_timeout(time);
        let error = options.open(&stage.client(), tap.address()).wait().unwrap_err();
        let expected = match bare {
            BareError::No { .. } => matches!(error, OpenError::Refused(_)),
            BareError::Retry { .. } => matches!(error, OpenError::Timeout { .. }),
            BareError::Version { .. } => matches!(error, OpenError::Version(_)),
        };
        assert!(expected, "{error}");
        let hellos = tap.take();
        let first = wish(&hellos[0].bytes);
        assert!(!first.1 && first.2 && first.3);
        assert!(hellos.iter().all(|hello| wish(&hello.bytes) == first), "every HELLO asks for the same");
        assert!(hellos.len() == 1 || matches!(bare, BareError::Retry { .. }));
    }
    before.unharmed(&stage, &site, 0);
}

/// The client's HELLO names one suite; the attacker writes another into it, or lets the server choose from more.
#[test]
fn an_offer_that_was_changed_on_the_way_is_refused() {
    let stage = Stage::enter();
    let site = stage.serve(builder().protections(&[Protection::Sealed, Protection::IntegrityOnly]));
    let tap = Tap::before(&stage, &site);
    let before = site.before();
    let changes: [fn(&mut Vec<u8>); 3] = [
        |hello| hello[112] = Suite::Aes256Gcm as u8,
        |hello| {
            // The pad becomes a second suite.
            hello[5] = 2;
            hello[113] = Suite::Aes256Gcm as u8;
        },
        |hello| hello[6] = 1, // integrity-only
    ];
    for change in changes {
        tap.plan(move |seen| {
            let mut hello = seen.bytes.clone();
            if seen.way == Way::ToServer {
                change(&mut hello);
            }
            Fate::Replace(hello)
        });
        let options = by_key(ALICE).suites(&[Suite::ChaCha20Poly1305]);
        let error = options.open(&stage.client(), tap.address()).wait().unwrap_err();
        assert!(matches!(error, OpenError::Refused(_)), "{error}");
    }
    before.unharmed(&stage, &site, 3);
}

/// The call was served, and the attacker says it was not.
#[test]
fn a_forged_refusal_in_place_of_a_reply_repeats_no_call() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(WHO, &()).wait().unwrap();
    let wishes = Arc::new(Mutex::new(Vec::new()));
    for bare in BARE {
        let before = site.before();
        tap.plan(move |seen| match seen.way {
            Way::ToClient if seen.rpc != AUTHENTICATE => Fate::Replace(bare.encode().to_vec()),
            _ => Fate::Pass,
        });
        let error = server.call(ECHO, &"pay".to_owned()).wait().unwrap_err();
        assert!(matches!(error, CallError::SessionLost(_)) && !error.had_no_effect(), "{error}");
        before.ran(&stage, &site, 0, 1);
        // The next call makes a session like the one before.
        tap.plan(|_| Fate::Pass);
        tap.take();
        assert_eq!(server.call(ECHO, &"next".to_owned()).wait().unwrap(), "next");
        let seen = tap.take();
        let hellos = seen.iter().filter(|seen| seen.way == Way::ToServer && seen.rpc == AUTHENTICATE);
        wishes.lock().unwrap().extend(hellos.map(|hello| wish(&hello.bytes)));
    }
    let wishes = wishes.lock().unwrap();
    assert!(wishes.len() == BARE.len() && wishes.iter().all(|wish| *wish == wishes[0]), "{wishes:?}");
}

/// The call never reached the server, and the attacker answers in its place.
#[test]
fn a_forged_refusal_without_the_server_runs_nothing() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(WHO, &()).wait().unwrap();
    let before = site.before();
    for bare in BARE {
        tap.plan(move |seen| match seen.rpc {
            AUTHENTICATE => Fate::Pass,
            _ => Fate::Answer(bare.encode().to_vec()),
        });
        let error = server.call(ECHO, &"pay".to_owned()).wait().unwrap_err();
        assert!(matches!(error, CallError::SessionLost(_)) && !error.had_no_effect(), "{error}");
    }
    before.unharmed(&stage, &site, 0);
}

#[test]
fn lost_requests_and_replies_are_not_sent_again() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(WHO, &()).wait().unwrap();
    for (lost, runs) in [(Way::ToServer, 0), (Way::ToClient, 1)] {
        let mut time = SHORT;
        loop {
            let before = site.before();
            tap.take();
            tap.plan(move |seen| if seen.way == lost { Fate::Drop } else { Fate::Pass });
            let error = server.call(ECHO, &"pay".to_owned()).timeout(time).wait().unwrap_err();
            assert!(!error.had_no_effect(), "{error}");
            tap.plan(|_| Fate::Pass);
            let seen = tap.take();
            if seen.len() > runs {
                assert_eq!(seen.iter().filter(|seen| seen.way == Way::ToServer).count(), 1, "sent once");
                before.ran(&stage, &site, 0, runs);
                break;
            }
            time *= 4; // it was over before anything could be lost
        }
        // One lost message does not end the session, as it did in the examples in C.
        let sessions = site.auth.counts().sessions;
        assert_eq!(server.call(ECHO, &"next".to_owned()).wait().unwrap(), "next");
        assert_eq!(site.auth.counts().sessions, sessions);
    }
}

//! A server that speaks the protocol well and holds no secret: it answers whatever it is called, to everybody.

use std::time::Duration;

use margo_rs::{Engine, ProviderId};
use mochi_auth::Identity;
use mochi_auth::mechanism::Principal;
use mochi_auth::protocol::server::{Received, ServerPolicy};
use mochi_auth::protocol::{Ephemeral, Hello, MechanismId, Protection, Psk, Secret, SessionId, Suite, Terms, Tick};
use ring::rand::SystemRandom;

use crate::stand_in::random;

/// What the rogue puts in place of the secret that it does not know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guess {
    Nothing,
    Zeros,
    Random,
}

impl Guess {
    fn psk(self) -> Psk {
        match self {
            Self::Nothing => Psk::none(),
            Self::Zeros => Psk::shared(Secret::new(|_| ())),
            Self::Random => Psk::shared(Secret::new(|bytes| *bytes = random())),
        }
    }
}

/// Installs it.
pub(crate) fn install(engine: &Engine, guess: Guess) {
    let answer = move |_, input: margo_rs::Buffer, responder: margo_rs::RawResponder| {
        responder.respond(&answer(&input, guess));
        async {}
    };
    engine.register_raw("authenticate", ProviderId::DEFAULT, answer).expect("free");
}

fn answer(hello: &[u8], guess: Guess) -> Vec<u8> {
    let hello = Hello::parse(hello).expect("an honest client's HELLO");
    let terms = Terms {
        suite: Suite::Aes256Gcm,
        protection: Protection::Sealed,
        window_bits: 2048,
        idle: Duration::from_secs(900),
        absolute: Duration::from_secs(3600),
        max_in_flight: 1024,
        max_message: 1 << 20,
    };
    let policy = ServerPolicy {
        ids: vec![(hello.mechanism(), hello.server())],
        mechanisms: vec![MechanismId::Munge, MechanismId::KeyFile],
        suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        protections: vec![Protection::Sealed, Protection::IntegrityOnly],
        terms,
    };
    let received = Received::begin(&hello, &policy).expect("anything is taken");
    let principal = Principal { mechanism: hello.mechanism(), identity: Identity { uid: 0, gid: 0 }, name: None };
    let verified = received.claim().verified(principal, guess.psk());
    let ephemeral = Ephemeral::generate(&SystemRandom::new()).expect("random bytes");
    let id = SessionId::new(*random().first_chunk().expect("16 of 32"));
    let agreed = received.agree(ephemeral).expect("an honest key");
    let proving = received.accept(verified, id, &random(), agreed, Tick(0)).expect("a draft");
    proving.finish(&[]).expect("no proof needed").reply
}

//! What the tests of several modules need: fixed policies, and handshakes without a daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::rand::SystemRandom;

use crate::Identity;
use crate::mechanism::{Principal, ServerProof};
use crate::protocol::client::{Answered, Begun, HandshakeError, Offer, Sent};
use crate::protocol::message::{Content, Draft, Incoming, Target};
use crate::protocol::server::{Established, HelloRefused, Received, ServerPolicy};
use crate::protocol::{
    Ephemeral, Hello, MechanismId, Protection, Psk, Secret, ServerId, SessionId, SessionSecrets, Suite, Terms, Tick,
};
use crate::session::{Call, ClientSession, Lifetimes, NodeAddress, Quota, Request, RequestRefused, Session, Table};

pub(crate) const TARGET: Target = Target { rpc: 0x1122_3344_5566_7788, provider: 0x99aa };
pub(crate) const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
pub(crate) const PROTECTIONS: [Protection; 2] = [Protection::Sealed, Protection::IntegrityOnly];

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

pub(crate) fn secret<const N: usize>(byte: u8) -> Secret<N> {
    Secret::new(|bytes| bytes.fill(byte))
}

pub(crate) fn ephemeral() -> Ephemeral {
    Ephemeral::generate(&SystemRandom::new()).expect("a key pair")
}

pub(crate) fn terms() -> Terms {
    Terms {
        suite: Suite::Aes256Gcm,
        protection: Protection::Sealed,
        window_bits: 2048,
        idle: Duration::from_secs(900),
        absolute: Duration::from_secs(43_200),
        max_in_flight: 1024,
        max_message: 1 << 20,
    }
}

pub(crate) fn server_id() -> ServerId {
    ServerId::of("uid:2003|tcp://h:1234|group")
}

pub(crate) fn policy() -> ServerPolicy {
    ServerPolicy {
        ids: [MechanismId::KeyFile, MechanismId::Munge, MechanismId::PeerCredentials]
            .map(|id| (id, server_id()))
            .into(),
        mechanisms: vec![MechanismId::KeyFile, MechanismId::Munge, MechanismId::PeerCredentials],
        suites: SUITES.to_vec(),
        protections: PROTECTIONS.to_vec(),
        terms: terms(),
    }
}

pub(crate) fn offer() -> Offer<'static> {
    Offer {
        server: server_id(),
        mechanism: MechanismId::KeyFile,
        suites: &SUITES,
        protection: Protection::Sealed,
        cookie: None,
        client_time_ms: 1_234_567_890_123,
    }
}

pub(crate) fn principal(uid: u32) -> Principal {
    Principal { mechanism: MechanismId::KeyFile, identity: Identity { uid, gid: uid }, name: None }
}

/// The client's HELLO with a token of no meaning.
pub(crate) fn say_hello(offer: &Offer<'_>) -> (Vec<u8>, Sent) {
    Begun::new(offer, &[1; 32], ephemeral()).expect("an offer").send(b"token", Psk::shared(secret(7))).expect("short")
}

/// The server's answer, with a mechanism that believes everything.
pub(crate) fn answer(hello: &[u8], policy: &ServerPolicy, uid: u32) -> Result<Established, HelloRefused> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let received = Received::begin(&Hello::parse(hello)?, policy)?;
    let verified = received.claim().verified(principal(uid), Psk::shared(secret(7)));
    let mut id = [0x5a; 16];
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    id[..8].copy_from_slice(&number.to_le_bytes());
    id[15] = number as u8;
    let agreed = received.agree(ephemeral())?;
    received.accept(verified, SessionId::new(id), &[2; 32], agreed, Tick(0))?.finish(b"")
}

pub(crate) fn complete(sent: Sent, reply: &[u8]) -> Result<crate::protocol::client::Session, HandshakeError> {
    sent.receive(reply).and_then(|answered: Answered| answered.complete(ServerProof::SharedSecret))
}

/// A session with both its ends.
pub(crate) struct Pair {
    pub(crate) table: Arc<Table>,
    pub(crate) client: ClientSession,
    pub(crate) session: Arc<Session>,
}

pub(crate) fn table() -> Arc<Table> {
    Arc::new(Table::new(Quota::default(), Lifetimes::default(), Tick(0)))
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::of(&table(), Suite::Aes256Gcm, Protection::Sealed, 1000)
    }

    pub(crate) fn of(table: &Arc<Table>, suite: Suite, protection: Protection, uid: u32) -> Self {
        let (hello, sent) = say_hello(&Offer { suites: &[suite], protection, ..offer() });
        let established = answer(&hello, &policy(), uid).expect("accepted");
        let client = complete(sent, &established.reply).expect("completed");
        let session = table.insert(established, table.generation(), NodeAddress::LOCAL, Tick(0)).expect("room");
        Self { table: Arc::clone(table), client: ClientSession::new(client, Tick(0)), session }
    }

    pub(crate) fn each() -> impl Iterator<Item = Self> {
        SUITES.into_iter().flat_map(|suite| PROTECTIONS.map(|protection| Self::of(&table(), suite, protection, 1000)))
    }

    pub(crate) fn call(&self, body: &[u8]) -> (Vec<u8>, Call) {
        self.client.call(TARGET, Content::default(), Draft::copy_of(body), Tick(0)).expect("sealed")
    }

    pub(crate) fn open<'a>(&self, wire: &'a mut [u8], now: Tick) -> Result<Request<'a>, RequestRefused> {
        let incoming = Incoming::parse(wire).expect("a message");
        self.table.open(incoming, now)
    }

    /// One whole call.
    pub(crate) fn works(&self, now: Tick) -> bool {
        let sealed = self.client.call(TARGET, Content::default(), Draft::copy_of(b"ping"), now);
        let Ok((mut wire, call)) = sealed else {
            return false;
        };
        let Ok(request) = self.open(&mut wire, now) else {
            return false;
        };
        assert_eq!(request.body(), b"ping");
        let Ok(mut reply) = request.responder.reply(Content::default(), Draft::copy_of(b"pong"), now) else {
            return false;
        };
        match self.client.open(call, &mut reply, now) {
            Ok(crate::session::Reply::Result { body, .. }) => body == b"pong",
            _ => false,
        }
    }
}

/// A session for the table without the cost of a handshake.
pub(crate) fn established(number: u64, uid: u32) -> Established {
    let mut id = [0; 16];
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    id[..8].copy_from_slice(&mixed.to_le_bytes());
    id[8..].copy_from_slice(&number.wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes());
    id[15] = number as u8;
    Established {
        reply: Vec::new(),
        session: SessionId::new(id),
        terms: terms(),
        principal: principal(uid),
        secrets: SessionSecrets { client_to_server: secret(1), server_to_client: secret(2), exporter: secret(4) },
    }
}

/// Every way to change a message a little: each bit flipped, each shorter length, and longer ones.
pub(crate) fn tampered(wire: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flipped = (0..wire.len() * 8).map(|bit| {
        let mut wire = wire.to_vec();
        wire[bit / 8] ^= 1 << (bit % 8);
        wire
    });
    let cut = (0..wire.len()).map(|len| wire[..len].to_vec());
    let grown = [1, 2, 16, 64].map(|more| [wire, &vec![0; more]].concat());
    flipped.chain(cut).chain(grown)
}

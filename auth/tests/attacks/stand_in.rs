//! A client driven step by step, so that its messages can be kept, changed and sent in any order.

use margo_rs::{ProviderId, Rpc, Wait, codec};
use mochi_auth::Identity;
use mochi_auth::mechanism::key_file::KeyFileInitiator;
use mochi_auth::mechanism::{Initiator, ServerProof};
use mochi_auth::protocol::client::{Begun, Offer, Sent};
use mochi_auth::protocol::message::{Content, Draft, Target};
use mochi_auth::protocol::{Ephemeral, MechanismId, Protection, ServerId, Suite, Tick};
use mochi_auth::session::{Call, ClientSession, Reply, ReplyRefused};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::stage::{AUTHENTICATE, Attacker, SERVICE, key_of};

const NOW: Tick = Tick(0);

/// A user's session by hand.
pub(crate) struct StandIn {
    pub(crate) session: ClientSession,
    /// The messages that made it.
    pub(crate) hello: Vec<u8>,
    pub(crate) hello_reply: Vec<u8>,
}

pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("random bytes");
    bytes
}

/// A user's HELLO for a service of this name.
pub(crate) fn hello(user: Identity, service: &str, protection: Protection) -> (Vec<u8>, Sent) {
    let ephemeral = Ephemeral::generate(&SystemRandom::new()).expect("random bytes");
    let offer = Offer {
        server: ServerId::of(&format!("key|{service}")),
        mechanism: MechanismId::KeyFile,
        suites: &[Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        protection,
        cookie: None,
        client_time_ms: 0,
    };
    let begun = Begun::new(&offer, &random(), ephemeral).expect("an offer");
    let initiator = KeyFileInitiator::new(key_of(user));
    let token = initiator.token(begun.th1(), &random()).wait().expect("a token");
    begun.send(&token.token, token.psk).expect("short")
}

impl StandIn {
    pub(crate) fn open(via: &Attacker, user: Identity) -> Self {
        Self::open_with(via, user, Protection::Sealed)
    }

    pub(crate) fn open_with(via: &Attacker, user: Identity, protection: Protection) -> Self {
        let (hello, sent) = hello(user, SERVICE, protection);
        let hello_reply = via.ask(AUTHENTICATE, &hello);
        let answered = sent.receive(&hello_reply).expect("a HELLO_REP");
        let session = answered.complete(ServerProof::SharedSecret).expect("the server");
        Self { session: ClientSession::new(session, NOW), hello, hello_reply }
    }

    /// A sealed request.
    pub(crate) fn request<In: Serialize, Out>(&self, rpc: Rpc<In, Out>, args: &In) -> (Vec<u8>, Call) {
        self.request_of(rpc, ProviderId::DEFAULT, args)
    }

    pub(crate) fn request_of<In: Serialize, Out>(
        &self,
        rpc: Rpc<In, Out>,
        provider: ProviderId,
        args: &In,
    ) -> (Vec<u8>, Call) {
        let target = Target { rpc: rpc.id(provider).as_u64(), provider: provider.as_u16() };
        let body = codec::to_vec(args).expect("encoded");
        self.session.call(target, Content::default(), Draft::copy_of(&body), NOW).expect("sealed")
    }

    /// The sealed message that ends the session.
    pub(crate) fn close(&self) -> Vec<u8> {
        self.session.close(NOW).expect("sealed").0
    }

    /// Opens a reply.
    pub(crate) fn read<Out: DeserializeOwned>(&self, call: Call, mut reply: Vec<u8>) -> Result<Out, ReplyRefused> {
        match self.session.open(call, &mut reply, NOW)? {
            Reply::Result { body, .. } => Ok(codec::from_slice(body).expect("decoded")),
            Reply::Error(error) => panic!("{error:?}"),
        }
    }

    /// A call, as it should be.
    pub(crate) fn call<In: Serialize, Out: DeserializeOwned>(
        &self,
        via: &Attacker,
        rpc: Rpc<In, Out>,
        args: &In,
    ) -> Out {
        let (request, call) = self.request(rpc, args);
        self.read(call, via.ask(rpc.id(ProviderId::DEFAULT), &request)).expect("a reply")
    }
}

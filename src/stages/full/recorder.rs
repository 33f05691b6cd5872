//! An attacker on the path, as far as one is needed to show what comes of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use margo_rs::{Address, Buffer, Endpoint, Engine, ProviderId, RawResponder, Request, RpcId};

use super::GREET;
use crate::program::Outcome;

/// Stands between a client and a server: passes on handshakes and greetings, and keeps a copy of each request to greet.
/// It holds no key and can read nothing; it is what anybody on the network could be.
///
/// It listens on loopback, by TCP of our own whatever the server listens on, and ends with its engine when it is dropped.
pub struct Recorder {
    engine: Engine,
    shared: Arc<Shared>,
}

struct Shared {
    server: Endpoint,
    /// Requests are kept and not passed on.
    holds_back: AtomicBool,
    last: Mutex<Option<Message>>,
}

/// A recorded request.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// The name of the session it is of; that much is in the clear.
    pub fn session(&self) -> Option<&[u8]> {
        self.0.get(8..24)
    }

    /// Sends it as it is.
    pub fn send(&self, server: &Endpoint) -> margo_rs::RawCall {
        server.call_raw(GREET.id(ProviderId::DEFAULT), &self.0)
    }
}

impl Recorder {
    /// Stands in front of `server`.
    ///
    /// # Errors
    /// Nothing can listen on loopback.
    pub async fn start(server: Endpoint) -> Outcome<Self> {
        let engine = Engine::listen("native+tcp://127.0.0.1").await?;
        let shared = Arc::new(Shared { server, holds_back: AtomicBool::new(false), last: Mutex::default() });
        for name in ["authenticate", GREET.name()] {
            let shared = Arc::clone(&shared);
            engine.register_raw(name, ProviderId::DEFAULT, move |request: Request, input: Buffer, responder| {
                Arc::clone(&shared).pass_on(request.rpc_id(), input, responder)
            })?;
        }
        Ok(Self { engine, shared })
    }

    /// Where clients take it for the server.
    pub fn address(&self) -> &Address {
        self.engine.address()
    }

    /// Passes no more greetings on, or does again.
    pub fn hold_back(&self, holds_back: bool) {
        self.shared.holds_back.store(holds_back, Ordering::Release);
    }

    /// The last request to greet, as it was sent.
    pub fn last(&self) -> Option<Message> {
        self.shared.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    async fn pass_on(self: Arc<Self>, rpc: RpcId, input: Buffer, responder: RawResponder) {
        if rpc == GREET.id(ProviderId::DEFAULT) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Message(input.to_vec()));
            if self.holds_back.load(Ordering::Acquire) {
                return responder.abandon();
            }
        }
        match self.server.call_raw(rpc, &input).await {
            Ok(answer) => responder.respond(&answer),
            Err(_) => responder.abandon(),
        }
    }
}

//! A man in the middle: clients reach the server through him, and he does with their messages what a test says.

use std::sync::{Arc, Mutex};

use margo_rs::{Buffer, Endpoint, Engine, ProviderId, RawResponder, Request, RpcId, Wait};
use mochi_auth::{Connection, Identity};
use tokio::sync::watch;

use crate::stage::{ECHO, Site, Stage, WHO, by_key};

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// A message that came by.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) way: Way,
    pub(crate) rpc: RpcId,
    pub(crate) bytes: Vec<u8>,
}

/// What becomes of a message.
pub(crate) enum Fate {
    Pass,
    Replace(Vec<u8>),
    /// It is lost; whoever waits for what it would bring waits in vain.
    Drop,
    /// The client gets this, and the server nothing. Only for messages to the server.
    Answer(Vec<u8>),
}

type Plan = Box<dyn FnMut(&Seen) -> Fate + Send>;

struct Inner {
    server: Endpoint,
    seen: Mutex<Vec<Seen>>,
    plan: Mutex<Plan>,
    /// Messages to the server wait while it is false.
    open: watch::Sender<bool>,
}

pub(crate) struct Tap {
    engine: Engine,
    inner: Arc<Inner>,
}

impl Tap {
    /// Between clients and this server; at first he only listens.
    pub(crate) fn before(stage: &Stage, site: &Site) -> Self {
        let engine = stage.listen();
        let inner = Arc::new(Inner {
            server: engine.lookup(site.address()).wait().expect("the server is there"),
            seen: Mutex::default(),
            plan: Mutex::new(Box::new(|_| Fate::Pass)),
            open: watch::Sender::new(true),
        });
        for name in ["authenticate", WHO.name(), ECHO.name()] {
            let inner = inner.clone();
            let forward = move |request: Request, input: Buffer, responder| {
                inner.clone().forward(request.rpc_id(), input, responder)
            };
            engine.register_raw(name, ProviderId::DEFAULT, forward).expect("free");
        }
        Self { engine, inner }
    }

    pub(crate) fn address(&self) -> &str {
        self.engine.address().as_str()
    }

    /// Says what becomes of messages from now on.
    pub(crate) fn plan(&self, plan: impl FnMut(&Seen) -> Fate + Send + 'static) {
        *self.inner.plan.lock().unwrap() = Box::new(plan);
    }

    /// Keeps messages to the server back, or lets them go.
    pub(crate) fn hold(&self, hold: bool) {
        self.inner.open.send_replace(!hold);
    }

    /// What came by since this was asked last.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.inner.seen.lock().unwrap())
    }

    /// How many came by since they were taken last.
    pub(crate) fn seen(&self) -> usize {
        self.inner.seen.lock().unwrap().len()
    }

    /// A session through him.
    pub(crate) fn connect(&self, stage: &Stage, user: Identity) -> Connection {
        by_key(user).open(&stage.client(), self.address()).wait().expect("a session")
    }
}

impl Inner {
    async fn forward(self: Arc<Self>, rpc: RpcId, input: Buffer, responder: RawResponder) {
        let bytes = match self.decide(Way::ToServer, rpc, input.into_vec()) {
            Ok(bytes) => bytes,
            Err(Fate::Answer(answer)) => return responder.respond(&answer),
            Err(_) => return responder.abandon(),
        };
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        match self.server.call_raw(rpc, &bytes).await {
            Ok(reply) => match self.decide(Way::ToClient, rpc, reply.into_vec()) {
                Ok(reply) => responder.respond(&reply),
                Err(_) => responder.abandon(),
            },
            Err(error) => responder.fail(error),
        }
    }

    fn decide(&self, way: Way, rpc: RpcId, bytes: Vec<u8>) -> Result<Vec<u8>, Fate> {
        let seen = Seen { way, rpc, bytes };
        let fate = (self.plan.lock().unwrap())(&seen);
        let bytes = match fate {
            Fate::Pass => Ok(seen.bytes.clone()),
            Fate::Replace(bytes) => Ok(bytes),
            other => Err(other),
        };
        self.seen.lock().unwrap().push(seen);
        bytes
    }
}

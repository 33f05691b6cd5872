//! Where attacks take place: servers, clients, and the check that nothing came of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use margo_rs::{Buffer, Endpoint, Engine, ProviderId, RawCall, Rpc, RpcId, Wait};
use mochi_auth::mechanism::key_file::{Key, KeyRing};
use mochi_auth::protocol::{BareError, Secret};
use mochi_auth::session::{Quota, Rate};
use mochi_auth::{AuthProvider, AuthServer, AuthServerBuilder, Connection, ConnectionBuilder, Identity, Rule};
use mochi_test_support::comes_to;

use crate::record::{self, Line};

pub(crate) const WHO: Rpc<(), (u32, u32)> = Rpc::new("who");
pub(crate) const ECHO: Rpc<String, String> = Rpc::new("echo");
/// Needs no authentication.
pub(crate) const FENCE: Rpc<(), ()> = Rpc::new("fence");
pub(crate) const AUTHENTICATE: RpcId = RpcId::new("authenticate", ProviderId::DEFAULT);
/// It serves WHO, too.
pub(crate) const PROVIDER: ProviderId = ProviderId::new(7);
/// What all servers are called, besides their addresses.
pub(crate) const SERVICE: &str = "store";

pub(crate) const ALICE: Identity = Identity { uid: 1501, gid: 150 };
pub(crate) const BOB: Identity = Identity { uid: 1502, gid: 160 };

/// Long enough that no test waits for it unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What attacks go over: `native+tcp`, or the address in `MOCHI_TEST_TRANSPORT`, which has to stay on this host.
pub(crate) fn transport() -> String {
    std::env::var("MOCHI_TEST_TRANSPORT").unwrap_or_else(|_| "native+tcp://127.0.0.1".to_owned())
}

/// How many clients that is "many" for. An engine of libfabric's has some hundred MiB of buffers.
pub(crate) fn many(clients: usize) -> usize {
    if transport().starts_with("native+") { clients } else { clients.min(20) }
}

pub(crate) fn key_of(user: Identity) -> Key {
    Key::new(Secret::new(|bytes: &mut [u8; 32]| bytes.fill(user.uid as u8)))
}

pub(crate) fn by_key(user: Identity) -> ConnectionBuilder {
    Connection::builder().key(key_of(user)).service(SERVICE).handshake_timeout(LONG)
}

/// A server of Alice and Bob, with room for all the handshakes of an attack.
pub(crate) fn builder() -> AuthServerBuilder {
    let mut keys = KeyRing::new();
    for user in [ALICE, BOB] {
        keys.add(key_of(user), user).expect("two keys");
    }
    let options = AuthServer::builder().key_ring(keys).service(SERVICE).rule(Rule::anyone());
    // Sessions that are not used must not end in the middle of a test.
    options.handshakes(PLENTY).quota(AMPLE).half_open(LONG)
}

const PLENTY: Rate = Rate { per_second: 1000, burst: 100_000 };
pub(crate) const AMPLE: Quota =
    Quota { sessions: 10_000, reserve: 10, few: 10, half_open: 9000, half_open_per_node: 9000 };

/// All tests of this process log to one place, so those that count events take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A test's turn. When it ends, its engines have ended, and log no more.
pub(crate) struct Stage {
    engines: Mutex<Vec<Engine>>,
    /// The process of those who are honest.
    honest: OnceLock<Engine>,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    pub(crate) fn enter() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        record::restart(false);
        Self { engines: Mutex::default(), honest: OnceLock::new(), _turn: turn }
    }

    fn track(&self, engine: Engine) -> Engine {
        self.engines.lock().unwrap().push(engine.clone());
        engine
    }

    pub(crate) fn listen(&self) -> Engine {
        let options = Engine::builder(transport()).rpc_threads(2).default_timeout(LONG);
        let options = options.limits(|limits| {
            limits.shutdown_grace = Duration::ZERO;
            limits.connect_timeout = LONG;
        });
        self.track(options.listen().wait().expect("listening works"))
    }

    /// A client process, as it were.
    pub(crate) fn client(&self) -> Engine {
        // Mercury's clients listen, too: where the server does.
        let options = Engine::builder(transport()).default_timeout(LONG);
        self.track(options.limits(|limits| limits.connect_timeout = LONG).connect().expect("a client starts"))
    }

    pub(crate) fn serve(&self, builder: AuthServerBuilder) -> Site {
        let engine = self.listen();
        let auth = builder.install(&engine).wait().expect("installed");
        let runs = Arc::new(AtomicUsize::new(0));
        let who = |runs: &Arc<AtomicUsize>| {
            let runs = runs.clone();
            move |caller: mochi_auth::Caller, ()| {
                runs.fetch_add(1, Ordering::SeqCst);
                async move { Ok((caller.uid(), caller.gid())) }
            }
        };
        let provider = auth.provider(PROVIDER);
        auth.register(WHO, who(&runs)).expect("free");
        provider.register(WHO, who(&runs)).expect("free");
        let counted = runs.clone();
        let echo = move |_, text| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok(text) }
        };
        auth.register(ECHO, echo).expect("free");
        engine.register(FENCE, |_, ()| async { Ok(()) }).expect("free");
        Site { auth, runs, _provider: provider }
    }

    /// Somebody who sends what he likes.
    pub(crate) fn attacker(&self, site: &Site) -> Attacker {
        Attacker { endpoint: self.client().lookup(site.address()).wait().expect("the server is there") }
    }

    /// A session of a user, made directly. All are of one process: to start one takes long over Mercury.
    pub(crate) fn connect(&self, site: &Site, user: Identity) -> Connection {
        let engine = self.honest.get_or_init(|| self.client());
        by_key(user).open(engine, site.address()).wait().expect("a session")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let engines = std::mem::take(self.engines.get_mut().unwrap_or_else(PoisonError::into_inner));
        for engine in engines {
            engine.shutdown().wait();
        }
    }
}

/// A server under attack.
pub(crate) struct Site {
    pub(crate) auth: AuthServer,
    /// How often handlers ran.
    runs: Arc<AtomicUsize>,
    _provider: AuthProvider,
}

impl Site {
    pub(crate) fn address(&self) -> &str {
        self.auth.engine().address().as_str()
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    /// Sessions whose client has shown that it holds the key.
    pub(crate) fn open_sessions(&self) -> usize {
        let counts = self.auth.counts();
        counts.sessions - counts.half_open
    }

    /// How things are before an attack.
    pub(crate) fn before(&self) -> Before {
        Before { runs: self.runs(), open: self.open_sessions(), refusals: record::refusal_count() }
    }
}

pub(crate) struct Before {
    runs: usize,
    open: usize,
    refusals: usize,
}

impl Before {
    /// Waits until the audit log has `refusals` more, which are given back; nothing else may have come of the attack, and
    /// Alice's honest call must work.
    pub(crate) fn unharmed(&self, stage: &Stage, site: &Site, refusals: usize) -> Vec<Line> {
        self.ran(stage, site, refusals, 0)
    }

    /// As [`unharmed`](Self::unharmed), where `runs` honest calls reached their handlers meanwhile.
    pub(crate) fn ran(&self, stage: &Stage, site: &Site, refusals: usize, runs: usize) -> Vec<Line> {
        let expected = self.refusals + refusals;
        comes_to("the refusals are on record", record::refusal_count, |count| *count >= expected);
        assert_eq!(site.runs(), self.runs + runs, "handlers that ran");
        assert_eq!(site.open_sessions(), self.open, "sessions in use");
        honest_call(stage, site);
        assert_eq!(site.runs(), self.runs + runs + 1, "the honest call ran once");
        let found = record::refusals();
        assert_eq!(found.len(), expected, "one event for each refusal: {found:#?}");
        found[self.refusals..].to_vec()
    }
}

/// A whole session with one call in it.
pub(crate) fn honest_call(stage: &Stage, site: &Site) {
    let server = stage.connect(site, ALICE);
    assert_eq!(server.call(WHO, &()).wait().expect("an honest call"), (ALICE.uid, ALICE.gid));
    server.close().wait().expect("closed");
}

/// A connection over which anything is sent.
pub(crate) struct Attacker {
    endpoint: Endpoint,
}

impl Attacker {
    /// Sends bytes, and gives what is answered.
    pub(crate) fn ask(&self, rpc: RpcId, bytes: &[u8]) -> Vec<u8> {
        self.endpoint.call_raw(rpc, bytes).wait().expect("an answer").into_vec()
    }

    /// Sends bytes, and does not wait.
    pub(crate) fn send(&self, rpc: RpcId, bytes: &[u8]) -> RawCall {
        self.endpoint.call_raw(rpc, bytes).start()
    }

    /// Sends messages that a wrapped handler must refuse, and says how many there were. Answers may only be refusals that tell nothing.
    pub(crate) fn send_all(&self, rpc: RpcId, messages: impl IntoIterator<Item = Vec<u8>>) -> usize {
        let before = record::refusal_count();
        let mut calls: Vec<_> = messages.into_iter().map(|message| self.send(rpc, &message)).collect();
        // Dropping a call cancels it. Long ones may be overtaken by the fence.
        comes_to("the refusals are on record", record::refusal_count, |count| *count >= before + calls.len());
        self.fence();
        for call in &mut calls {
            if let Some(answer) = poll_once(call) {
                assert!(is_plain_refusal(&answer), "{answer:?}");
            }
        }
        calls.len()
    }

    /// Returns when what was sent before has been looked at.
    pub(crate) fn fence(&self) {
        self.endpoint.call(FENCE, &()).wait().expect("the server lives");
    }
}

/// NO, or what a call gets that is no message of a session at all: the words of the layer below, the same for everybody.
pub(crate) fn is_plain_refusal(answer: &Result<Buffer, margo_rs::CallError>) -> bool {
    match answer {
        Ok(answer) => matches!(BareError::parse(answer), Ok(BareError::No { .. })),
        Err(margo_rs::CallError::Handler { message }) => message.ends_with("authenticated callers alone"),
        Err(_) => false,
    }
}

pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut cx) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

//! How the suite starts engines, and what all its tests use.

use margo_rs::codec::Blob;
use margo_rs::transport::fault::{Faults, Injector};
use margo_rs::{Builder, Endpoint, Engine, Pool, Progress, ProviderId, Rpc, RpcId, Wait, protocol_help};
pub(crate) use mochi_test_support::{Watchdog, comes_to, eventually};
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

pub(crate) const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
pub(crate) const ECHO: Rpc<Blob, Blob> = Rpc::new("echo");
/// Answers as many bytes as asked for.
pub(crate) const FETCH: Rpc<u64, Blob> = Rpc::new("fetch");
/// Never answers.
pub(crate) const HANG: Rpc<(), ()> = Rpc::new("hang");

/// Long enough that no test waits for it unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A way of starting engines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    /// What a server listens on.
    pub(crate) address: &'static str,
    pub(crate) progress: Progress,
    /// A fault injector that injects nothing stands in between.
    pub(crate) layered: bool,
    /// Shared memory is used underneath.
    pub(crate) same_node: bool,
    /// A server's handlers run in a pool of Argobots.
    pub(crate) argobots: bool,
}

const ADAPTIVE: Progress = Progress::Adaptive(Duration::from_micros(50));

pub(crate) const TCP4: Setup = Setup {
    name: "native+tcp over IPv4",
    address: "native+tcp://127.0.0.1",
    progress: ADAPTIVE,
    layered: false,
    same_node: false,
    argobots: false,
};
pub(crate) const TCP6: Setup = Setup { name: "native+tcp over IPv6", address: "native+tcp://[::1]", ..TCP4 };
pub(crate) const TCP_LAYERED: Setup = Setup { name: "native+tcp under an idle injector", layered: true, ..TCP4 };
pub(crate) const TCP_BUSY: Setup = Setup { name: "native+tcp, busy", progress: Progress::Busy, ..TCP4 };
pub(crate) const TCP_PARK: Setup = Setup { name: "native+tcp, parking", progress: Progress::Park, ..TCP4 };
pub(crate) const TCP_ARGOBOTS: Setup = Setup { name: "native+tcp with handlers on Argobots", argobots: true, ..TCP4 };
pub(crate) const OFI_TCP: Setup = Setup { name: "ofi+tcp of Mercury", address: "ofi+tcp://127.0.0.1", ..TCP4 };
pub(crate) const OFI_TCP_PARK: Setup =
    Setup { name: "ofi+tcp of Mercury, parking", progress: Progress::Park, ..OFI_TCP };
pub(crate) const OFI_TCP_ARGOBOTS: Setup =
    Setup { name: "ofi+tcp of Mercury with handlers on Argobots", argobots: true, ..OFI_TCP };
pub(crate) const NA_SM: Setup = Setup { name: "na+sm of Mercury", address: "na+sm", ..TCP4 };
pub(crate) const NA_SM_BUSY: Setup = Setup { name: "na+sm of Mercury, busy", progress: Progress::Busy, ..NA_SM };

pub(crate) const NODE: Setup = Setup { name: "native+tcp on one node", same_node: true, ..TCP4 };
pub(crate) const NODE6: Setup = Setup { name: "native+tcp over IPv6 on one node", same_node: true, ..TCP6 };
pub(crate) const NODE_LAYERED: Setup =
    Setup { name: "native+tcp on one node under an idle injector", layered: true, ..NODE };
pub(crate) const NODE_BUSY: Setup = Setup { name: "native+tcp on one node, busy", progress: Progress::Busy, ..NODE };
pub(crate) const NODE_PARK: Setup = Setup { name: "native+tcp on one node, parking", progress: Progress::Park, ..NODE };

pub(crate) const SM: Setup = Setup { name: "native+sm", address: "native+sm", ..TCP4 };
pub(crate) const SM_LAYERED: Setup = Setup { name: "native+sm under an idle injector", layered: true, ..SM };
pub(crate) const SM_BUSY: Setup = Setup { name: "native+sm, busy", progress: Progress::Busy, ..SM };
pub(crate) const SM_PARK: Setup = Setup { name: "native+sm, parking", progress: Progress::Park, ..SM };

impl Setup {
    /// Whether its addresses are hosts with ports.
    pub(crate) fn is_tcp(&self) -> bool {
        self.protocol().ends_with("+tcp")
    }

    /// Whether this machine can do it.
    pub(crate) fn is_possible(&self) -> bool {
        if protocol_help(self.protocol()).is_some() || (self.argobots && !mochi_sys::ARGOBOTS_LINKED) {
            return false;
        }
        self.address != TCP6.address || std::net::TcpListener::bind("[::1]:0").is_ok()
    }

    fn prepare(&self, builder: Builder) -> Builder {
        let builder = builder.progress(self.progress).default_timeout(LONG).same_node(self.same_node);
        if self.layered { Injector::new(1, Faults::default()).layer(builder) } else { builder }
    }

    /// A server's builder. Its default pool has threads of its own, so that a test may block.
    pub(crate) fn server(&self) -> Builder {
        self.server_at(self.address)
    }

    /// A server's builder for another address.
    pub(crate) fn server_at(&self, address: &str) -> Builder {
        let builder = self.prepare(Engine::builder(address));
        if self.argobots {
            // Handlers of this suite sleep with tokio, whose runtime they find if their pool was made in it.
            let _entered = ambient().enter();
            builder.rpc_pool(Pool::argobots("handlers", 2).expect("Argobots is linked"))
        } else {
            builder.rpc_threads(2)
        }
    }

    /// A client's builder.
    pub(crate) fn client(&self) -> Builder {
        // Mercury's clients listen, too: here on the loopback only.
        self.prepare(Engine::builder(if self.is_mercury() { self.address } else { self.protocol() }))
    }

    /// The protocol in full.
    pub(crate) fn protocol(&self) -> &'static str {
        self.address.split("://").next().expect("never empty")
    }

    pub(crate) fn is_mercury(&self) -> bool {
        !self.protocol().starts_with("native+")
    }

    /// A server with the handlers that most tests use.
    pub(crate) fn serve(&self) -> Engine {
        with_handlers(self.server().listen().wait().expect("listening works"))
    }

    /// A server, a client and the client's endpoint of the server.
    pub(crate) fn pair(&self) -> Pair {
        self.pair_of(self.server(), self.client())
    }

    /// As [`Setup::pair`], from builders.
    pub(crate) fn pair_of(&self, server: Builder, client: Builder) -> Pair {
        let server = with_handlers(server.listen().wait().expect("listening works"));
        let client = client.connect().expect("a client starts");
        let to = client.lookup(server.address()).wait().expect("the server is found");
        Pair { server, client, to }
    }
}

/// A server, a client, and the way from the one to the other.
pub(crate) struct Pair {
    pub(crate) server: Engine,
    pub(crate) client: Engine,
    pub(crate) to: Endpoint,
}

impl Pair {
    /// Everything was given back, and calls still work.
    pub(crate) fn assert_healthy(&self) {
        assert_idle(&self.client);
        assert_idle(&self.server);
        assert_eq!(self.to.call(SUM, &(20, 22)).wait().expect("an honest call works"), 42);
    }
}

pub(crate) fn with_handlers(engine: Engine) -> Engine {
    engine.register(SUM, |_, (a, b)| async move { Ok(a + b) }).expect("free");
    engine.register(ECHO, |_, blob| async move { Ok(blob) }).expect("free");
    engine.register(FETCH, |_, size| async move { Ok(Blob(pattern(size as usize))) }).expect("free");
    engine.register(HANG, |_, ()| std::future::pending()).expect("free");
    engine
}

/// The id of an RPC without a provider.
pub(crate) fn plain_id(name: &str) -> RpcId {
    RpcId::new(name, ProviderId::DEFAULT)
}

/// Bytes that differ from their neighbours and from those of other sizes.
pub(crate) fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at ^ (at >> 8) ^ size) as u8).collect()
}

/// The engine makes no calls and serves no requests, now or soon.
#[track_caller]
pub(crate) fn assert_idle(engine: &Engine) {
    comes_to("no call is left, and no request is left", || engine.load(), |load| load.calls == 0 && load.requests == 0);
}

/// A tokio runtime for handlers that run elsewhere.
fn ambient() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime starts")
    })
}

/// A tokio runtime for the asynchronous tests.
pub(crate) fn in_tokio<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(future)
}

/// Tests that block execution streams, or rely on handlers on the progress thread: an Argobots pool is not for these.
const NOT_ON_ARGOBOTS: &[&str] = &["::a_blocking_handler_may_block::", "::a_transfer_ends_at_its_deadline::"];

/// Runs a test under a watchdog that names it and ends the process if it hangs.
pub(crate) fn watched(name: &str, setup: Setup, test: impl FnOnce(Setup)) {
    if setup.argobots && NOT_ON_ARGOBOTS.iter().any(|test| name.contains(test)) {
        println!("{name}: means another kind of pool");
        return;
    }
    if !setup.is_possible() {
        println!("{name}: {} is not possible here", setup.name);
        return;
    }
    let _watchdog = Watchdog::start(name, Duration::from_secs(120));
    test(setup);
}

/// Makes a test of each function for each setup.
macro_rules! conformance {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use crate::support::*;

            macro_rules! on {
                ($setup:ident, $name:ident) => {
                    #[test]
                    fn $name() {
                        watched(concat!(module_path!(), "::", stringify!($name)), $setup, super::$test);
                    }
                };
            }

            on!(TCP4, tcp4);
            on!(TCP6, tcp6);
            on!(TCP_LAYERED, tcp_layered);
            on!(TCP_BUSY, tcp_busy);
            on!(TCP_PARK, tcp_park);
            on!(TCP_ARGOBOTS, tcp_argobots);
            on!(OFI_TCP, ofi_tcp);
            on!(OFI_TCP_PARK, ofi_tcp_park);
            on!(OFI_TCP_ARGOBOTS, ofi_tcp_argobots);
            on!(NA_SM, na_sm);
            on!(NA_SM_BUSY, na_sm_busy);
            on!(NODE, node);
            on!(NODE6, node6);
            on!(NODE_LAYERED, node_layered);
            on!(NODE_BUSY, node_busy);
            on!(NODE_PARK, node_park);
            on!(SM, sm);
            on!(SM_LAYERED, sm_layered);
            on!(SM_BUSY, sm_busy);
            on!(SM_PARK, sm_park);
        })*
    };
}
pub(crate) use conformance;

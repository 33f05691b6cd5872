//! Options of an engine.

use super::accepting::Accepting;
use super::lifecycle::{Lifecycle, Serving};
use super::{Core, Driver, Engine, Handle, Progress, Sleepers};
use crate::address::Address;
use crate::bulk::Regions;
use crate::config::{ArgobotsConfig, Config, ConfigError, LimitsConfig, MercuryConfig, PoolConfig, PoolName};
use crate::error::ListenError;
use crate::exec::{Pool, Pools};
use crate::limits::Limits;
use crate::server::{Registry, builtin};
#[cfg(mercury)]
use crate::transport::mercury::GivenContext;
use crate::transport::{self, Acceptor, Transport};
use crate::warnings::Warnings;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Smallest limit on messages that makes sense, in bytes.
const MESSAGE_LIMIT_MIN: u64 = 64;

type Layer = Box<dyn FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport> + Send>;
type AcceptorLayer = Box<dyn FnOnce(Arc<dyn Acceptor>) -> Arc<dyn Acceptor> + Send>;

/// An engine being set up; ends in [`Builder::listen`] or [`Builder::connect`].
///
/// ```
/// use margo_rs::{Engine, Wait};
/// use std::time::Duration;
///
/// let engine = Engine::builder("tcp://127.0.0.1")
///     .default_timeout(Duration::from_secs(5))
///     .limits(|limits| limits.max_message = 1 << 20)      // bytes
///     .pool("heavy", 2)
///     .listen()
///     .wait()?;
/// assert_eq!(engine.limits().max_message, 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "an engine starts with `listen` or `connect`"]
pub struct Builder {
    address: String,
    limits: Limits,
    progress: Progress,
    rpc_threads: Option<usize>,
    runtime: Option<tokio::runtime::Handle>,
    rpc_pool: Option<Pool>,
    pools: Vec<Pool>,
    argobots: Option<ArgobotsConfig>,
    /// The default pool, by the configuration's word for it.
    rpc_pool_name: Option<PoolName>,
    same_node: bool,
    mercury: Option<MercuryConfig>,
    #[cfg(mercury)]
    given: Option<GivenContext>,
    wrong: Option<ConfigError>,
    layers: Option<(Layer, AcceptorLayer)>,
}

impl Builder {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            limits: Limits::default(),
            progress: Progress::default(),
            rpc_threads: None,
            runtime: None,
            rpc_pool: None,
            pools: Vec::new(),
            argobots: None,
            rpc_pool_name: None,
            same_node: true,
            mercury: None,
            #[cfg(mercury)]
            given: None,
            wrong: None,
            layers: None,
        }
    }

    /// Sets the options that `config` has. Options that are set after this replace them; its `mercury` section replaces all
    /// that was said of Mercury before, and its pools come on top.
    pub fn config(mut self, config: Config) -> Self {
        if let Err(error) = config.check() {
            self.wrong.get_or_insert(error);
            return self;
        }
        if let Some(progress) = config.progress() {
            self.progress = progress;
        }
        if let Some(limits) = &config.limits {
            limits.apply(&mut self.limits);
        }
        self.rpc_threads = config.rpc_thread_count.filter(|threads| *threads > 0).or(self.rpc_threads);
        let pools = config.pools.into_iter().flatten();
        self.pools.extend(pools.map(|pool| Pool::with_threads(&pool.name, pool.threads)));
        self.argobots = config.argobots.or(self.argobots);
        self.rpc_pool_name = config.rpc_pool.or(self.rpc_pool_name);
        self.same_node = config.same_node.unwrap_or(self.same_node);
        self.mercury = config.mercury.or(self.mercury);
        self
    }

    /// As [`Builder::config`], from JSON.
    ///
    /// # Errors
    /// It is not JSON, or one of its keys is unknown, or the value of one is of the wrong type or out of range.
    pub fn config_json(self, text: &str) -> Result<Self, ConfigError> {
        Ok(self.config(text.parse()?))
    }

    /// Changes options of Mercury. They are errors with a protocol that is not Mercury's.
    pub fn mercury(mut self, change: impl FnOnce(&mut MercuryConfig)) -> Self {
        change(self.mercury.get_or_insert_default());
        self
    }

    /// Makes the engine one on a Mercury that runs already; see [`GivenContext`] for who does what then. The address only
    /// has to be of its protocol: where it is reached is Mercury's to say.
    #[cfg(mercury)]
    pub fn mercury_context(mut self, given: GivenContext) -> Self {
        self.given = Some(given);
        self
    }

    /// Changes some of the [`Limits`].
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// The deadline of calls that name none. Default 30 s.
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.limits.default_timeout = timeout;
        self
    }

    /// How waiting is done. Default [`Progress::Adaptive`] with 50 µs.
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Gives the default pool `threads` threads of its own (at least one). Without this and
    /// [`Builder::runtime`], it is the multi-threaded tokio runtime in which the engine is started, or else as many
    /// threads as there are processors. Blocking handlers run on further threads, up to tokio's limit of 512.
    pub fn rpc_threads(mut self, threads: usize) -> Self {
        self.rpc_threads = Some(threads);
        self
    }

    /// Makes a tokio runtime the default pool.
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Adds a pool with threads of its own, for providers that must not disturb others.
    pub fn pool(mut self, name: impl Into<String>, threads: usize) -> Self {
        self.pools.push(Pool::with_threads(&name.into(), threads));
        self
    }

    /// Adds a pool that was made before, such as one of Argobots, for providers to name. Engines can share it.
    pub fn add_pool(mut self, pool: Pool) -> Self {
        self.pools.push(pool);
        self
    }

    /// Makes a pool that was made before the default pool, where handlers run that name none; it keeps its name, too.
    /// Goes before [`Builder::runtime`] and [`Builder::rpc_threads`].
    ///
    /// In a pool of Argobots all of a handler runs, in any other what is left of it after its first poll.
    pub fn rpc_pool(mut self, pool: Pool) -> Self {
        self.rpc_pool = Some(pool);
        self
    }

    /// Whether an engine of `native+tcp` uses shared memory underneath with peers on its own node. Default `true`.
    ///
    /// It does where both ends have it on, nobody relays the connection, and both are in one network namespace; where that
    /// leads nowhere, TCP is used, some 5 ms later at the worst (on a busy machine up to 100 ms). [`Endpoint::is_through_memory`](crate::Endpoint::is_through_memory)
    /// tells. Calls then take about the time that they take over `native+sm`, and the link costs 264 KiB of shared memory,
    /// half of it at each end; a server has at most 256 such links, and further clients stay on TCP. Addresses, limits and
    /// errors do not change, and nor does what is known of the peer: there are no
    /// [`PeerCredentials`](crate::transport::PeerCredentials), as over TCP. Off, all bytes are on the TCP connection, where
    /// they can be watched, counted and slowed down. Other protocols do not look at it.
    pub fn same_node(mut self, on: bool) -> Self {
        self.same_node = on;
        self
    }

    /// Puts something between the engine and its transport: the fault injector, for example. `accepting` wraps what
    /// takes in the links of peers.
    pub fn layer(
        mut self,
        transport: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + 'static,
        accepting: impl FnOnce(Arc<dyn Acceptor>) -> Arc<dyn Acceptor> + Send + 'static,
    ) -> Self {
        self.layers = Some((Box::new(transport), Box::new(accepting)));
        self
    }

    /// Starts an engine that listens. A host name in the address is resolved on a thread of its own.
    ///
    /// # Errors
    /// See [`Engine::listen`]; also a pool that is named twice.
    pub async fn listen(mut self) -> Result<Engine, ListenError> {
        let address: Address = self.address.parse()?;
        transport::check_protocol(&address)?;
        let default = self.make_pools()?;
        if transport::is_literal(&address) || address.location().is_empty() {
            return self.start(address, true, default);
        }
        super::run_blocking(move || self.start(address, true, default)).await
    }

    /// Starts an engine that only makes calls.
    ///
    /// # Errors
    /// See [`Engine::connect`]; also a pool that is named twice.
    pub fn connect(mut self) -> Result<Engine, ListenError> {
        let address: Address = self.address.parse()?;
        transport::check_protocol(&address)?;
        let default = self.make_pools()?;
        self.start(address, false, default)
    }

    /// Starts the pools that the configuration wants of Argobots, and chooses the default one.
    fn make_pools(&mut self) -> Result<Pool, ListenError> {
        self.check_config()?;
        let refused = |reason: String| ListenError::Option(reason);
        if let Some(section) = &self.argobots {
            self.pools.extend(Pool::configured(section).map_err(|error| refused(error.to_string()))?);
        }
        let Some(wanted) = self.rpc_pool_name.as_ref().filter(|_| self.rpc_pool.is_none()) else {
            return Ok(self.default_pool());
        };
        let name = match wanted {
            PoolName::Name(name) => Some(name.as_str()),
            PoolName::Index(at) => {
                self.argobots.as_ref().and_then(|section| section.pools.get(*at)).map(|pool| pool.name.as_str())
            }
        };
        if name == Some(Pools::PRIMARY) {
            return Ok(self.default_pool());
        }
        let found = self.pools.iter().find(|pool| Some(pool.name()) == name).cloned();
        found.ok_or_else(|| refused(format!("rpc_pool {wanted} is no pool of this engine")))
    }

    fn default_pool(&self) -> Pool {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        if let Some(pool) = &self.rpc_pool {
            return pool.clone();
        }
        match (&self.runtime, self.rpc_threads) {
            (Some(runtime), _) => Pool::on(Pools::PRIMARY, runtime.clone()),
            (None, Some(threads)) => Pool::with_threads(Pools::PRIMARY, threads),
            (None, None) => {
                Pool::ambient(Pools::PRIMARY).unwrap_or_else(|| Pool::with_threads(Pools::PRIMARY, processors()))
            }
        }
    }

    /// What [`Builder::config`] and [`Builder::mercury`] could not say.
    fn check_config(&self) -> Result<(), ListenError> {
        let wrong = |error: &ConfigError| ListenError::Option(error.to_string());
        if let Some(error) = &self.wrong {
            return Err(wrong(error));
        }
        let mercury = Config { mercury: self.mercury.clone(), ..Config::default() };
        mercury.check().map_err(|error| wrong(&error))
    }

    fn start(self, address: Address, listening: bool, default: Pool) -> Result<Engine, ListenError> {
        check_limits(&self.limits)?;
        self.check_config()?;
        let mut config = Config { limits: Some(LimitsConfig::from(&self.limits)), ..Config::default() };
        config.set_progress(self.progress);
        config.rpc_thread_count = self.rpc_threads;
        let threads = |pool: &Pool| Some(PoolConfig::new(pool.name(), pool.threads()?));
        config.pools = Some(self.pools.iter().filter_map(threads).collect());
        config.argobots = self.argobots;
        config.rpc_pool = self.rpc_pool_name;
        config.use_progress_thread = Some(true);
        config.same_node = Some(self.same_node);
        let named = self.pools.into_iter().chain(self.rpc_pool).collect();
        let pools = Pools::new(default, named)?;
        let failed = |source| ListenError::Io { address: address.clone(), source };
        let instance = getrandom::u64().map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let options = transport::Options {
            limits: &self.limits,
            instance,
            same_node: self.same_node,
            mercury: self.mercury.as_ref(),
            #[cfg(mercury)]
            busy: self.progress == Progress::Busy,
            #[cfg(mercury)]
            given: self.given,
        };
        let started = transport::start(&address, listening, options)?;
        config.mercury = started.mercury;
        let (layer, accepting): (Layer, AcceptorLayer) =
            self.layers.unwrap_or_else(|| (Box::new(|transport| transport), Box::new(|acceptor| acceptor)));
        let transport = layer(started.transport);
        let serving = Arc::new(Serving::new(&self.limits));
        let core = Arc::new(Core {
            address: transport.address(),
            driver: Driver::new(transport.clone(), self.progress, listening),
            transport,
            limits: self.limits,
            registry: Registry::default(),
            pools,
            lifecycle: Lifecycle::default(),
            warnings: Warnings::new(Instant::now()),
            listening,
            peers: Mutex::new(HashMap::new()),
            links: Mutex::new(HashMap::new()),
            local: OnceLock::new(),
            serving,
            sleepers: Sleepers::default(),
            regions: Regions::new(instance),
            config,
        });
        (started.set_acceptor)(accepting(Arc::new(Accepting { core: Arc::downgrade(&core) })));
        builtin::register(&core);
        let progressing = core.clone();
        thread::Builder::new()
            .name("margo-progress".to_owned())
            .spawn(move || progressing.make_progress())
            .map_err(failed)?;
        tracing::debug!(address = %core.address, listening, "engine started");
        Ok(Engine { handle: Arc::new(Handle { core }) })
    }
}

impl Core {
    /// The progress thread.
    fn make_progress(self: Arc<Self>) {
        // Handlers that are polled on this thread find the runtime they expect. An engine that serves nobody starts no
        // pool for that.
        let runtime = if self.listening { self.pools.default().handle().cloned() } else { None };
        let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
        let core: Weak<Core> = Arc::downgrade(&self);
        self.driver.run(move |now| core.upgrade().and_then(|core| core.expire(now)));
    }
}

/// Limits under which nothing would work are a mistake.
fn check_limits(limits: &Limits) -> Result<(), ListenError> {
    let at_least_one = [
        ("max_in_flight", limits.max_in_flight as u64),
        ("max_in_flight_total", limits.max_in_flight_total as u64),
        ("max_connections", limits.max_connections as u64),
        ("max_connections_per_user", limits.max_connections_per_user as u64),
    ];
    for (name, limit) in at_least_one {
        if limit == 0 {
            return Err(ListenError::Option(format!("{name} is 0, so that nothing could be served")));
        }
    }
    let at_least_a_message = [
        ("max_message", limits.max_message),
        ("max_bytes", limits.max_bytes),
        ("max_bytes_total", limits.max_bytes_total),
    ];
    for (name, limit) in at_least_a_message {
        if limit < MESSAGE_LIMIT_MIN {
            return Err(ListenError::Option(format!(
                "{name} is {limit}; it must be at least {MESSAGE_LIMIT_MIN} bytes"
            )));
        }
    }
    Ok(())
}

//! Pools: where handlers run.

#[cfg(argobots)]
#[allow(unsafe_code)]
mod argobots;

#[cfg(argobots)]
pub(crate) use self::argobots::{Suspension, is_in_task, may_suspend};

use crate::config::{ArgobotsConfig, PRIMARY};
#[cfg(argobots)]
use crate::config::{ArgobotsPoolConfig, XstreamConfig};
use crate::error::{ListenError, PoolError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// A handler's future on its way to a pool.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Somewhere handlers run: a set of threads under a name, as Margo's pool and its execution streams together.
///
/// Most pools are made by the engine's [`Builder`](crate::Builder). One of Argobots is made here, and given to one or
/// several engines with [`Builder::add_pool`](crate::Builder::add_pool) or
/// [`Builder::rpc_pool`](crate::Builder::rpc_pool).
///
/// Cheap to clone; all clones are one pool. It ends when the last clone is gone, those of engines included.
///
/// # Handlers in an Argobots pool
/// * Every poll of an asynchronous handler is one work unit (a tasklet), pushed when the handler is woken, from whatever
///   thread, and never twice at a time. It runs on the stack of the execution stream (4 MiB, `ABT_SCHED_STACKSIZE`),
///   which has a guard only if `ABT_STACK_OVERFLOW_CHECK` is `mprotect`. A handler that blocks there stops its stream, and
///   all that waits for that stream; a blocking wait of this crate is refused. The handler finds the tokio runtime in
///   which the pool was made, if it was made in one, and sleeps with [`Engine::timer`](crate::Engine::timer) otherwise.
/// * A blocking handler is a user-level thread with a stack of 2 MiB and a guard, at most 512 of them at a time. A
///   blocking wait of this crate ([`Wait::wait`](crate::Wait::wait), `Call::wait`) suspends it, and the stream goes on
///   with other work. Other ways to block stop the stream. It goes on on the thread where it began; meanwhile others use
///   that thread, so locks of the standard library, tracing spans and other things of the thread should not be held over a
///   wait: whoever runs meanwhile and wants the same lock stops the stream for good. During a panic, inside of a tokio
///   runtime, and in a pool from [`Pool::from_raw`] with more than one execution stream, a wait stops the stream
///   instead of suspending the handler; then it ends with the call's deadline at the latest.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    name: String,
    kind: Kind,
}

enum Kind {
    /// A runtime of the program's.
    Ambient(Handle),
    /// A runtime of our own, started at its first use.
    Own { threads: usize, runtime: OnceLock<OwnRuntime> },
    #[cfg(argobots)]
    Argobots(argobots::ArgobotsPool),
}

impl Pool {
    /// The runtime that the calling thread runs in, if there is one that runs by itself: handlers on a single-threaded
    /// one would stand still whenever its thread does something else.
    pub(crate) fn ambient(name: &str) -> Option<Self> {
        let handle = Handle::try_current().ok()?;
        if handle.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return None;
        }
        Some(Self(Arc::new(Inner { name: name.to_owned(), kind: Kind::Ambient(handle) })))
    }

    /// A pool on the given runtime.
    pub(crate) fn on(name: &str, handle: Handle) -> Self {
        Self(Arc::new(Inner { name: name.to_owned(), kind: Kind::Ambient(handle) }))
    }

    /// A pool with threads of its own.
    pub(crate) fn with_threads(name: &str, threads: usize) -> Self {
        let kind = Kind::Own { threads: threads.max(1), runtime: OnceLock::new() };
        Self(Arc::new(Inner { name: name.to_owned(), kind }))
    }

    /// An Argobots pool with execution streams of its own; at least one.
    ///
    /// Argobots is initialised for the first of them, and finalized with the last, unless somebody else has initialised it
    /// before: then they finalize it, after [`Pool::shutdown`] of all pools is done. A service that uses Argobots itself
    /// initialises it first.
    ///
    /// # Errors
    /// Argobots is not part of this build, or refuses.
    pub fn argobots(name: impl Into<String>, xstreams: usize) -> Result<Self, PoolError> {
        let name = name.into();
        #[cfg(argobots)]
        {
            let kind = Kind::Argobots(argobots::ArgobotsPool::start(&name, xstreams)?);
            Ok(Self(Arc::new(Inner { name, kind })))
        }
        #[cfg(not(argobots))]
        {
            let _ = xstreams;
            Err(PoolError::NotLinked { name })
        }
    }

    /// The pools of a configuration's `argobots` section, in its order.
    ///
    /// # Errors
    /// As of [`Pool::argobots`].
    pub(crate) fn configured(section: &ArgobotsConfig) -> Result<Vec<Self>, PoolError> {
        #[cfg(argobots)]
        {
            let start = |(at, pool): (usize, &ArgobotsPoolConfig)| {
                let stream = |xstream: &XstreamConfig| argobots::Stream {
                    scheduler: xstream.scheduler.kind,
                    processor: xstream.cpubind,
                };
                let streams: Vec<_> = section.xstreams_of(at).map(stream).collect();
                let kind = Kind::Argobots(argobots::ArgobotsPool::start_as(&pool.name, pool.kind, &streams)?);
                Ok(Self(Arc::new(Inner { name: pool.name.clone(), kind })))
            };
            section.pools.iter().enumerate().map(start).collect()
        }
        #[cfg(not(argobots))]
        match section.pools.first() {
            Some(pool) => Err(PoolError::NotLinked { name: pool.name.clone() }),
            None => Ok(Vec::new()),
        }
    }

    /// The Argobots pool of a C or C++ service that embeds this crate. `pool` is an `ABT_pool`, from which `xstreams`
    /// execution streams take; it is never freed here.
    ///
    /// With one execution stream a blocking handler is suspended while it waits. With more, it could go on on another
    /// operating system thread than it began on, which Rust code does not survive: a wait then stops its stream, and
    /// asynchronous handlers are the better choice.
    ///
    /// # Safety
    /// Until [`Pool::shutdown`] is done, or forever where it is not asked for:
    /// * `pool` is a valid `ABT_pool`, and Argobots stays initialised;
    /// * if `xstreams` is 1, one execution stream alone takes from the pool, always the same.
    ///
    /// The pool must be served until then: [`Pool::shutdown`] waits for the work units in it.
    ///
    /// # Errors
    /// Argobots is not part of this build or not initialised; the pool is null; its access type lets only one thread push
    /// (it must be `ABT_POOL_ACCESS_MPMC` or `ABT_POOL_ACCESS_MPSC`).
    #[allow(unsafe_code)]
    pub unsafe fn from_raw(name: impl Into<String>, pool: *mut c_void, xstreams: usize) -> Result<Self, PoolError> {
        let name = name.into();
        #[cfg(argobots)]
        {
            // SAFETY: the caller's promise.
            let kind = Kind::Argobots(unsafe { argobots::ArgobotsPool::adopt(&name, pool, xstreams) }?);
            Ok(Self(Arc::new(Inner { name, kind })))
        }
        #[cfg(not(argobots))]
        {
            let _ = (pool, xstreams);
            Err(PoolError::NotLinked { name })
        }
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The threads of its own, if it has some that are not Argobots'.
    pub(crate) fn threads(&self) -> Option<usize> {
        match &self.0.kind {
            Kind::Own { threads, .. } => Some(*threads),
            _ => None,
        }
    }

    /// Ends an Argobots pool, whoever holds it still: asynchronous handlers in it are dropped, which answers their
    /// requests with an error, and so are requests that come later. The future is done when blocking handlers have run to
    /// their end, and nothing of the pool is left in Argobots. A handler that never ends keeps it waiting.
    ///
    /// It begins at once and goes on even if the future is dropped; a second call waits for the same end. Shut engines
    /// that use the pool down before. Waiting for it in the pool itself is waiting in vain, and so is blocking the only
    /// execution stream that serves a pool from [`Pool::from_raw`], unless [`in_ult`] lets it go on.
    ///
    /// A pool of other threads ends with its last clone: for it, nothing happens.
    pub fn shutdown(&self) -> PoolShutdown {
        #[cfg(argobots)]
        if let Kind::Argobots(pool) = &self.0.kind {
            pool.core().begin_end();
            return PoolShutdown { pool: Some(pool.core().clone()) };
        }
        PoolShutdown {
            #[cfg(argobots)]
            pool: None,
        }
    }

    /// Whether handlers must run in it from their first poll on, because where they run matters to who chose it.
    pub(crate) fn is_argobots(&self) -> bool {
        match &self.0.kind {
            #[cfg(argobots)]
            Kind::Argobots(_) => true,
            Kind::Ambient(_) | Kind::Own { .. } => false,
        }
    }

    /// Runs a future to its end. A failure to start threads is logged, and the task is dropped, which answers its
    /// request with an error.
    pub(crate) fn spawn(&self, task: Task) {
        #[cfg(argobots)]
        if let Kind::Argobots(pool) = &self.0.kind {
            return pool.spawn(task);
        }
        match self.handle() {
            Some(handle) => drop(handle.spawn(task)),
            None => drop(task),
        }
    }

    /// Runs a closure that may block.
    pub(crate) fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        #[cfg(argobots)]
        if let Kind::Argobots(pool) = &self.0.kind {
            return pool.spawn_blocking(work);
        }
        match self.handle() {
            Some(handle) => drop(handle.spawn_blocking(work)),
            None => drop(work),
        }
    }

    /// The tokio runtime underneath, for handlers polled outside of it. An Argobots pool has none.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        match &self.0.kind {
            Kind::Ambient(handle) => Some(handle),
            Kind::Own { threads, runtime } => {
                runtime.get_or_init(|| OwnRuntime::start(&self.0.name, *threads)).handle()
            }
            #[cfg(argobots)]
            Kind::Argobots(_) => None,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Pool");
        text.field("name", &self.0.name);
        match &self.0.kind {
            Kind::Ambient(_) => {}
            Kind::Own { threads, .. } => {
                text.field("threads", threads);
            }
            #[cfg(argobots)]
            Kind::Argobots(pool) => {
                text.field("tasks", &pool.tasks());
            }
        }
        text.finish()
    }
}

/// Waits for the end of a pool; see [`Pool::shutdown`].
#[must_use = "the pool's end is waited for by `.await` or `.wait()`"]
pub struct PoolShutdown {
    /// `None`: there is nothing to wait for.
    #[cfg(argobots)]
    pool: Option<Arc<argobots::Core>>,
}

impl Future for PoolShutdown {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        #[cfg(argobots)]
        if let Some(pool) = &self.pool {
            return pool.poll_ended(cx.waker());
        }
        let _ = cx;
        Poll::Ready(())
    }
}

impl fmt::Debug for PoolShutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolShutdown").finish_non_exhaustive()
    }
}

/// Runs `work`, in which blocking waits of this crate suspend the user-level thread that the caller is, so that its
/// execution stream goes on with other work units. For functions that C or C++ calls in user-level threads of its own;
/// blocking handlers in Argobots pools need no such thing. Anywhere else, `work` is run and nothing more.
///
/// # Safety
/// The calling user-level thread is resumed only by the execution stream that it runs on: one stream alone takes from its
/// pool, and nobody migrates it. It is not inside of another `in_ult`, and no frame of Rust below this one minds that
/// other code runs on its thread meanwhile.
#[allow(unsafe_code)]
pub unsafe fn in_ult<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(argobots)]
    {
        // SAFETY: the caller's promise.
        unsafe { argobots::in_ult(work) }
    }
    #[cfg(not(argobots))]
    work()
}

/// Whether a blocking wait that begins here suspends a user-level thread instead of blocking. Without Argobots it never
/// does.
#[cfg(not(argobots))]
pub(crate) fn may_suspend() -> bool {
    false
}

/// Whether this is inside a poll on an execution stream of Argobots. Without Argobots there is none.
#[cfg(not(argobots))]
pub(crate) fn is_in_task() -> bool {
    false
}

/// A runtime that ends without blocking when it is dropped, wherever that happens.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn start(name: &str, threads: usize) -> Self {
        let started = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(format!("margo-{name}"))
            .enable_all()
            .build();
        match started {
            Ok(runtime) => Self(Some(runtime)),
            Err(error) => {
                tracing::error!(pool = name, %error, "cannot start the threads of a pool");
                Self(None)
            }
        }
    }

    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The pools of an engine, by name.
#[derive(Debug)]
pub(crate) struct Pools {
    default: Pool,
    named: Mutex<HashMap<String, Pool>>,
}

impl Pools {
    /// The name of the pool that every engine has, as in Margo.
    pub(crate) const PRIMARY: &'static str = PRIMARY;

    /// # Errors
    /// A name is used twice, or is that of the default pool.
    pub(crate) fn new(default: Pool, pools: Vec<Pool>) -> Result<Self, ListenError> {
        let mut named = HashMap::from([(Self::PRIMARY.to_owned(), default.clone())]);
        for pool in pools {
            if named.contains_key(pool.name()) {
                return Err(ListenError::Option(format!("two pools are named {:?}", pool.name())));
            }
            named.insert(pool.name().to_owned(), pool);
        }
        Ok(Self { default, named: Mutex::new(named) })
    }

    pub(crate) fn default(&self) -> &Pool {
        &self.default
    }

    pub(crate) fn find(&self, name: &str) -> Option<Pool> {
        self.named.lock().get(name).cloned()
    }
}

//! Pools: where handlers run.

use crate::error::ListenError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// A handler's future on its way to a pool.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Somewhere handlers run: a set of threads under a name, as Margo's pool and its execution streams together.
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

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs a future to its end. A failure to start threads is logged, and the task is dropped, which answers its
    /// request with an error.
    pub(crate) fn spawn(&self, task: Task) {
        match self.handle() {
            Some(handle) => drop(handle.spawn(task)),
            None => drop(task),
        }
    }

    /// Runs a closure that may block.
    pub(crate) fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        match self.handle() {
            Some(handle) => drop(handle.spawn_blocking(work)),
            None => drop(work),
        }
    }

    /// The tokio runtime underneath, for handlers polled outside of it.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        match &self.0.kind {
            Kind::Ambient(handle) => Some(handle),
            Kind::Own { threads, runtime } => {
                runtime.get_or_init(|| OwnRuntime::start(&self.0.name, *threads)).handle()
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = match &self.0.kind {
            Kind::Ambient(_) => None,
            Kind::Own { threads, .. } => Some(threads),
        };
        f.debug_struct("Pool").field("name", &self.0.name).field("threads", &threads).finish()
    }
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
    pub(crate) const PRIMARY: &'static str = "__primary__";

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

//! The engine: one per process, usually; Margo's instance.

mod accepting;
mod builder;
mod core;
mod lifecycle;
mod link;
mod progress;
mod timer;
mod wait;

pub use self::builder::Builder;
pub use self::lifecycle::Shutdown;
pub use self::progress::Progress;
pub use self::timer::{Sleep, Timer};
pub use self::wait::{Wait, may_block};

pub(crate) use self::core::Core;
pub use self::link::{REQUEST_HEADER, RESPONSE_HEADER};

pub(crate) use self::link::LinkState;
pub(crate) use self::progress::{Driver, DriverKey, Lead, Led, is_polling_anywhere};
pub(crate) use self::timer::Sleepers;
pub(crate) use self::wait::{block_on, run_blocking};

use crate::address::Address;
use crate::buffer::Buffer;
use crate::bulk::{
    BulkError, BulkMemory, BulkTransfer, Direction, LocalRange, Memory, Permission, Region, RemoteRange,
};
use crate::client::Lookup;
use crate::config::Config;
use crate::error::{HandlerError, ListenError, RegisterError};
use crate::limits::Limits;
use crate::rpc::{ProviderId, RawRpc, Rpc, RpcId};
use crate::server::{Handler, Provider, RawResponder, Registration, Request, Responder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

/// A running instance of the framework: listens, calls, or both.
///
/// Cheap to clone; all clones are one engine. It ends with [`Engine::shutdown`], or when the last clone is dropped (at
/// once then, without waiting for running handlers). A handler that captures a clone keeps the engine alive until
/// [`Engine::shutdown`] or until it is deregistered.
///
/// ```
/// # use margo_rs::{Engine, Rpc, Wait};
/// const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
///
/// let server = Engine::listen("tcp://127.0.0.1").wait()?;
/// server.register(SUM, |_request, (a, b)| async move { Ok(a + b) })?;
///
/// let client = Engine::connect("tcp")?;
/// let endpoint = client.lookup(server.address()).wait()?;
/// assert_eq!(endpoint.call(SUM, &(1, 2)).wait()?, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// Ends the engine with its last clone.
struct Handle {
    core: Arc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.abandon();
    }
}

impl Engine {
    /// Starts an engine that listens, with default options.
    ///
    /// `address` is a protocol (`tcp`, `sm`) or an address (`tcp://127.0.0.1:0`, `tcp://eth0`, `tcp://[::1]:7000`,
    /// `sm://my-service`). `tcp` alone listens on an interface that other hosts can reach; `sm` is shared memory with other
    /// processes of this node, of any user.
    ///
    /// # Errors
    /// A malformed address, a protocol that is not there, an unknown interface, a taken port or name.
    pub async fn listen(address: impl AsRef<str>) -> Result<Engine, ListenError> {
        Self::builder(address).listen().await
    }

    /// Starts an engine that only makes calls, with default options. `protocol` may also be the address of a server:
    /// its protocol is taken.
    ///
    /// # Errors
    /// A malformed address or a protocol that is not there.
    pub fn connect(protocol: impl AsRef<str>) -> Result<Engine, ListenError> {
        Self::builder(protocol).connect()
    }

    /// An engine with options.
    pub fn builder(address: impl AsRef<str>) -> Builder {
        Builder::new(address.as_ref())
    }

    /// Where others reach this engine; the protocol alone if it does not listen.
    pub fn address(&self) -> &Address {
        &self.core().address
    }

    /// The configuration in effect: what was asked for, and what else is true of this engine. Printed it is JSON, with
    /// secrets redacted.
    pub fn config(&self) -> &Config {
        &self.core().config
    }

    /// Whether other engines can reach this one.
    pub fn is_listening(&self) -> bool {
        self.core().listening
    }

    /// Finds a server and connects to it, unless a connection is there already. A host name is resolved on a thread of its
    /// own, for as long as the host's resolver takes; each address that it stands for is then tried for at most
    /// [`Limits::connect_timeout`], 5 s by default.
    ///
    /// The returned future does nothing until it is polled; dropping it is harmless. An engine that looks up its own
    /// address gets an endpoint whose calls stay in the process.
    ///
    /// # Errors
    /// Of the returned future: a malformed address, one of another protocol than the engine's, a host name that nobody
    /// knows, nobody who answers there in time, or somebody who is no engine.
    pub fn lookup(&self, address: impl AsRef<str>) -> Lookup {
        Lookup::new(self.core().clone(), address.as_ref())
    }

    /// Registers an asynchronous handler.
    ///
    /// The handler's future is polled first on the progress thread and moves to the pool if it is not done at once, or
    /// is in the pool from the beginning if that is of Argobots: it must not block. What it returns is the response; an
    /// error or a panic reaches the caller as [`CallError::Handler`](crate::CallError::Handler), with at most 1024 bytes
    /// of text. When the caller cancels, goes away or its deadline passes on its side, the future is dropped; use a task
    /// of your own for work that must not stop half-way.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered already.
    pub fn register<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    {
        self.add(rpc.name(), ProviderId::DEFAULT, rpc.response_disabled(), Handler::future(handler))
    }

    /// Registers a handler that may block; it runs on a thread of the pool's blocking threads, or in a user-level thread
    /// of an Argobots [`Pool`](crate::Pool). Nothing interrupts it when its caller has left: one that takes long asks
    /// [`Request::is_cancelled`] now and then.
    ///
    /// # Errors
    /// As for [`Engine::register`].
    pub fn register_blocking<In, Out, F>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Result<Out, HandlerError> + Send + Sync + 'static,
    {
        self.add(rpc.name(), ProviderId::DEFAULT, rpc.response_disabled(), Handler::blocking(handler))
    }

    /// Registers a handler that answers through a [`Responder`], now or later, from any task or thread. A responder that
    /// is dropped unused answers with an error.
    ///
    /// ```
    /// # use margo_rs::{Engine, Rpc, Wait};
    /// const DOUBLE: Rpc<u64, u64> = Rpc::new("double");
    ///
    /// let server = Engine::listen("tcp://127.0.0.1").wait()?;
    /// server.register_deferred(DOUBLE, |_request, number, responder| async move {
    ///     std::thread::spawn(move || responder.respond(&(2 * number)));
    /// })?;
    /// # let client = Engine::connect("tcp")?;
    /// # assert_eq!(client.lookup(server.address()).wait()?.call(DOUBLE, &21).wait()?, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Engine::register`].
    pub fn register_deferred<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In, Responder<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.add(rpc.name(), ProviderId::DEFAULT, rpc.response_disabled(), Handler::deferred(handler))
    }

    /// Registers a handler of raw bytes: what the caller encoded, without Margo's header. `rpc` is a name, or an [`Rpc`],
    /// of which the types do not matter.
    ///
    /// # Errors
    /// As for [`Engine::register`].
    pub fn register_raw<'a, F, Fut>(
        &self,
        rpc: impl Into<RawRpc<'a>>,
        provider: ProviderId,
        handler: F,
    ) -> Result<RpcId, RegisterError>
    where
        F: Fn(Request, Buffer, RawResponder) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let rpc = rpc.into();
        self.add(rpc.name, provider, rpc.response_disabled, Handler::raw(handler))
    }

    /// Registers a handler of raw bytes that may block; it runs where [`Engine::register_blocking`] says.
    ///
    /// # Errors
    /// As for [`Engine::register`].
    pub fn register_raw_blocking<'a, F>(
        &self,
        rpc: impl Into<RawRpc<'a>>,
        provider: ProviderId,
        handler: F,
    ) -> Result<RpcId, RegisterError>
    where
        F: Fn(Request, Buffer, RawResponder) + Send + Sync + 'static,
    {
        let rpc = rpc.into();
        self.add(rpc.name, provider, rpc.response_disabled, Handler::raw_blocking(handler))
    }

    /// Registers a handler of raw bytes in two halves: `admit` sees each request of up to 72 KiB when it arrives, in the
    /// order of arrival and wherever the handler runs; what it makes of the request goes to `handler`, in its pool. For
    /// protocols that count messages. `admit` runs on the thread that makes progress: it must not block.
    ///
    /// # Errors
    /// As for [`Engine::register`].
    pub fn register_raw_gated<'a, T, A, F, Fut>(
        &self,
        rpc: impl Into<RawRpc<'a>>,
        provider: ProviderId,
        admit: A,
        handler: F,
    ) -> Result<RpcId, RegisterError>
    where
        T: Send + 'static,
        A: Fn(Request, Buffer, RawResponder) -> Option<T> + Send + Sync + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let rpc = rpc.into();
        self.add(rpc.name, provider, rpc.response_disabled, Handler::gated(admit, handler))
    }

    /// As [`Engine::register_raw_gated`], with a handler that may block.
    ///
    /// # Errors
    /// As for [`Engine::register`].
    pub fn register_raw_gated_blocking<'a, T, A, F>(
        &self,
        rpc: impl Into<RawRpc<'a>>,
        provider: ProviderId,
        admit: A,
        handler: F,
    ) -> Result<RpcId, RegisterError>
    where
        T: Send + 'static,
        A: Fn(Request, Buffer, RawResponder) -> Option<T> + Send + Sync + 'static,
        F: Fn(T) + Send + Sync + 'static,
    {
        let rpc = rpc.into();
        self.add(rpc.name, provider, rpc.response_disabled, Handler::gated_blocking(admit, handler))
    }

    /// Takes back an RPC without a provider. Requests that are being served go on. `false` if it was not registered.
    pub fn deregister<In, Out>(&self, rpc: Rpc<In, Out>) -> bool {
        self.deregister_raw(rpc.name(), ProviderId::DEFAULT)
    }

    /// Takes back the RPC of this name at this provider. `false` if it was not registered.
    pub fn deregister_raw(&self, name: &str, provider: ProviderId) -> bool {
        self.core().registry.remove(name, provider)
    }

    /// A provider under the given id: a group of RPCs with a pool and an identity of its own.
    pub fn provider(&self, id: ProviderId) -> Provider {
        Provider::new(self.clone(), id)
    }

    /// Lets peers end this engine with Margo's `__shutdown__` RPC when `guard` agrees; without this call they are
    /// refused. The guard sees the request with its peer, of whom nothing is proven: allow it only where the network
    /// is trusted, or decide with an authenticated RPC instead.
    pub fn enable_remote_shutdown(&self, guard: impl Fn(&Request) -> bool + Send + Sync + 'static) {
        self.core().lifecycle.allow_remote_shutdown(Box::new(guard));
    }

    /// For waiting without a runtime of one's own.
    pub fn timer(&self) -> Timer {
        Timer::new(Arc::downgrade(self.core()))
    }

    /// What this engine accepts, and how long it waits.
    pub fn limits(&self) -> &Limits {
        &self.core().limits
    }

    /// Runs `callback` when the engine ends, before the network stops: calls can still be made. The last one pushed
    /// runs first.
    pub fn push_prefinalize_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.core().lifecycle.push_prefinalize(Box::new(callback));
    }

    /// Runs `callback` when the engine has ended and the network has stopped. The last one pushed runs first.
    pub fn push_finalize_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.core().lifecycle.push_finalize(Box::new(callback));
    }

    /// Ends the engine: no new requests are taken, running handlers get the grace period of
    /// [`Limits::shutdown_grace`], callbacks run, connections close, outstanding calls fail.
    ///
    /// It begins at once and goes on even if the returned future is dropped. A second call waits for the same end.
    pub fn shutdown(&self) -> Shutdown {
        self.core().begin_shutdown();
        Shutdown::new(self.core().clone())
    }

    /// Waits until the engine has ended, by [`Engine::shutdown`] or remotely. Signals do not end it: a program that wants
    /// that calls `shutdown` when one comes. Dropping the future is harmless.
    pub fn wait(&self) -> Shutdown {
        Shutdown::new(self.core().clone())
    }

    /// Gives memory to the engine, for peers to pull from or push into as `permission` says: whoever has the region's
    /// [`descriptor`](Region::descriptor), until the region is dropped or taken back.
    ///
    /// Nothing is copied. See [`bulk`](crate::bulk) for what memory can be given.
    ///
    /// # Errors
    /// The memory cannot be written though peers should, the transport cannot use it, or the engine has ended.
    pub fn expose<M: Memory>(&self, memory: M, permission: Permission) -> Result<Region<M>, BulkError> {
        Region::new(self.core(), memory, permission)
    }

    /// Memory of `length` bytes, all zero, of the kind that the engine's transport moves with the fewest copies. To be
    /// filled as a slice of bytes, then exposed or staged. See [`bulk`](crate::bulk) for where that makes a difference.
    pub fn allocate(&self, length: usize) -> BulkMemory {
        BulkMemory::new(&*self.core().transport, length)
    }

    /// Gives memory to the engine as the local end of transfers, for no peer to reach: [`Engine::expose`] with
    /// [`Permission::Private`].
    ///
    /// # Errors
    /// The transport cannot use the memory, or the engine has ended.
    pub fn stage<M: Memory>(&self, memory: M) -> Result<Region<M>, BulkError> {
        self.expose(memory, Permission::Private)
    }

    /// Moves data from a remote region into a local one, from whichever engine the descriptor names as its owner: also one
    /// that the descriptor did not come from.
    ///
    /// The engine connects to the address in the descriptor. Where whoever sent it is not trusted with that choice,
    /// [`Endpoint::pull`](crate::Endpoint::pull) leaves the choice here.
    pub fn pull(&self, from: impl Into<RemoteRange>, to: impl Into<LocalRange>) -> BulkTransfer {
        BulkTransfer::with_owner(self.core(), Direction::Pull, from.into(), to.into())
    }

    /// Moves data from a local region into a remote one; otherwise as [`Engine::pull`].
    pub fn push(&self, from: impl Into<LocalRange>, to: impl Into<RemoteRange>) -> BulkTransfer {
        BulkTransfer::with_owner(self.core(), Direction::Push, to.into(), from.into())
    }

    /// Calls of this engine in flight and requests being served by it.
    pub fn load(&self) -> Load {
        let core = self.core();
        Load {
            calls: core.driver.outstanding(),
            requests: core.serving.count(),
            links: core.links.lock().values().filter(|link| link.strong_count() > 0).count(),
            regions: core.regions.count(),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    pub(crate) fn add(
        &self,
        name: &str,
        provider: ProviderId,
        response_disabled: bool,
        handler: Handler,
    ) -> Result<RpcId, RegisterError> {
        self.core().register(Registration::new(name, provider, response_disabled, handler, None))
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("address", self.address()).field("load", &self.load()).finish_non_exhaustive()
    }
}

/// What an engine is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Calls made and not answered, and transfers begun and not complete.
    pub calls: usize,
    /// Requests taken and not answered.
    pub requests: usize,
    /// Connections, whoever opened them, and the engine's link to itself.
    pub links: usize,
    /// Memory regions that were exposed or staged and are not given back.
    pub regions: usize,
}

//! Providers: groups of RPCs under one id.

use super::builtin;
use super::handler::{Handler, Registration};
use super::request::Request;
use super::responder::{RawResponder, Responder};
use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::error::{HandlerError, RegisterError};
use crate::exec::Pool;
use crate::rpc::{ProviderId, RawRpc, Rpc, RpcId};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;

/// A group of RPCs under one provider id: one instance of a service, of which a process may have many.
///
/// Dropping the provider takes its RPCs back; requests that are being served go on.
///
/// ```
/// # use margo_rs::{Engine, ProviderId, Rpc, Wait};
/// const NAME: Rpc<(), String> = Rpc::new("name");
///
/// let server = Engine::listen("tcp://127.0.0.1").wait()?;
/// let provider = |id, name: &'static str| {
///     let provider = server.provider(ProviderId::new(id));
///     provider.register(NAME, move |_request, ()| async move { Ok(name.to_owned()) }).map(|_| provider)
/// };
/// let _both = (provider(1, "alpha")?, provider(2, "beta")?);
///
/// let client = Engine::connect("tcp")?;
/// let to = client.lookup(server.address()).wait()?;
/// assert_eq!(to.provider(ProviderId::new(2)).call(NAME, &()).wait()?, "beta");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Provider {
    engine: Engine,
    id: ProviderId,
    pool: Option<Pool>,
    names: Mutex<Vec<String>>,
}

impl Provider {
    pub(crate) fn new(engine: Engine, id: ProviderId) -> Self {
        Self { engine, id, pool: None, names: Mutex::new(Vec::new()) }
    }

    /// The id that callers use.
    pub fn id(&self) -> ProviderId {
        self.id
    }

    /// Runs the handlers that are registered from now on in the named pool, and there only: nothing they do delays
    /// other providers.
    ///
    /// # Errors
    /// The engine has no pool of that name.
    pub fn pool(mut self, name: &str) -> Result<Self, RegisterError> {
        let pool = self.engine.core().pools.find(name);
        self.pool = Some(pool.ok_or_else(|| RegisterError::NoSuchPool(name.to_owned()))?);
        Ok(self)
    }

    /// Announces what kind of provider this is, for [`ProviderHandle::identity`](crate::ProviderHandle::identity).
    ///
    /// # Errors
    /// Another provider with the same id announced something before.
    pub fn identity(self, identity: &str) -> Result<Self, RegisterError> {
        let handler = builtin::identity(Some(identity));
        self.add(builtin::IDENTITY.name(), false, handler)?;
        Ok(self)
    }

    /// As [`Engine::register`].
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    {
        self.add(rpc.name(), rpc.response_disabled(), Handler::future(handler))
    }

    /// As [`Engine::register_blocking`].
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_blocking<In, Out, F>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Result<Out, HandlerError> + Send + Sync + 'static,
    {
        self.add(rpc.name(), rpc.response_disabled(), Handler::blocking(handler))
    }

    /// As [`Engine::register_deferred`].
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_deferred<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In, Responder<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.add(rpc.name(), rpc.response_disabled(), Handler::deferred(handler))
    }

    /// As [`Engine::register_raw`].
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_raw<'a, F, Fut>(&self, rpc: impl Into<RawRpc<'a>>, handler: F) -> Result<RpcId, RegisterError>
    where
        F: Fn(Request, Buffer, RawResponder) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let rpc = rpc.into();
        self.add(rpc.name, rpc.response_disabled, Handler::raw(handler))
    }

    /// As [`Engine::register_raw_blocking`].
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_raw_blocking<'a, F>(&self, rpc: impl Into<RawRpc<'a>>, handler: F) -> Result<RpcId, RegisterError>
    where
        F: Fn(Request, Buffer, RawResponder) + Send + Sync + 'static,
    {
        let rpc = rpc.into();
        self.add(rpc.name, rpc.response_disabled, Handler::raw_blocking(handler))
    }

    /// As [`Engine::register_raw_gated`].
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_raw_gated<'a, T, A, F, Fut>(
        &self,
        rpc: impl Into<RawRpc<'a>>,
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
        self.add(rpc.name, rpc.response_disabled, Handler::gated(admit, handler))
    }

    /// As [`Engine::register_raw_gated_blocking`].
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_raw_gated_blocking<'a, T, A, F>(
        &self,
        rpc: impl Into<RawRpc<'a>>,
        admit: A,
        handler: F,
    ) -> Result<RpcId, RegisterError>
    where
        T: Send + 'static,
        A: Fn(Request, Buffer, RawResponder) -> Option<T> + Send + Sync + 'static,
        F: Fn(T) + Send + Sync + 'static,
    {
        let rpc = rpc.into();
        self.add(rpc.name, rpc.response_disabled, Handler::gated_blocking(admit, handler))
    }

    /// Takes back one RPC. `false` if this provider did not register it.
    pub fn deregister<In, Out>(&self, rpc: Rpc<In, Out>) -> bool {
        let mut names = self.names.lock();
        let Some(at) = names.iter().position(|name| name == rpc.name()) else { return false };
        names.swap_remove(at);
        self.engine.deregister_raw(rpc.name(), self.id)
    }

    fn add(&self, name: &str, response_disabled: bool, handler: Handler) -> Result<RpcId, RegisterError> {
        let registration = Registration::new(name, self.id, response_disabled, handler, self.pool.clone());
        let id = self.engine.core().register(registration)?;
        self.names.lock().push(name.to_owned());
        Ok(id)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        for name in self.names.get_mut().drain(..) {
            self.engine.deregister_raw(&name, self.id);
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("id", &self.id).field("rpcs", &*self.names.lock()).finish_non_exhaustive()
    }
}

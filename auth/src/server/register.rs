//! How handlers of all kinds are wrapped and registered.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use margo_rs::{Buffer, HandlerError, Provider, ProviderId, RawResponder, RegisterError, Request, Rpc, RpcId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::caller::Caller;
use super::receive::{Answering, SealedResponder};
use super::rule::Rule;
use super::{AuthServer, Shared, Wrapped};

/// Where handlers are registered.
enum Place<'a> {
    Engine(&'a margo_rs::Engine),
    Provider(&'a Provider),
}

/// Registers handlers under one rule; made by [`AuthServer::allow`] and [`AuthProvider::allow`].
pub struct Registrar<'a> {
    shared: &'a Arc<Shared>,
    place: Place<'a>,
    rule: Rule,
}

impl Registrar<'_> {
    /// Registers an asynchronous handler that gets the verified caller.
    ///
    /// Everything that [`margo_rs::Engine::register`] says of handlers holds. What the handler returns is sealed; so are its
    /// errors. A request that is refused never reaches it.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered already.
    pub fn register<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    {
        let (shared, wrapped) = (Arc::clone(self.shared), self.wrapped(rpc));
        let admit = move |request, input, raw| shared.receive(&wrapped, request, input, raw);
        self.add(rpc, admit, move |(caller, args, responder): (Caller, In, SealedResponder)| {
            Answering::new(handler(caller, args), responder)
        })
    }

    /// Registers a handler that answers through a [`Responder`], now or later, from any task or thread.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered already.
    pub fn register_deferred<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In, Responder<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (shared, wrapped) = (Arc::clone(self.shared), self.wrapped(rpc));
        let admit = move |request, input, raw| shared.receive(&wrapped, request, input, raw);
        self.add(rpc, admit, move |(caller, args, sealed)| handler(caller, args, Responder::new(sealed)))
    }

    /// Registers a handler that may block; it runs where [`margo_rs::Engine::register_blocking`] says.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered already.
    pub fn register_blocking<In, Out, F>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In) -> Result<Out, HandlerError> + Send + Sync + 'static,
    {
        let (shared, wrapped) = (Arc::clone(self.shared), self.wrapped(rpc));
        let admit = move |request, input, raw| shared.receive(&wrapped, request, input, raw);
        let serve = move |(caller, args, mut responder): (Caller, In, SealedResponder)| {
            responder.answer(handler(caller, args));
        };
        match self.place {
            Place::Engine(engine) => engine.register_raw_gated_blocking(rpc, ProviderId::DEFAULT, admit, serve),
            Place::Provider(provider) => provider.register_raw_gated_blocking(rpc, admit, serve),
        }
    }

    fn wrapped<In, Out>(&self, rpc: Rpc<In, Out>) -> Wrapped {
        let mut groups = Vec::new();
        self.rule.groups(&mut groups);
        self.shared.upkeep.add_groups(groups);
        self.shared.audit.add_rpc(rpc.hash(), rpc.name());
        Wrapped { rule: self.rule.clone(), one_way: rpc.response_disabled() }
    }

    fn add<In, Out, T, A, F, Fut>(&self, rpc: Rpc<In, Out>, admit: A, handler: F) -> Result<RpcId, RegisterError>
    where
        T: Send + 'static,
        A: Fn(Request, Buffer, RawResponder) -> Option<T> + Send + Sync + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        match self.place {
            Place::Engine(engine) => engine.register_raw_gated(rpc, ProviderId::DEFAULT, admit, handler),
            Place::Provider(provider) => provider.register_raw_gated(rpc, admit, handler),
        }
    }
}

impl fmt::Debug for Registrar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl AuthServer {
    /// For RPCs without a provider that `rule` decides about.
    pub fn allow(&self, rule: Rule) -> Registrar<'_> {
        Registrar { shared: &self.shared, place: Place::Engine(&self.engine), rule }
    }

    /// A provider whose RPCs are wrapped; its rule is the server's until [`AuthProvider::rule`] sets another.
    pub fn provider(&self, id: ProviderId) -> AuthProvider {
        AuthProvider { provider: self.engine.provider(id), shared: Arc::clone(&self.shared), rule: self.rule().clone() }
    }

    /// As [`Registrar::register`], under the server's rule.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered already.
    pub fn register<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    {
        self.allow(self.rule().clone()).register(rpc, handler)
    }

    /// As [`Registrar::register_deferred`], under the server's rule.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered already.
    pub fn register_deferred<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In, Responder<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.allow(self.rule().clone()).register_deferred(rpc, handler)
    }

    /// As [`Registrar::register_blocking`], under the server's rule.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered already.
    pub fn register_blocking<In, Out, F>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In) -> Result<Out, HandlerError> + Send + Sync + 'static,
    {
        self.allow(self.rule().clone()).register_blocking(rpc, handler)
    }
}

/// A provider whose RPCs only authenticated callers reach. Dropping it takes its RPCs back.
pub struct AuthProvider {
    provider: Provider,
    shared: Arc<Shared>,
    rule: Rule,
}

impl AuthProvider {
    /// The id that callers use.
    pub fn id(&self) -> ProviderId {
        self.provider.id()
    }

    /// Sets who may call what is registered from now on.
    #[must_use]
    pub fn rule(self, rule: Rule) -> Self {
        Self { rule, ..self }
    }

    /// As [`Provider::pool`].
    ///
    /// # Errors
    /// The engine has no pool of that name.
    pub fn pool(self, name: &str) -> Result<Self, RegisterError> {
        Ok(Self { provider: self.provider.pool(name)?, ..self })
    }

    /// As [`Provider::identity`]: anybody may ask for it.
    ///
    /// # Errors
    /// Another provider with the same id announced something before.
    pub fn identity(self, identity: &str) -> Result<Self, RegisterError> {
        Ok(Self { provider: self.provider.identity(identity)?, ..self })
    }

    /// For RPCs of this provider that `rule` decides about.
    pub fn allow(&self, rule: Rule) -> Registrar<'_> {
        Registrar { shared: &self.shared, place: Place::Provider(&self.provider), rule }
    }

    /// As [`Registrar::register`], under the provider's rule.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    {
        self.allow(self.rule.clone()).register(rpc, handler)
    }

    /// As [`Registrar::register_deferred`], under the provider's rule.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_deferred<In, Out, F, Fut>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In, Responder<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.allow(self.rule.clone()).register_deferred(rpc, handler)
    }

    /// As [`Registrar::register_blocking`], under the provider's rule.
    ///
    /// # Errors
    /// The RPC, or another of the same id, is registered at this provider already.
    pub fn register_blocking<In, Out, F>(&self, rpc: Rpc<In, Out>, handler: F) -> Result<RpcId, RegisterError>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Caller, In) -> Result<Out, HandlerError> + Send + Sync + 'static,
    {
        self.allow(self.rule.clone()).register_blocking(rpc, handler)
    }

    /// Takes back one RPC. `false` if this provider did not register it.
    pub fn deregister<In, Out>(&self, rpc: Rpc<In, Out>) -> bool {
        self.provider.deregister(rpc)
    }
}

impl fmt::Debug for AuthProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthProvider").field("provider", &self.provider).field("rule", &self.rule).finish()
    }
}

/// Answers one request with a value, sealed. It can be moved to any task or thread; dropped unused, it answers that the
/// handler did not.
#[must_use = "dropping it answers the request with an error"]
pub struct Responder<Out> {
    sealed: SealedResponder,
    output: PhantomData<fn(Out)>,
}

impl<Out: Serialize> Responder<Out> {
    fn new(sealed: SealedResponder) -> Self {
        Self { sealed, output: PhantomData }
    }

    /// Answers with `output`.
    pub fn respond(mut self, output: &Out) {
        self.sealed.respond(output);
    }

    /// Answers that the handler failed.
    pub fn fail(mut self, error: impl Into<HandlerError>) {
        self.sealed.fail(&error.into());
    }
}

impl<Out> fmt::Debug for Responder<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}

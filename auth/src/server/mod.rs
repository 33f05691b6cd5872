//! The server's side: [`AuthServer`] lets only authenticated callers reach handlers.

mod admin;
mod audit;
mod builder;
mod caller;
mod ephemeral;
mod handshake;
mod receive;
mod register;
mod rule;
mod upkeep;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use margo_rs::Engine;
use parking_lot::Mutex;

pub use admin::{SessionAdmin, SessionInfo};
pub use builder::{AuthServerBuilder, InstallError};
use caller::BulkPolicy;
pub use caller::Caller;
pub(crate) use receive::{CODE_ARGUMENTS, CODE_NO_ANSWER, target_of};
pub use register::{AuthProvider, Registrar, Responder};
pub use rule::{Rule, UnknownGroup};

use audit::Audit;
use ephemeral::Ephemerals;
use upkeep::Upkeep;

use crate::mechanism::Acceptor;
use crate::protocol::server::ServerPolicy;
use crate::protocol::{MechanismId, SessionId};
use crate::session::{Counts, Gate, Table};

/// Puts authentication in front of handlers: it installs the `authenticate` RPC on an engine, keeps the sessions, and wraps
/// the handlers that are registered through it.
///
/// Handlers that are registered at the engine itself stay open to everyone.
///
/// ```no_run
/// # use margo_rs::{Engine, Rpc};
/// # use mochi_auth::{AuthServer, Caller, Rule, munge::Munge};
/// const GREET: Rpc<String, String> = Rpc::new("greet");
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::listen("tcp").await?;
/// let auth = AuthServer::builder().munge(Munge::builder().build()?).rule(Rule::anyone()).install(&engine).await?;
/// auth.register(GREET, |caller: Caller, name| async move { Ok(format!("Hello {name}, you are {}", caller.identity())) })?;
/// engine.wait().await;
/// # Ok(())
/// # }
/// ```
///
/// Cheap to clone; all clones are one. It ends with its engine, and keeps that alive: a handler that captures a clone does so
/// until [`Engine::shutdown`], as one that captures the engine. [`AuthServer::admin`] has what handlers need, and does not.
#[derive(Clone)]
pub struct AuthServer {
    engine: Engine,
    shared: Arc<Shared>,
}

/// What handlers need; nothing in it keeps the engine alive.
struct Shared {
    policy: ServerPolicy,
    acceptors: Vec<Box<dyn Acceptor>>,
    ephemerals: Ephemerals,
    gate: Mutex<Gate>,
    table: Table,
    /// Handshakes at work.
    handshakes: AtomicUsize,
    rule: Rule,
    bulk: BulkPolicy,
    audit: Audit,
    upkeep: Upkeep,
}

/// What surrounds one wrapped handler.
struct Wrapped {
    rule: Rule,
    /// Callers wait for no answer, and so not for each other either.
    one_way: bool,
}

impl Shared {
    fn acceptor(&self, mechanism: MechanismId) -> Option<&dyn Acceptor> {
        self.acceptors.iter().find(|acceptor| acceptor.id() == mechanism).map(|acceptor| &**acceptor)
    }
}

impl AuthServer {
    /// A server with options; see [`AuthServerBuilder::install`].
    pub fn builder() -> AuthServerBuilder {
        AuthServerBuilder::default()
    }

    /// The engine it is installed on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The rule of RPCs that are registered without one of their own.
    pub fn rule(&self) -> &Rule {
        &self.shared.rule
    }

    /// The sessions, to be listed and ended: for handlers, too, since it does not keep the engine alive.
    pub fn admin(&self) -> SessionAdmin {
        SessionAdmin::new(Arc::clone(&self.shared))
    }

    /// As [`SessionAdmin::counts`].
    pub fn counts(&self) -> Counts {
        self.shared.table.counts()
    }

    /// As [`SessionAdmin::sessions`].
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.admin().sessions()
    }

    /// As [`SessionAdmin::revoke`].
    pub fn revoke(&self, session: &SessionId) -> bool {
        self.admin().revoke(session)
    }

    /// As [`SessionAdmin::revoke_uid`].
    pub fn revoke_uid(&self, uid: u32) -> usize {
        self.admin().revoke_uid(uid)
    }

    /// As [`SessionAdmin::revoke_all`].
    pub fn revoke_all(&self) -> usize {
        self.admin().revoke_all()
    }
}

impl fmt::Debug for AuthServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthServer")
            .field("engine", &self.engine)
            .field("rule", &self.shared.rule)
            .field("sessions", &self.counts().sessions)
            .finish_non_exhaustive()
    }
}

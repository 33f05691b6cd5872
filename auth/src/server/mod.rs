//! The server's side: [`AuthServer`] lets only authenticated callers reach handlers.

mod audit;
mod builder;
mod caller;
mod handshake;
mod receive;
mod register;
mod rule;
mod upkeep;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use margo_rs::Engine;
use parking_lot::Mutex;
use ring::rand::SystemRandom;

pub use builder::{AuthServerBuilder, InstallError};
use caller::BulkPolicy;
pub use caller::Caller;
pub(crate) use receive::{CODE_ARGUMENTS, CODE_NO_ANSWER, target_of};
pub use register::{AuthProvider, Registrar, Responder};
pub use rule::{Rule, UnknownGroup};

use audit::Audit;
use upkeep::Upkeep;

use crate::clock;
use crate::mechanism::{Acceptor, Principal};
use crate::protocol::server::ServerPolicy;
use crate::protocol::{MechanismId, SessionId};
use crate::session::{Counts, Gate, State, Table};

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
/// Cheap to clone; all clones are one. It ends with its engine.
#[derive(Clone)]
pub struct AuthServer {
    engine: Engine,
    shared: Arc<Shared>,
}

/// What handlers need; nothing in it keeps the engine alive.
struct Shared {
    policy: ServerPolicy,
    acceptors: Vec<Box<dyn Acceptor>>,
    random: SystemRandom,
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

/// One of the sessions of a server.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Names it, for [`AuthServer::revoke`].
    pub id: SessionId,
    /// Who was proven.
    pub principal: Principal,
    /// Time since its handshake.
    pub age: Duration,
    /// Time since its last call, or since its handshake.
    pub idle: Duration,
    /// Calls that run.
    pub running: u32,
    /// What may be done in it.
    pub state: State,
}

impl SessionInfo {
    /// What audit events name it by, as [`Caller::session_log_id`].
    pub fn log_id(&self) -> u64 {
        u64::from_be_bytes(self.id.log_id())
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

    /// How many sessions there are.
    pub fn counts(&self) -> Counts {
        self.shared.table.counts()
    }

    /// All sessions, in no order. Takes time in proportion to their number.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let now = clock::now();
        let since = |tick: crate::protocol::Tick| Duration::from_millis(now.0.saturating_sub(tick.0));
        let sessions = self.shared.table.sessions().into_iter();
        let info = sessions.map(|session| SessionInfo {
            id: session.id(),
            principal: session.principal().clone(),
            age: since(session.opened_at()),
            idle: since(session.last_used()),
            running: session.running(),
            state: session.state(),
        });
        info.collect()
    }

    /// Ends a session at once: nothing more is taken, and what runs answers no more. `false` if there was none.
    pub fn revoke(&self, session: &SessionId) -> bool {
        let revoked = self.shared.table.revoke(session);
        if revoked {
            self.shared.audit.sessions_revoked(1, &"by id");
        }
        revoked
    }

    /// Ends all sessions of a user at once; says how many there were.
    pub fn revoke_uid(&self, uid: u32) -> usize {
        let count = self.shared.table.revoke_uid(uid);
        self.shared.audit.sessions_revoked(count, &format_args!("of uid {uid}"));
        count
    }

    /// Ends all sessions at once; says how many there were.
    pub fn revoke_all(&self) -> usize {
        let count = self.shared.table.revoke_all();
        self.shared.audit.sessions_revoked(count, &"all");
        count
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

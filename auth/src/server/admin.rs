//! Sessions as those see them who run a server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::clock;
use crate::mechanism::Principal;
use crate::protocol::{SessionId, Tick};
use crate::session::{Counts, State};

/// The sessions of a server: to be counted, listed, and ended; made by [`AuthServer::admin`](super::AuthServer::admin).
///
/// Cheap to clone, and made to be captured by handlers: it does not keep the engine alive. When that has ended, the sessions
/// are still listed, and nobody can call in them any more.
#[derive(Clone)]
pub struct SessionAdmin {
    shared: Arc<Shared>,
}

/// One of the sessions of a server.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Names it, for [`SessionAdmin::revoke`].
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
    /// What audit events name it by, as [`Caller::session_log_id`](crate::Caller::session_log_id).
    pub fn log_id(&self) -> u64 {
        u64::from_be_bytes(self.id.log_id())
    }
}

impl SessionAdmin {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How many sessions there are.
    pub fn counts(&self) -> Counts {
        self.shared.table.counts()
    }

    /// All sessions, in no order. Takes time in proportion to their number.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let now = clock::now();
        let since = |tick: Tick| Duration::from_millis(now.0.saturating_sub(tick.0));
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

    /// Ends all sessions of a user at once; says how many there were. Handshakes that are at work now lead to none: his
    /// clients are told to make them again. To keep him out, take his key or his place in the rules.
    pub fn revoke_uid(&self, uid: u32) -> usize {
        let count = self.shared.table.revoke_uid(uid);
        self.shared.audit.sessions_revoked(count, &format_args!("of uid {uid}"));
        count
    }

    /// Ends all sessions at once, as [`revoke_uid`](Self::revoke_uid); says how many there were.
    pub fn revoke_all(&self) -> usize {
        let count = self.shared.table.revoke_all();
        self.shared.audit.sessions_revoked(count, &"all");
        count
    }
}

impl fmt::Debug for SessionAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionAdmin").field("sessions", &self.counts().sessions).finish_non_exhaustive()
    }
}

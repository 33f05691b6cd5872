//! Who calls a wrapped handler.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use margo_rs::Request;

use crate::protocol::{MechanismId, Protection};
use crate::session::Session;
use crate::{Identity, clock};

/// Who calls: the identity that the session's handshake proved, and the circumstances of the request.
///
/// Nothing in here was claimed by the message itself, except what [`Caller::request`] says of its circumstances.
pub struct Caller {
    session: Arc<Session>,
    request: Request,
}

impl Caller {
    pub(super) fn new(session: Arc<Session>, request: Request) -> Self {
        Self { session, request }
    }

    /// The verified user and group.
    pub fn identity(&self) -> Identity {
        self.session.principal().identity
    }

    /// The verified user id.
    pub fn uid(&self) -> u32 {
        self.identity().uid
    }

    /// The verified group id.
    pub fn gid(&self) -> u32 {
        self.identity().gid
    }

    /// The mechanism's own name of the user, if it has one: a Kerberos principal, a URI.
    pub fn principal(&self) -> Option<&str> {
        self.session.principal().name.as_deref()
    }

    /// What proved the identity.
    pub fn mechanism(&self) -> MechanismId {
        self.session.principal().mechanism
    }

    /// How long ago that was.
    pub fn session_age(&self) -> Duration {
        Duration::from_millis(clock::now().0.saturating_sub(self.session.opened_at().0))
    }

    /// What audit events name the session by; its id itself is in no log.
    pub fn session_log_id(&self) -> u64 {
        u64::from_be_bytes(self.session.id().log_id())
    }

    /// Whether arguments and results are encrypted, or only protected from changes.
    pub fn protection(&self) -> Protection {
        self.session.terms().protection
    }

    /// The request as a plain handler gets it: its peer address, deadline, parent RPC. Of these, nothing is proven.
    pub fn request(&self) -> &Request {
        &self.request
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("identity", &self.identity())
            .field("mechanism", &self.mechanism())
            .field("session", &format_args!("{:016x}", self.session_log_id()))
            .finish_non_exhaustive()
    }
}

//! Who calls a wrapped handler.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use margo_rs::Request;

use crate::bulk::{self, BulkTicket, Level, ProtectedBulkError, Receipt};
use crate::protocol::{MechanismId, Protection};
use crate::session::Session;
use crate::{Identity, clock};

/// Who calls: the identity that the session's handshake proved, and the circumstances of the request.
///
/// Nothing in here was claimed by the message itself, except what [`Caller::request`] says of its circumstances.
pub struct Caller {
    session: Arc<Session>,
    request: Request,
    bulk: BulkPolicy,
}

/// What a server asks of bulk data.
#[derive(Clone, Copy, Debug)]
pub(super) struct BulkPolicy {
    pub(super) least: Level,
    /// Bytes of one transfer.
    pub(super) max: u64,
}

impl Caller {
    pub(super) fn new(session: Arc<Session>, request: Request, bulk: BulkPolicy) -> Self {
        Self { session, request, bulk }
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

    /// Pulls the data that the caller offers, over the caller's own connection, and checks it: it is what the caller had
    /// when the offer was made.
    ///
    /// Dropping the future cancels the transfer.
    ///
    /// # Errors
    /// The data was changed on its way, is protected by less than the server asks for or longer than it takes, or the
    /// transfer failed.
    pub async fn pull(&self, ticket: &BulkTicket) -> Result<Vec<u8>, ProtectedBulkError> {
        let from = self.request.endpoint().ok_or(ProtectedBulkError::PeerGone)?;
        bulk::pull(&from, ticket, self.bulk.least, self.bulk.max).await
    }

    /// Pushes data into the caller's sink, over the caller's own connection. The receipt is to be returned to the caller,
    /// who gets the data with it.
    ///
    /// Dropping the future cancels the transfer.
    ///
    /// # Errors
    /// The sink is too small, or protects less than the server asks for, or the transfer failed.
    pub async fn push(&self, ticket: &BulkTicket, data: Vec<u8>) -> Result<Receipt, ProtectedBulkError> {
        let to = self.request.endpoint().ok_or(ProtectedBulkError::PeerGone)?;
        bulk::push(&to, ticket, data, self.bulk.least).await
    }

    /// The request as a plain handler gets it: its peer address, deadline, parent RPC. Of these, nothing is proven.
    pub fn request(&self) -> &Request {
        &self.request
    }
}

/// As the identity: `uid 1000 gid 1000`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity().fmt(f)
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

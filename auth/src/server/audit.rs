//! The audit log: one event for each decision about who gets in, through `tracing`, target `mochi_auth::audit`.
//!
//! Fields: `event`, `mechanism`, `uid`, `gid`, `peer` (the address, unproven), `session` (8 bytes of a hash of its id),
//! `rpc` (its name, and `@` a provider), `reason`. What a peer wrote appears only in `reason`, escaped and cut.
//!
//! Events about users who were proven, and those that anybody can cause, are counted apart, so that a flood of the second
//! kind hides none of the first. Of each, at most [`BURST`] come at once, then [`PER_SECOND`]; those beyond are counted, and
//! the next event carries their number as `suppressed`.

use std::collections::HashMap;
use std::fmt::Display;

use margo_rs::{Address, ProviderId, RpcId};
use parking_lot::{Mutex, RwLock};

use crate::clock;
use crate::mechanism::Principal;
use crate::protocol::SessionId;
use crate::service::AUTHENTICATE;

/// Events that may come at once.
pub(super) const BURST: u64 = 2000;
/// Events a second, on average.
pub(super) const PER_SECOND: u64 = 200;
/// Characters of a reason.
const REASON_MAX: usize = 256;

pub(super) struct Audit {
    /// Events about proven users and of the server's own program.
    known: Allowance,
    /// Events that anybody can cause.
    others: Allowance,
    /// Names of wrapped RPCs, by their hash.
    names: RwLock<HashMap<u32, &'static str>>,
}

/// How many events may be written.
struct Allowance(Mutex<Bucket>);

struct Bucket {
    left: u64,
    filled_ms: u64,
    suppressed: u64,
}

/// Writes an event with the fields that all have.
macro_rules! event {
    ($level:ident, $allowance:expr, $event:literal, $($field:tt)*) => {
        if let Some(suppressed) = $allowance.take() {
            tracing::event!(
                target: "mochi_auth::audit",
                tracing::Level::$level,
                event = $event,
                suppressed = (suppressed > 0).then_some(suppressed),
                $($field)*
            );
        }
    };
}

impl Allowance {
    fn new() -> Self {
        Self(Mutex::new(Bucket { left: BURST, filled_ms: clock::now().0, suppressed: 0 }))
    }

    /// Whether one more event may be written, and how many were not since the last one.
    fn take(&self) -> Option<u64> {
        let now = clock::now().0;
        let mut bucket = self.0.lock();
        let earned = now.saturating_sub(bucket.filled_ms) * PER_SECOND / 1000;
        if earned > 0 {
            bucket.left = (bucket.left + earned).min(BURST);
            bucket.filled_ms = now;
        }
        if bucket.left == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.left -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

impl Audit {
    pub(super) fn new() -> Self {
        let authenticate = RpcId::new(AUTHENTICATE, ProviderId::DEFAULT).hash();
        Self {
            known: Allowance::new(),
            others: Allowance::new(),
            names: RwLock::new(HashMap::from([(authenticate, AUTHENTICATE)])),
        }
    }

    /// An RPC that events may name.
    pub(super) fn add_rpc(&self, hash: u32, name: &'static str) {
        self.names.write().insert(hash, name);
    }

    /// The name of an RPC; its number where nobody gave it one.
    fn name_of(&self, rpc: RpcId) -> String {
        match (self.names.read().get(&rpc.hash()), rpc.provider_id()) {
            (None, _) => rpc.to_string(),
            (Some(name), ProviderId::DEFAULT) => (*name).to_owned(),
            (Some(name), provider) => format!("{name}@{provider}"),
        }
    }

    /// Somebody has said HELLO as this user: anybody can, who has recorded one.
    pub(super) fn handshake_answered(&self, peer: &Address, principal: &Principal, session: SessionId) {
        event!(INFO, self.others, "handshake answered",
            mechanism = ?principal.mechanism, uid = principal.identity.uid, gid = principal.identity.gid,
            session = %log_id(session), peer = %peer);
    }

    /// The client has shown that it holds the session's key.
    pub(super) fn session_opened(&self, peer: &Address, principal: &Principal, session: SessionId) {
        event!(INFO, self.known, "session opened",
            mechanism = ?principal.mechanism, uid = principal.identity.uid, gid = principal.identity.gid,
            session = %log_id(session), peer = %peer);
    }

    pub(super) fn handshake_refused(&self, peer: &Address, reason: &dyn Display) {
        event!(WARN, self.others, "handshake refused", peer = %peer, reason = %escape(reason));
    }

    pub(super) fn retry_asked(&self, peer: &Address, reason: &str) {
        event!(INFO, self.others, "retry asked for", peer = %peer, reason);
    }

    pub(super) fn request_refused(&self, peer: &Address, rpc: RpcId, session: Option<SessionId>, reason: &dyn Display) {
        event!(WARN, self.others, "request refused",
            session = session.map(|id| tracing::field::display(log_id(id))),
            rpc = self.name_of(rpc), peer = %peer, reason = %escape(reason));
    }

    pub(super) fn denied(
        &self,
        peer: &Address,
        rpc: RpcId,
        session: SessionId,
        principal: &Principal,
        reason: &dyn Display,
    ) {
        event!(WARN, self.known, "call denied",
            mechanism = ?principal.mechanism, uid = principal.identity.uid, gid = principal.identity.gid,
            session = %log_id(session), rpc = self.name_of(rpc), peer = %peer, reason = %escape(reason));
    }

    pub(super) fn session_closed(&self, peer: &Address, principal: &Principal, session: SessionId) {
        event!(INFO, self.known, "session closed",
            uid = principal.identity.uid, session = %log_id(session), peer = %peer);
    }

    pub(super) fn sessions_revoked(&self, count: usize, which: &dyn Display) {
        event!(INFO, self.known, "sessions revoked", count, reason = %which);
    }

    pub(super) fn sessions_expired(&self, count: usize) {
        event!(INFO, self.known, "sessions expired", count,);
    }
}

fn log_id(session: SessionId) -> String {
    format!("{:016x}", u64::from_be_bytes(session.log_id()))
}

/// Without control characters, and not too long: a peer may have written parts of it.
fn escape(reason: &dyn Display) -> String {
    reason.to_string().chars().take(REASON_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_an_rpc_that_is_known_and_its_provider() {
        let audit = Audit::new();
        let greet = |provider| RpcId::new("greet", provider);
        assert_eq!(audit.name_of(greet(ProviderId::DEFAULT)), greet(ProviderId::DEFAULT).to_string());
        audit.add_rpc(greet(ProviderId::DEFAULT).hash(), "greet");
        assert_eq!(audit.name_of(greet(ProviderId::DEFAULT)), "greet");
        assert_eq!(audit.name_of(greet(ProviderId::new(7))), "greet@7");
        assert_eq!(audit.name_of(RpcId::new(AUTHENTICATE, ProviderId::DEFAULT)), "authenticate");
    }
}

//! The audit log: one event for each decision about who gets in, through `tracing`, target `mochi_auth::audit`.
//!
//! Fields: `event`, `mechanism`, `uid`, `gid`, `peer` (the address, unproven), `session` (8 bytes of a hash of its id),
//! `rpc` (its name, and `@` a provider), `reason`. What a peer wrote appears only in `reason`, escaped and cut.
//!
//! Events about users who were proven, and those that anybody can cause, are counted apart, so that a flood of the second
//! kind hides none of the first. Of each, at most [`BURST`] come at once, then [`PER_SECOND`]; those beyond are counted, and
//! the next event carries their number as `suppressed`. Before a proven user takes of what all share, he has [`SHARE`] of his
//! own, so that no user hides what another does. What the server's own program does is counted apart, too.
//!
//! A refusal is one event. That a user has too many calls in flight, or that his arguments cannot be decoded, is none: it
//! decides nothing about who gets in, and he is told in a sealed answer.

use std::collections::HashMap;
use std::fmt::Display;

use margo_rs::{Address, ProviderId, RpcId};
use parking_lot::{Mutex, RwLock};

use crate::clock;
use crate::mechanism::Principal;
use crate::protocol::{SessionId, Tick};
use crate::service::AUTHENTICATE;
use crate::session::{NodeAddress, Rate, RateLimiter};

/// Events that may come at once.
pub(super) const BURST: u64 = 2000;
/// Events a second, on average.
pub(super) const PER_SECOND: u64 = 200;
/// Events about each proven user that are written whatever others do.
pub(super) const SHARE: Rate = Rate { per_second: 10, burst: 100 };
/// Users who have a share of their own at a time; further ones have one together.
const USERS_MAX: usize = 4096;
/// Characters of a reason.
const REASON_MAX: usize = 256;

pub(super) struct Audit {
    /// Events about proven users, beyond their shares.
    known: Allowance,
    shares: Mutex<RateLimiter>,
    /// Events of the server's own program.
    own: Allowance,
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
        if let Some(suppressed) = $allowance {
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

    /// Whether one more event may be written, and how many were not since the last one. `is_free`: it may, and counts for
    /// nothing.
    fn take(&self, is_free: bool, Tick(now): Tick) -> Option<u64> {
        let mut bucket = self.0.lock();
        if is_free {
            return Some(std::mem::take(&mut bucket.suppressed));
        }
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
            shares: Mutex::new(RateLimiter::new(SHARE, USERS_MAX)),
            own: Allowance::new(),
            others: Allowance::new(),
            names: RwLock::new(HashMap::from([(authenticate, AUTHENTICATE)])),
        }
    }

    /// For an event that anybody can cause.
    fn of_anybody(&self) -> Option<u64> {
        self.others.take(false, clock::now())
    }

    /// For an event about a proven user.
    fn of_user(&self, principal: &Principal, now: Tick) -> Option<u64> {
        let has_share = self.shares.lock().take(NodeAddress::of_user(principal.identity.uid), now);
        self.known.take(has_share, now)
    }

    /// For an event of the server's own program.
    fn of_server(&self) -> Option<u64> {
        self.own.take(false, clock::now())
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
        event!(INFO, self.of_anybody(), "handshake answered",
            mechanism = ?principal.mechanism, uid = principal.identity.uid, gid = principal.identity.gid,
            session = %log_id(session), peer = %peer);
    }

    /// The client has shown that it holds the session's key.
    pub(super) fn session_opened(&self, peer: &Address, principal: &Principal, session: SessionId) {
        event!(INFO, self.of_user(principal, clock::now()), "session opened",
            mechanism = ?principal.mechanism, uid = principal.identity.uid, gid = principal.identity.gid,
            session = %log_id(session), peer = %peer);
    }

    pub(super) fn handshake_refused(&self, peer: &Address, reason: &dyn Display) {
        event!(WARN, self.of_anybody(), "handshake refused", peer = %peer, reason = %escape(reason));
    }

    pub(super) fn retry_asked(&self, peer: &Address, reason: &str) {
        event!(INFO, self.of_anybody(), "retry asked for", peer = %peer, reason);
    }

    pub(super) fn request_refused(&self, peer: &Address, rpc: RpcId, session: Option<SessionId>, reason: &dyn Display) {
        event!(WARN, self.of_anybody(), "request refused",
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
        event!(WARN, self.of_user(principal, clock::now()), "call denied",
            mechanism = ?principal.mechanism, uid = principal.identity.uid, gid = principal.identity.gid,
            session = %log_id(session), rpc = self.name_of(rpc), peer = %peer, reason = %escape(reason));
    }

    pub(super) fn session_closed(&self, peer: &Address, principal: &Principal, session: SessionId) {
        event!(INFO, self.of_user(principal, clock::now()), "session closed",
            uid = principal.identity.uid, session = %log_id(session), peer = %peer);
    }

    pub(super) fn sessions_revoked(&self, count: usize, which: &dyn Display) {
        event!(INFO, self.of_server(), "sessions revoked", count, reason = %which);
    }

    pub(super) fn sessions_expired(&self, count: usize) {
        event!(INFO, self.of_server(), "sessions expired", count,);
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
    use crate::Identity;
    use crate::protocol::MechanismId;

    fn user(uid: u32) -> Principal {
        Principal { mechanism: MechanismId::KeyFile, identity: Identity { uid, gid: 100 }, name: None }
    }

    #[test]
    fn a_flood_about_one_user_hides_no_other_and_not_the_server() {
        let (audit, now) = (Audit::new(), clock::now());
        let written = |uid, count: u64| (0..count).filter(|_| audit.of_user(&user(uid), now).is_some()).count() as u64;
        let share = u64::from(SHARE.burst);
        assert_eq!(written(1, 2 * (BURST + share)), BURST + share, "his own share, and then all of what all have");
        for uid in 2..20 {
            assert_eq!(written(uid, 2 * share), share, "{uid}");
        }
        assert!(audit.of_server().is_some());
        assert!(audit.of_anybody().is_some());
    }

    #[test]
    fn what_was_not_written_is_told_with_the_next_event() {
        let (audit, now) = (Audit::new(), clock::now());
        let share = u64::from(SHARE.burst);
        let lost = (0..BURST + share + 7).filter(|_| audit.of_user(&user(1), now).is_none()).count();
        assert_eq!(lost, 7);
        assert_eq!(audit.of_user(&user(2), now), Some(7));
        assert_eq!(audit.of_user(&user(2), now), Some(0));
    }

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

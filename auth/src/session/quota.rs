use std::collections::{HashMap, VecDeque};

use super::node::NodeAddress;
use crate::protocol::SessionId;

/// How many sessions there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// In all, half-open ones aside.
    pub sessions: usize,
    /// Of these, kept for uids with few sessions: whoever has more than `few` only gets in while there are fewer than
    /// `sessions - reserve` in all. So neither one uid nor some together fill the table for others.
    pub reserve: usize,
    /// How many sessions are few.
    pub few: usize,
    /// Not yet used by their clients, in all.
    pub half_open: usize,
    /// Not yet used by their clients, of one address.
    pub half_open_per_node: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self { sessions: 131_072, reserve: 32_768, few: 2048, half_open: 4096, half_open_per_node: 512 }
    }
}

/// There is no room for another session. The peer is told NO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaExceeded {
    /// Too many half-open sessions.
    #[error("too many half-open sessions")]
    HalfOpen,
    /// Too many half-open sessions of this address.
    #[error("too many half-open sessions of this address")]
    HalfOpenOfNode,
    /// Too many sessions, and none of this uid's own could be ended for it.
    #[error("too many sessions")]
    Sessions,
    /// The session id is in use: the random bytes were none.
    #[error("session id in use; the source of random bytes repeats itself")]
    DuplicateId,
}

/// The count of sessions by uid and address. Who is in it is in the table.
#[derive(Default)]
pub(super) struct Book {
    /// Used by their clients; only these are counted by uid.
    pub(super) open: usize,
    pub(super) half_open: usize,
    by_uid: HashMap<u32, OfUid>,
    half_open_by_node: HashMap<NodeAddress, usize>,
    pub(super) revoked: Revoked,
}

/// Users whose revocations are remembered one by one.
const REVOKED_MAX: usize = 4096;

/// What was revoked, for handshakes that were at work then.
#[derive(Default)]
pub(super) struct Revoked {
    /// Handshakes of generations before this one, whosever.
    before: u64,
    /// The same for single users.
    of_uid: HashMap<u32, u64>,
}

impl Revoked {
    pub(super) fn add_all(&mut self, generation: u64) {
        self.before = self.before.max(generation);
        self.of_uid.retain(|_, revoked| *revoked > generation);
    }

    pub(super) fn add(&mut self, uid: u32, generation: u64) {
        if self.of_uid.len() >= REVOKED_MAX {
            // Only handshakes at work notice, and those of others are made again.
            self.add_all(generation);
        }
        let revoked = self.of_uid.entry(uid).or_default();
        *revoked = generation.max(*revoked);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of_uid.len()
    }

    /// Whether a handshake that began in this generation is of no use any more.
    pub(super) fn includes(&self, uid: u32, generation: u64) -> bool {
        generation < self.before || self.of_uid.get(&uid).is_some_and(|revoked| generation < *revoked)
    }
}

#[derive(Default)]
struct OfUid {
    sessions: usize,
    /// Oldest first; may name sessions that have ended.
    order: VecDeque<SessionId>,
}

impl Book {
    pub(super) fn of_uid(&self, uid: u32) -> usize {
        self.by_uid.get(&uid).map_or(0, |of_uid| of_uid.sessions)
    }

    pub(super) fn check_half_open(&self, quota: &Quota, node: NodeAddress) -> Result<(), QuotaExceeded> {
        if self.half_open >= quota.half_open {
            return Err(QuotaExceeded::HalfOpen);
        }
        if self.half_open_by_node.get(&node).is_some_and(|half_open| *half_open >= quota.half_open_per_node) {
            return Err(QuotaExceeded::HalfOpenOfNode);
        }
        Ok(())
    }

    /// Whether a uid may have one more without one of its own ending.
    pub(super) fn has_room(&self, quota: &Quota, uid: u32) -> bool {
        let limit =
            if self.of_uid(uid) < quota.few { quota.sessions } else { quota.sessions.saturating_sub(quota.reserve) };
        self.open < limit
    }

    pub(super) fn add_half_open(&mut self, node: NodeAddress) {
        self.half_open += 1;
        *self.half_open_by_node.entry(node).or_default() += 1;
    }

    pub(super) fn add(&mut self, id: SessionId, uid: u32, is_live: impl Fn(&SessionId) -> bool) {
        self.open += 1;
        let of_uid = self.by_uid.entry(uid).or_default();
        of_uid.sessions += 1;
        if of_uid.order.len() > 2 * of_uid.sessions + 16 {
            of_uid.order.retain(is_live);
        }
        of_uid.order.push_back(id);
    }

    pub(super) fn remove(&mut self, uid: u32) {
        self.open -= 1;
        if let Some(of_uid) = self.by_uid.get_mut(&uid) {
            of_uid.sessions -= 1;
            if of_uid.sessions == 0 {
                self.by_uid.remove(&uid);
            }
        }
    }

    pub(super) fn no_longer_half_open(&mut self, node: NodeAddress) {
        self.half_open -= 1;
        if let Some(half_open) = self.half_open_by_node.get_mut(&node) {
            *half_open -= 1;
            if *half_open == 0 {
                self.half_open_by_node.remove(&node);
            }
        }
    }

    pub(super) fn pop_oldest(&mut self, uid: u32) -> Option<SessionId> {
        self.by_uid.get_mut(&uid)?.order.pop_front()
    }

    pub(super) fn push_newest(&mut self, uid: u32, id: SessionId) {
        if let Some(of_uid) = self.by_uid.get_mut(&uid) {
            of_uid.order.push_back(id);
        }
    }

    #[cfg(test)]
    pub(super) fn order_len(&self, uid: u32) -> usize {
        self.by_uid.get(&uid).map_or(0, |of_uid| of_uid.order.len())
    }
}

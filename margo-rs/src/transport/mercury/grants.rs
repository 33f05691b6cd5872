//! What peers of this crate were granted: the memory of ours that they may be moving data from or to.
//!
//! Over Mercury the peer, or its network card, moves the bytes by itself. So it asks first, and says when it has ended;
//! the owner checks its wish as over any other transport, and keeps the memory where it is in between. A region that is
//! taken back meanwhile gets no new grants, and its memory comes when the last one was given up.
//!
//! A peer whose link has ended may be touching the memory still. Its grants stay until it gives them up, or is found to
//! be [out of reach](super::death).

use super::death::is_out_of_reach;
use super::shared::Shared;
use crate::address::Address;
use crate::bulk::{Pinned, Refusal};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::thread;

/// The grants of all links.
#[derive(Default)]
pub(super) struct Grants {
    /// By link and call.
    held: Mutex<HashMap<u64, HashMap<u64, Pinned>>>,
    orphans: Mutex<HashMap<u64, Orphan>>,
}

/// A peer that holds grants though its link has ended.
struct Orphan {
    peer: Address,
    /// When to look for it again, in milliseconds of the transport's clock.
    due: u64,
}

impl Grants {
    /// Keeps a grant. At most `max` of one link.
    pub(super) fn add(&self, link: u64, call: u64, pinned: Pinned, max: u32) -> Result<(), Refusal> {
        let mut held = self.held.lock();
        let grants = held.entry(link).or_default();
        if grants.len() >= max as usize || grants.contains_key(&call) {
            return Err(Refusal::Overloaded);
        }
        grants.insert(call, pinned);
        Ok(())
    }

    /// Whether no peer has any.
    pub(super) fn is_empty(&self) -> bool {
        self.held.lock().is_empty()
    }

    /// The peer has given one up.
    pub(super) fn release(&self, link: u64, call: u64) {
        let mut held = self.held.lock();
        let Some(grants) = held.get_mut(&link) else { return };
        let released = grants.remove(&call);
        let last = grants.is_empty();
        if last {
            held.remove(&link);
        }
        drop(held);
        drop(released);
        if last {
            let orphan = self.orphans.lock().remove(&link);
            drop(orphan);
        }
    }

    /// The peer is dead: nothing of it touches memory any more.
    fn forget(&self, link: u64) {
        let orphan = self.orphans.lock().remove(&link);
        let grants = self.held.lock().remove(&link);
        drop((orphan, grants));
    }

    /// The network is gone, and all grants with it.
    pub(super) fn clear(&self) {
        let orphans = std::mem::take(&mut *self.orphans.lock());
        let held = std::mem::take(&mut *self.held.lock());
        drop((orphans, held));
    }

    /// The link has ended. Its peer is looked for at once.
    pub(super) fn orphan(&self, shared: &Shared, link: u64, peer: &Address) {
        if !self.held.lock().contains_key(&link) {
            return;
        }
        let due = shared.now_ms();
        self.orphans.lock().insert(link, Orphan { peer: peer.clone(), due });
        if !self.held.lock().contains_key(&link) {
            // Given up just now.
            self.forget(link);
        }
        shared.check_at(due);
    }

    /// When somebody has to be looked for, in milliseconds of the transport's clock.
    pub(super) fn due(&self) -> u64 {
        self.orphans.lock().values().map(|orphan| orphan.due).min().unwrap_or(u64::MAX)
    }

    /// Looks for those whose time has come.
    pub(super) fn on_time(&self, shared: &Shared, now: u64) {
        let mut missing = Vec::new();
        for (link, orphan) in self.orphans.lock().iter_mut().filter(|(_, orphan)| orphan.due <= now) {
            orphan.due = now.saturating_add(shared.keepalive_ms);
            missing.push((*link, orphan.peer.clone()));
        }
        if missing.is_empty() {
            return;
        }
        // To look may take a while, and polling must not.
        let shared = shared.this.clone();
        let look = move || {
            for (link, peer) in missing {
                if is_out_of_reach(&peer)
                    && let Some(shared) = shared.upgrade()
                {
                    shared.grants.forget(link);
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("margo-orphans".to_owned()).spawn(look) {
            tracing::warn!(%error, "no thread to look for peers that have gone");
        }
    }
}

//! What peers of this crate were granted: the memory of ours that they may be moving data from or to.
//!
//! Over Mercury the peer, or its network card, moves the bytes by itself. So it asks first, and says when it has ended;
//! the owner checks its wish as over any other transport, and keeps the memory where it is in between. A region that is
//! taken back meanwhile gets no new grants, and its memory comes when the last one was given up.
//!
//! A peer whose link has ended may be touching the memory still. Its grants stay until it gives them up, or is found to
//! be dead: it is asked from time to time, until a question cannot be sent.

use super::Shared;
use super::envelope::{HELLO, Hello, Purpose};
use super::fabric::{Addr, Code, Replies, is_network_error};
use crate::bulk::{Pinned, Refusal};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The grants of all links.
#[derive(Default)]
pub(super) struct Grants {
    /// By link and call.
    held: Mutex<HashMap<u64, HashMap<u64, Pinned>>>,
    orphans: Mutex<HashMap<u64, Arc<Orphan>>>,
}

/// A peer that holds grants though its link has ended.
struct Orphan {
    link: u64,
    peer: Arc<Addr>,
    shared: Weak<Shared>,
    /// When to ask it again, in milliseconds of the transport's clock.
    due: AtomicU64,
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

    /// The link has ended. Its peer is asked at once whether it is there.
    pub(super) fn orphan(&self, shared: &Shared, link: u64, peer: Option<Arc<Addr>>) {
        if !self.held.lock().contains_key(&link) {
            return;
        }
        let Some(peer) = peer else { return };
        let due = AtomicU64::new(shared.now_ms());
        let orphan = Orphan { link, peer, shared: shared.this.clone(), due };
        self.orphans.lock().insert(link, Arc::new(orphan));
        if !self.held.lock().contains_key(&link) {
            // Given up just now.
            self.forget(link);
        }
        shared.check_at(shared.now_ms());
    }

    /// When somebody has to be asked, in milliseconds of the transport's clock.
    pub(super) fn due(&self) -> u64 {
        let orphans = self.orphans.lock();
        orphans.values().map(|orphan| orphan.due.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Asks those whose time has come.
    pub(super) fn on_time(&self, shared: &Shared, now: u64) {
        let orphans: Vec<_> = self.orphans.lock().values().cloned().collect();
        for orphan in orphans {
            if orphan.due.load(Ordering::Acquire) <= now {
                orphan.due.store(u64::MAX, Ordering::Release);
                if let Err(code) = orphan.ask(shared) {
                    orphan.on_reply(0, Err(code));
                }
            }
        }
    }
}

impl Orphan {
    fn ask(self: &Arc<Self>, shared: &Shared) -> Result<(), Code> {
        let hello = Hello { purpose: Purpose::Ping, link: self.link, limits: shared.limits_stated() };
        let request = self.peer.fabric().request(&self.peer, HELLO.as_u64(), false)?;
        request.send(&hello.encode(), &[], self.clone(), 0)
    }
}

impl Replies for Orphan {
    fn on_reply(&self, _: u64, reply: Result<&[u8], Code>) {
        let Some(shared) = self.shared.upgrade() else { return };
        match reply {
            Err(code) if is_network_error(code) => shared.grants.forget(self.link),
            _ => {
                let due = shared.now_ms().saturating_add(shared.keepalive_ms);
                self.due.store(due, Ordering::Release);
                shared.check_at(due);
            }
        }
    }
}

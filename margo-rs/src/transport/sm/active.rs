//! The links that are in use, which the polling thread looks at without being told.

use super::super::restraint::Restrained;
use super::connection::{Connection, Lane, ReadOutcome};
use super::memory::fence;
use super::patience::Patience;
use super::ring::{Lookout, RECORD_MAX, Words};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Active links looked at between two looks for those that are no longer in use.
const RETIRE_EVERY: u32 = 4096;
/// So few active links are not worth looking for those that are no longer in use.
const ACTIVE_KEPT: usize = 4;

/// What the polling thread uses.
pub(super) struct Polling {
    pub(super) scratch: Box<[u8]>,
    pub(super) active: Vec<Active>,
    /// The bells of the active links are armed.
    pub(super) armed: bool,
    pub(super) patience: Patience,
    /// Links looked at since the last search for some that are no longer in use.
    pub(super) looked: u32,
    /// Polls since epoll was asked.
    pub(super) since_epoll: u32,
    /// Ask epoll this often, in polls.
    pub(super) epoll_every: u32,
    pub(super) ready: Vec<u64>,
    pub(super) dirty: Vec<Arc<Connection>>,
}

/// A link that is looked at in every poll.
pub(super) struct Active {
    pub(super) connection: Arc<Connection>,
    pub(super) lane: Arc<Lane>,
    pub(super) lookout: Lookout,
    /// There was more than could be handled at a time.
    pub(super) more: bool,
    /// Something came since the last search for links that are no longer in use.
    pub(super) used: bool,
}

impl Polling {
    pub(super) fn new() -> Self {
        Self {
            scratch: vec![0; RECORD_MAX].into_boxed_slice(),
            active: Vec::new(),
            armed: false,
            patience: Patience::default(),
            looked: 0,
            since_epoll: 0,
            epoll_every: 1,
            ready: Vec::new(),
            dirty: Vec::new(),
        }
    }

    /// Has a link looked at in every poll from now on. Says where it is in the list, and whether it was not before.
    pub(super) fn activate(&mut self, connection: &Arc<Connection>, somebody_sleeps: bool) -> Option<(usize, bool)> {
        let known = self.active.iter().position(|active| active.connection.token == connection.token);
        let is_new = known.is_none();
        let at = match known {
            Some(at) => at,
            None => {
                let (connection, lane) = (connection.clone(), connection.lane()?);
                let lookout = Lookout::new(lane.peer.words());
                self.active.push(Active { connection, lane, lookout, more: false, used: true });
                self.active.len() - 1
            }
        };
        let active = &mut self.active[at];
        active.used = true;
        if somebody_sleeps {
            // The ring of the bell may have come to us instead of the thread that is parked: it needs another.
            active.lane.bell.arm(connection.is_blocked());
            fence(Ordering::SeqCst);
            self.armed = true;
        } else if is_new {
            active.lane.bell.disarm();
        }
        Some((at, is_new))
    }

    /// Handles what is new on the active links.
    pub(super) fn look(&mut self) -> bool {
        let mut progress = false;
        for active in &mut self.active {
            let blocked = active.connection.is_blocked();
            if active.lookout.has_news(active.lane.peer.words(), blocked) || active.more {
                progress |= active.attend(&mut self.scratch);
            }
        }
        if self.active.len() > ACTIVE_KEPT {
            self.looked += 1;
            if self.looked >= RETIRE_EVERY {
                self.looked = 0;
                self.retire();
            }
        }
        progress
    }

    /// Looks no longer at links on which nothing has come for a while. One whose output waits for room stays: once its bell
    /// is armed nobody asks what the peer has read. One that is blocked later comes back by [`Shared::attend`].
    ///
    /// [`Shared::attend`]: super::Shared::attend
    fn retire(&mut self) {
        for active in self.active.iter().filter(|active| !active.used) {
            active.lane.bell.arm(active.connection.is_blocked());
        }
        fence(Ordering::SeqCst);
        self.active.retain_mut(|active| {
            let stays = active.used || active.connection.is_blocked() || active.has_work();
            if !stays {
                return false;
            }
            if !active.used && !self.armed {
                active.lane.bell.disarm();
            }
            active.used = false;
            true
        });
    }

    /// Has every peer ring from now on. `false` if something is there already.
    pub(super) fn arm(&mut self) -> bool {
        self.armed = true;
        for active in &self.active {
            active.lane.bell.arm(active.connection.is_blocked());
        }
        !self.has_work()
    }

    /// Whether something on the active links waits for the next poll.
    pub(super) fn has_work(&self) -> bool {
        fence(Ordering::SeqCst);
        self.active.iter().any(Active::has_work)
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
        for active in &self.active {
            active.lane.bell.disarm();
        }
    }
}

impl Active {
    /// Goes on with what there is. `true` if that was anything.
    pub(super) fn attend(&mut self, scratch: &mut [u8]) -> bool {
        let outcome = self.connection.attend(scratch);
        self.lookout.read_to(self.lane.position.load(Ordering::Relaxed), self.connection.restraint().is_stopped());
        self.more = outcome == ReadOutcome::MoreToCome;
        self.used |= outcome != ReadOutcome::Nothing;
        outcome != ReadOutcome::Nothing
    }

    fn has_work(&self) -> bool {
        self.more
            || self.lookout.has_record(self.lane.peer.words())
            || self.lookout.has_changed_bell(self.lane.peer.words())
            || self.connection.is_blocked() && self.connection.has_room()
    }
}

//! Loans: bulk data that the receiver copies out of the sender's memory by itself, once, instead of through the ring.
//!
//! What is lent is a memory file of its own: memory that [`Engine::allocate`](crate::Engine::allocate) or a
//! [`BulkPool`](crate::bulk::BulkPool) gave, whole, as one region ([`lendable`]). The sender (the *lender*) hands the
//! receiver (the *borrower*) a descriptor that is open for reading, once for each connection and region, in a packet of
//! the Unix socket with the loan's number; transfers then name number and offset ([`wire`](crate::wire)). The borrower
//! checks the file, maps it for reading and copies ([`borrower`]). Memory of any other kind goes through the ring.
//!
//! # What a loan gives away
//!
//! All of the region, to look at as long as it exists, changes included; no more, and for no longer:
//! * A pull lends only what the owner was asked for with the region's key and may be pulled: the borrower may ask for all
//!   of it at any time anyway. A push lends only where the user said so
//!   ([`Region::lend`](crate::bulk::Region::lend)).
//! * The region is the whole of the file, so that nothing else is in it.
//! * The borrower cannot be made to let go. So a file that was lent is written no more once its region is taken back: the
//!   memory becomes a private mapping of the same file, whose pages are copied before they are written, in the same
//!   place. What the borrower still sees is what it was allowed to see. Punching holes would not do: lender and borrower
//!   would share the new pages as they did the old ones. Nor would a new file under the old pages, which the borrower may
//!   have put into a pipe.
//! * Such memory is never lent again, and no pool hands it out again.
//! * The file is sealed before it is lent: nobody can cut it, punch it or write it but the lender through the one mapping
//!   that was there before. That binds the lender, too: the pages are there until the last mapping is gone. A borrower
//!   that keeps many could use up the lender's memory. So the lender counts files that were taken back and that somebody
//!   still has (it asks the kernel, see [`lease`]), and beyond [`HELD_MAX`] lends nothing more to anybody.
//!
//! # What the borrower risks
//!
//! The file cannot shrink and has no hole, by seals and size that are checked when it comes: no read of it faults. Its
//! size bounds every offset. The bytes are copied once, as bytes, and never looked at where they are. Mappings are
//! counted, and bounded for each connection and for the engine; the one that was used least lately is let go of.
//!
//! # When it pays
//!
//! Fresh pages cost several times what a copy does. A region whose memory is used once is better not lent, since a lent
//! one cannot be used again: so the first transfers of a region go through the ring, and it is lent only after that has
//! moved [`PATIENCE`] times its length. Transfers of less than [`LENT_MIN`] always go through the ring.

pub(super) mod borrower;
pub(super) mod copy;
pub(super) mod lease;
pub(super) mod lendable;
pub(super) mod lender;

use self::lendable::Lendable;
use crate::wire::Budget;
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

/// Shortest transfer of lent data, in bytes.
pub(super) const LENT_MIN: u64 = 32 * 1024;
/// So many times its length has gone through the ring before a region is lent.
const PATIENCE: u64 = 8;
/// Files that were taken back and that somebody may still have: so many, and so many bytes of them, before nothing is
/// lent any more.
const HELD_MAX: usize = 64;
const HELD_BYTES_MAX: u64 = 256 << 20;
/// Address space for what peers lend, in bytes: an eighth of what a process has.
const MAPPED_MAX: u64 = 1 << 44;

/// The loans of an engine.
pub(super) struct Loans {
    /// Memory that may be lent, by its address.
    lendable: Mutex<HashMap<usize, Weak<Lendable>>>,
    /// What was lent and taken back, and its length in bytes.
    held: Mutex<Vec<(Arc<OwnedFd>, u64)>>,
    /// The kernel has what it takes. Asked once.
    possible: OnceLock<bool>,
    /// Address space for what peers lend.
    mapped: Arc<Budget>,
}

impl Default for Loans {
    fn default() -> Self {
        Self {
            lendable: Mutex::default(),
            held: Mutex::default(),
            possible: OnceLock::new(),
            mapped: Arc::new(Budget::new(MAPPED_MAX)),
        }
    }
}

impl Loans {
    /// Whether memory can be lent here at all.
    pub(super) fn are_possible(&self) -> bool {
        *self.possible.get_or_init(lease::works)
    }

    /// The memory that lies exactly there, if it may be lent.
    pub(super) fn find(&self, start: usize, length: usize) -> Option<Arc<Lendable>> {
        let lendable = self.lendable.lock().get(&start)?.upgrade()?;
        (lendable.length() == length).then_some(lendable)
    }

    /// Forgets what nobody else has any more.
    pub(super) fn sweep(&self) {
        self.held.lock().retain(|(file, _)| lease::is_held_elsewhere(file));
    }

    /// Whether more may be lent.
    fn has_room(&self) -> bool {
        self.sweep();
        let held = self.held.lock();
        held.len() < HELD_MAX && held.iter().map(|(_, length)| *length).sum::<u64>() < HELD_BYTES_MAX
    }

    /// Address space that mappings of what peers lend take from.
    pub(super) fn mapped(&self) -> &Arc<Budget> {
        &self.mapped
    }
}

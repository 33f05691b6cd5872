//! Memory that can be lent: a memory file of its own, mapped for writing here and nowhere else.

use super::super::connection::Connection;
use super::super::sealed;
use super::{Loans, PATIENCE, lease};
use crate::bulk::{Memory, Segment};
use crate::transport::Registration;
use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

const WRITABLE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A mapped memory file that may be lent.
pub(in super::super) struct Lendable {
    start: NonNull<u8>,
    length: usize,
    /// The file, open for reading: the only description but those that were lent.
    witness: Arc<OwnedFd>,
    loans: Arc<Loans>,
    /// What has gone through the ring, in bytes.
    moved: AtomicU64,
    state: Mutex<State>,
}

/// What has become of the file.
enum State {
    /// Nobody else has ever had it.
    Own,
    /// These connections' peers have it, under these numbers.
    Lent(Vec<(Weak<Connection>, u64)>),
    /// It was lent, and is written no more.
    TakenBack,
}

// SAFETY: the mapping belongs to the value, not to a thread. Here it is only ever mapped and unmapped; who follows the
// address does so by the rules of `Memory`.
#[allow(unsafe_code)]
unsafe impl Send for Lendable {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Lendable {}

impl Lendable {
    /// Makes memory of at least one byte, all zero.
    fn new(loans: &Arc<Loans>, length: usize) -> io::Result<Arc<Self>> {
        let file = sealed::create("mochi-lent", length)?;
        let start = map(ptr::null_mut(), length, MapFlags::SHARED | MapFlags::POPULATE, &file)?;
        // From here on the mapping has an owner.
        let mut lendable = Self {
            start,
            length,
            witness: Arc::new(file),
            loans: loans.clone(),
            moved: AtomicU64::new(0),
            state: Mutex::new(State::Own),
        };
        sealed::seal(&lendable.witness)?;
        lendable.witness = Arc::new(lease::open_again(&*lendable.witness)?);
        let lendable = Arc::new(lendable);
        loans.lendable.lock().insert(start.as_ptr().addr(), Arc::downgrade(&lendable));
        Ok(lendable)
    }

    pub(in super::super) fn length(&self) -> usize {
        self.length
    }

    /// The number under which the connection's peer has the file, for a transfer of `length` bytes. It is handed over if
    /// that is worth it by now. To be called only while the region exists, under its lock.
    pub(in super::super) fn lend(self: &Arc<Self>, to: &Arc<Connection>, length: u64) -> Option<u64> {
        let mut state = self.state.lock();
        match &*state {
            State::Lent(borrowers) => {
                let known = borrowers.iter().find(|(borrower, _)| ptr::eq(borrower.as_ptr(), Arc::as_ptr(to)));
                if let Some((_, loan)) = known {
                    return Some(*loan);
                }
            }
            State::Own => {
                let moved = self.moved.fetch_add(length, Ordering::Relaxed);
                if moved < PATIENCE.saturating_mul(self.length as u64) {
                    return None;
                }
            }
            State::TakenBack => return None,
        }
        if !self.loans.has_room() {
            return None;
        }
        let file = lease::open_again(&*self.witness).ok()?;
        let loan = to.hand_over(&file, self)?;
        if matches!(&*state, State::Own) {
            *state = State::Lent(Vec::new());
        }
        if let State::Lent(borrowers) = &mut *state {
            borrowers.push((Arc::downgrade(to), loan));
        }
        Some(loan)
    }

    /// The connection's peer has let go of the file, or is gone.
    pub(in super::super) fn forget(&self, loan: u64, borrower: &Connection) {
        if let State::Lent(borrowers) = &mut *self.state.lock() {
            borrowers.retain(|(known, id)| *id != loan || !ptr::eq(known.as_ptr(), borrower));
        }
    }

    fn was_lent(&self) -> bool {
        !matches!(&*self.state.lock(), State::Own)
    }

    /// Ends every loan: what is written from now on, nobody else sees. To be called while nobody uses the memory.
    fn take_back(&self) {
        let mut state = self.state.lock();
        let State::Lent(borrowers) = &mut *state else { return };
        let borrowers = std::mem::take(borrowers);
        let here = self.start.as_ptr().cast();
        // Pages that are written from now on are copied first.
        if let Err(error) = map(here, self.length, MapFlags::PRIVATE | MapFlags::FIXED, &*self.witness) {
            // There is no memory, and nobody to tell. To go on would show others what is not meant for them.
            tracing::error!(%error, "no memory to take back what was lent");
            std::process::abort();
        }
        *state = State::TakenBack;
        drop(state);
        self.loans.held.lock().push((self.witness.clone(), self.length as u64));
        for (borrower, loan) in borrowers {
            if let Some(borrower) = borrower.upgrade() {
                borrower.end_loan(loan);
            }
        }
        self.loans.sweep();
    }
}

/// Maps a file for writing: at `at`, or wherever there is room.
#[allow(unsafe_code)]
fn map(at: *mut c_void, length: usize, flags: MapFlags, file: impl AsFd) -> Result<NonNull<u8>, Errno> {
    // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours. `FIXED` is only asked for by
    // `take_back`, with the place of a mapping of its own of the same length, which holds the same bytes afterwards.
    let at = unsafe { rustix::mm::mmap(at, length, WRITABLE, flags, file, 0) }?;
    NonNull::new(at.cast()).ok_or(Errno::NOMEM)
}

impl Drop for Lendable {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // First, because the place may be another's at once.
        self.loans.lendable.lock().remove(&self.start.as_ptr().addr());
        // SAFETY: the mapping was made by `new` with this length, and whoever follows its address holds the value.
        // It cannot fail for a mapping that exists.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The memory, as regions take it.
pub(in super::super) struct LendableMemory(Arc<Lendable>);

impl LendableMemory {
    /// Memory of `length` bytes, all zero.
    ///
    /// # Errors
    /// It has no bytes, the kernel cannot do it, or there is no memory.
    pub(in super::super) fn new(loans: &Arc<Loans>, length: usize) -> io::Result<Self> {
        if length == 0 || !loans.are_possible() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Lendable::new(loans, length).map(Self)
    }
}

// SAFETY: the bytes are a mapping that stays where it is until the last holder of the file is gone, and this value is one.
// They are zeros or what was written, and the pages are there. Nobody else in this process knows the address, but for
// `take_back`, which puts a mapping of the same bytes in its place while the memory is not in use; other processes can only
// read the file.
#[allow(unsafe_code)]
unsafe impl Memory for LendableMemory {
    fn segments(&mut self) -> Vec<Segment> {
        vec![Segment { start: self.0.start, length: self.0.length }]
    }
}

/// What a region of such memory has registered.
pub(in super::super) struct Lending(Arc<Lendable>);

impl Lending {
    /// For memory that was never lent.
    pub(in super::super) fn new(loans: &Loans, memory: &[Segment]) -> Option<Self> {
        let [segment] = memory else { return None };
        let lendable = loans.find(segment.start.as_ptr().addr(), segment.length)?;
        if lendable.was_lent() {
            return None;
        }
        lendable.moved.store(0, Ordering::Relaxed);
        Some(Self(lendable))
    }

    pub(in super::super) fn lendable(&self) -> &Arc<Lendable> {
        &self.0
    }
}

impl Registration for Lending {
    fn descriptor(&self) -> Option<Vec<u8>> {
        None
    }

    fn is_written_unseen(&self) -> bool {
        false
    }

    fn renew(&self) -> bool {
        self.0.moved.store(0, Ordering::Relaxed);
        !self.0.was_lent()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        self.0.take_back();
    }
}

impl fmt::Debug for Lendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lendable({} bytes)", self.length)
    }
}

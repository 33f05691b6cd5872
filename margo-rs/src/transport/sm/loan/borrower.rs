//! What the peer of one connection has lent us.

use super::super::sealed;
use super::copy::copy;
use crate::wire::Budget;
use rustix::fd::OwnedFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Files of one peer mapped at a time.
pub(in super::super) const MAPPINGS_MAX: usize = 32;

/// The files that a peer has lent, by number.
#[derive(Debug, Default)]
pub(in super::super) struct Borrowed {
    files: HashMap<u64, File>,
    /// Grows with every use.
    clock: u64,
}

#[derive(Debug)]
struct File {
    mapping: Arc<Mapping>,
    used: u64,
}

/// What came of a file that a peer has handed over.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Taken {
    /// It is there.
    Kept,
    /// It is there, and this one is not any more.
    InPlaceOf(u64),
    /// It cannot be used.
    Refused,
    /// The peer breaks the rules: there is one of that number.
    Twice,
}

impl Borrowed {
    /// Takes in what the peer has handed over.
    pub(in super::super) fn take_in(&mut self, loan: u64, file: &OwnedFd, budget: &Arc<Budget>) -> Taken {
        if self.files.contains_key(&loan) {
            return Taken::Twice;
        }
        let mapping = match Mapping::new(file, budget) {
            Ok(mapping) => Arc::new(mapping),
            Err(error) => {
                tracing::debug!(%error, "what a peer lends is of no use");
                return Taken::Refused;
            }
        };
        let mut taken = Taken::Kept;
        if self.files.len() >= MAPPINGS_MAX
            && let Some(oldest) = self.files.iter().min_by_key(|(_, file)| file.used).map(|(loan, _)| *loan)
        {
            self.files.remove(&oldest);
            taken = Taken::InPlaceOf(oldest);
        }
        self.clock += 1;
        self.files.insert(loan, File { mapping, used: self.clock });
        taken
    }

    /// The file of that number.
    pub(in super::super) fn find(&mut self, loan: u64) -> Option<Arc<Mapping>> {
        let file = self.files.get_mut(&loan)?;
        self.clock += 1;
        file.used = self.clock;
        Some(file.mapping.clone())
    }

    /// The loan is over. `false` if it was not known.
    pub(in super::super) fn end(&mut self, loan: u64) -> bool {
        self.files.remove(&loan).is_some()
    }

    /// All loans are over.
    pub(in super::super) fn clear(&mut self) {
        self.files = HashMap::new();
    }
}

/// A peer's file, mapped for reading.
pub(in super::super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    budget: Arc<Budget>,
}

// SAFETY: the mapping belongs to the value, not to a thread, and is only ever copied from.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    #[allow(unsafe_code)]
    fn new(file: &OwnedFd, budget: &Arc<Budget>) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let size = sealed::length_of(file)?;
        let length =
            usize::try_from(size).ok().filter(|length| *length > 0).ok_or(wrong("it has an impossible size"))?;
        if !budget.claim(size) {
            return Err(wrong("too much is mapped already"));
        }
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours.
        let at = unsafe { rustix::mm::mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        match at.map(|at| NonNull::new(at.cast())) {
            Ok(Some(start)) => Ok(Self { start, length, budget: budget.clone() }),
            other => {
                budget.release(size);
                Err(other.err().map_or_else(|| wrong("it cannot be mapped"), io::Error::from))
            }
        }
    }

    /// Whether so many bytes from there on are in the file, whatever the numbers are.
    pub(in super::super) fn has(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.length as u64)
    }

    /// Copies bytes from `offset` on, which may be any number, into all of `into`, past the caches if
    /// `streamed`. The peer may be writing them. `None` if they are not all in the file.
    #[must_use]
    #[allow(unsafe_code)]
    pub(in super::super) fn copy(&self, offset: u64, into: &mut [u8], streamed: bool) -> Option<()> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(into.len())?;
        if end > self.length {
            return None;
        }
        // SAFETY: just checked to lie in the mapping, which is one allocation.
        let from = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: `end` lies in the mapping, which lives as long as `self` and whose pages are there: the file has no holes
        // and can neither shrink nor be punched. `into` is as long, and memory of ours: no part of a mapping that nobody
        // writes through. Another process may write the bytes meanwhile: then the copy has old and new ones, and nothing
        // is concluded from them here. No reference to them is made.
        unsafe { copy(from, into.as_mut_ptr(), into.len(), streamed) };
        Some(())
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing refers into it.
        // It cannot fail for a mapping that exists.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
        self.budget.release(self.length as u64);
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: usize) -> OwnedFd {
        let file = sealed::create("test", length).unwrap();
        let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        assert_eq!(rustix::io::pwrite(&file, &bytes, 0), Ok(length));
        sealed::seal(&file).unwrap();
        file
    }

    #[test]
    fn no_offset_leads_out_of_the_file() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut borrowed = Borrowed::default();
        assert_eq!(borrowed.take_in(7, &file(5000), &budget), Taken::Kept);
        let mapping = borrowed.find(7).unwrap();
        let mut into = [0xee; 10];
        for offset in [4991, 5000, 8190, u64::MAX, u64::MAX - 9, 1 << 63] {
            assert_eq!(mapping.copy(offset, &mut into, false), None, "{offset}");
        }
        assert_eq!(into, [0xee; 10]);
        assert_eq!(mapping.copy(4990, &mut into, true), Some(()));
        assert_eq!(into[9], 4999u16 as u8);
        assert_eq!(mapping.copy(5000, &mut [], false), Some(()));
    }

    #[test]
    fn the_file_used_least_lately_makes_room_and_all_is_given_back() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut borrowed = Borrowed::default();
        let max = MAPPINGS_MAX as u64;
        for loan in 0..max {
            assert_eq!(borrowed.take_in(loan, &file(100), &budget), Taken::Kept);
        }
        assert_eq!(borrowed.take_in(3, &file(100), &budget), Taken::Twice);
        borrowed.find(0).unwrap();
        let kept = borrowed.find(2).unwrap();
        assert_eq!(borrowed.take_in(max, &file(100), &budget), Taken::InPlaceOf(1));
        assert!(borrowed.find(1).is_none() && borrowed.find(0).is_some());
        assert!(borrowed.end(2) && !borrowed.end(2));
        assert_eq!(budget.claimed(), max * 100, "one is still in use");
        assert_eq!(kept.copy(0, &mut [0; 100], false), Some(()));
        drop((kept, borrowed));
        assert_eq!(budget.claimed(), 0);
    }

    #[test]
    fn what_there_is_no_address_space_for_is_refused() {
        let budget = Arc::new(Budget::new(150));
        let mut borrowed = Borrowed::default();
        assert_eq!(borrowed.take_in(1, &file(100), &budget), Taken::Kept);
        assert_eq!(borrowed.take_in(2, &file(100), &budget), Taken::Refused);
        assert_eq!(budget.claimed(), 100);
    }
}

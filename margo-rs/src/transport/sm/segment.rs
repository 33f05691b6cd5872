//! Shared memory: sealed memory files, mapped.
//!
//! Each side makes one, of which it alone keeps a writable mapping (see [`sealed`](super::sealed)).

use super::memory::{AtomicU64, CONTROL_WORDS};
use super::ring::{self, Words};
use super::sealed;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fmt;
use std::io;
use std::ptr::{self, NonNull};

const WORD: usize = size_of::<AtomicU64>();
const CONTROL: usize = CONTROL_WORDS * WORD;
/// Largest and smallest ring that a peer may have, in bytes.
const RING_MAX: usize = 16 << 20;
const RING_MIN: usize = 4 << 10;

/// A mapped segment: a control page and a ring.
pub(super) struct Segment {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to the value, not to a thread, and is only ever used through atomics.
#[allow(unsafe_code)]
unsafe impl Send for Segment {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a segment with a ring of `ring` bytes, a power of two, and the descriptor to hand to the peer. Its bell is
    /// armed. All of its memory is taken now, so that no later write can fail.
    ///
    /// # Errors
    /// No memory or descriptors, a kernel older than Linux 5.1, or files of this process may not be so large.
    pub(super) fn create(ring: usize) -> io::Result<(Self, OwnedFd)> {
        let length = CONTROL + ring;
        let file = sealed::create("mochi-sm", length)?;
        let segment = Self::map(&file, length, ProtFlags::READ | ProtFlags::WRITE)?;
        sealed::seal(&file)?;
        ring::prepare(segment.words(), getrandom::u64().map_err(io::Error::other)?);
        Ok((segment, file))
    }

    /// Maps what a peer handed over, read-only, if it is what it must be.
    ///
    /// # Errors
    /// It is no memory file, lacks a seal, has an impossible size or a hole; or there is no memory to map it.
    pub(super) fn open(file: OwnedFd) -> io::Result<Self> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let length = sealed::length_of(&file).map_err(|error| wrong(format!("its segment is of no use: {error}")))?;
        let length = usize::try_from(length).unwrap_or(0);
        let ring = length.saturating_sub(CONTROL);
        if !(RING_MIN..=RING_MAX).contains(&ring) || !ring.is_power_of_two() {
            return Err(wrong("its segment has an impossible size".to_owned()));
        }
        Self::map(&file, length, ProtFlags::READ)
    }

    #[allow(unsafe_code)]
    fn map(file: impl AsFd, length: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours.
        let at = unsafe { rustix::mm::mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0) }?;
        let words = NonNull::new(at.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { words, count: length / WORD })
    }
}

impl Words for Segment {
    #[allow(unsafe_code)]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` is the start of a mapping of `count` words, aligned to a page, which lives as long as `self`.
        // Its pages are there: the file has no holes, and its seals keep it from losing any. It holds integers, of which
        // every bit pattern is one. Other processes may write it at any time, which atomics allow for; where it is
        // mapped read-only, the ring does relaxed loads alone, as `std::sync::atomic` asks for.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl Drop for Segment {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and no reference into it outlives `self`.
        // It cannot fail for a mapping that exists.
        let _ = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), self.count * WORD) };
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes)", self.count * WORD)
    }
}

//! Shared memory: sealed memory files, mapped.
//!
//! Each side makes one, of which it alone keeps a writable mapping: the seals forbid any later one, and holes, and
//! changes of the size. So what the peer hands over cannot be taken from under our feet (a read of it never faults),
//! and what we hand over cannot be written by the peer.

use super::memory::{AtomicU64, CONTROL_WORDS};
use super::ring::{self, Words};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::io;
use std::ptr::{self, NonNull};

const WORD: usize = size_of::<AtomicU64>();
const CONTROL: usize = CONTROL_WORDS * WORD;
/// Largest and smallest ring that a peer may have, in bytes.
const RING_MAX: usize = 16 << 20;
const RING_MIN: usize = 4 << 10;
/// File system of memory files (`TMPFS_MAGIC`); those of huge pages are elsewhere.
const TMPFS: i64 = 0x0102_1994;
/// Unit of a file's block count, in bytes.
const BLOCK: u64 = 512;

/// What a segment must never be able to do while it is shared.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);

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
        // To the kernel it is a file, and a file beyond the limit would end the process (SIGXFSZ).
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < length as u64) {
            return Err(io::Error::other(format!("shared memory needs files of {length} bytes (`ulimit -f`)")));
        }
        let file = rustix::fs::memfd_create("mochi-sm", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, length as u64)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length as u64)?;
        let segment = Self::map(&file, length, ProtFlags::READ | ProtFlags::WRITE)?;
        rustix::fs::fcntl_add_seals(&file, SEALS | SealFlags::SEAL).map_err(|error| match error {
            Errno::INVAL => io::Error::other("shared memory needs Linux 5.1 or newer (F_SEAL_FUTURE_WRITE)"),
            other => other.into(),
        })?;
        ring::prepare(segment.words(), getrandom::u64().map_err(io::Error::other)?);
        Ok((segment, file))
    }

    /// Maps what a peer handed over, read-only, if it is what it must be.
    ///
    /// # Errors
    /// It is no memory file, lacks a seal, has an impossible size or a hole; or there is no memory to map it.
    pub(super) fn open(file: OwnedFd) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        // Only memory files have seals.
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| wrong("its segment is no memory file"))?;
        if !seals.contains(SEALS) {
            return Err(wrong("its segment lacks a seal"));
        }
        if rustix::fs::fstatfs(&file)?.f_type as i64 != TMPFS {
            return Err(wrong("its segment is made of huge pages"));
        }
        // From here on nothing of this can change, because of the seals.
        let stat = rustix::fs::fstat(&file)?;
        let length = usize::try_from(stat.st_size).unwrap_or(0);
        let ring = length.saturating_sub(CONTROL);
        if !(RING_MIN..=RING_MAX).contains(&ring) || !ring.is_power_of_two() {
            return Err(wrong("its segment has an impossible size"));
        }
        // A page that is missing is one that memory may be missing for when it is read.
        if (stat.st_blocks as u64).saturating_mul(BLOCK) < length as u64 {
            return Err(wrong("its segment has holes"));
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

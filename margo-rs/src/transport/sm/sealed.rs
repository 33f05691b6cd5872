//! Sealed memory files: what processes that do not trust each other can map.
//!
//! The seals forbid every change of the size, holes, and any writing but through mappings that exist already. So what a
//! peer hands over cannot be taken from under our feet (a read of it never faults), and what we hand over cannot be
//! written by the peer, not even by one of our own user that opens it once more.

use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;

/// File system of memory files (`TMPFS_MAGIC`); those of huge pages are elsewhere.
const TMPFS: i64 = 0x0102_1994;
/// Unit of a file's block count, in bytes.
const BLOCK: u64 = 512;

/// What a file must never be able to do while it is shared.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);

/// Makes a file of zeros that is not sealed yet. All of its memory is taken now, so that no later write can fail.
///
/// # Errors
/// No memory or descriptors, or files of this process may not be so large.
pub(super) fn create(name: &str, length: usize) -> io::Result<OwnedFd> {
    // To the kernel it is a file, and a file beyond the limit would end the process (SIGXFSZ).
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < length as u64) {
        return Err(io::Error::other(format!("shared memory needs files of {length} bytes (`ulimit -f`)")));
    }
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, length as u64)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length as u64)?;
    Ok(file)
}

/// Seals a file that was mapped for writing before.
///
/// # Errors
/// A kernel older than Linux 5.1.
pub(super) fn seal(file: &OwnedFd) -> io::Result<()> {
    rustix::fs::fcntl_add_seals(file, SEALS | SealFlags::SEAL).map_err(|error| match error {
        Errno::INVAL => io::Error::other("shared memory needs Linux 5.1 or newer (F_SEAL_FUTURE_WRITE)"),
        other => other.into(),
    })
}

/// The size of a file that a peer handed over, if it is what it must be. Nothing of that can change any more.
///
/// # Errors
/// It is no memory file, lacks a seal, is made of huge pages or has a hole.
pub(super) fn length_of(file: &OwnedFd) -> io::Result<u64> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    // Only memory files have seals.
    let seals = rustix::fs::fcntl_get_seals(file).map_err(|_| wrong("it is no memory file"))?;
    if !seals.contains(SEALS) {
        return Err(wrong("it lacks a seal"));
    }
    if rustix::fs::fstatfs(file)?.f_type as i64 != TMPFS {
        return Err(wrong("it is made of huge pages"));
    }
    let stat = rustix::fs::fstat(file)?;
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    // A page that is missing is one that memory may be missing for when it is read.
    if (stat.st_blocks as u64).saturating_mul(BLOCK) < length {
        return Err(wrong("it has holes"));
    }
    Ok(length)
}

//! Sealed memory files: what processes that do not trust each other can map.
//!
//! The seals forbid every change of the size, holes, and any writing but through mappings that exist already. So what a
//! peer hands over cannot be taken from under our feet (a read of it never faults), and what we hand over cannot be
//! written by the peer, not even by one of our own user that opens it once more.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
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
    let length = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    // A page that is missing is one that memory may be missing for when it is read.
    let has_holes = || Ok::<_, Errno>((rustix::fs::fstat(file)?.st_blocks as u64).saturating_mul(BLOCK) < length);
    // First without a change of the file: that waits for whatever else is done to it, which takes no longer than filling as
    // much memory as the peer has filled.
    if has_holes()? {
        return Err(wrong("it has holes"));
    }
    cut_behind_end(file, length).map_err(|_| wrong("what lies behind its end cannot be cut off"))?;
    if has_holes()? {
        return Err(wrong("it has holes, and pages behind its end"));
    }
    Ok(length)
}

/// Frees pages behind the end of a file, which count as blocks of it and so would hide as many holes (`fallocate(2)` with
/// `FALLOC_FL_KEEP_SIZE`). None can come after that, as the file is sealed against growing.
fn cut_behind_end(file: &OwnedFd, length: u64) -> Result<(), Errno> {
    match rustix::fs::ftruncate(file, length) {
        // It is open for reading only. Whoever has it on lease must not keep us waiting.
        Err(Errno::INVAL | Errno::BADF) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::ftruncate(rustix::fs::open(path, flags, Mode::empty())?, length)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 * 1024;

    /// A file of which `there` bytes have pages, from the start on, and `behind` its end as many as are told.
    fn file(there: u64, behind: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, SIZE).unwrap();
        for (flags, at, length) in [(FallocateFlags::empty(), 0, there), (FallocateFlags::KEEP_SIZE, SIZE, behind)] {
            if length > 0 {
                rustix::fs::fallocate(&file, flags, at, length).unwrap();
            }
        }
        seal(&file).unwrap();
        file
    }

    #[test]
    fn pages_behind_the_end_do_not_make_up_for_holes() {
        let for_reading = |file: &OwnedFd| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        for (there, behind) in [(SIZE - 4096, 4096), (4096, 2 * SIZE), (0, SIZE)] {
            for readonly in [false, true] {
                let made = file(there, behind);
                assert!(rustix::fs::fstat(&made).unwrap().st_blocks as u64 * BLOCK >= SIZE, "it looks whole");
                let given = if readonly { for_reading(&made) } else { made };
                assert!(length_of(&given).is_err(), "{there} and {behind}, {readonly}");
            }
        }
        for behind in [0, SIZE] {
            let made = file(SIZE, behind);
            assert_eq!(length_of(&for_reading(&made)).unwrap(), SIZE);
            assert_eq!(length_of(&made).unwrap(), SIZE);
            assert_eq!(rustix::fs::fstat(&made).unwrap().st_blocks as u64 * BLOCK, SIZE);
        }
    }
}

//! Whether somebody else still has a file, by the kernel's word.
//!
//! The kernel grants a write lease (`fcntl(2)`, `F_SETLEASE`) to a descriptor that is open for reading only if no other
//! open file description of that file exists. A mapping holds the description that it was made of, and so does a packet
//! that nobody has taken out of a socket. Writing descriptions of memory files do not count, as long as nobody has opened
//! one by its name in `/proc`.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::c_int;
use std::io;

/// `F_SETSIG` of `fcntl(2)`.
const F_SETSIG: c_int = 10;

/// Opens a file once more, for reading: a description of its own.
///
/// # Errors
/// There is no `/proc`, or there are no descriptors left.
pub(in super::super) fn open_again(file: impl AsFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether another description of this file exists than `witness`, which is open for reading.
#[allow(unsafe_code)]
pub(super) fn is_held_elsewhere(witness: &OwnedFd) -> bool {
    let fd = witness.as_raw_fd();
    // Somebody with the right to (root, a debugger) may open the file while the lease holds, for a microsecond. That
    // sends a signal, which must be one that does nothing instead of SIGIO, which ends the process.
    // SAFETY: `fcntl` with these commands takes integers and touches no memory of ours; `fd` is open.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } != 0 {
        return true;
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) } != 0 {
        return true;
    }
    // SAFETY: as above. It cannot fail for a lease that is held.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    false
}

/// Whether the kernel tells all that.
pub(super) fn works() -> bool {
    let try_it = || {
        let file = super::super::sealed::create("mochi-try", 1)?;
        super::super::sealed::seal(&file)?;
        let witness = open_again(&file)?;
        let alone = !is_held_elsewhere(&witness);
        let other = open_again(&witness)?;
        let seen = is_held_elsewhere(&witness);
        drop(other);
        io::Result::Ok(alone && seen && !is_held_elsewhere(&witness))
    };
    let works = try_it().unwrap_or(false);
    if !works {
        tracing::debug!("no memory is lent here: the kernel has no leases on memory files, or there is no /proc");
    }
    works
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags};
    use std::ptr;

    #[test]
    fn a_file_that_is_open_mapped_or_on_its_way_is_held() {
        let file = super::super::super::sealed::create("test", 4096).unwrap();
        let witness = open_again(&file).unwrap();
        assert!(!is_held_elsewhere(&witness), "our own descriptions do not count");
        let given = open_again(&witness).unwrap();
        assert!(is_held_elsewhere(&witness));
        // SAFETY: a new mapping at a place that the kernel chooses.
        #[allow(unsafe_code)]
        let at = unsafe { rustix::mm::mmap(ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &given, 0) };
        drop(given);
        assert!(is_held_elsewhere(&witness), "mapped");
        // SAFETY: the mapping that was just made, which nothing refers to.
        #[allow(unsafe_code)]
        unsafe { rustix::mm::munmap(at.unwrap(), 4096) }.unwrap();
        assert!(!is_held_elsewhere(&witness));
    }
}

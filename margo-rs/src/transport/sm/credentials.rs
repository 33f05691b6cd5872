//! Who is at the other end of a Unix socket, by the kernel's word (`SO_PEERCRED`, unix(7)).
//!
//! Asked for with the C library: the kernel gives process id 0 for one that this process's PID namespace does not show,
//! which is no value of the id that rustix would put it in.

use super::super::PeerCredentials;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::io;
use std::mem::{self, MaybeUninit};
use std::num::NonZeroI32;

/// Who connected, or listened, at the other end, and its process, if it has a number here.
pub(super) fn of(socket: impl AsFd) -> Result<(PeerCredentials, Option<NonZeroI32>), Errno> {
    ask(socket.as_fd().as_raw_fd()).map(decode).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn decode(found: libc::ucred) -> (PeerCredentials, Option<NonZeroI32>) {
    (PeerCredentials { uid: found.uid, gid: found.gid }, NonZeroI32::new(found.pid))
}

#[allow(unsafe_code)]
fn ask(socket: i32) -> io::Result<libc::ucred> {
    let mut found = MaybeUninit::<libc::ucred>::zeroed();
    let mut length = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `found`, which has as many, and to `length`; both live as long
    // as the call. A descriptor that is no socket is an error, nothing worse.
    let result = unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, found.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it holds integers, of which every bit pattern is one, and all of its bytes were zeroed at least.
    Ok(unsafe { found.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_process_that_this_namespace_does_not_show_has_no_number() {
        let (user, process) = decode(libc::ucred { pid: 0, uid: 7, gid: 8 });
        assert_eq!((user, process), (PeerCredentials { uid: 7, gid: 8 }, None));
        let (_, process) = decode(libc::ucred { pid: 42, uid: 7, gid: 8 });
        assert_eq!(process, NonZeroI32::new(42));
    }

    #[test]
    fn the_kernel_knows_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (user, process) = of(&ours).unwrap();
        assert_eq!(process.map(|process| process.get() as u32), Some(std::process::id()));
        assert_eq!(user.uid, rustix::process::geteuid().as_raw());
        assert_eq!(of(std::io::stdin()).is_ok(), rustix::net::sockopt::socket_type(std::io::stdin()).is_ok());
    }
}

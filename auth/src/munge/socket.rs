//! Tells at once, and without disturbing `munged`, whether anybody serves a socket.

use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::error::NoDaemonReason;

/// Why nobody can be at `path`, or `None` if libmunge should try.
///
/// libmunge itself retries a refused connection for 2.25 s, longer than a usual deadline. Here a
/// *datagram* socket is connected to the path: Linux looks up who is bound there before it compares
/// the types, so that a served path answers EPROTOTYPE and a dead one ECONNREFUSED (unix(7)), and
/// the daemon sees nothing. A few microseconds; never blocks.
pub(super) fn refusal(path: &Path) -> Option<NoDaemonReason> {
    let address = SocketAddrUnix::new(path).ok()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
    match connect(&socket, &address) {
        Err(Errno::NOENT | Errno::NOTDIR) => Some(NoDaemonReason::Missing),
        Err(Errno::CONNREFUSED) => Some(NoDaemonReason::Stale),
        Err(Errno::ACCESS) => Some(NoDaemonReason::PermissionDenied),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_served_path_a_dead_one_and_a_missing_one_are_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        assert_eq!(refusal(&path), Some(NoDaemonReason::Missing));
        let listener = UnixListener::bind(&path).expect("a listener");
        assert_eq!(refusal(&path), None);
        listener.set_nonblocking(true).expect("nonblocking");
        assert!(listener.accept().is_err(), "the listener must not notice");
        drop(listener);
        assert_eq!(refusal(&path), Some(NoDaemonReason::Stale));
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "").expect("a plain file");
        assert_eq!(refusal(&path), Some(NoDaemonReason::Stale));
        assert_eq!(refusal(&path.join("below")), Some(NoDaemonReason::Missing));
    }
}

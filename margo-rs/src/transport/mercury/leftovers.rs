//! The files of `na+sm`, where they stay when nobody needs them any more. They are looked for where the plugin keeps them
//! unless it was built to keep them elsewhere.
//!
//! A process that is killed leaves its own. The plugin does not start over them, and names them by the id of the process: so
//! one that gets the same id later, or a service under a name of its own, would not start. They are
//! [removed](make_place) before it is tried.
//!
//! The plugin also refuses to be finalized while it holds a message that nobody took, and a peer may send one at any time,
//! also between the last look and the end. It gives no second chance: it has freed the senders by then. So its files are
//! [removed](remove) here, and the rest goes with the process.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

const MEMORY: &str = "/dev/shm";
const SOCKETS: &str = "/tmp";

/// The files of one class.
struct Files {
    /// What peers write to.
    memory: PathBuf,
    /// Where they say that they have come.
    socket: PathBuf,
    /// Of that.
    directory: PathBuf,
}

impl Files {
    /// Those of the class that is reached at `location`: `4711-0`, say. `None` for what can be no name of a file.
    fn of(location: &str) -> Option<Self> {
        if location.is_empty() || location.contains(['/', '\0']) {
            return None;
        }
        let directory = Path::new(SOCKETS).join(format!("na_sm-{location}"));
        let memory = Path::new(MEMORY).join(format!("na_sm-{location}"));
        Some(Self { memory, socket: directory.join("sock"), directory })
    }

    fn all(&self) -> [&Path; 3] {
        [&self.memory, &self.socket, &self.directory]
    }

    /// Whether their owner is gone: nobody has the socket open.
    fn are_left_behind(&self) -> bool {
        let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(&self.socket));
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }
}

/// Removes the files of a class that is gone, as far as they are there.
pub(super) fn remove(location: &str) {
    for path in Files::of(location).iter().flat_map(Files::all) {
        match remove_path(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a file of shared memory is left behind");
            }
            _ => {}
        }
    }
}

/// Makes place for a class at `location`, where a process that was killed has left its files. `false` if there is none:
/// somebody is there, or it was another user's.
pub(super) fn make_place(location: &str) -> bool {
    let Some(files) = Files::of(location) else { return false };
    if files.are_left_behind() {
        // What stays is looked for next.
        files.all().into_iter().for_each(|path| drop(remove_path(path)));
    }
    !files.all().into_iter().any(|path| path.symlink_metadata().is_ok())
}

fn remove_path(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Files as a process leaves them that is killed, and the socket as it is before that.
    pub(in super::super) fn plant(location: &str) -> UnixDatagram {
        let files = Files::of(location).expect("a name");
        fs::create_dir(&files.directory).expect("it is new");
        fs::write(&files.memory, [0xa5; 4096]).expect("there is space");
        UnixDatagram::bind(&files.socket).expect("it is new")
    }

    #[test]
    fn the_files_of_a_class_are_named() {
        let files = Files::of("4711-7").expect("a name");
        assert_eq!(files.memory, Path::new("/dev/shm/na_sm-4711-7"));
        assert_eq!(files.socket, Path::new("/tmp/na_sm-4711-7/sock"));
        for other in ["", "../x", "1-7/..", "a\0"] {
            assert!(Files::of(other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn place_is_made_where_nobody_is() {
        let name = format!("place-{}", std::process::id());
        assert!(make_place(&name), "nothing is there");
        let socket = plant(&name);
        assert!(!make_place(&name), "it is in use");
        let files = Files::of(&name).expect("a name");
        assert!(files.all().iter().all(|path| path.exists()));
        drop(socket);
        assert!(make_place(&name));
        assert!(!files.all().iter().any(|path| path.exists()));
        // Memory alone may be that of a process which is just starting, or which has its sockets elsewhere.
        fs::write(&files.memory, [0; 10]).expect("there is space");
        assert!(!make_place(&name) && files.memory.exists());
        remove(&name);
        assert!(make_place(&name));
    }
}

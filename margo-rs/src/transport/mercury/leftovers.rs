//! What `na+sm` leaves in the file system when it does not end.
//!
//! The plugin refuses to be finalized while it holds a message that nobody took, and a peer may send one at any time, also
//! between the last look and the end. It gives no second chance: it has freed the senders by then. So its files are
//! removed here, where it keeps them unless it was built to keep them elsewhere, and the rest goes with the process.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const MEMORY: &str = "/dev/shm";
const SOCKETS: &str = "/tmp";

/// Removes the files of this process's class that was reached at `location` (`4711-0`, say), as far as they are there.
pub(super) fn remove(location: &str) {
    for path in files_of(location) {
        match remove_path(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a file of shared memory is left behind");
            }
            _ => {}
        }
    }
}

/// The region, the socket, and the directory of that.
fn files_of(location: &str) -> Vec<PathBuf> {
    let ours = location
        .split_once('-')
        .is_some_and(|(process, number)| process.parse() == Ok(std::process::id()) && number.parse::<u8>().is_ok());
    if !ours {
        return Vec::new();
    }
    let directory = Path::new(SOCKETS).join(format!("na_sm-{location}"));
    vec![Path::new(MEMORY).join(format!("na_sm-{location}")), directory.join("sock"), directory]
}

fn remove_path(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_this_process_are_named() {
        let ours = format!("{}-7", std::process::id());
        let names = files_of(&ours);
        assert_eq!(names[0], Path::new(&format!("/dev/shm/na_sm-{ours}")));
        assert_eq!(names[1], Path::new(&format!("/tmp/na_sm-{ours}/sock")));
        for other in
            ["1-7", "", "-", "x-0", &format!("{}-../x", std::process::id()), &format!("{}-256", std::process::id())]
        {
            assert!(files_of(other).is_empty(), "{other}");
        }
    }
}

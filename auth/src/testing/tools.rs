use std::env;
use std::io;
use std::path::{Path, PathBuf};

/// The environment variable that makes a missing `munged` (or libfaketime) a failure instead of a
/// skipped test: set to `1`.
pub const REQUIRE_MUNGED: &str = "MOCHI_REQUIRE_MUNGED";

/// Names libfaketime's library where it is in none of the usual places.
const LIBFAKETIME: &str = "MOCHI_LIBFAKETIME";

/// Why a private `munged` is not running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A program or library is not installed.
    #[error("{what} is not installed; install {package}")]
    NotInstalled {
        /// What was looked for.
        what: &'static str,
        /// The package that usually has it.
        package: &'static str,
    },
    /// A file or a process could not be made.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The socket's path would be longer than a Unix socket may have.
    #[error("{} is too long for a Unix socket (107 bytes); use a shorter directory, for instance by TMPDIR", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The daemon ended instead of starting.
    #[error("munged refused to start: {reason}")]
    Refused {
        /// What it wrote.
        reason: String,
    },
    /// The daemon was not ready in time.
    #[error("munged was not ready after {seconds} s: {reason}")]
    NotReady {
        /// The time given.
        seconds: u64,
        /// What it wrote.
        reason: String,
    },
}

impl StartError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

pub(super) fn munged() -> Result<PathBuf, StartError> {
    program("munged").ok_or(StartError::NotInstalled { what: "munged", package: "munge" })
}

pub(super) fn munge() -> Result<PathBuf, StartError> {
    program("munge").ok_or(StartError::NotInstalled { what: "munge", package: "munge" })
}

/// libfaketime's library for programs with threads.
pub(super) fn libfaketime() -> Result<PathBuf, StartError> {
    const NAME: &str = "libfaketimeMT.so.1";
    let missing = StartError::NotInstalled { what: "libfaketime", package: "faketime (or libfaketime)" };
    if let Some(path) = env::var_os(LIBFAKETIME) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file()).ok_or(missing);
    }
    let mut directories = Vec::new();
    for base in ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"] {
        directories.push(Path::new(base).join("faketime"));
        // Debian has a directory for each architecture.
        let below = std::fs::read_dir(base).into_iter().flatten().flatten();
        directories.extend(below.map(|entry| entry.path().join("faketime")));
    }
    directories.into_iter().map(|directory| directory.join(NAME)).find(|path| path.is_file()).ok_or(missing)
}

/// Daemons are often outside of a user's PATH.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).map(|directory| directory.join(name)).find(|file| file.is_file())
}

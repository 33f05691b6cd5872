use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::munged::{Munged, MungedOptions};
use super::tools::{self, REQUIRE_MUNGED, StartError};

const KEY_LEN: usize = 128;

/// A MUNGE realm of its own: a fresh key, and the daemons that share it.
///
/// Several daemons of one realm stand for its several hosts, each with its own memory of replays;
/// two realms do not accept each other's credentials. Clones are the same realm. A temporary
/// realm's directory goes with the last clone and daemon.
#[derive(Clone, Debug)]
pub struct MungeRealm {
    home: Arc<Home>,
}

#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    daemons: AtomicU32,
    _temporary: Option<TempDir>,
}

impl MungeRealm {
    /// A new realm in `directory`, which is made if it is not there and is not removed afterwards.
    ///
    /// The directory and those above it must belong to this user or root and not be writable by
    /// others (a sticky `/tmp` is fine), and be short: a socket's path has at most 107 bytes.
    ///
    /// # Errors
    /// [`StartError::Io`], also if the directory holds a realm already.
    pub fn create(directory: impl Into<PathBuf>) -> Result<Self, StartError> {
        Self::new(directory.into(), None)
    }

    /// A new realm in a temporary directory.
    ///
    /// # Errors
    /// [`StartError::Io`].
    pub fn temporary() -> Result<Self, StartError> {
        let directory =
            tempfile::Builder::new().prefix("munge").tempdir().map_err(StartError::io("make a temporary directory"))?;
        // Other users of the realm must be able to reach the socket.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .map_err(StartError::io("open the temporary directory to other users"))?;
        Self::new(directory.path().to_path_buf(), Some(directory))
    }

    /// A temporary realm, or `None` after one line on stderr if `munged` is not installed.
    ///
    /// # Panics
    /// If it cannot be made; with [`REQUIRE_MUNGED`] set to 1 also if `munged` is not installed.
    pub fn for_test() -> Option<Self> {
        match tools::munged() {
            Ok(_) => Some(Self::temporary().expect("a realm in a temporary directory")),
            Err(error) => skip(&error),
        }
    }

    fn new(path: PathBuf, temporary: Option<TempDir>) -> Result<Self, StartError> {
        make_directory(&path, 0o755)?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(key.as_mut()))
            .map_err(StartError::io("read /dev/urandom"))?;
        let home = Home { path, daemons: AtomicU32::new(0), _temporary: temporary };
        home.write_key(&home.key(), key.as_slice())?;
        Ok(Self { home: Arc::new(home) })
    }

    /// Starts a daemon and waits until it serves its socket.
    ///
    /// # Errors
    /// [`StartError`], with what the daemon wrote.
    pub fn start(&self) -> Result<Munged, StartError> {
        self.daemon().start()
    }

    /// Options for a further daemon: its user, its clock.
    pub fn daemon(&self) -> MungedOptions {
        MungedOptions::new(Arc::clone(&self.home))
    }

    /// The realm's directory.
    pub fn directory(&self) -> &Path {
        &self.home.path
    }
}

/// Says in one line on stderr that the current test is skipped, and why.
///
/// Unlike `eprintln!` it is seen for a test that passes, too.
pub fn skipped(reason: &str) {
    let test = std::thread::current();
    let name = test.name().unwrap_or("a test");
    let line = format!("skipped {name}: {reason}\n"); // in one write: tests run side by side
    let _ = std::io::stderr().write_all(line.as_bytes());
}

pub(super) fn skip<T>(error: &StartError) -> Option<T> {
    let required = std::env::var_os(REQUIRE_MUNGED).is_some_and(|value| value == "1");
    assert!(!required, "{error} ({REQUIRE_MUNGED} is set)");
    skipped(&format!("{error} ({REQUIRE_MUNGED}=1 makes this a failure)"));
    None
}

impl Home {
    fn key(&self) -> PathBuf {
        self.path.join("munge.key")
    }

    /// A directory for one more daemon, with its copy of the key.
    pub(super) fn make_host(&self) -> Result<PathBuf, StartError> {
        let number = self.daemons.fetch_add(1, Ordering::Relaxed);
        let host = self.path.join(number.to_string());
        make_directory(&host, 0o755)?;
        make_directory(&host.join("run"), 0o755)?;
        make_directory(&host.join("private"), 0o700)?;
        let key = Zeroizing::new(fs::read(self.key()).map_err(StartError::io("read the realm's key"))?);
        self.write_key(&host.join("private/munge.key"), &key)?;
        Ok(host)
    }

    fn write_key(&self, path: &Path, key: &[u8]) -> Result<(), StartError> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(key))
            .map_err(StartError::io(format!("write the key {}", path.display())))
    }
}

/// Makes a directory and those above it, and gives it just these permissions whatever the umask.
fn make_directory(path: &Path, mode: u32) -> Result<(), StartError> {
    let action = || format!("make the directory {}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(StartError::io(action()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(StartError::io(action()))
}

//! A munged for the examples: the one of the system when it answers, else a private one for the length of a task.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mochi_auth::testing::{MungeRealm, Munged as Daemon};
use rustix::process::getuid;

use crate::Outcome;
use crate::process::succeeds_within;

/// The environment variable by which the examples and the `mochi` tool learn of a socket other than libmunge's own.
pub(crate) const SOCKET_VARIABLE: &str = "MUNGE_SOCKET";

/// How long a working munged may take to encode or decode one credential.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The user that root runs a private munged as: nobody, by the number Linux gives it.
const UNPRIVILEGED_UID: u32 = 65534;

/// A munged that answers.
pub(crate) enum Munged {
    /// The system's, or one that the user named by [`SOCKET_VARIABLE`].
    Found,
    /// Started by us, ended when this is dropped.
    Private(Daemon),
}

impl Munged {
    /// Finds a munged that answers, or starts one as an unprivileged user.
    pub(crate) fn find_or_start() -> Outcome<Self> {
        if let Some(socket) = std::env::var_os(SOCKET_VARIABLE) {
            let socket = PathBuf::from(socket);
            if !answers(Some(&socket)) {
                let socket = socket.display();
                return Err(format!("no munged answers at {socket}, which {SOCKET_VARIABLE} names; unset it").into());
            }
            say!("MUNGE: the munged at {}", socket.display());
            return Ok(Self::Found);
        }
        if answers(None) {
            say!("MUNGE: the munged of this system");
            return Ok(Self::Found);
        }
        let daemon = MungeRealm::temporary()?.daemon();
        let daemon = if getuid().is_root() { daemon.uid(UNPRIVILEGED_UID) } else { daemon };
        let daemon = daemon.start()?;
        say!("MUNGE: no munged of the system answers; started a private one at {}", daemon.socket().display());
        if !answers(Some(daemon.socket())) {
            return Err(format!("it does not answer; it says:\n{}", daemon.what_it_wrote()).into());
        }
        Ok(Self::Private(daemon))
    }

    /// The socket to hand to the programs, unless they find it themselves.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Found => None,
            Self::Private(daemon) => Some(daemon.socket()),
        }
    }
}

/// Whether a credential can be made and read there, by the munged of the system if `socket` is `None`.
fn answers(socket: Option<&Path>) -> bool {
    let with_socket = |name: &str| {
        let mut command = Command::new(name);
        command.args(socket.map(|socket| argument("--socket", socket)));
        command
    };
    let Some(credential) = succeeds_within(with_socket("munge").args(["--string", "probe"]), PROBE_TIMEOUT) else {
        return false;
    };
    let Ok(file) = tempfile::NamedTempFile::new() else {
        return false;
    };
    fs::write(file.path(), credential).is_ok()
        && succeeds_within(with_socket("unmunge").arg(argument("--input", file.path())), PROBE_TIMEOUT).is_some()
}

/// `--name=path`, whatever bytes the path holds.
fn argument(name: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(name);
    argument.push("=");
    argument.push(path);
    argument
}

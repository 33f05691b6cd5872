//! A munged for the examples: the one of the system when it answers, else a private one for the length of a task.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::getuid;
use tempfile::TempDir;

use crate::Outcome;
use crate::prepare::program;
use crate::process::{Running, succeeds_within};

/// The environment variable by which the examples and the `mochi` tool learn of a socket other than libmunge's own.
pub(crate) const SOCKET_VARIABLE: &str = "MUNGE_SOCKET";

/// How long a working munged may take to encode and decode one credential.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a private munged may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a private key; munged asks for 32 at least.
const KEY_LENGTH: u64 = 128;
/// What Linux calls nobody, for a system without a `munge` user.
const NOBODY: Account = Account {
    uid: 65534,
    gid: 65534,
};

/// A munged that answers.
pub(crate) enum Munged {
    /// The system's, or one that the user named by [`SOCKET_VARIABLE`].
    Found,
    /// Started by us, ended when this is dropped.
    Private(Private),
}

/// Our own munged with its directory.
pub(crate) struct Private {
    // Dropped in this order: the daemon ends before its directory goes.
    daemon: Running,
    directory: TempDir,
}

#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Munged {
    /// Finds a munged that answers, or starts one as an unprivileged user.
    pub(crate) fn find_or_start() -> Outcome<Self> {
        if let Some(socket) = std::env::var_os(SOCKET_VARIABLE) {
            let socket = PathBuf::from(socket);
            if !answers(Some(&socket)) {
                let socket = socket.display();
                return Err(format!(
                    "no munged answers at {socket}, which {SOCKET_VARIABLE} names; unset it"
                )
                .into());
            }
            println!("MUNGE: the munged at {}", socket.display());
            return Ok(Self::Found);
        }
        if answers(None) {
            println!("MUNGE: the munged of this system");
            return Ok(Self::Found);
        }
        let private = Private::start()?;
        println!(
            "MUNGE: no munged of the system answers; started a private one at {}",
            private.socket().display()
        );
        Ok(Self::Private(private))
    }

    /// The socket to hand to the programs, unless they find it themselves.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        match self {
            Self::Found => None,
            Self::Private(private) => Some(private.socket()),
        }
    }
}

impl Private {
    /// munged refuses files whose directories others could change, so every directory here belongs to the user it
    /// runs as, and none is writable by anyone else.
    fn start() -> Outcome<Self> {
        let account = getuid().is_root().then(unprivileged_account);
        let directory = tempfile::Builder::new().prefix("mochi-munged-").tempdir()?;
        let top = directory.path();
        own(top, 0o755, account)?;
        for (name, mode) in [
            ("run", 0o755),
            ("etc", 0o700),
            ("log", 0o700),
            ("lib", 0o700),
        ] {
            let path = top.join(name);
            fs::create_dir(&path)?;
            own(&path, mode, account)?;
        }
        let key = top.join("etc/munge.key");
        write_key(&key)?;
        own(&key, 0o600, account)?;

        let log = top.join("log/munged.log");
        let munged = program("munged").ok_or("munged is not installed")?;
        let mut command = Command::new(munged);
        command
            .arg("--foreground")
            .arg(argument("--socket", &top.join("run/munge.sock")))
            .arg(argument("--key-file", &key))
            .arg(argument("--pid-file", &top.join("run/munged.pid")))
            .arg(argument("--seed-file", &top.join("lib/munged.seed")))
            .args([
                "--num-threads=2",
                "--group-update-time=-1",
                "--origin=127.0.0.1",
            ])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        if let Some(account) = account {
            // The standard library drops root's supplementary groups with the uid.
            command.uid(account.uid).gid(account.gid);
        }
        let daemon = Running::start("munged", &mut command)?;
        let mut private = Self { daemon, directory };
        private.wait_until_ready().map_err(|error| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("{error}; its log says:\n{}", log.trim_end())
        })?;
        Ok(private)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/munge.sock")
    }

    fn wait_until_ready(&mut self) -> Outcome {
        let deadline = Instant::now() + START_TIMEOUT;
        let socket = self.socket();
        loop {
            if let Some(status) = self.daemon.ended()? {
                return Err(format!("the private munged ended at once ({status})").into());
            }
            if socket.exists() && answers(Some(&socket)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "the private munged did not answer within {} s",
                    START_TIMEOUT.as_secs()
                )
                .into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // A graceful end; `Running` kills what does not take it.
        let _ = self.daemon.terminate(STOP_TIMEOUT);
    }
}

/// Whether a credential can be made and read there, by the munged of the system if `socket` is `None`.
fn answers(socket: Option<&Path>) -> bool {
    let with_socket = |name: &str| {
        let mut command = Command::new(name);
        command.args(socket.map(|socket| argument("--socket", socket)));
        command
    };
    let Some(credential) = succeeds_within(
        with_socket("munge").args(["--string", "probe"]),
        PROBE_TIMEOUT,
    ) else {
        return false;
    };
    let Ok(file) = tempfile::NamedTempFile::new() else {
        return false;
    };
    fs::write(file.path(), credential).is_ok()
        && succeeds_within(
            with_socket("unmunge").arg(argument("--input", file.path())),
            PROBE_TIMEOUT,
        )
        .is_some()
}

/// `--name=path`, whatever bytes the path holds.
fn argument(name: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(name);
    argument.push("=");
    argument.push(path);
    argument
}

fn own(path: &Path, mode: u32, account: Option<Account>) -> Outcome {
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    if let Some(account) = account {
        chown(path, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}

fn write_key(path: &Path) -> Outcome {
    let mut random = File::open("/dev/urandom")?.take(KEY_LENGTH);
    let mut key = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    std::io::copy(&mut random, &mut key)?;
    Ok(())
}

/// The user that root runs munged as: the package's own where there is one.
fn unprivileged_account() -> Account {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    account_of("munge", &accounts).unwrap_or(NOBODY)
}

fn account_of(name: &str, passwd: &str) -> Option<Account> {
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect())
        .find(|f: &Vec<&str>| f[0] == name)?;
    Some(Account {
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
    })
}

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::realm::{Home, skip};
use super::tools::{self, StartError};

const READY_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a file or a process that gives no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const SOCKET_PATH_MAX: usize = 107;

/// What kind of daemon to start in a realm.
#[derive(Debug)]
#[must_use]
pub struct MungedOptions {
    home: Arc<Home>,
    uid: Option<u32>,
    clock_offset: i64,
    arguments: Vec<String>,
}

/// A `munged` that belongs to this process; ended, by its own process id, when this is dropped.
#[derive(Debug)]
pub struct Munged {
    child: Child,
    host: PathBuf,
    socket: PathBuf,
    paused: bool,
    _home: Arc<Home>,
}

impl MungedOptions {
    pub(super) fn new(home: Arc<Home>) -> Self {
        Self { home, uid: None, clock_offset: 0, arguments: Vec::new() }
    }

    /// Runs the daemon as this user and the group of the same number; only root can.
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Sets the daemon's clock ahead by so many seconds, or back by a negative number; needs
    /// libfaketime.
    pub fn clock_offset(mut self, seconds: i64) -> Self {
        self.clock_offset = seconds;
        self
    }

    /// Adds an option of munged(8).
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// As [`start`](Self::start), or `None` after one line on stderr if a program or library is not
    /// installed.
    ///
    /// # Panics
    /// If it does not start; with [`REQUIRE_MUNGED`](super::REQUIRE_MUNGED) set to 1 also if
    /// something is not installed.
    pub fn start_for_test(self) -> Option<Munged> {
        match self.start() {
            Ok(munged) => Some(munged),
            Err(error @ StartError::NotInstalled { .. }) => skip(&error),
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
    }

    /// Starts the daemon and waits until it serves its socket.
    ///
    /// # Errors
    /// [`StartError`], with what the daemon wrote.
    pub fn start(self) -> Result<Munged, StartError> {
        let program = tools::munged()?;
        let preload = if self.clock_offset == 0 { None } else { Some(tools::libfaketime()?) };
        let host = self.home.make_host()?;
        let host = fs::canonicalize(&host).map_err(StartError::io("find the daemon's directory"))?;
        let socket = host.join("run/sock");
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(StartError::PathTooLong { path: socket });
        }
        let words = host.join("words");
        let output = File::create(&words).map_err(StartError::io("make a file for the daemon's output"))?;
        let errors = output.try_clone().map_err(StartError::io("share the file for the daemon's output"))?;

        let mut command = Command::new(program);
        command
            .arg("--foreground") // our child, so its process id stays ours; needed with libfaketime, too
            .arg(argument("--socket", &socket))
            .arg(argument("--key-file", &host.join("private/munge.key")))
            .arg(argument("--pid-file", &host.join("run/pid")))
            .arg(argument("--seed-file", &host.join("private/seed")))
            .arg("--group-update-time=-1")
            .arg("--num-threads=2")
            .arg("--origin=127.0.0.1")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
            command.env("FAKETIME", format!("{:+}s", self.clock_offset));
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        if let Some(uid) = self.uid {
            for path in [".", "run", "private", "private/munge.key"] {
                chown(host.join(path), Some(uid), Some(uid))
                    .map_err(StartError::io(format!("give the daemon's files to uid {uid}")))?;
            }
            command.uid(uid).gid(uid); // std drops the supplementary groups with it
        }
        let child = command.spawn().map_err(StartError::io("run munged"))?;
        let mut munged = Munged { child, host, socket, paused: false, _home: self.home };
        munged.await_ready()?;
        Ok(munged)
    }
}

impl Munged {
    /// The path of its socket, for [`MungeBuilder::socket`](crate::munge::MungeBuilder::socket) and
    /// `munge --socket`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it in its tracks: it keeps its socket and answers nobody, like a daemon that hangs.
    ///
    /// # Panics
    /// If the signal cannot be sent.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP).expect("a signal to our own child");
        self.paused = true;
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Panics
    /// If the signal cannot be sent.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT).expect("a signal to our own child");
        self.paused = false;
    }

    /// Kills it without notice: it leaves its socket behind.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn crash(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// Its messages so far.
    pub fn what_it_wrote(&self) -> String {
        fs::read_to_string(self.host.join("words")).unwrap_or_default()
    }

    /// The text of a credential that another user makes with the program `munge`; only root can.
    ///
    /// `options` are those of munge(1), for instance `["--restrict-uid=0", "--ttl=30"]`; without
    /// input the payload is empty.
    ///
    /// # Errors
    /// [`StartError`], with what the program wrote.
    pub fn encode_as(&self, uid: u32, payload: &str, options: &[&str]) -> Result<String, StartError> {
        let mut command = Command::new(tools::munge()?);
        command.arg(argument("--socket", &self.socket)).args(["--string", payload]).args(options).stdin(Stdio::null());
        if uid != rustix::process::geteuid().as_raw() {
            command.uid(uid).gid(uid);
        }
        let output = command.output().map_err(StartError::io(format!("run munge as uid {uid}")))?;
        if !output.status.success() {
            return Err(StartError::Refused { reason: String::from_utf8_lossy(&output.stderr).into_owned() });
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// munged writes its pid file once the socket listens.
    fn await_ready(&mut self) -> Result<(), StartError> {
        let pid_file = self.host.join("run/pid");
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if fs::metadata(&pid_file).is_ok_and(|file| file.len() > 0) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().map_err(StartError::io("wait for munged"))? {
                let reason =
                    format!("{} (code {:?}, signal {:?})", self.what_it_wrote(), status.code(), status.signal());
                return Err(StartError::Refused { reason });
            }
            if Instant::now() >= deadline {
                return Err(StartError::NotReady { seconds: READY_TIMEOUT.as_secs(), reason: self.what_it_wrote() });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        // Not waited for yet, so the id is still our child's.
        kill_process(Pid::from_child(&self.child), signal)
    }
}

impl Drop for Munged {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return; // it is gone already
        }
        if self.paused {
            let _ = self.child.kill();
        } else if self.signal(Signal::TERM).is_ok() {
            let deadline = Instant::now() + STOP_TIMEOUT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(LOOK_AGAIN);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn argument(name: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(name);
    argument.push("=");
    argument.push(path);
    argument
}

//! Example programs as processes under watchdogs; none outlives its guard, and each is ended by its own id.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Generous, since it only ends tests that have failed.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// A running example. Its standard output arrives line by line, its standard error when it has ended.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

/// How an example ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: String,
}

/// The command of an example. Its credentials come from `socket`.
pub(crate) fn example(name: &str, arguments: &[&str], socket: &Path) -> Command {
    let mut command = Command::new(example_path(name));
    // A libfabric with PSM, as Debian's, ends the process at each signal otherwise, before it can end by itself.
    command.env("IPATH_NO_BACKTRACE", "1");
    command.args(arguments).env("MUNGE_SOCKET", socket).env_remove("MOCHI_LOG").env_remove("RUST_LOG");
    command
}

/// Where cargo puts the examples: beside the tool, in a directory of their own.
pub(crate) fn example_path(name: &str) -> PathBuf {
    let tool = Path::new(env!("CARGO_BIN_EXE_mochi"));
    let path = tool.parent().expect("the tool is in a directory").join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples` first", path.display());
    path
}

/// Makes `command` run as another user; only root may.
pub(crate) fn as_user(command: &mut Command, uid: u32, gid: u32) -> &mut Command {
    command.uid(uid).gid(gid)
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command);
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut stderr = child.stderr.take().expect("standard error is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, lines, stderr: Some(stderr) }
    }

    /// A server, and the address it announces.
    pub(crate) fn server(command: &mut Command) -> (Self, String) {
        let server = Self::start(command);
        let line = server.line();
        let address = line.strip_prefix("Server running at address ");
        let address = address.unwrap_or_else(|| panic!("{line:?} is no announcement")).to_owned();
        (server, address)
    }

    /// The next line of standard output.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(WATCHDOG).expect("a line before the watchdog barks")
    }

    /// Waits for the example to end by itself.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + WATCHDOG;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "the example did not end");
            thread::sleep(Duration::from_millis(5));
        };
        let stdout = self.lines.iter().collect();
        let stderr = self.stderr.take().expect("nobody else joins it").join().expect("the reader does not panic");
        Ended { status, stdout, stderr }
    }

    /// Asks the example to end (SIGTERM).
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends the example without giving it a chance (SIGKILL).
    pub(crate) fn kill(self) -> Ended {
        self.signal(Signal::KILL);
        self.wait()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a positive process id");
        kill_process(pid, signal).expect("the example still runs");
    }
}

/// Starts `command`. A program that a test has just copied may be busy for a moment: a child that another test forked
/// meanwhile has it open for writing until it runs a program of its own.
fn spawn(command: &mut Command) -> Child {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            started => return started.expect("the example starts"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Failing means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Status 1 and exactly one line on standard error, which is returned.
    pub(crate) fn one_error_line(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("{self:?}"))
    }

    pub(crate) fn assert_success(&self) {
        assert!(self.status.success(), "{self:?}");
        assert_eq!(self.stderr, "", "{self:?}");
    }
}

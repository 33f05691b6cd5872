//! Processes that a test starts, mostly itself in another role.
//!
//! A test binary that plays roles has a test called `role`, which does what [`role`] says and nothing without one.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Awaited, PATIENCE, Patience, comes_to, tasks};

const ROLE: &str = "MOCHI_TEST_ROLE";
/// What lines begin with that are for the process that started this one.
const SAYS: &str = "says ";

/// What to be, if another test started this process.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Says something to the process that started this one: one line.
pub fn say(text: &str) {
    println!("\n{SAYS}{text}");
    std::io::stdout().flush().expect("somebody reads it");
}

/// A process that a test has started, killed when it is dropped.
pub struct Process {
    child: Child,
    /// The first line that it said; empty after [`Process::unheard`].
    pub says: String,
    lines: Receiver<String>,
}

impl Process {
    /// This binary in a role, once it has said something.
    ///
    /// # Panics
    /// If it ends before, or says nothing within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn start(role: &str) -> Self {
        Self::start_in("role", role)
    }

    /// As [`Process::start`], by another test than `role`, such as `module::role`.
    #[track_caller]
    pub fn start_in(test: &str, role: &str) -> Self {
        let own = Command::new(std::env::current_exe().expect("this program has a path"));
        Self::run(own, test, role).unwrap_or_else(|| panic!("{role}: it ended without saying anything"))
    }

    /// As [`Process::start`], as another user; only for root.
    #[track_caller]
    pub fn start_as(uid: u32, role: &str) -> Self {
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        // The build's directory may be closed to others.
        let copy = std::env::temp_dir().join(format!("mochi-test-{}-{number}", std::process::id()));
        fs::copy(std::env::current_exe().expect("this program has a path"), &copy).expect("there is room for a copy");
        let mut command = Command::new(&copy);
        command.uid(uid).gid(uid).current_dir("/");
        let process = Self::run(command, "role", role);
        let _ = fs::remove_file(&copy);
        process.unwrap_or_else(|| panic!("{role}: it ended without saying anything"))
    }

    /// This binary in a role, not waited for: it may not have come to its test yet.
    ///
    /// # Panics
    /// If it does not start.
    pub fn unheard(mut command: Command, role: &str) -> Self {
        play(&mut command, "role", role);
        Self::listening(&mut command, SAYS).expect("the binary starts")
    }

    /// A test binary that `command` names, in a role; `None` if it does not start or ends without saying anything.
    ///
    /// # Panics
    /// If it says nothing within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn run(mut command: Command, test: &str, role: &str) -> Option<Self> {
        play(&mut command, test, role);
        Self::speaking(command, SAYS)
    }

    /// Any program, once it has printed a line that begins with `prefix`, which is left out of what it [`says`](Self::says).
    /// Other lines are thrown away. `None` if it does not start or ends before.
    ///
    /// # Panics
    /// If it says nothing within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn speaking(mut command: Command, prefix: &'static str) -> Option<Self> {
        let mut process = Self::listening(&mut command, prefix).ok()?;
        process.says = process.next_line()?;
        Some(process)
    }

    pub(crate) fn listening(command: &mut Command, prefix: &'static str) -> io::Result<Self> {
        let mut child = spawn(command.stdout(Stdio::piped()))?;
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        // The pipe stays open, and is read, as long as the process.
        thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            for said in lines.filter_map(|line| Some(line.strip_prefix(prefix)?.to_owned())) {
                let _ = sender.send(said);
            }
        });
        Ok(Self { child, says: String::new(), lines })
    }

    /// What it says next; `None` if it has ended.
    ///
    /// # Panics
    /// At the caller's line, if it says nothing within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn next_line(&self) -> Option<String> {
        self.next_line_within(PATIENCE)
    }

    /// As [`Process::next_line`], with another patience.
    #[track_caller]
    pub fn next_line_within(&self, patience: Duration) -> Option<String> {
        let _awaited = Awaited::here(format!("a line of process {}", self.id()));
        let mut patience = Patience::of(patience);
        loop {
            match self.lines.recv_timeout(Duration::from_millis(500)) {
                Ok(line) => return Some(line),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    assert!(!patience.is_over(), "process {} says nothing: {:?}", self.id(), tasks(&self.id()));
                }
            }
        }
    }

    /// The lines that nobody has asked for, once it has ended.
    pub(crate) fn remaining_lines(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// Its standard error, if that is a pipe.
    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// The kernel's number of it, as a name in `/proc`.
    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Ends it without giving it a chance, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end, without limit.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a positive process id");
        kill_process(id, signal).expect("it still runs");
    }

    /// Stops it, and waits until each of its threads has: the signal alone takes effect a little later.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let id = self.id();
        comes_to(
            "each thread has stopped",
            || tasks(&id),
            |tasks| !tasks.is_empty() && tasks.iter().all(|task| task.state == 'T'),
        );
    }

    /// Lets it go on after [`Process::stop`].
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }
}

fn play(command: &mut Command, test: &str, role: &str) {
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role).stdin(Stdio::null());
}

/// Starts `command`. A program that a test has just written may be busy for a moment: a child that another test forked
/// meanwhile has it open for writing until it runs a program of its own.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut patience = Patience::default();
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && !patience.is_over() => {
                thread::sleep(Duration::from_millis(5));
            }
            started => return started,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

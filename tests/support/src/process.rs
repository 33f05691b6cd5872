//! Processes that a test starts, mostly itself in another role.
//!
//! A test binary that plays roles has a test called `role`, which does what [`role`] says and nothing without one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Awaited, Patience, comes_to, tasks};

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
    /// The first line that it said; empty if it has been taken.
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

    /// A test binary that `command` names, in a role; `None` if it does not start or ends without saying anything.
    ///
    /// # Panics
    /// If it says nothing within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn run(mut command: Command, test: &str, role: &str) -> Option<Self> {
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role).stdin(Stdio::null());
        Self::speaking(command, SAYS)
    }

    /// Any program, once it has printed a line that begins with `prefix`, which is left out of what it [`says`](Self::says).
    /// Other lines are thrown away. `None` if it does not start or ends before.
    ///
    /// # Panics
    /// If it says nothing within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn speaking(mut command: Command, prefix: &'static str) -> Option<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        // The pipe stays open, and is read, as long as the process.
        thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            for said in lines.filter_map(|line| Some(line.strip_prefix(prefix)?.to_owned())) {
                let _ = sender.send(said);
            }
        });
        let mut process = Self { child, says: String::new(), lines };
        process.says = process.next_line()?;
        Some(process)
    }

    /// What it says next; `None` if it has ended.
    ///
    /// # Panics
    /// At the caller's line, if it says nothing within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn next_line(&self) -> Option<String> {
        let _awaited = Awaited::here(format!("a line of process {}", self.id()));
        let mut patience = Patience::default();
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

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

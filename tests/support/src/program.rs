//! Programs as their users see them: what they print, and how they end.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;

use crate::{Awaited, PATIENCE, Patience, Process, tasks};

/// What a server of ours prints before its address.
const ANNOUNCEMENT: &str = "Server running at address ";

/// A running program without standard input. Its standard output arrives line by line, its standard error when it has
/// ended. It is killed when this is dropped.
pub struct Program {
    process: Process,
    stderr: JoinHandle<String>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, or the signal.
    pub status: ExitStatus,
    /// The lines that it printed and that nobody had read.
    pub stdout: Vec<String>,
    /// What it printed on standard error.
    pub stderr: String,
}

impl Program {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::listening(command, "").expect("the program starts");
        let mut stderr = process.take_stderr().expect("it is piped");
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { process, stderr }
    }

    /// Starts a server, and returns the address that it announces, too.
    ///
    /// # Panics
    /// If it does not start, or its first line is another one.
    #[track_caller]
    pub fn server(command: &mut Command) -> (Self, String) {
        let server = Self::start(command);
        let line = server.line();
        let address = line.strip_prefix(ANNOUNCEMENT);
        let address = address.unwrap_or_else(|| panic!("{line:?} is no announcement")).to_owned();
        (server, address)
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it does not start, or does not end within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn run(command: &mut Command) -> Ended {
        Self::start(command).wait()
    }

    /// The next line of standard output.
    ///
    /// # Panics
    /// If there is none within [`PATIENCE`](crate::PATIENCE), or it has ended.
    #[track_caller]
    pub fn line(&self) -> String {
        self.process.next_line().expect("one more line before its end")
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn wait(self) -> Ended {
        self.wait_within(PATIENCE)
    }

    /// As [`Program::wait`], with another patience.
    #[track_caller]
    pub fn wait_within(mut self, patience: Duration) -> Ended {
        let _awaited = Awaited::here(format!("the end of process {}", self.process.id()));
        let mut patience = Patience::of(patience);
        while !self.process.has_ended() {
            assert!(!patience.is_over(), "it does not end: {:?}", tasks(&self.process.id()));
            thread::sleep(Duration::from_millis(2));
        }
        let status = self.process.wait();
        let stdout = self.process.remaining_lines();
        let stderr = self.stderr.join().expect("the reader does not panic");
        Ended { status, stdout, stderr }
    }

    /// Asks it to end (SIGTERM), and waits for that.
    ///
    /// # Panics
    /// If it has ended already, or does not end within [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.process.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it without giving it a chance (SIGKILL).
    #[track_caller]
    pub fn kill(self) -> Ended {
        self.process.signal(Signal::KILL);
        self.wait()
    }
}

impl Ended {
    /// The one line on standard error of a program that failed, without its `error: `.
    ///
    /// # Panics
    /// If the status is not 1, or there are more lines or none.
    #[track_caller]
    pub fn one_error_line(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("{self:?}"))
    }

    /// What was said of wrong arguments: with status 2 and nothing on standard output.
    ///
    /// # Panics
    /// If that is not so.
    #[track_caller]
    pub fn usage_error(&self) -> &str {
        assert_eq!(self.status.code(), Some(2), "{self:?}");
        assert_eq!(self.stdout, [""; 0], "{self:?}");
        assert!(!self.stderr.is_empty(), "{self:?}");
        &self.stderr
    }

    /// That it has done what it was to do, and has complained of nothing.
    ///
    /// # Panics
    /// If that is not so.
    #[track_caller]
    pub fn assert_success(&self) {
        assert!(self.status.success(), "{self:?}");
        assert_eq!(self.stderr, "", "{self:?}");
    }

    /// What it printed, each line with its end, of a program that succeeded.
    ///
    /// # Panics
    /// If it failed, or has complained of something.
    #[track_caller]
    pub fn text(&self) -> String {
        self.assert_success();
        self.stdout.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

//! Child processes under a watchdog: none outlives its guard, and each is ended by its own process id.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Outcome, interruption};

/// How often a waiting task looks whether a child has ended.
const POLL: Duration = Duration::from_millis(10);

/// A child process that is killed and reaped when this is dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts `command` with its output left as the caller set it.
    pub(crate) fn start(name: &str, command: &mut Command) -> Outcome<Self> {
        interruption::check()?;
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name: name.into(), child })
    }

    /// Starts `command`, prints each line of its output with `name` before it as it comes, and also hands the lines
    /// of its standard output to the caller. The receiver ends when the process closes its standard output.
    pub(crate) fn start_shown(name: &str, command: &mut Command) -> Outcome<(Self, Receiver<String>)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Self::start(name, command)?;
        let (sender, lines) = mpsc::channel();
        let stdout = running.child.stdout.take().expect("standard output is piped");
        let stderr = running.child.stderr.take().expect("standard error is piped");
        show(name, stdout, Some(sender));
        show(name, stderr, None);
        Ok((running, lines))
    }

    /// Waits until the process ends; past `timeout` it is killed and that is the error.
    pub(crate) fn wait_within(&mut self, timeout: Duration) -> Outcome<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.child.kill()?;
                self.child.wait()?;
                return Err(format!("{} did not end within {} s and was killed", self.name, timeout.as_secs()).into());
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the process to end (SIGTERM) and waits for it as [`wait_within`](Self::wait_within) does.
    pub(crate) fn terminate(&mut self, timeout: Duration) -> Outcome<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            kill_process(pid.expect("a child has a positive process id"), Signal::TERM)?;
        }
        self.wait_within(timeout)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Failing means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end without showing it; `None` if it cannot start, fails, or takes longer than `timeout`.
pub(crate) fn succeeds_within(command: &mut Command, timeout: Duration) -> Option<Vec<u8>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running::start("a probe", command).ok()?;
    let mut stdout = running.child.stdout.take().expect("standard output is piped");
    let reader = thread::spawn(move || {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).map(|_| output)
    });
    let status = running.wait_within(timeout).ok()?;
    let output = reader.join().ok()?.ok()?;
    status.success().then_some(output)
}

/// Prints the lines of `stream` as they come, each behind `name`, until it ends.
fn show(name: &str, stream: impl Read + Send + 'static, lines: Option<Sender<String>>) {
    let name = name.to_owned();
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            say!("  {name} | {line}");
            if let Some(lines) = &lines {
                // Nobody listens any more once the caller has read what it wanted.
                let _ = lines.send(line);
            }
        }
    });
}

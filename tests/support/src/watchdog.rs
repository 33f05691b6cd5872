//! What ends a test that hangs, and says first where it is.

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::Location;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::{Awaited, Patience, descriptors, tasks};

/// Aborts the process unless it is dropped in time.
///
/// First it prints, past whatever captures the output of tests: the waits under way with their lines
/// ([`Awaited`]), what the test would show of its state, the descriptors, the threads, and their stacks where `gdb` is
/// installed and may look.
pub struct Watchdog {
    over: Arc<AtomicBool>,
    thread: Thread,
}

impl Watchdog {
    /// Barks when the caller's test, called `name`, is not over after `patience`, and a fifth more.
    #[track_caller]
    pub fn start(name: impl Into<String>, patience: Duration) -> Self {
        Self::showing(name, patience, String::new)
    }

    /// As [`Watchdog::start`]; prints what `state` returns, too. It is called on another thread while the test hangs, so it
    /// must not wait for anything that the test holds.
    #[track_caller]
    pub fn showing(
        name: impl Into<String>,
        patience: Duration,
        state: impl FnOnce() -> String + Send + 'static,
    ) -> Self {
        let (name, place) = (name.into(), Location::caller());
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let watch = move || {
            // Without waking up: some tests count who does.
            let end = Instant::now() + patience;
            while !seen.load(Ordering::Acquire) && Instant::now() < end {
                thread::park_timeout(end.saturating_duration_since(Instant::now()));
            }
            // A process that was stopped for all of that has this to go on.
            let mut patience = Patience::of(patience / 5);
            while !seen.load(Ordering::Acquire) {
                if patience.is_over() {
                    bark(&name, place, state);
                }
                thread::park_timeout(Duration::from_millis(100));
            }
        };
        let watching = thread::Builder::new().name("watchdog".to_owned()).spawn(watch).expect("a thread starts");
        Self { over, thread: watching.thread().clone() }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Says where everybody is, and ends the process. What is cheap and certain comes first.
fn bark(name: &str, place: &Location<'_>, state: impl FnOnce() -> String) -> ! {
    let say = |text: String| drop(std::io::stderr().write_all(text.as_bytes()));
    say(format!("\ntest {name} hangs; it began at {place}\n"));
    say(Awaited::all());
    say(threads());
    say(format!("descriptors: {:?}\n", descriptors("self")));
    say(format!("{}\n", state()));
    stacks();
    std::process::abort()
}

/// The threads of this process, a line each.
fn threads() -> String {
    let mut text = String::new();
    for task in tasks("self") {
        let _ = writeln!(text, "{task:?}");
    }
    text
}

/// Has `gdb` print the stacks of all threads, if it is there. It stops this process meanwhile, for a minute at the most.
fn stacks() {
    let own = std::process::id().to_string();
    let ask =
        ["60", "gdb", "-nx", "-batch", "-ex", "set debuginfod enabled off", "-ex", "thread apply all bt 48", "-p"];
    let mut gdb = Command::new("timeout");
    gdb.args(ask).arg(own).stdin(Stdio::null()).stdout(std::io::stderr());
    let _ = gdb.status();
}

//! What becomes of a task that is told to end: first its children do, and then it ends as if they had failed, so that
//! no process and no directory of it stays behind.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often children are looked for that began meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// Catches SIGINT, SIGTERM and SIGHUP from now on.
pub(crate) fn watch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let caught = |kind| signal(kind);
    let (mut interrupt, mut terminate, mut hang_up) =
        (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?, caught(SignalKind::hangup())?);
    drop(entered);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Release);
        loop {
            for child in children() {
                // Failing means that it has ended already.
                let _ = kill_process(child, Signal::TERM);
            }
            thread::sleep(AGAIN);
        }
    })?;
    Ok(())
}

/// Ends the task as a signal does.
pub(crate) fn interrupt() {
    let _ = kill_process(getpid(), Signal::TERM);
}

/// Whether it was told to end.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// An error once it was told to end: nothing more is to begin.
pub(crate) fn check() -> Outcome {
    if is_interrupted() { Err("interrupted".into()) } else { Ok(()) }
}

/// The processes that this one has started.
fn children() -> impl Iterator<Item = Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let ids = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    ids.filter_map(|id| Pid::from_raw(id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_found_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let id = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let is_found = || children().any(|found| Some(found) == id);
        assert!(is_found());
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        assert!(!is_found());
    }
}

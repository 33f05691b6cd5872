//! What tests that wait in vain say before they end.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mochi_test_support::{Awaited, Process, Watchdog, comes_to, role, say};

/// The line in [`playing`] that hangs.
const HANGING_LINE: u32 = 22;

/// Not a test of its own: what a process that a test starts does.
#[test]
fn playing() {
    match role().as_deref() {
        None => {}
        Some("hang") => {
            let state = || "the kettle is cold".to_owned();
            let _watchdog = Watchdog::showing("the tea", Duration::from_millis(100), state);
            let _awaited = Awaited::here("the water to boil");
            let sleeper = thread::Builder::new().name("the cook".to_owned()).spawn(|| thread::sleep(Duration::MAX));
            comes_to("the cook's return", || "asleep", |_| sleeper.as_ref().unwrap().is_finished());
        }
        Some("be in time") => {
            drop(Watchdog::start("an egg", Duration::from_millis(100)));
            thread::sleep(Duration::from_secs(2));
        }
        Some("speak") => {
            say("one");
            say("two");
            std::process::exit(0);
        }
        Some("be silent") => {}
        Some(other) => panic!("no such role: {other}"),
    }
}

fn played(role: &str) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // Captured as usual: what a watchdog says is not lost with the rest of the output.
    command.args(["--exact", "playing", "--test-threads=2"]).env("MOCHI_TEST_ROLE", role).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn a_hang_is_told_with_its_lines_states_and_threads() {
    let output = played("hang");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(6), "{told}");
    for part in ["test the tea hangs", "the water to boil", "the kettle is cold", "the cook", "descriptors: ", "pipe:"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let wait = told.lines().find(|line| line.contains("the cook's return")).expect("it is listed");
    assert!(wait.starts_with(&format!("{}:{HANGING_LINE}:", file!())), "{wait}");
    assert!(wait.contains("last seen: \"asleep\""), "{wait}");
}

#[test]
fn a_watchdog_that_is_dropped_in_time_does_not_bark() {
    let output = played("be in time");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_process_is_heard_line_by_line_until_it_ends() {
    let mut process = Process::start_in("playing", "speak");
    assert_eq!(process.says, "one");
    assert_eq!(process.next_line().as_deref(), Some("two"));
    assert_eq!(process.next_line(), None);
    assert!(process.wait().success());
}

#[test]
fn a_process_that_says_nothing_is_none() {
    let own = Command::new(std::env::current_exe().unwrap());
    assert!(Process::run(own, "playing", "be silent").is_none());
}

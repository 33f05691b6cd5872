//! `cargo xtask valgrind`: the conformance suite over Mercury under valgrind, which sees what is read before it is written,
//! used after it was freed, or lost, on both sides of the border to C.
//!
//! Over na+sm it may find classes lost that were made in `HG_Init_opt2`: the plugin refuses to end while it holds a message
//! that nobody took, and such a class is left behind. There is no suppression for them, which would hide others.

use std::process::Command;

use crate::prepare::program;
use crate::{Outcome, cargo};

/// What valgrind looks for. Memory that is still pointed to at the end is libfabric's and Mercury's way.
const VALGRIND: &str = "valgrind --quiet --error-exitcode=99 --num-callers=40 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite";

/// The parts of the suite that take less than their watchdogs although all is thirty times slower, of each transport of Mercury.
const PARTS: [&str; 7] = ["bulk", "calls", "cancel", "handlers", "lifecycle", "providers", "raw"];
const TRANSPORTS: [&str; 2] = ["na_sm", "ofi_tcp"];
/// Tests that move too much for that.
const SLOW: [&str; 6] =
    ["many", "large", "every_size", "a_dropped_transfer", "taking_", "shutting_down_ends_transfers"];

/// Runs it; fails with the first finding's test, after valgrind has said what it found.
pub(crate) fn run() -> Outcome {
    if !mochi_sys::LINKED {
        say!("Mercury is not installed here: there is nothing to look at.");
        return Ok(());
    }
    if program("valgrind").is_none() {
        return Err("valgrind is not installed".into());
    }
    let suite = ["test", "--package=margo-rs", "--test=conformance", "--"];
    let listed = cargo().args(suite).arg("--list").output()?;
    if !listed.status.success() {
        return Err(format!("the suite does not build: {}", String::from_utf8_lossy(&listed.stderr)).into());
    }
    let listed = String::from_utf8(listed.stdout)?;
    for transport in TRANSPORTS {
        let names: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .filter(|name| name.rsplit("::").next() == Some(transport))
            .filter(|name| name.split("::").next().is_some_and(|part| PARTS.contains(&part)))
            .filter(|name| !SLOW.iter().any(|slow| name.contains(slow)))
            .collect();
        if names.is_empty() {
            return Err(format!("the suite has no tests over {transport}").into());
        }
        say!("\n== {} tests over {transport} under valgrind ==", names.len());
        let mut command: Command = cargo();
        // Cargo puts it before the test's program.
        command.env(runner(), VALGRIND).args(suite).args(["--test-threads=1", "--exact"]).args(names);
        if !command.status()?.success() {
            return Err(format!("valgrind or a test has something to say over {transport}").into());
        }
    }
    say!("valgrind found nothing.");
    Ok(())
}

/// The variable that names a program to run tests with.
fn runner() -> String {
    format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase())
}

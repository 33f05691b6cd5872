//! `cargo xtask test`: all tests of the workspace, then the one that kills processes for a minute, the fuzz targets, and what
//! did not run and why.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::munged::{Munged, SOCKET_VARIABLE};
use crate::prepare::program;
use crate::{Outcome, cargo, fuzz, interruption, prepare, workspace};

/// With this set a test that finds no munged fails instead of skipping itself.
const REQUIRE_MUNGED: &str = "MOCHI_REQUIRE_MUNGED";

/// Seconds for which `margo-rs/tests/kills.rs` goes on.
const KILL_SECONDS: &str = "MOCHI_KILL_SECONDS";

/// What tests of sessions and examples go over, unless it is native+tcp.
const TRANSPORT: &str = "MOCHI_TEST_TRANSPORT";

/// What they go over where Mercury is linked. Loopback only.
const MERCURY: [&str; 2] = ["ofi+tcp://127.0.0.1", "na+sm"];

/// One part of the run and how it went.
struct Part {
    name: String,
    passed: bool,
    took: Duration,
}

/// Prepares the machine and runs everything; a failed part does not keep the others from running.
pub(crate) fn run(fuzz_time: Duration, kill_time: Duration) -> Outcome {
    prepare::install(&[prepare::TO_BUILD, prepare::TO_FUZZ])?;
    let munged = Munged::find_or_start()?;
    let mut parts = Vec::new();
    let mut step = |name: &str, command: &mut Command| {
        command.env(REQUIRE_MUNGED, "1").envs(munged.socket().map(|socket| (SOCKET_VARIABLE, socket)));
        parts.push(measure(name, command));
    };

    let everything = ["--workspace", "--all-features"];
    if program("cargo-nextest").is_some() {
        step("tests", cargo().args(["nextest", "run", "--no-fail-fast"]).args(everything));
        step("doc tests", cargo().args(["test", "--doc"]).args(everything));
    } else {
        step("tests and doc tests", cargo().args(["test", "--no-fail-fast"]).args(everything));
    }
    // All of its tests at once: they wait for processes to start, most of the time.
    let kills = ["test", "--package", "margo-rs", "--all-features", "--test", "kills", "--", "--test-threads=6"];
    let seconds = kill_time.as_secs();
    step(&format!("kills, {seconds} s"), cargo().args(kills).env(KILL_SECONDS, seconds.to_string()));
    let miri = has_miri();
    if miri {
        // Proptest asks where it is, to keep what it finds.
        let ring = ["+nightly", "miri", "test", "--package", "margo-rs", "--lib", "--", "transport::sm::ring_tests"];
        let mut command = Command::new("cargo");
        command.current_dir(workspace()).args(ring);
        step("the ring under Miri", command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("MOCHI_MERCURY", "off"));
    }
    // What else runs over Mercury where it is linked, besides the suites that know it themselves.
    for transport in MERCURY.iter().filter(|_| mochi_sys::LINKED) {
        let suites = ["-p", "mochi-auth", "--all-features", "--test", "sessions", "--test", "attacks"];
        // A process for each test, where that can be had: over ofi+tcp, engines leave hundreds of MiB to the next test,
        // which one of the attacks looks through.
        let mut command = cargo();
        match program("cargo-nextest") {
            Some(_) => command.args(["nextest", "run", "--no-fail-fast"]),
            None => command.args(["test", "--no-fail-fast"]),
        };
        step(&format!("sessions and attacks over {transport}"), command.args(suites).env(TRANSPORT, transport));
        let mut command = cargo();
        command.args(["test", "--no-fail-fast", "-p", "mochi-rs", "--test", "examples"]).env(TRANSPORT, transport);
        step(&format!("staged examples over {transport}"), &mut command);
    }
    for (target, mut command) in fuzz::commands(fuzz_time)? {
        step(&format!("fuzz target {target}, {} s", fuzz_time.as_secs()), &mut command);
    }
    if !miri {
        say!("\nMiri is not installed here (`rustup +nightly component add miri`): the ring did not run under it.");
    }
    summarise(&parts)
}

/// Whether a nightly toolchain has Miri.
fn has_miri() -> bool {
    let found = Command::new("cargo").args(["+nightly", "miri", "--version"]).output();
    found.is_ok_and(|output| output.status.success())
}

fn measure(name: &str, command: &mut Command) -> Part {
    if interruption::is_interrupted() {
        return Part { name: name.into(), passed: false, took: Duration::ZERO };
    }
    say!("\n== {name} ==");
    let start = Instant::now();
    let passed = match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("cannot start: {error}");
            false
        }
    };
    Part { name: name.into(), passed, took: start.elapsed() }
}

fn summarise(parts: &[Part]) -> Outcome {
    say!("\n== summary ==");
    for part in parts {
        let verdict = if part.passed { "passed" } else { "FAILED" };
        say!("  {verdict}  {} ({:.0} s)", part.name, part.took.as_secs_f64());
    }
    if mochi_sys::LINKED {
        say!("Mercury is linked: its suites ran with the others.");
    } else {
        say!("Mercury is not installed here: its suites did not run.");
    }
    match parts.iter().filter(|part| !part.passed).count() {
        0 => {
            say!("All {} parts passed.", parts.len());
            Ok(())
        }
        failed => Err(format!("{failed} of {} parts failed", parts.len()).into()),
    }
}

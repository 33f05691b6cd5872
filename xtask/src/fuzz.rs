//! The fuzz targets, run with libFuzzer on a stable toolchain.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::{Outcome, cargo, workspace};

/// What `cargo fuzz` asks of the compiler, without the address sanitizer that only a nightly toolchain has.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// Each target of `fuzz/fuzz_targets` with the command that builds it and runs it for `time`.
pub(crate) fn commands(time: Duration) -> Outcome<Vec<(String, Command)>> {
    Ok(targets()?
        .into_iter()
        .map(|target| (target.clone(), command(&target, time)))
        .collect())
}

fn targets() -> Outcome<BTreeSet<String>> {
    let directory = workspace().join("fuzz/fuzz_targets");
    if !directory.is_dir() {
        return Ok(BTreeSet::new());
    }
    let mut targets = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(
                path.file_stem()
                    .and_then(|stem| stem.to_str())
                    .map(str::to_owned),
            );
        }
    }
    Ok(targets)
}

fn command(target: &str, time: Duration) -> Command {
    let fuzz = workspace().join("fuzz");
    let corpus = fuzz.join("corpus").join(target);
    let artifacts = fuzz.join("artifacts").join(target);
    let mut command = cargo();
    command
        .env("RUSTFLAGS", FLAGS)
        .args(["run", "--release", "--bin", target, "--manifest-path"])
        .arg(fuzz.join("Cargo.toml"))
        .arg("--")
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg("-print_final_stats=1");
    let _ = fs::create_dir_all(&artifacts);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    if corpus.is_dir() {
        command.arg(corpus);
    }
    command
}

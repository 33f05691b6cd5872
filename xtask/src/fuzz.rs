//! The fuzz targets, run with libFuzzer on a stable toolchain; `fuzz/README.md` explains the flags.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::{Outcome, cargo, workspace};

/// What `cargo fuzz` asks of the compiler, without the address sanitizer that only a nightly toolchain has.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Each target of `fuzz/fuzz_targets` with the command that builds it and runs it for `time`.
pub(crate) fn commands(time: Duration) -> Outcome<Vec<(String, Command)>> {
    let host = host()?;
    targets()?.into_iter().map(|target| Ok((target.clone(), command(&target, &host, time)?))).collect()
}

fn targets() -> Outcome<BTreeSet<String>> {
    let mut targets = BTreeSet::new();
    for entry in fs::read_dir(workspace().join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    Ok(targets)
}

fn command(target: &str, host: &str, time: Duration) -> Outcome<Command> {
    let fuzz = workspace().join("fuzz");
    // New inputs go to the first directory, so that the corpus under version control stays as it is.
    let found = fuzz.join("target/found").join(target);
    let artifacts = fuzz.join("artifacts").join(target);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let corpus = fuzz.join("corpus").join(target);

    let mut command = cargo();
    command
        .current_dir(&fuzz)
        .env("RUSTFLAGS", FLAGS)
        // The targets are parsers of ours, and the instrumentation is not for what is linked.
        .env("MOCHI_MERCURY", "off")
        // The targets are outside of the workspace, with a lock file of their own that nothing else would find stale.
        .args(["run", "--locked", "--release"])
        // Naming the host keeps the instrumentation out of build scripts, which would not link with it.
        .args(["--target", host, "--bin", target, "--"])
        .arg(format!("-max_total_time={}", time.as_secs()))
        .args(["-max_len=4096", "-timeout=5", "-rss_limit_mb=512", "-print_final_stats=1", "-verbosity=0"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(found)
        .args(corpus.is_dir().then_some(corpus));
    Ok(command)
}

/// The triple of the machine this runs on.
fn host() -> Outcome<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not name its host")?.to_owned())
}

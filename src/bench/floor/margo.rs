//! The floor of transports that are Mercury's: what C Margo takes for the same, on the same plugin, in the same run.
//!
//! Its program is tests/margo/bench.c. It is compiled when it is wanted, where Margo and a C compiler are installed, so that
//! this tool has no other tie to Margo.

use std::io::Write;
use std::process::{Command, Stdio};

use mochi_rs::program::Outcome;
use tempfile::TempDir;

use super::super::Setup;
use super::super::case::{Case, Kind};
use super::super::process::Server;
use super::super::rounds::Span;
use super::super::sample::Sample;
use super::super::target::listen_address;

const SOURCE: &str = include_str!("../../../tests/margo/bench.c");
/// Of pkg-config.
const PACKAGE: &str = "margo";

/// The compiled program; its directory goes with it.
pub(in super::super) struct Margo {
    directory: TempDir,
    version: String,
}

impl Margo {
    /// Compiles the program, which takes a second or two.
    ///
    /// # Errors
    /// Margo is not installed here, or what is there does not do; says which, in few words.
    pub(in super::super) fn build() -> Result<Self, String> {
        let version = pkg_config(&["--modversion"])?;
        let flags = pkg_config(&["--cflags", "--libs"])?;
        let libraries = pkg_config(&["--variable=libdir"])?;
        let directory = TempDir::new().map_err(|error| format!("no directory to compile its program in: {error}"))?;
        let margo = Self { directory, version };
        let mut compiler = Command::new("cc")
            .args(["-O2", "-x", "c", "-", "-x", "none", "-pthread", "-o"])
            .arg(margo.program())
            .args(flags.split_whitespace())
            .arg(format!("-Wl,-rpath,{libraries}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("no C compiler: {error}"))?;
        if let Some(mut stdin) = compiler.stdin.take() {
            // A compiler that does not read all of it says why not.
            let _ = stdin.write_all(SOURCE.as_bytes());
        }
        let compiled = compiler.wait_with_output().map_err(|error| format!("the C compiler: {error}"))?;
        if !compiled.status.success() {
            let text = String::from_utf8_lossy(&compiled.stderr);
            let reason = text.lines().find(|line| line.contains("error")).unwrap_or("it gives no reason");
            return Err(format!("Margo {} does not compile: {reason}", margo.version));
        }
        Ok(margo)
    }

    /// Its name for people.
    pub(in super::super) fn name(&self) -> String {
        format!("C Margo {}", self.version)
    }

    fn program(&self) -> std::path::PathBuf {
        self.directory.path().join("bench")
    }

    /// A command of the program, without what Mercury has to say: it writes a line for each full queue.
    fn command(&self, part: &str) -> Command {
        let mut command = Command::new(self.program());
        command.arg(part).stderr(Stdio::null());
        command
    }

    /// Measures Margo at the case, an echo or a bulk transfer, with the settings that wait as ours do.
    pub(super) fn measure(&self, setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Sample> {
        let options = setup.options;
        let progress = options.progress.name();
        let (client, server) = match options.pin {
            Some(pins) => (pins.client.to_string(), pins.server.to_string()),
            None => ("-1".to_owned(), "-1".to_owned()),
        };
        let mut serve = self.command("serve");
        let protocol = listen_address(setup.transport)?;
        serve.args([&protocol, progress, &server, &options.handlers.xstreams().to_string()]);
        let mut server = Server::spawn(&mut serve)?;
        let kind = match case.kind {
            Kind::Pull => "pull",
            Kind::Push => "push",
            _ => "echo",
        };
        let seconds = |time: std::time::Duration| time.as_secs_f64().to_string();
        let called = self
            .command("call")
            .args([server.address(), &protocol, progress, &client, kind])
            .args([case.size.to_string(), case.count.to_string(), seconds(span.warmup), seconds(span.duration)])
            .output()?;
        let said = String::from_utf8_lossy(&called.stdout);
        let line = said.lines().next().unwrap_or_default();
        let sample = if called.status.success() { sample(line) } else { None };
        sample.ok_or_else(|| {
            let reason = if line.is_empty() { called.status.to_string() } else { line.to_owned() };
            server.blame(format_args!("{} at {case}", self.name()), reason).into()
        })
    }
}

/// What it printed: median and 99th percentile in microseconds, and how many a second.
fn sample(line: &str) -> Option<Sample> {
    let figures: Vec<f64> = line.split(' ').map(|figure| figure.parse().ok()).collect::<Option<_>>()?;
    let &[p50_us, p99_us, per_s] = figures.as_slice() else { return None };
    Some(Sample { p50_us, p99_us, per_s, bytes_each: None, slowest: None })
}

fn pkg_config(question: &[&str]) -> Result<String, String> {
    let asked = Command::new("pkg-config").args(question).arg(PACKAGE).output();
    let answer = asked.map_err(|error| format!("pkg-config cannot be asked for Margo: {error}"))?;
    if !answer.status.success() {
        return Err("pkg-config does not find Margo".to_owned());
    }
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_figures_are_a_sample_and_nothing_else_is() {
        let found = sample("31.447 103.694 24433.708").expect("figures");
        assert_eq!((found.p50_us, found.p99_us, found.per_s), (31.447, 103.694, 24433.708));
        for wrong in ["", "failed: a call: HG_NOENTRY", "1 2", "1 2 3 4", "1 2 x"] {
            assert!(sample(wrong).is_none(), "{wrong}");
        }
    }
}

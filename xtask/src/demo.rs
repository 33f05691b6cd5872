//! `cargo xtask demo`: every staged pair, run as a user would run it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::munged::{Munged, SOCKET_VARIABLE};
use crate::process::Running;
use crate::{Outcome, cargo, prepare};

/// The stages in the order in which they teach; stage `x` is the pair `x_server`, `x_client`.
const STAGES: &[&str] = &["simple_auth", "mac", "mac_session"];

/// Loopback only: the demo never listens where others could reach it.
const PROTOCOL: &str = "tcp://127.0.0.1";

/// What a server prints before its address.
const ANNOUNCEMENT: &str = "Server running at address ";

const START_TIMEOUT: Duration = Duration::from_secs(30);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Prepares the machine, builds, and runs all stages; fails if one of them failed.
pub(crate) fn run() -> Outcome {
    prepare::install(&[prepare::TO_BUILD])?;
    let munged = Munged::find_or_start()?;
    println!("$ cargo build --examples");
    if !cargo().args(["build", "--examples"]).status()?.success() {
        return Err("the build failed".into());
    }
    let programs = programs()?;
    let mut failed = Vec::new();
    for stage in STAGES {
        println!("\n== {stage} ==");
        if let Err(error) = run_stage(stage, &programs, munged.socket()) {
            println!("  FAILED: {error}");
            failed.push(*stage);
        }
    }
    println!();
    if !failed.is_empty() {
        return Err(format!("of {} staged pairs, these failed: {}", STAGES.len(), failed.join(", ")).into());
    }
    println!("All {} staged pairs ran: {}.", STAGES.len(), STAGES.join(", "));
    Ok(())
}

/// Where cargo has put the examples: beside this program, which it built with the same settings.
fn programs() -> Outcome<PathBuf> {
    let this = std::env::current_exe()?;
    Ok(this.parent().ok_or("this program has no directory")?.join("examples"))
}

fn run_stage(stage: &str, programs: &Path, socket: Option<&Path>) -> Outcome {
    let (server, client) = (format!("{stage}_server"), format!("{stage}_client"));

    print_command(&server, PROTOCOL, socket);
    let mut command = program(programs, &server, PROTOCOL, socket);
    let (mut server, lines) = Running::start_shown("server", &mut command)?;
    let address = announced_address(&lines)?;

    print_command(&client, &address, socket);
    let mut command = program(programs, &client, &address, socket);
    let (mut client, _) = Running::start_shown("client", &mut command)?;
    let of_client = client.wait_within(CLIENT_TIMEOUT)?;
    let of_server = server.terminate(STOP_TIMEOUT)?;

    // The rest of what the server had to say is shown before the next stage begins.
    while lines.recv_timeout(Duration::from_secs(1)).is_ok() {}
    if !of_client.success() {
        return Err(format!("the client failed ({of_client})").into());
    }
    if !of_server.success() {
        return Err(format!("the server failed when it was asked to end ({of_server})").into());
    }
    Ok(())
}

fn program(programs: &Path, name: &str, argument: &str, socket: Option<&Path>) -> Command {
    let mut command = Command::new(programs.join(name));
    // See tests/examples/process.rs.
    command.env("IPATH_NO_BACKTRACE", "1");
    command.arg(argument);
    if let Some(socket) = socket {
        command.env(SOCKET_VARIABLE, socket);
    }
    command
}

/// Shows the command by which a user would get the same.
fn print_command(name: &str, argument: &str, socket: Option<&Path>) {
    let environment = socket.map(|socket| format!("{SOCKET_VARIABLE}={} ", socket.display())).unwrap_or_default();
    println!("$ {environment}cargo run --example {name} {argument}");
}

fn announced_address(lines: &Receiver<String>) -> Outcome<String> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(address) = line.strip_prefix(ANNOUNCEMENT) {
                    return Ok(address.to_owned());
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err("the server ended before it printed its address".into());
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("the server printed no address within {} s", START_TIMEOUT.as_secs()).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::STAGES;
    use std::collections::BTreeSet;

    #[test]
    fn every_staged_pair_is_in_the_demo() {
        let examples = crate::workspace().join("examples");
        let names = std::fs::read_dir(examples).expect("the examples are there").map(|entry| {
            let name = entry.expect("a readable directory").file_name();
            name.into_string().expect("our file names are UTF-8")
        });
        let found: BTreeSet<String> =
            names.filter_map(|name| Some(name.strip_suffix("_server.rs")?.to_owned())).collect();
        let listed: BTreeSet<String> = STAGES.iter().map(|stage| (*stage).to_owned()).collect();
        assert_eq!(found, listed);
    }
}

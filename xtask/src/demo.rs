//! `cargo xtask demo`: every staged pair, run as a user would run it, and the service with users as the main act.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::munged::{Munged, SOCKET_VARIABLE};
use crate::process::Running;
use crate::{Outcome, cargo, interruption, prepare};

/// The stages in the order in which they teach; stage `x` is the pair `x_server`, `x_client`.
const STAGES: &[&str] = &["simple_auth", "mac", "mac_session", "full"];

/// Loopback only: the demo never listens where others could reach it.
const PROTOCOL: &str = "tcp://127.0.0.1";

/// What a server prints before its address.
const ANNOUNCEMENT: &str = "Server running at address ";

const START_TIMEOUT: Duration = Duration::from_secs(30);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// One server, and the clients that call it one after the other.
struct Act {
    title: &'static str,
    /// The first part of the programs' names.
    stage: &'static str,
    /// What there is to see.
    about: &'static [&'static str],
    uses_munge: bool,
    server: Vec<String>,
    clients: Vec<Client>,
}

struct Client {
    options: Vec<String>,
    /// Whether it is to be served; another one must fail.
    is_served: bool,
}

/// Prepares the machine, builds, and runs all stages; fails if one of them failed.
pub(crate) fn run() -> Outcome {
    prepare::install(&[prepare::TO_BUILD])?;
    let munged = Munged::find_or_start()?;
    say!("$ cargo build --bins --examples");
    if !cargo().args(["build", "--bins", "--examples"]).status()?.success() {
        return Err("the build failed".into());
    }
    let programs = Programs::find()?;
    let keys = tempfile::tempdir()?;
    let mut acts: Vec<Act> = STAGES.iter().filter(|stage| **stage != "full").map(|stage| Act::first(stage)).collect();
    acts.push(Act::with_munge());
    acts.push(Act::with_keys(&programs, keys.path())?);

    let mut failed = Vec::new();
    for act in &acts {
        interruption::check()?;
        say!("\n== {} ==", act.title);
        act.about.iter().for_each(|line| say!("# {line}"));
        if let Err(error) = act.run(&programs, munged.socket()) {
            say!("  FAILED: {error}");
            failed.push(act.title);
        }
    }
    say!("");
    if !failed.is_empty() {
        return Err(format!("of {} staged runs, these failed: {}", acts.len(), failed.join(", ")).into());
    }
    say!("All {} staged pairs ran: {}.", STAGES.len(), STAGES.join(", "));
    Ok(())
}

/// Where cargo has put what it built: beside this program, which it built with the same settings.
struct Programs(PathBuf);

impl Programs {
    fn find() -> Outcome<Self> {
        let this = std::env::current_exe()?;
        Ok(Self(this.parent().ok_or("this program has no directory")?.to_path_buf()))
    }

    fn example(&self, name: &str, arguments: &[String], socket: Option<&Path>) -> Command {
        let mut command = Command::new(self.0.join("examples").join(name));
        // See tests/examples/process.rs.
        command.args(arguments).env("IPATH_NO_BACKTRACE", "1");
        if let Some(socket) = socket {
            command.env(SOCKET_VARIABLE, socket);
        }
        command
    }

    /// A new key file, made as users make them.
    fn keygen(&self, path: &Path) -> Outcome {
        let made = Command::new(self.0.join("mochi")).args(["keygen", "--output"]).arg(path).output()?;
        match made.status.success() {
            true => Ok(()),
            false => Err(format!("mochi keygen failed: {}", String::from_utf8_lossy(&made.stderr).trim_end()).into()),
        }
    }
}

impl Act {
    /// A stage without options.
    fn first(stage: &'static str) -> Self {
        let clients = vec![Client { options: Vec::new(), is_served: true }];
        Self { title: stage, stage, about: &[], uses_munge: true, server: Vec::new(), clients }
    }

    fn with_munge() -> Self {
        Self {
            title: "full, with MUNGE",
            stage: "full",
            about: &[
                "A service with users: one handshake, then every call and every answer is sealed.",
                "The client is greeted, then calls without authentication, without permission, with a recorded",
                "message and in an expired session; no such call may reach a handler. The server gives no reasons",
                "to its callers: they are in its audit log (the lines with a time), with who tried.",
            ],
            uses_munge: true,
            server: words(&["--idle", "3"]),
            clients: vec![Client { options: Vec::new(), is_served: true }],
        }
    }

    /// Two users, of whom one is allowed to call.
    fn with_keys(programs: &Programs, directory: &Path) -> Outcome<Self> {
        let path = |name: &str| directory.join(name).display().to_string();
        let (alice, bob) = (path("alice.key"), path("bob.key"));
        for key in [&alice, &bob] {
            programs.keygen(key.as_ref())?;
        }
        let of = |key: &String, is_served| Client { options: words(&["--key-file", key]), is_served };
        let (for_alice, for_bob) = (format!("{alice}=4321:4000"), format!("{bob}=4322:4000"));
        let server =
            ["--key-file", &for_alice, "--key-file", &for_bob, "--allow-uid", "4321", "--operator-uid", "4321"];
        Ok(Self {
            title: "full, with key files",
            stage: "full",
            about: &[
                "The same without MUNGE: each user has a key file, made by mochi keygen, and the server knows whose",
                "it is. Alice (uid 4321) may call and is an operator, too. Bob (uid 4322) has a good key and learns",
                "who he is, but the server's rule does not name him: his client has to fail.",
            ],
            uses_munge: false,
            server: words(&server),
            clients: vec![of(&alice, true), of(&bob, false)],
        })
    }

    fn run(&self, programs: &Programs, socket: Option<&Path>) -> Outcome {
        let socket = socket.filter(|_| self.uses_munge);
        let (server, client) = (format!("{}_server", self.stage), format!("{}_client", self.stage));
        let arguments = [&[PROTOCOL.to_owned()], &self.server[..]].concat();
        print_command(&server, &arguments, socket);
        let (mut server, lines) = Running::start_shown("server", &mut programs.example(&server, &arguments, socket))?;
        let address = announced_address(&lines)?;

        let mut ended = Vec::new();
        for Client { options, is_served } in &self.clients {
            let arguments = [std::slice::from_ref(&address), &options[..]].concat();
            print_command(&client, &arguments, socket);
            let mut command = programs.example(&client, &arguments, socket);
            let (mut running, of_client) = Running::start_shown("client", &mut command)?;
            let status = running.wait_within(CLIENT_TIMEOUT)?;
            ended.push((status, *is_served));
            // The rest of what it had to say is shown before the next one begins.
            while of_client.recv_timeout(Duration::from_secs(1)).is_ok() {}
        }
        let of_server = server.terminate(STOP_TIMEOUT)?;
        while lines.recv_timeout(Duration::from_secs(1)).is_ok() {}
        for (status, is_served) in ended {
            match (status.success(), is_served) {
                (true, true) | (false, false) => {}
                (false, true) => return Err(format!("the client failed ({status})").into()),
                (true, false) => return Err("a client was served that should not have been".into()),
            }
        }
        if !of_server.success() {
            return Err(format!("the server failed when it was asked to end ({of_server})").into());
        }
        Ok(())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Shows the command by which a user would get the same.
fn print_command(name: &str, arguments: &[String], socket: Option<&Path>) {
    let environment = socket.map(|socket| format!("{SOCKET_VARIABLE}={} ", socket.display())).unwrap_or_default();
    say!("$ {environment}cargo run --example {name} -- {}", arguments.join(" "));
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

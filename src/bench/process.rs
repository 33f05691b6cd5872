//! Server processes: this program again, with a hidden subcommand. They end with us, whatever ends us, because their
//! standard input does.

use std::env;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{self, Child, Command, Stdio};
use std::thread;

use mochi_rs::program::{Outcome, say};

/// Starts the line with which a server says that it cannot start.
const FAILED: &str = "failed: ";

/// A running server; killed and reaped when dropped.
pub(super) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts that part of `mochi bench` with these arguments and waits for its address.
    pub(super) fn start(part: &str, arguments: &[String]) -> Outcome<Self> {
        let program =
            env::current_exe().map_err(|error| format!("cannot find this program to start its server: {error}"))?;
        Self::spawn(Command::new(program).args(["bench", part]).args(arguments))
    }

    /// Starts a program that prints its address, or why there is none, and ends when its standard input does.
    pub(super) fn spawn(command: &mut Command) -> Outcome<Self> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start the server process: {error}"))?;
        let mut server = Self { child, address: String::new() };
        let mut line = String::new();
        if let Some(stdout) = server.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let line = line.trim_end();
        if let Some(reason) = line.strip_prefix(FAILED) {
            return Err(format!("the server process cannot start: {reason}").into());
        }
        if line.is_empty() {
            let status = server.child.wait()?;
            return Err(format!("the server process ended before it served ({status})").into());
        }
        line.clone_into(&mut server.address);
        Ok(server)
    }

    /// What the server printed.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// An error of the client's, with the end of the server if that is the reason.
    pub(super) fn blame(&mut self, what: impl fmt::Display, error: impl fmt::Display) -> String {
        match self.child.try_wait() {
            Ok(Some(status)) => format!("{what}: the server process ended ({status}); {error}"),
            _ => format!("{what}: {error}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either can only fail if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a server: prints its address, or why there is none.
pub(super) fn announce<T>(started: Outcome<T>, address: impl Fn(&T) -> String) -> T {
    match started {
        Ok(server) => {
            say(address(&server));
            server
        }
        Err(error) => {
            say(format_args!("{FAILED}{error}"));
            process::exit(1);
        }
    }
}

/// In a server: ends the process once the one that started it is gone.
pub(super) fn end_with_parent() -> Outcome {
    let watch = || {
        let mut stdin = io::stdin().lock();
        let mut nothing = [0; 64];
        while !matches!(stdin.read(&mut nothing), Ok(0)) {}
        process::exit(0);
    };
    thread::Builder::new().name("parent".to_owned()).spawn(watch)?;
    Ok(())
}

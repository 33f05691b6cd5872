//! The frame of our programs: logs, the address line, signals, and one clear line when something failed.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use margo_rs::{Engine, Failure};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How a program ends: with nothing to say, or with what went wrong.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Sends logs to standard error, at level `warn` unless `MOCHI_LOG` (or else `RUST_LOG`) says otherwise.
pub fn log_to_stderr() {
    log_at("warn");
}

/// As [`log_to_stderr`], with the whole audit log of authentication unless told otherwise.
pub fn log_with_audit() {
    log_at("warn,mochi_auth::audit=info");
}

fn log_at(default: &str) {
    let filter = EnvFilter::try_from_env("MOCHI_LOG").or_else(|_| EnvFilter::try_from_default_env());
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(default)))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// Standard output takes no more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
struct Unwritable(io::Error);

/// The exit code of a program: 0, or 1 after one line on standard error. (2 is for wrong arguments.)
///
/// Whoever closes the pipe that [`print()`] writes into has what he wanted: that is 0, and nothing is said.
pub fn finish(outcome: Outcome) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    if let Some(Unwritable(error)) = error.downcast_ref()
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    // Nothing better can be done for a closed standard error.
    let _ = writeln!(io::stderr(), "error: {}", Failure::from(error));
    ExitCode::FAILURE
}

/// Prints one line that the program was run for.
///
/// # Errors
/// It cannot be written: the disk is full, or nobody reads any more. There is nothing left to do then; see [`finish`].
pub fn print(line: impl fmt::Display) -> Outcome {
    let mut stdout = io::stdout().lock();
    Ok(writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Unwritable)?)
}

/// Prints one line for whoever looks; unlike `println!` it does not panic when nobody reads any more, so a server outlives
/// its terminal.
pub fn say(line: impl fmt::Display) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Prints the line that scripts wait for, and returns when the engine was shut down, or after shutting it down
/// gracefully on SIGTERM or SIGINT.
///
/// The signals are caught from before the line is printed, so that whoever has read it gets a graceful end.
///
/// # Errors
/// The signals cannot be received.
pub async fn serve_until_stopped(engine: &Engine) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    say(format_args!("Server running at address {}", engine.address()));
    tokio::select! {
        () = engine.wait() => return Ok(()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    engine.shutdown().await;
    Ok(())
}

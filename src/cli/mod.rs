//! The subcommands, one file each.
//!
//! Exit codes: 0 done, 1 failed (with one line on standard error), 2 wrong arguments.

mod info;
mod keygen;
mod ping;
mod shutdown;

use clap::{Parser, Subcommand};
use mochi_rs::program::Outcome;

use crate::bench;

/// Looks at, and talks to, services built with Mochi for Rust.
#[derive(Parser)]
#[command(
    name = "mochi",
    version,
    after_help = "Logs go to standard error; MOCHI_LOG (or RUST_LOG) sets their level, `debug` for example."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show which protocols work here, and what the others need
    Info(info::Arguments),
    /// Measure the time to connect to a server and to get answers from it
    Ping(ping::Arguments),
    /// Measure what calls cost on this machine, and the floor under them
    Bench(Box<bench::Arguments>),
    /// Ask a server to shut down; it must allow that
    Shutdown(shutdown::Arguments),
    /// Make a key file, for authentication without MUNGE
    Keygen(keygen::Arguments),
}

/// Runs the chosen subcommand.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    match arguments.command {
        Command::Info(arguments) => info::run(&arguments).await,
        Command::Ping(arguments) => ping::run(&arguments).await,
        Command::Bench(arguments) => bench::run(*arguments).await,
        Command::Shutdown(arguments) => shutdown::run(&arguments).await,
        Command::Keygen(arguments) => keygen::run(&arguments),
    }
}

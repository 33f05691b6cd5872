//! `mochi`: the command line tool of Mochi for Rust.

mod bench;
mod cli;

use std::process::ExitCode;

use clap::Parser;
use mochi_rs::program;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    program::log_to_stderr();
    program::finish(cli::run(arguments).await)
}

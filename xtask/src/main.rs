//! Project tasks, run as `cargo xtask demo` and `cargo xtask test`.
//!
//! Both begin with [`prepare`], which makes a machine that has only Rust ready, so that neither needs a page of
//! instructions.

/// As `println!`, for a pipe that may be closed.
macro_rules! say {
    ($($line:tt)*) => {
        $crate::print_line(format_args!($($line)*))
    };
}

mod demo;
mod fuzz;
mod interruption;
mod munged;
mod prepare;
mod process;
mod test;
mod valgrind;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};

/// What a task returns: a failed one says why in one line.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What shells say of a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

/// Project tasks of Mochi for Rust.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, build, run every staged example pair over loopback TCP and show what each printed
    Demo,
    /// Run the conformance suite over Mercury under valgrind: some ten minutes
    Valgrind,
    /// Install what is missing, then run all tests, doc tests and fuzz targets
    Test {
        /// How long each fuzz target runs
        #[arg(long, value_name = "SECONDS", default_value_t = 20)]
        fuzz_seconds: u64,

        /// For how long processes are killed at random moments of their transfers
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        kill_seconds: u64,
    },
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    if let Err(error) = interruption::watch() {
        eprintln!("xtask: signals cannot be caught: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = match task {
        Task::Demo => demo::run(),
        Task::Valgrind => valgrind::run(),
        Task::Test { fuzz_seconds, kill_seconds } => {
            test::run(Duration::from_secs(fuzz_seconds), Duration::from_secs(kill_seconds))
        }
    };
    match outcome {
        _ if interruption::is_interrupted() => {
            let _ = writeln!(io::stderr(), "xtask: interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. Whoever closes the pipe that it goes into has seen enough: that ends the task.
fn print_line(line: fmt::Arguments<'_>) {
    if writeln!(io::stdout(), "{line}").is_err() {
        interruption::interrupt();
    }
}

/// The top of the workspace.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is a directory of the workspace").to_path_buf()
}

/// The cargo that runs us, started at the top of the workspace.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

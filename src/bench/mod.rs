//! `mochi bench`: what a call costs here, next to what the bare transport costs in the same run.
//!
//! ```text
//! case.rs      what can be measured, and its names
//! rounds.rs    the order of measurements, and the round in the middle of them
//! calls/       RPC echo: the server process and the client
//! bulk/        transfers: the server process and the client
//! floor.rs     the same bytes over a spinning socket: the server process and the client
//! stream.rs    the same for bulk data, which goes one way
//! process.rs   server processes, which end with us
//! sample.rs    times of one measurement
//! report.rs    the table and the JSON
//! machine.rs   where it ran; pinning
//! ```
//!
//! Every measurement has a server process of its own, so that a server that never parks does not take a processor
//! from the floor, and so that the luck of one process is not the result.

mod bulk;
mod calls;
mod case;
mod floor;
mod machine;
mod process;
mod report;
mod rounds;
mod sample;
mod stream;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use margo_rs::Progress;
use mochi_rs::program::{Outcome, say};

use self::case::{Case, Filter};
use self::machine::{Machine, Pins};
use self::report::Report;

const ABOUT: &str = "\
Starts an echo server in a process of its own and calls it: typed RPCs of a byte string, so that the payload goes both \
ways. The client is one thread with tokio's current_thread runtime. `/1` cases await one call after the other; `/64` \
cases are 64 tasks of a LocalSet that do so, over one connection.

The floor is the same number of payload bytes, without any header, echoed over a bare TCP socket by two processes that \
never sleep: they read what is there and answer it with one write. (It is measured with and without sched_yield; the \
better one counts.) Each round measures both. The ratio is the figure \
over its floor: of the median times for `/1` (1 is best, higher is slower), of the calls per second for `/64` (1 is best, \
lower is slower). `pull` and `push` move bulk data between memory of the two processes, one transfer after the other; \
their floor is bytes that stream over a bare socket without a pause, and the ratio is of transfers per second. All figures \
of a row are those of one round, the one with the median ratio. B/s counts payload, one way.

With --auth, the floor of a sealed call is the same call without a session, to a server of the same kind. The floor of a \
handshake is an empty plain call, and with MUNGE also what its daemon takes to make and to read one credential.";

#[derive(Args)]
#[command(
    after_long_help = ABOUT,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "mochi bench [OPTIONS]"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

/// The processes that a measurement starts.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Serve(calls::server::Arguments),
    #[command(hide = true)]
    Floor(floor::Arguments),
    #[command(hide = true)]
    ServeBulk(bulk::server::Arguments),
    #[command(hide = true)]
    Stream(stream::Arguments),
}

#[derive(Args)]
struct Options {
    /// What the calls go over: `tcp` is native+tcp on the loopback interface; or an address to listen on
    #[arg(long, default_value = "tcp")]
    transport: String,

    /// Only cases whose names contain this (`64B`, `/64$`); several, with commas between, add up
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    cases: Vec<Filter>,

    /// Seconds to measure each case, over all rounds; the floor takes as long again
    #[arg(long, default_value = "1", value_parser = seconds)]
    duration: Duration,

    /// Seconds before each measurement that do not count
    #[arg(long, default_value = "0.1", value_parser = seconds)]
    warmup: Duration,

    /// Times that case and floor take turns; the more, the less the drift of a busy machine matters
    #[arg(long, visible_alias = "interleave", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// How both engines wait
    #[arg(long, value_enum, default_value_t = Waiting::Adaptive)]
    progress: Waiting,

    /// Measure authenticated sessions instead: sealed calls next to plain ones, and handshakes
    #[arg(long, value_enum, value_name = "MECHANISM", num_args = 0..=1, default_missing_value = "key")]
    auth: Option<calls::Mechanism>,

    /// Socket of munged, for `--auth munge`
    #[arg(long, value_name = "PATH", requires = "auth")]
    munge_socket: Option<PathBuf>,

    /// Processors to keep client and server on, of calls and floor alike; `0,0` puts both on one
    #[arg(long, value_name = "CLIENT,SERVER")]
    pin: Option<Pins>,

    /// How the client has 64 calls in flight
    #[arg(long, value_enum, default_value_t, hide = true)]
    client: calls::client::Shape,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

/// [`Progress`] by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Waiting {
    /// Spin for 50 µs, then park: the default of engines
    Adaptive,
    /// Never park
    Busy,
    /// Park at once
    Park,
}

impl Waiting {
    fn progress(self) -> Progress {
        match self {
            Waiting::Adaptive => Progress::default(),
            Waiting::Busy => Progress::Busy,
            Waiting::Park => Progress::Park,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Waiting::Adaptive => "adaptive",
            Waiting::Busy => "busy",
            Waiting::Park => "park",
        }
    }
}

/// Runs on a thread of its own, because that may be pinned, and because the tool's runtime is not the one to measure.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let work = move || match arguments.part {
        None => measure(&arguments.options),
        Some(Part::Serve(arguments)) => calls::server::run(&arguments),
        Some(Part::Floor(arguments)) => floor::serve(&arguments),
        Some(Part::ServeBulk(arguments)) => bulk::server::run(&arguments),
        Some(Part::Stream(arguments)) => stream::serve(&arguments),
    };
    match thread::Builder::new().name("bench".to_owned()).spawn(work)?.join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn measure(options: &Options) -> Outcome {
    // Looked at before pinning, which hides the other processors from this thread.
    let machine = Machine::here();
    if let Some(pins) = options.pin {
        machine::pin(pins.client)?;
    }
    let wanted = |case: &Case| case.is_of_auth() == options.auth.is_some() && Filter::any(&options.cases, case);
    let cases: Vec<Case> = Case::all().filter(wanted).collect();
    if cases.is_empty() {
        return Err("no case left: `sealed` and `handshake` need --auth, and the others are measured without it".into());
    }
    let mut rows = Vec::new();
    for (number, &case) in cases.iter().enumerate() {
        let show = |round: u32| show_progress(number + 1, cases.len(), case, round, options.rounds);
        let row = rounds::measure(options, case, show);
        clear_progress();
        rows.push(row?);
    }
    let report = Report::new(options, machine, rows);
    if options.json {
        say(serde_json::to_string_pretty(&report)?);
    } else {
        say(report);
    }
    Ok(())
}

fn show_progress(number: usize, cases: usize, case: Case, round: u32, rounds: u32) {
    if io::stderr().is_terminal() {
        let line = format!("[{number}/{cases}] {case}, round {round} of {rounds}");
        // A progress line that cannot be shown is no loss.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }
}

fn clear_progress() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    const MAX: f64 = 3600.0;
    match text.parse() {
        Ok(seconds) if (0.0..=MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("not a number of seconds between 0 and {MAX}")),
    }
}

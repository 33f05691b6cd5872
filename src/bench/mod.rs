//! `mochi bench`: what a call costs here, next to what the bare transport costs in the same run.
//!
//! ```text
//! case.rs      what can be measured, and its names
//! rounds.rs    the order of measurements, and the round in the middle of them
//! serve.rs     the server process of calls and transfers, also for clients elsewhere
//! target.rs    the server that is measured: one of those, or a given one
//! calls/       RPC echo, by one client and by many, with sessions and without
//! bulk.rs      transfers
//! floor/       the same bytes over a bare socket or through bare shared memory; Margo, under Mercury
//! process.rs   server processes, which end with us
//! files.rs     open files, of which many clients need many
//! sample.rs    times of one measurement
//! soak.rs      a million calls, and memory that must not grow with them
//! report/      the table, for people and for documents, and the JSON
//! machine.rs   where it ran; pinning
//! ```
//!
//! Every measurement has a server process of its own, so that a server that never parks does not take a processor
//! from the floor, and so that the luck of one process is not the result.

mod bulk;
mod calls;
mod case;
mod files;
mod floor;
mod machine;
mod process;
mod report;
mod rounds;
mod sample;
mod serve;
mod soak;
mod target;

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use margo_rs::{Address, Progress};
use mochi_rs::program::{Outcome, print};

use self::calls::Mechanism;
use self::case::{Case, Filter};
use self::floor::Margo;
use self::machine::{Machine, Pins};
use self::report::Report;

const ABOUT: &str = "\
Starts an echo server in a process of its own and calls it: typed RPCs of a byte string, so that the payload goes both \
ways. The client is one thread with tokio's current_thread runtime. `/1` cases await one call after the other; `/64` \
cases are 64 tasks of a LocalSet that do so, over one connection.

The floor is the same number of payload bytes, without any header, echoed by two processes that never sleep. Under TCP it \
is a bare socket: they read what is there and answer it with one write. Under shared memory they hand cache lines back and \
forth, without a system call. (Both are measured with and without sched_yield; the better one counts.) Under Mercury's \
transports, such as ofi+tcp and na+sm, it is C Margo on the same plugin, with its own defaults or the settings that wait as \
--progress says, if pkg-config and cc find it; the notes say so. Each round measures case and floor. The ratio is the figure over its floor: of the median times for `/1` (1 is best, higher is slower), of the \
calls per second for `/64` (1 is best, lower is slower). `pull` and `push` move bulk data between memory of the two \
processes, one transfer after the other; their floor is bytes that stream over a bare socket without a pause or, under \
shared memory, one memcpy, and the ratio is of transfers per second. The memory of the sending side is the engine's own \
(`Engine::allocate`; a push lends it: `Region::lend`), moved again and again, so that over shared memory the first few \
transfers pay for what the others save; what is received goes to a vector in a pull. `pull-vec` and `push-vec`, over shared \
memory alone, are between vectors: also what a region pays whose memory is moved only once or twice. All figures of a row are those of one round, the one \
with the median ratio. B/s counts payload, one way.

`crowd/64B/1000` is one client that calls while 999 others are connected; its floor is the same without the others. \
`fair/64B/1000` is a thousand clients that all call, each one call after the other; its floor is one connection with a \
thousand calls in flight. The notes say what the server's memory grew by for each client, and what the slowest client got \
done of what each would have got if all were equal.

`tcp`, and any other address, is measured without the shared memory that engines use underneath between processes of one \
node; `same-node` is measured with it, on the floor of shared memory. Of many clients, those beyond the number for which a \
server has shared memory are on TCP.

With --auth, the floor of a sealed call is the same call without a session, to a server of the same kind, and the notes say \
what the cipher alone takes of it, sealing and opening at both ends. The floor of a handshake is an empty plain call, and \
with MUNGE also what its daemon takes to make and to read one credential. `sealed-pull` is bulk data that a handler pulls in \
a session; its floor is the network's own transfer of as much. \
`sessions/100000` are calls in one session after the other of so many, and take a while to set up: they are measured with \
--all, or if --cases names them, in one round; their floor is one session.

To measure between two hosts, run `mochi bench serve native+tcp://eth0` on one, and `mochi bench --server` with the address \
that it prints on the other. Calls and transfers have no floor then.";

/// What is measured if nothing is named, and with `--all`.
const NATIVE: [&str; 2] = ["native+tcp", "native+sm"];

const USAGE: &str =
    "mochi bench [OPTIONS]\n       mochi bench serve [OPTIONS] [ADDRESS]\n       mochi bench soak [OPTIONS]";

#[derive(Args)]
#[command(
    after_long_help = ABOUT,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = USAGE
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

/// Other things than measuring: server processes, of which the hidden ones are started by measurements alone, and a soak.
#[derive(Subcommand)]
enum Part {
    /// Serve `mochi bench --server`, from this or another host: whoever can reach it can make it work
    Serve(serve::Arguments),
    /// Make a million calls over each transport, and fail if memory or open files have grown with them
    #[command(after_long_help = soak::ABOUT)]
    Soak(soak::Arguments),
    #[command(hide = true)]
    Floor(floor::EchoArguments),
    #[command(hide = true)]
    Share(floor::EchoArguments),
    #[command(hide = true)]
    Stream(floor::stream::Arguments),
}

#[derive(Args)]
struct Options {
    /// What the calls go over: a protocol such as native+sm or, with Mercury, ofi+tcp and na+sm, which for TCP keeps to
    /// the loopback interface; `same-node` for native+tcp with shared memory underneath; or an address to listen on;
    /// several, with commas between
    #[arg(long, value_delimiter = ',', default_value = NATIVE[0])]
    transport: Vec<String>,

    /// Call the `mochi bench serve` of this address, instead of servers on this host
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["transport", "pin"])]
    server: Option<String>,

    /// All there is: native+tcp and native+sm (unless --transport says otherwise), without sessions and with
    #[arg(long)]
    all: bool,

    /// Only cases whose names contain this (`64B`, `^crowd`, `/64$`); several, with commas between, add up
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    cases: Vec<Filter>,

    /// Seconds to measure each case, over all rounds; the floor takes as long again
    #[arg(long, default_value = "1", value_parser = some_seconds)]
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

    /// Where the server runs handlers
    #[arg(long, value_enum, default_value_t = Handlers::Primary)]
    handlers: Handlers,

    /// Measure authenticated sessions instead: sealed calls next to plain ones, handshakes, many clients
    #[arg(long, value_enum, value_name = "MECHANISM", num_args = 0..=1, default_missing_value = "key")]
    auth: Option<Mechanism>,

    /// Socket of munged, for `--auth munge`
    #[arg(long, value_name = "PATH", requires = "auth")]
    munge_socket: Option<PathBuf>,

    /// Processors to keep client and server on, of calls and floor alike; `0,0` puts both on one
    #[arg(long, value_name = "CLIENT,SERVER")]
    pin: Option<Pins>,

    /// How several callers run in the client's process
    #[arg(long, value_enum, default_value_t)]
    client: calls::client::Shape,

    /// Print JSON for scripts
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,

    /// Write the JSON to a file as well
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// What one measurement is made with.
#[derive(Clone, Copy)]
struct Setup<'a> {
    options: &'a Options,
    transport: &'a str,
    /// For servers and clients of cases that are about sessions.
    auth: Option<Mechanism>,
    /// Under transports of Mercury's: Margo, or why it cannot be measured.
    margo: Option<&'a Result<Margo, String>>,
}

impl Default for Options {
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            options: Options,
        }
        <Only as clap::Parser>::parse_from(["bench"]).options
    }
}

impl Options {
    fn transports(&self) -> Outcome<Vec<String>> {
        if let Some(server) = &self.server {
            let address: Address = server.parse()?;
            return Ok(vec![address.protocol().to_owned()]);
        }
        if self.all && self.transport == NATIVE[..1] {
            return Ok(NATIVE.map(str::to_owned).into());
        }
        Ok(self.transport.clone())
    }

    fn wants(&self, case: &Case) -> bool {
        let named = match self.cases.is_empty() {
            true => self.all || !case.is_long(),
            false => Filter::any(&self.cases, case),
        };
        named && (self.all || case.sealed == self.auth.is_some())
    }
}

/// Where a server runs handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Handlers {
    /// In the default pool, which leaves short ones to the thread that makes progress
    Primary,
    /// In an Argobots pool with an execution stream of its own; Margo's on such a stream, too
    Argobots,
}

impl Handlers {
    fn name(self) -> &'static str {
        match self {
            Handlers::Primary => "primary",
            Handlers::Argobots => "argobots",
        }
    }

    /// Execution streams besides the one that makes progress.
    fn xstreams(self) -> usize {
        match self {
            Handlers::Primary => 0,
            Handlers::Argobots => 1,
        }
    }
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
        Some(Part::Serve(arguments)) => serve::run(&arguments),
        Some(Part::Soak(arguments)) => soak::run(&arguments),
        Some(Part::Floor(arguments)) => floor::tcp::serve(&arguments),
        Some(Part::Share(arguments)) => floor::shared::serve(&arguments),
        Some(Part::Stream(arguments)) => floor::stream::serve(&arguments),
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
    files::raise_limit();
    let transports = options.transports()?;
    let cases = cases(options)?;
    // Before measuring, which takes a while.
    let mut save = options.save.as_deref().map(Save::open).transpose()?;
    if let Some(server) = &options.server {
        target::check(server)?;
    } else {
        // Their floor is a program in C, which comes first and says less of what is wrong.
        transports
            .iter()
            .filter(|transport| floor::is_mercurys(transport))
            .try_for_each(|it| target::check_listening(it))?;
    }
    let wanted: Vec<(&String, Case)> =
        transports.iter().flat_map(|transport| cases.iter().map(move |case| (transport, *case))).collect();
    // Elsewhere all memory is the same.
    let differs = |transport: &str, case: &Case| !case.kind.is_of_vectors() || floor::has_memory_of_its_own(transport);
    let wanted: Vec<_> = wanted.into_iter().filter(|(transport, case)| differs(transport, case)).collect();
    if wanted.is_empty() {
        return Err("no case left: those of vectors (`pull-vec`, `push-vec`) are for shared memory alone".into());
    }
    let mut rows = Vec::new();
    let margo = OnceCell::new();
    for &(transport, case) in &wanted {
        let is_compared = options.server.is_none() && floor::is_mercurys(transport);
        let margo = is_compared.then(|| margo.get_or_init(Margo::build));
        let auth = case.sealed.then(|| options.auth.unwrap_or(Mechanism::Key));
        let number = rows.len() + 1;
        let show = |round: u32| show_progress(number, wanted.len(), case, round, options.rounds);
        let row = rounds::measure(&Setup { options, transport, auth, margo }, case, show);
        clear_progress();
        rows.push(row?);
    }
    let report = Report::new(options, machine, rows);
    if let Some(save) = &mut save {
        save.write(&report)?;
    }
    if options.json {
        print(serde_json::to_string_pretty(&report)?)?;
    } else if options.markdown {
        print(report.markdown())?;
    } else {
        print(report)?;
    }
    Ok(())
}

/// The cases that are wanted, without those that are not asked for by name and that this process may not have the files for.
fn cases(options: &Options) -> Outcome<Vec<Case>> {
    let mut cases = Vec::new();
    for case in Case::all().filter(|case| options.wants(case)) {
        match files::suffice(&case) {
            Ok(()) => cases.push(case),
            Err(error) if options.cases.is_empty() => say_aside(format_args!("left out: {error}")),
            Err(error) => return Err(error),
        }
    }
    if cases.is_empty() {
        return Err(
            "no case left: those of sessions (`sealed`, `handshake`, `sessions`) need --auth or --all, and the \
                    others are measured without --auth"
                .into(),
        );
    }
    Ok(cases)
}

/// A file for the JSON.
struct Save<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Save<'a> {
    fn open(path: &'a Path) -> Outcome<Self> {
        // What is in it stays until there is something new.
        let file = File::options().create(true).write(true).truncate(false).open(path);
        Ok(Self { path, file: file.map_err(|error| format!("cannot write {}: {error}", path.display()))? })
    }

    fn write(&mut self, report: &Report) -> Outcome {
        let text = serde_json::to_string_pretty(report)?;
        // A pipe has no length.
        let _ = self.file.set_len(0);
        let written = writeln!(self.file, "{text}");
        written.map_err(|error| format!("cannot write {}: {error}", self.path.display()).into())
    }
}

/// A line on standard error; nothing better can be done where that is closed.
fn say_aside(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
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

/// As [`seconds`], but not none: a case without time has no figures.
fn some_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| if time.is_zero() { Err("it must be more than 0".to_owned()) } else { Ok(time) })
}

fn seconds(text: &str) -> Result<Duration, String> {
    const MAX: f64 = 3600.0;
    match text.parse() {
        Ok(seconds) if (0.0..=MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("not a number of seconds between 0 and {MAX}")),
    }
}

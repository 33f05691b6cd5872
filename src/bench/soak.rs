//! `mochi bench soak`: a million calls, and memory that must not grow with them.
//!
//! What is lost with each call, or with each of the rarer things in between, shows in the resident memory and the open files
//! of either process: after a tenth of the calls they hold what they will ever need.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use margo_rs::bulk::{BulkDescriptor, BulkError};
use margo_rs::codec::Blob;
use mochi_auth::bulk::Level;
use mochi_rs::program::{Outcome, print};
use serde::Serialize;
use tokio::time::sleep;

use super::calls::auth::{Mechanism, STORE};
use super::calls::client::{Client, join_all};
use super::case::{Case, Kind};
use super::report::number::{Bytes, Short};
use super::serve::{REGION, State};
use super::target::{self, Target};
use super::{Options, Setup, Waiting, clear_progress, files};

pub(super) const ABOUT: &str = "\
Of the calls, 64 are in flight at a time, with 64 bytes each way; every 16th has 1 KiB, every 256th 64 KiB. Every 512th is \
given up before it is answered, every 1024th is a bulk transfer of 1 MiB, and every 4096th is made by a client of its own, \
which connects and leaves. With sessions, calls are sealed, bulk data is private, and that client opens a session.

Memory (VmRSS) and open files of client and server are looked at after a tenth of the calls and at the end, when nothing is \
under way; both run with MALLOC_ARENA_MAX=1, so that memory which is free counts as little as possible. It fails if memory \
has grown by more than a tenth and 8 MiB, if more than 4 files more are open, or if more sessions are.";

/// Calls in flight.
const IN_FLIGHT: usize = 64;
/// One in so many calls is...
const MIDDLE_EVERY: u64 = 16;
const LARGE_EVERY: u64 = 256;
const ABANDONED_EVERY: u64 = 512;
const BULK_EVERY: u64 = 1024;
const CLIENT_EVERY: u64 = 4096;
/// Payloads, in bytes.
const SMALL: usize = 64;
const MIDDLE: usize = 1 << 10;
const LARGE: usize = 64 << 10;
const BULK: usize = 1 << 20;
/// What may come and go, in bytes and in files.
const SLACK: u64 = 8 << 20;
const FILES_SLACK: u64 = 4;
/// How long what has ended may take to be put away.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What the calls go over, as for `mochi bench`; several, with commas between
    #[arg(long, value_delimiter = ',', default_value = "native+tcp,native+sm,same-node")]
    transport: Vec<String>,

    /// Soak the `mochi bench serve --auth` of this address, instead of servers on this host
    #[arg(long, value_name = "ADDRESS", conflicts_with = "transport")]
    server: Option<String>,

    /// Calls over each transport, and as many again in sessions
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10..))]
    calls: u64,

    /// How sessions are opened
    #[arg(long, value_enum, value_name = "MECHANISM", default_value = "key")]
    auth: Mechanism,

    /// Socket of munged, for `--auth munge`
    #[arg(long, value_name = "PATH")]
    munge_socket: Option<PathBuf>,

    /// Leave sessions out
    #[arg(long)]
    plain: bool,

    /// How both engines wait
    #[arg(long, value_enum, default_value_t = Waiting::Adaptive)]
    progress: Waiting,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

/// Both processes at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
struct Moment {
    client: State,
    server: State,
}

impl Moment {
    async fn now(client: &Client) -> Outcome<Self> {
        let server = target::state(client.endpoint()).await?;
        let client = State::here(0).ok_or("the memory of this process is not known")?;
        Ok(Self { client, server })
    }

    /// Whether nothing has grown since.
    fn is_flat_after(&self, before: &Self) -> bool {
        let is_flat = |now: &State, before: &State| {
            now.resident <= before.resident + before.resident / 10 + SLACK
                && now.files <= before.files + FILES_SLACK
                && now.sessions <= before.sessions
        };
        is_flat(&self.client, &before.client) && is_flat(&self.server, &before.server)
    }
}

/// What was found over one transport.
#[derive(Serialize)]
struct Soaked {
    transport: String,
    sealed: bool,
    calls: u64,
    seconds: f64,
    /// Whether bulk transfers were among them: not every transport has those.
    bulk: bool,
    after_a_tenth: Moment,
    at_the_end: Moment,
    flat: bool,
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.sealed { "sealed calls" } else { "calls" };
        write!(f, "{}: {} {what} in {:.1} s", self.transport, Short(self.calls as f64), self.seconds)?;
        let (before, after) = (&self.after_a_tenth, &self.at_the_end);
        for (name, before, after) in
            [("client", &before.client, &after.client), ("server", &before.server, &after.server)]
        {
            let [from, to] = [before.resident, after.resident].map(|bytes| Bytes(bytes as f64));
            write!(f, "; {name} {from} then {to}, {} then {} files", before.files, after.files)?;
        }
        if self.sealed {
            write!(f, "; {} then {} sessions", before.server.sessions, after.server.sessions)?;
        }
        f.write_str(if self.bulk { "" } else { "; without bulk transfers" })?;
        f.write_str(if self.flat { "; flat" } else { "; GROWN" })
    }
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    keep_one_arena()?;
    files::raise_limit();
    let options = Options {
        server: arguments.server.clone(),
        transport: arguments.transport.clone(),
        progress: arguments.progress,
        munge_socket: arguments.munge_socket.clone(),
        ..Options::default()
    };
    let mut all = Vec::new();
    for transport in &options.transports()? {
        for auth in [None, Some(arguments.auth)].into_iter().take(if arguments.plain { 1 } else { 2 }) {
            let setup = Setup { options: &options, transport, auth, margo: None };
            let mut target = Target::start(&setup)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let soaked = runtime.block_on(soak(&setup, target.address(), arguments.calls));
            clear_progress();
            let soaked = soaked.map_err(|error| target.blame(format_args!("soak of {transport}"), error))?;
            if !arguments.json {
                print(&soaked)?;
            }
            all.push(soaked);
        }
    }
    if arguments.json {
        print(serde_json::to_string_pretty(&all)?)?;
    }
    match all.iter().find(|soaked| !soaked.flat) {
        None => Ok(()),
        Some(grown) => Err(format!("something has grown over {}", grown.transport).into()),
    }
}

/// Starts this program anew, once, with all threads allocating from one arena. glibc keeps what was freed in the arena of each
/// thread, and threads come and go with the clients: over `ofi+tcp` that alone is some 50 KiB a client.
fn keep_one_arena() -> Outcome {
    const ARENAS: &str = "MALLOC_ARENA_MAX";
    if std::env::var_os(ARENAS).is_some() {
        return Ok(());
    }
    let this = std::env::current_exe()?;
    let error = Command::new(this).args(std::env::args_os().skip(1)).env(ARENAS, "1").exec();
    Err(format!("cannot start with {ARENAS}=1: {error}").into())
}

async fn soak(setup: &Setup<'_>, address: &str, calls: u64) -> Outcome<Soaked> {
    let case = Case { kind: Kind::Call, sealed: setup.auth.is_some(), size: SMALL, count: 1 };
    let client = Client::connect(setup, address, case, setup.options.progress).await?;
    let remote = region(&client).await?;
    let soaking = Soaking {
        setup,
        address,
        case,
        bulk: remote.as_ref(),
        begun: Cell::new(0),
        calls,
        payloads: [SMALL, MIDDLE, LARGE].map(|size| Blob(vec![0x5a; size])),
        client: &client,
    };
    let start = Instant::now();
    soaking.up_to(calls / 10).await?;
    // Nothing to compare with yet: what has ended a moment ago may still be there.
    sleep(Duration::from_millis(200)).await;
    let after_a_tenth = Moment::now(&client).await?;
    soaking.up_to(calls).await?;
    let seconds = start.elapsed().as_secs_f64();
    let settled = Instant::now() + SETTLED_AFTER;
    let mut at_the_end = Moment::now(&client).await?;
    while !at_the_end.is_flat_after(&after_a_tenth) && Instant::now() < settled {
        sleep(Duration::from_millis(50)).await;
        at_the_end = Moment::now(&client).await?;
    }
    let bulk = remote.is_some();
    client.shutdown().await;
    Ok(Soaked {
        transport: setup.transport.to_owned(),
        sealed: case.sealed,
        calls,
        seconds,
        bulk,
        flat: at_the_end.is_flat_after(&after_a_tenth),
        after_a_tenth,
        at_the_end,
    })
}

/// Memory of the server, if the transport moves any.
async fn region(client: &Client) -> Outcome<Option<BulkDescriptor>> {
    let Ok(remote) = client.endpoint().call(REGION, &(BULK as u64, true)).await else { return Ok(None) };
    let here = client.endpoint().stage(vec![0; BULK])?;
    match client.endpoint().pull(&remote, &here).await {
        Ok(()) => Ok(Some(remote)),
        Err(BulkError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Soaking<'a> {
    setup: &'a Setup<'a>,
    address: &'a str,
    case: Case,
    client: &'a Client,
    bulk: Option<&'a BulkDescriptor>,
    calls: u64,
    begun: Cell<u64>,
    payloads: [Blob; 3],
}

impl Soaking<'_> {
    /// Goes on until so many calls were made in all.
    async fn up_to(&self, end: u64) -> Outcome {
        let callers = (0..IN_FLIGHT).map(|_| async {
            while self.begun.get() < end {
                let number = self.begun.get() + 1;
                self.begun.set(number);
                self.call(number).await?;
            }
            Ok(())
        });
        join_all(callers).await.map(drop)
    }

    async fn call(&self, number: u64) -> Outcome {
        let [small, middle, large] = &self.payloads;
        if number.is_multiple_of(self.calls.div_ceil(100)) {
            self.show_progress(number);
        }
        match number {
            _ if number.is_multiple_of(CLIENT_EVERY) => {
                let client = Client::connect(self.setup, self.address, self.case, self.setup.options.progress).await?;
                client.echo(small).await?;
                if let Some(session) = client.session() {
                    session.close().await?;
                }
                client.shutdown().await;
                Ok(())
            }
            _ if number.is_multiple_of(BULK_EVERY) => self.move_bulk().await,
            _ if number.is_multiple_of(ABANDONED_EVERY) => {
                self.client.abandon_echo(small);
                Ok(())
            }
            _ if number.is_multiple_of(LARGE_EVERY) => self.client.echo(large).await,
            _ if number.is_multiple_of(MIDDLE_EVERY) => self.client.echo(middle).await,
            _ => self.client.echo(small).await,
        }
    }

    async fn move_bulk(&self) -> Outcome {
        let Some(remote) = self.bulk else { return Ok(()) };
        match self.client.session() {
            Some(session) => {
                let offer = session.offer(vec![0x5a; BULK], Level::Private)?;
                session.call(STORE, offer.ticket()).await?;
            }
            None => {
                let here = self.client.endpoint().stage(vec![0; BULK])?;
                self.client.endpoint().pull(remote, &here).await?;
            }
        }
        Ok(())
    }

    fn show_progress(&self, number: u64) {
        if io::stderr().is_terminal() {
            let sealed = if self.case.sealed { ", sealed" } else { "" };
            let percent = number * 100 / self.calls;
            // A progress line that cannot be shown is no loss.
            let _ = write!(io::stderr(), "\r{}{sealed}: {percent} %\x1b[K", self.setup.transport);
        }
    }
}

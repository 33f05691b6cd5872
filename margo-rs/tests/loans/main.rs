//! Bulk data that is lent over shared memory: peers that lend what cannot be used, keep what they were lent, or die.

mod borrower;
mod killed;
mod lender;
mod memory;
mod raw;
// Used in part.
#[allow(dead_code)]
#[path = "../../src/transport/sm/ring.rs"]
mod ring;

use margo_rs::bulk::{BulkDescriptor, BulkMemory};
use margo_rs::{Endpoint, Engine, Load, Rpc};
use mochi_test_support::{Awaited, Watchdog, comes_to, descriptors};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
/// Has the server pull from the caller's region; answers the sum of the bytes.
const TAKE: Rpc<BulkDescriptor, u64> = Rpc::new("take");
const PATIENCE: Duration = Duration::from_secs(120);
/// Shortest transfer that is lent, in bytes.
const LENT_MIN: usize = 32 * 1024;
/// Transfers of a whole region after which it is lent, and some more.
const OFTEN: usize = 12;

/// Keeps other tests from running meanwhile, which would change what is counted, and ends the process if it hangs.
struct Alone {
    _watchdog: Watchdog,
    _turn: MutexGuard<'static, ()>,
}

#[track_caller]
fn alone(name: &'static str) -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    Alone { _watchdog: Watchdog::showing(name, PATIENCE, || format!("{:?}", mappings("self"))), _turn: turn }
}

/// As [`margo_rs::Wait`], and its line is among those that a watchdog prints.
trait Wait: Future + Sized {
    #[track_caller]
    fn wait(self) -> Self::Output {
        let _awaited = Awaited::here("a future");
        margo_rs::Wait::wait(self)
    }
}

impl<F: Future> Wait for F {}

fn serve() -> Engine {
    let server = Engine::builder("native+sm").rpc_threads(2).listen().wait().unwrap();
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    let here = server.clone();
    let take = move |request: margo_rs::Request, data: BulkDescriptor| {
        let here = here.clone();
        async move {
            let region = here.stage(vec![0; data.len() as usize])?;
            request.endpoint().ok_or("the caller is gone")?.pull(&data, &region).await?;
            Ok(region.into_inner().await.iter().map(|byte| u64::from(*byte)).sum())
        }
    };
    server.register(TAKE, take).unwrap();
    server
}

fn reach(server: &str) -> (Engine, Endpoint) {
    let client = Engine::connect("native+sm").unwrap();
    let to = client.lookup(server).wait().unwrap();
    (client, to)
}

fn filled(engine: &Engine, size: usize, byte: u8) -> BulkMemory {
    let mut memory = engine.allocate(size);
    memory.fill(byte);
    memory
}

/// Mappings of lent memory in a process (`self` for this one): those that can be written, those that are private, and
/// those that can only be read.
#[derive(Debug, PartialEq, Eq, Default, Clone, Copy)]
struct Mappings {
    own: usize,
    private: usize,
    borrowed: usize,
}

fn mappings(process: &str) -> Mappings {
    let mut found = Mappings::default();
    for mapping in mochi_test_support::mappings(process) {
        if !mapping.name.contains("memfd:mochi-lent") {
            continue;
        }
        match mapping.permissions.as_str() {
            "rw-s" => found.own += 1,
            "rw-p" => found.private += 1,
            "r--s" => found.borrowed += 1,
            other => panic!("{other:?}"),
        }
    }
    found
}

/// Waits until this process has lent and borrowed nothing.
#[track_caller]
fn nothing_is_lent() {
    comes_to("nothing is lent", || mappings("self"), |found| *found == Mappings::default());
}

/// Waits until a process has borrowed nothing.
#[track_caller]
fn nothing_is_borrowed(process: &str) {
    comes_to("nothing is borrowed", || mappings(process), |found| found.borrowed == 0);
}

/// Waits until a process has no more than `most` descriptors.
#[track_caller]
fn descriptors_are_at_most(most: usize, process: &str) {
    comes_to(&format!("{most} descriptors or fewer"), || descriptors(process), |found| found.len() <= most);
}

/// Waits until a server has `links` connections.
#[track_caller]
fn links_are(links: usize, server: &Engine) {
    let state = || (server.load(), mappings("self"), descriptors("self"));
    comes_to(&format!("{links} connections"), state, |(load, ..)| load.links == links);
}

/// Waits until a server has no connection, and this process has lent and borrowed nothing.
#[track_caller]
fn all_is_over(server: &Engine) {
    let state = || (server.load(), mappings("self"), descriptors("self"));
    let is_over = |load: Load, mappings| load.links == 0 && mappings == Mappings::default();
    comes_to("no connections, and nothing is lent", state, |(load, mappings, _)| is_over(*load, *mappings));
}

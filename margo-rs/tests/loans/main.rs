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
use margo_rs::{Endpoint, Engine, Rpc, Wait};
use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
/// Has the server pull from the caller's region; answers the sum of the bytes.
const TAKE: Rpc<BulkDescriptor, u64> = Rpc::new("take");
const PATIENCE: Duration = Duration::from_secs(120);
/// Shortest transfer that is lent, in bytes.
const LENT_MIN: usize = 32 * 1024;
/// Transfers of a whole region after which it is lent, and some more.
const OFTEN: usize = 12;

/// Ends the process if a test hangs, and keeps others from running meanwhile: they would change what is counted.
fn alone(name: &'static str) -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let over = Arc::new(());
    let running = Arc::downgrade(&over);
    RUNNING.set(Some(over));
    thread::spawn(move || {
        let end = Instant::now() + PATIENCE;
        while running.strong_count() > 0 {
            if Instant::now() > end {
                eprintln!("test {name} hangs");
                std::process::abort();
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    guard
}

thread_local! {
    /// Goes with the thread of the test.
    static RUNNING: Cell<Option<Arc<()>>> = const { Cell::new(None) };
}

fn eventually(what: impl Fn() -> bool) {
    while !what() {
        thread::sleep(Duration::from_millis(1));
    }
}

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
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    for line in maps.lines().filter(|line| line.contains("memfd:mochi-lent")) {
        match line.split(' ').nth(1) {
            Some("rw-s") => found.own += 1,
            Some("rw-p") => found.private += 1,
            Some("r--s") => found.borrowed += 1,
            other => panic!("{other:?}"),
        }
    }
    found
}

fn descriptors(process: &str) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

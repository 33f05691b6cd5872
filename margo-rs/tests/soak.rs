//! Many calls of all kinds, and memory that stays what it was.
//!
//! `MOCHI_SOAK_CALLS` says how many over each transport; without it, as many as a test may take. A million over Mercury:
//!
//! ```sh
//! MOCHI_SOAK_CALLS=1000000 cargo test --release -p margo-rs --test soak -- --nocapture --test-threads=1 mercury
//! ```

use margo_rs::codec::Blob;
use margo_rs::{CallError, Endpoint, Engine, Rpc, Wait, protocol_help};
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

const ECHO: Rpc<Blob, Blob> = Rpc::new("echo");
const FAIL: Rpc<(), ()> = Rpc::new("fail");
const HANG: Rpc<(), ()> = Rpc::new("hang");
const MISSING: Rpc<(), ()> = Rpc::new("missing");
const LONG: Duration = Duration::from_secs(600);

/// Calls over each transport if nothing else is said.
const CALLS: usize = 40_000;
/// Calls at a time.
const BATCH: usize = 100;
/// What may come on top while nothing leaks, in bytes: threads touch memory of their own for the first time, now and then.
const SLACK: u64 = 4 << 20;
/// libfabric has made all its buffers after so many calls; before, they come on top, too.
const FABRIC_SETTLED: usize = 400_000;
const FABRIC_BUFFERS: u64 = 24 << 20;
/// More than fits into one of Mercury's messages.
const LARGE: usize = 20_000;

/// The memory counted is the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel counts it");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

/// One batch: small calls, and between them large ones, failures, calls that are given up, and calls to nobody.
fn batch(server: &Endpoint) {
    let small = Blob(vec![7; 64]);
    let large = Blob(vec![9; LARGE]);
    let given_up: Vec<_> = (0..3).map(|_| server.call(HANG, &()).start()).collect();
    let failures: Vec<_> = (0..3).map(|_| server.call(FAIL, &()).start()).collect();
    let missing = server.call(MISSING, &()).start();
    let echoes: Vec<_> = (0..BATCH - 7)
        .map(|number| {
            let sent = if number % 20 == 0 { &large } else { &small };
            (sent, server.call(ECHO, sent).start())
        })
        .collect();
    drop(given_up);
    for (sent, call) in echoes {
        assert!(call.wait().expect("it is served") == *sent);
    }
    for failure in failures {
        assert!(matches!(failure.wait(), Err(CallError::Handler { .. })));
    }
    assert!(matches!(missing.wait(), Err(CallError::NoSuchRpc { .. })));
}

fn memory_stays(protocol: &str) {
    if protocol_help(protocol.split("://").next().expect("never empty")).is_some() {
        return println!("not tested: Mercury is not linked");
    }
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let calls = std::env::var("MOCHI_SOAK_CALLS").map_or(CALLS, |text| text.parse().expect("a number of calls"));
    let server = Engine::builder(protocol).rpc_threads(2).listen().wait().expect("listening works");
    server.register(ECHO, |_, blob| async move { Ok(blob) }).expect("free");
    server.register(FAIL, |_, ()| async { Err("as asked".into()) }).expect("free");
    server.register(HANG, |_, ()| std::future::pending()).expect("free");
    let client = Engine::builder(protocol).default_timeout(LONG).connect().expect("a client starts");
    let to = client.lookup(server.address().as_str()).wait().expect("the server is there");

    let tenth = calls.div_ceil(BATCH).div_ceil(10);
    let used = [(); 10].map(|()| {
        (0..tenth).for_each(|_| batch(&to));
        resident()
    });
    println!("{protocol}: {calls} calls; KiB in use after each tenth: {:?}", used.map(|bytes| bytes >> 10));
    let (before, after) = (used[4], used[9]);
    let unsettled = protocol.starts_with("ofi+") && calls < FABRIC_SETTLED;
    let slack = SLACK + if unsettled { FABRIC_BUFFERS } else { 0 };
    assert!(after < before + slack, "{protocol}: {before} bytes in use became {after} in the second half of {calls}");

    client.shutdown().wait();
    server.shutdown().wait();
}

#[test]
fn memory_stays_over_native_tcp() {
    memory_stays("native+tcp://127.0.0.1");
}

#[test]
fn memory_stays_over_native_sm() {
    memory_stays("native+sm");
}

#[test]
fn memory_stays_over_mercury_ofi_tcp() {
    memory_stays("ofi+tcp://127.0.0.1");
}

#[test]
fn memory_stays_over_mercury_na_sm() {
    memory_stays("na+sm");
}

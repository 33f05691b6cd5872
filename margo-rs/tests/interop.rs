//! Calls between this crate and services in C and C++: Margo and Thallium, over `ofi+tcp` and `na+sm`, both ways.
//!
//! The peers are small programs beside this file, compiled here against the installed Margo and Thallium. Where Mercury
//! is not linked or they are not installed, a line says so and nothing is tested.

#[path = "interop/bulk.rs"]
mod bulk;

use margo_rs::codec::Blob;
use margo_rs::{Blame, CallError, Endpoint, Engine, HgString, Provider, ProviderId, Rpc, RpcId, Wait, protocol_help};
use mochi_test_support::{Process, Watchdog};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
const ECHO: Rpc<Blob, Blob> = Rpc::new("echo");
const GREET: Rpc<HgString, HgString> = Rpc::new("greet");
const DOUBLE: Rpc<Vec<f64>, Vec<f64>> = Rpc::new("double");
const VALUES: Rpc<Values, Values> = Rpc::new("values");
const PROVIDER: ProviderId = ProviderId::new(42);
const LONG: Duration = Duration::from_secs(60);

const OFI_TCP: &str = "ofi+tcp://127.0.0.1";
const NA_SM: &str = "na+sm";

/// Values of all sizes, as a struct of C's.
type Values = (bool, i8, u16, i32, u64, f32, f64);
const SOME: Values = (true, -8, 65534, -70_000, 1 << 60, 1.5, 1e300);

/// The values with each one changed, as the peers change them: nobody shall take an echo for an understanding.
fn changed((flag, tiny, small, medium, large, single, twice): Values) -> Values {
    (!flag, tiny - 1, small + 1, medium * 2, large + 1, single / 2.0, twice * 4.0)
}

fn doubled(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| value * 2.0).collect()
}

fn numbers() -> Vec<f64> {
    (0..40_000).map(f64::from).collect()
}

/// Ends the process when a test hangs.
fn watchdog(name: &'static str) -> Watchdog {
    Watchdog::start(name, LONG * 4)
}

/// Compiles a peer, or says why it is not there.
fn build(source: &str, compiler: &str, package: &str, name: &str) -> Option<PathBuf> {
    if protocol_help("na+sm").is_some() {
        println!("not tested: Mercury is not linked");
        return None;
    }
    let flags = Command::new("pkg-config").args(["--cflags", "--libs", package]).output().ok()?;
    if !flags.status.success() {
        println!("not tested: pkg-config does not find {package}");
        return None;
    }
    let libraries = Command::new("pkg-config").args(["--variable=libdir", "margo"]).output().ok()?;
    let flags = String::from_utf8(flags.stdout).expect("flags are text");
    let libraries = String::from_utf8(libraries.stdout).expect("a directory is text");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Another process may run the same tests, and its program, right now.
    let own = program.with_extension(std::process::id().to_string());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(source);
    let compiled = Command::new(compiler)
        .arg(source)
        .arg("-o")
        .arg(&own)
        .args(flags.split_whitespace())
        .arg(format!("-Wl,-rpath,{}", libraries.trim()))
        .status()
        .expect("there is a compiler");
    assert!(compiled.success(), "{name} does not compile");
    std::fs::rename(&own, &program).expect("a program of its own");
    Some(program)
}

/// A program in C does not start over `na+sm` where a process that was killed had the same id and left its files. The next
/// one has another id.
const ATTEMPTS: u32 = 10;

/// Runs a client to its end.
#[track_caller]
fn call(program: &Path, server: &Engine) -> Output {
    let attempt = |_| {
        let output = Command::new(program).args(["call", server.address().as_str()]).output().expect("the peer starts");
        let is_begun = output.status.success() || !output.stdout.is_empty();
        is_begun.then_some(output)
    };
    (0..ATTEMPTS).find_map(attempt).expect("the peer begins")
}

#[track_caller]
fn start(program: &Path, protocol: &str) -> (Process, String) {
    start_as(program, "serve", protocol)
}

#[track_caller]
fn start_as(program: &Path, role: &str, protocol: &str) -> (Process, String) {
    let attempt = |_| {
        let mut command = Command::new(program);
        command.args([role, protocol]);
        Process::speaking(command, "")
    };
    let process = (0..ATTEMPTS).find_map(attempt).expect("the peer starts, and prints its address");
    let address = process.says.trim().to_owned();
    assert!(!address.is_empty(), "the peer does not start");
    (process, address)
}

fn client(protocol: &str) -> Engine {
    // A client of Mercury listens, too: on the loopback only.
    let options = Engine::builder(protocol).default_timeout(LONG).limits(|limits| limits.connect_timeout = LONG);
    options.connect().expect("a client starts")
}

/// The provider serves as long as it is held.
fn server(protocol: &str) -> (Engine, Provider) {
    let server = Engine::builder(protocol).rpc_threads(2).listen().wait().expect("listening works");
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).expect("free");
    server.register(ECHO, |_, blob| async move { Ok(blob) }).expect("free");
    server.register(VALUES, |_, values| async move { Ok(changed(values)) }).expect("free");
    server.register(DOUBLE, |_, values| async move { Ok(doubled(values)) }).expect("free");
    server.register(GREET, |_, name| async move { Ok(greeting(name)) }).expect("free");
    let provider = server.provider(PROVIDER).identity("adder").expect("free");
    provider.register(SUM, |_, (a, b)| async move { Ok(a + b + 42) }).expect("free");
    let fail: Rpc<(), ()> = Rpc::new("fail");
    server.register(fail, |_, ()| async { Err("as asked".into()) }).expect("free");
    let short: Rpc<(i64, i64), i64> = Rpc::new("short");
    server.register(short, |_, (a, b)| async move { Ok(a + b) }).expect("free");
    let hang: Rpc<(), ()> = Rpc::new("hang");
    server.register(hang, |_, ()| std::future::pending()).expect("free");
    let parent: Rpc<(), u64> = Rpc::new("parent");
    server
        .register(parent, |request, ()| async move {
            Ok(request.parent_rpc_id().map_or(margo_rs::NO_PARENT.as_u64(), RpcId::as_u64))
        })
        .expect("free");
    (server, provider)
}

fn greeting(name: HgString) -> HgString {
    HgString::new(format!("hello, {}", name.into_string().unwrap_or_default()))
}

fn pattern(size: usize) -> Blob {
    Blob((0..size).map(|at| (at * 31 + at / 256) as u8).collect())
}

/// What every Margo server must do for us.
fn call_margo(to: &Endpoint, ours: &Engine) {
    assert_eq!(to.call(SUM, &(40, -2)).wait().unwrap(), 38);
    assert_eq!(to.provider(PROVIDER).call(SUM, &(40, -2)).wait().unwrap(), 80);
    let greeted = to.call(GREET, &HgString::new("Rust")).wait().unwrap();
    assert_eq!(greeted.into_string().as_deref(), Some("hello, Rust"));
    assert_eq!(to.call(VALUES, &SOME).wait().unwrap(), changed(SOME));
    assert!(to.call(DOUBLE, &numbers()).wait().unwrap() == doubled(numbers()));
    for size in [0, 1, 4000, 4048, 4049, 4056, 4064, 4080, 5000, 300_000] {
        assert!(to.call(ECHO, &pattern(size)).wait().unwrap() == pattern(size), "{size} bytes");
    }
    let missing: Rpc<(), ()> = Rpc::new("missing");
    match to.call(missing, &()).wait() {
        Err(CallError::NoSuchRpc { provider: ProviderId::DEFAULT, .. }) => {}
        other => panic!("{other:?}"),
    }
    match to.provider(7.into()).call(SUM, &(1, 1)).wait() {
        Err(error @ CallError::NoSuchRpc { .. }) => assert_eq!(error.blame(), Blame::Server),
        other => panic!("{other:?}"),
    }
    assert_eq!(to.provider(PROVIDER).identity().wait().unwrap().as_deref(), Some("adder"));
    // Many at a time.
    let calls: Vec<_> = (0..500).map(|n| to.call(SUM, &(n, n)).start()).collect();
    for (n, call) in (0..500).zip(calls) {
        assert_eq!(call.wait().unwrap(), 2 * n);
    }
    // A handler of theirs calls us, and says whose doing that is.
    let relay: Rpc<HgString, u64> = Rpc::new("relay");
    let parent = to.call(relay, &HgString::new(ours.address().as_str())).wait().unwrap();
    let id = relay.id(ProviderId::DEFAULT);
    // Margo on Mercury 2.2 has shorter ids.
    let old = u64::from(id.hash() << 16 | 0xffff);
    let is_old = mochi_sys::MERCURY_VERSION.is_some_and(|version| version.starts_with("2.2"));
    assert_eq!(parent, if is_old { old } else { id.as_u64() });
    assert_eq!(ours.load().requests, 0);
}

fn a_margo_server_is_called(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("peer.c", "cc", "margo", name) else { return };
    let (mut process, address) = start(&program, protocol);
    let (ours, _provider) = server(protocol);
    let client = client(protocol);
    let to = client.lookup(&address).wait().unwrap();
    call_margo(&to, &ours);
    assert_eq!(client.load().calls, 0);
    to.shutdown_remote().wait().unwrap();
    let ended = process.wait();
    assert!(ended.success(), "{ended}");
}

fn a_margo_client_calls(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("peer.c", "cc", "margo", name) else { return };
    let (server, _provider) = server(protocol);
    // Not the first time it is asked.
    let asked = AtomicBool::new(false);
    server.enable_remote_shutdown(move |_| asked.swap(true, Ordering::Relaxed));
    let Output { status, stdout, stderr } = call(&program, &server);
    let (told, log) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}: {told}\n{log}");
    assert_eq!(told.lines().filter(|line| line.ends_with(": right")).count(), 16, "{told}");
    server.wait().wait();
}

fn a_margo_server_that_dies_is_noticed(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("peer.c", "cc", "margo", name) else { return };
    let (process, address) = start(&program, protocol);
    let client = Engine::builder(protocol)
        .limits(|limits| limits.keepalive = Duration::from_millis(200))
        .connect()
        .expect("a client starts");
    let to = client.lookup(&address).wait().unwrap();
    assert_eq!(to.call(SUM, &(1, 1)).wait().unwrap(), 2);
    drop(process);
    // Not at once everywhere: the deadline bounds it, and the engine lives on and ends.
    let error = to.call(SUM, &(1, 1)).timeout(Duration::from_secs(2)).wait().unwrap_err();
    assert!(matches!(error.blame(), Blame::Network | Blame::Time), "{error:?}");
    client.shutdown().wait();
}

const THALLIUM_SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
const THALLIUM_GREET: Rpc<String, String> = Rpc::new("greet");
const JOIN: Rpc<Vec<String>, String> = Rpc::new("join");

fn a_thallium_server_is_called(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("peer.cpp", "c++", "thallium", name) else { return };
    let (mut process, address) = start(&program, protocol);
    let client = client(protocol);
    let to = client.lookup(&address).wait().unwrap();
    let thallium = to.provider(ProviderId::THALLIUM);
    assert_eq!(thallium.call(THALLIUM_SUM, &(40, -2)).wait().unwrap(), 38);
    assert_eq!(thallium.call(THALLIUM_GREET, &"Rust".to_owned()).wait().unwrap(), "hello, Rust");
    assert!(thallium.call(DOUBLE, &numbers()).wait().unwrap() == doubled(numbers()));
    assert_eq!(thallium.call(VALUES, &SOME).wait().unwrap(), changed(SOME));
    let words = ["a", "", "longer"].map(str::to_owned).to_vec();
    assert_eq!(thallium.call(JOIN, &words).wait().unwrap(), "alonger");
    let adder = to.provider(PROVIDER);
    assert_eq!(adder.call(THALLIUM_SUM, &(40, -2)).wait().unwrap(), 80);
    assert_eq!(adder.identity().wait().unwrap().as_deref(), Some("adder"));
    // Without Thallium's provider there is nothing.
    assert!(matches!(to.call(THALLIUM_SUM, &(1, 1)).wait(), Err(CallError::NoSuchRpc { .. })));
    to.shutdown_remote().wait().unwrap();
    let ended = process.wait();
    assert!(ended.success(), "{ended}");
}

fn a_thallium_client_calls(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("peer.cpp", "c++", "thallium", name) else { return };
    let server = Engine::builder(protocol).rpc_threads(2).listen().wait().expect("listening works");
    server.enable_remote_shutdown(|_| true);
    let provider = server.provider(ProviderId::THALLIUM);
    provider.register(THALLIUM_SUM, |_, (a, b)| async move { Ok(a + b) }).expect("free");
    provider.register(THALLIUM_GREET, |_, name| async move { Ok(format!("hello, {name}")) }).expect("free");
    provider.register(DOUBLE, |_, values| async move { Ok(doubled(values)) }).expect("free");
    provider.register(VALUES, |_, values| async move { Ok(changed(values)) }).expect("free");
    provider.register(JOIN, |_, words| async move { Ok(words.concat()) }).expect("free");
    let fail: Rpc<(), ()> = Rpc::new("fail");
    provider.register(fail, |_, ()| async { Err("as asked".into()) }).expect("free");
    let hang: Rpc<(), ()> = Rpc::new("hang");
    provider.register(hang, |_, ()| std::future::pending()).expect("free");
    let adder = server.provider(PROVIDER).identity("adder").expect("free");
    adder.register(THALLIUM_SUM, |_, (a, b)| async move { Ok(a + b + 42) }).expect("free");
    let Output { status, stdout, stderr } = call(&program, &server);
    let (told, log) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}: {told}\n{log}");
    assert_eq!(told.lines().filter(|line| line.ends_with(": right")).count(), 10, "{told}");
    server.wait().wait();
}

fn a_margo_server_that_is_not_to_be_ended_refuses(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("peer.c", "cc", "margo", name) else { return };
    let (_process, address) = start_as(&program, "stay", protocol);
    let client = client(protocol);
    let to = client.lookup(&address).wait().unwrap();
    match to.shutdown_remote().wait() {
        Err(error @ CallError::Rejected { .. }) => assert!(error.to_string().contains("shutdown"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(to.call(SUM, &(1, 1)).wait().unwrap(), 2);
}

#[test]
fn a_margo_server_that_is_not_to_be_ended_refuses_over_ofi_tcp() {
    a_margo_server_that_is_not_to_be_ended_refuses("margo_stays_tcp", OFI_TCP);
}

#[test]
fn a_margo_server_that_is_not_to_be_ended_refuses_over_na_sm() {
    a_margo_server_that_is_not_to_be_ended_refuses("margo_stays_sm", NA_SM);
}

#[test]
fn a_thallium_server_is_called_over_ofi_tcp() {
    a_thallium_server_is_called("thallium_server_tcp", OFI_TCP);
}

#[test]
fn a_thallium_server_is_called_over_na_sm() {
    a_thallium_server_is_called("thallium_server_sm", NA_SM);
}

#[test]
fn a_thallium_client_calls_over_ofi_tcp() {
    a_thallium_client_calls("thallium_client_tcp", OFI_TCP);
}

#[test]
fn a_thallium_client_calls_over_na_sm() {
    a_thallium_client_calls("thallium_client_sm", NA_SM);
}

#[test]
fn a_margo_server_is_called_over_ofi_tcp() {
    a_margo_server_is_called("margo_server_tcp", OFI_TCP);
}

#[test]
fn a_margo_server_is_called_over_na_sm() {
    a_margo_server_is_called("margo_server_sm", NA_SM);
}

#[test]
fn a_margo_client_calls_over_ofi_tcp() {
    a_margo_client_calls("margo_client_tcp", OFI_TCP);
}

#[test]
fn a_margo_client_calls_over_na_sm() {
    a_margo_client_calls("margo_client_sm", NA_SM);
}

#[test]
fn a_margo_server_that_dies_is_noticed_over_ofi_tcp() {
    a_margo_server_that_dies_is_noticed("margo_death_tcp", OFI_TCP);
}

#[test]
fn a_margo_server_that_dies_is_noticed_over_na_sm() {
    a_margo_server_that_dies_is_noticed("margo_death_sm", NA_SM);
}

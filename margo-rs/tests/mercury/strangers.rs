//! Peers on plain Mercury that know nothing of Margo: what they get, what their answers become, how they die.
//!
//! The peer is the program beside this file, compiled here against the installed Mercury; with `MOCHI_TEST_CHECKSUMS` set
//! to the directory of a `mercury.pc`, also against one that was built with checksums.

use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::{Blame, CallError, ConnectError, Engine, ProviderId, Rpc, RpcId, Wait};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// What the stranger's server answers with.
const STATUS_CUT: Rpc<(), i64> = Rpc::new("status_cut");
const VALUE_CUT: Rpc<(), i64> = Rpc::new("value_cut");
const EMPTY: Rpc<(), i64> = Rpc::new("empty");
const HUGE: Rpc<(), Blob> = Rpc::new("huge");
const SILENT: Rpc<(), i64> = Rpc::new("silent");
const STOP: Rpc<(), i64> = Rpc::new("stop");

/// Statuses of Margo's: Mercury's codes, which are the same in all releases so far.
const NOENTRY: u32 = 2;
const INVALID_ARG: u32 = 11;
const MSGSIZE: u32 = 14;

/// The id of an RPC of no provider, as Margo has it on the wire of this Mercury.
fn id(name: &str) -> String {
    let id = RpcId::new(name, ProviderId::DEFAULT);
    let old = u64::from(id.hash() << 16 | 0xffff);
    if is_at_least(2, 3) { id.as_u64() } else { old }.to_string()
}

/// Compiles the stranger, once for each Mercury; `None` if that is not there.
fn stranger(checksums: bool) -> Option<&'static Path> {
    static PLAIN: OnceLock<Option<PathBuf>> = OnceLock::new();
    static CHECKSUMS: OnceLock<Option<PathBuf>> = OnceLock::new();
    if checksums {
        return CHECKSUMS
            .get_or_init(|| compile("stranger_checksums", std::env::var("MOCHI_TEST_CHECKSUMS").ok()))
            .as_deref();
    }
    PLAIN.get_or_init(|| compile("stranger", std::env::var("PKG_CONFIG_PATH").ok())).as_deref()
}

fn compile(name: &str, pkg_config_path: Option<String>) -> Option<PathBuf> {
    let pkg_config = |arguments: &[&str]| {
        let mut command = Command::new("pkg-config");
        command.args(arguments).arg("mercury").envs(pkg_config_path.iter().map(|path| ("PKG_CONFIG_PATH", path)));
        let output = command.output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let (Some(flags), Some(libraries)) = (pkg_config(&["--cflags", "--libs"]), pkg_config(&["--variable=libdir"]))
    else {
        println!("{name}: not tested: pkg-config does not find Mercury");
        return None;
    };
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Another process may run the same tests, and its program, right now.
    let own = program.with_extension(std::process::id().to_string());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mercury/stranger.c");
    let status = Command::new("cc")
        .arg(source)
        .arg("-o")
        .arg(&own)
        .args(flags.split_whitespace())
        .arg(format!("-Wl,-rpath,{}", libraries.trim()))
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{name} does not compile"),
        Err(error) => {
            println!("{name}: not tested: no C compiler: {error}");
            return None;
        }
    }
    std::fs::rename(&own, &program).expect("a program of its own");
    Some(program)
}

/// A stranger that is ended with the test.
struct Stranger {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Stranger {
    fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut child =
            Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().expect("the stranger starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, out }
    }

    fn serve(program: &Path, protocol: &str) -> (Self, String) {
        let ids = ["status_cut", "value_cut", "empty", "huge", "silent", "stop"].map(id);
        let mut arguments = vec!["serve", protocol];
        arguments.extend(ids.iter().map(String::as_str));
        let mut stranger = Self::start(program, &arguments);
        let address = stranger.line();
        assert!(!address.is_empty(), "the stranger does not start");
        (stranger, address)
    }

    /// Asks without end. A program in C does not start over `na+sm` where a process that was killed had the same id and left
    /// its files, so it is tried again.
    fn storm(program: &Path, server: &Engine) -> Self {
        let arguments = ["storm", server.address().as_str(), &id("sum")];
        let mut attempts = (0..50).map(|_| Self::start(program, &arguments));
        let storming = attempts.find_map(|mut storm| (storm.line() == "storming").then_some(storm));
        storming.expect("the stranger starts in one of fifty attempts")
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("the stranger prints text");
        line.trim().to_owned()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn small_server(address: &str) -> Engine {
    let options = engine(address).limits(|limits| limits.max_message = 64 << 10);
    with_handlers(options.listen().wait().expect("listening works"))
}

/// What a server tells a stranger, by the question.
fn told(program: &Path, server: &Engine, to_do: &str, rpcs: &[&str]) -> Vec<(String, String)> {
    let ids: Vec<_> = rpcs.iter().map(|name| id(name)).collect();
    let mut arguments = vec![to_do, server.address().as_str()];
    arguments.extend(ids.iter().map(String::as_str));
    // One that does not start says nothing: see `Stranger::storm`.
    for _ in 0..50 {
        let mut stranger = Stranger::start(program, &arguments);
        let mut lines = Vec::new();
        loop {
            let line = stranger.line();
            let Some((name, answer)) = line.split_once(": ") else { break };
            lines.push((name.to_owned(), answer.to_owned()));
        }
        let status = stranger.child.wait().expect("it ends");
        if !lines.is_empty() {
            assert!(status.success(), "{status}: {lines:?}");
            return lines;
        }
    }
    panic!("the stranger starts in one of fifty attempts");
}

fn bad_requests_get_a_reason(address: &str) {
    let Some(program) = stranger(false) else { return };
    let server = small_server(address);
    let client = client(address);
    let to = lookup(&client, &server);
    for _ in 0..3 {
        let told = told(program, &server, "call", &["sum", "unknown", "__identity__", "__mochi_rs__"]);
        let expected = [
            ("right", "status 0".to_owned()),
            ("empty", format!("status {INVALID_ARG}")),
            ("half a header", format!("status {INVALID_ARG}")),
            ("header only", format!("status {INVALID_ARG}")),
            ("half an argument", format!("status {INVALID_ARG}")),
            ("too long", format!("status {INVALID_ARG}")),
            ("large", format!("status {MSGSIZE}")),
        ];
        for (at, (name, answer)) in expected.iter().enumerate() {
            assert_eq!(told[at], ((*name).to_owned(), answer.clone()), "{told:?}");
        }
        // Mercury itself knows which RPCs there are.
        let unknown = &told[7].1;
        assert!(unknown.contains("HG_NOENTRY") || *unknown == format!("status {NOENTRY}"), "{told:?}");
        assert!(told[8].1.starts_with("status "), "an answer to half a question for the identity: {told:?}");
        assert!(told[9].1.starts_with("status ") && told[10].1.starts_with("status "), "{told:?}");
        assert_eq!(told.last().expect("the last").1, "status 0", "{told:?}");
        assert_eq!(to.call(SUM, &(40, 2)).wait().expect("an honest call works"), 42);
    }
    comes_to("no request is left", || server.load(), |load| load.requests == 0);
}

/// Also where the buffer holds what nobody of ours has ever seen: Mercury itself answers calls of RPCs that are not there.
fn a_short_message_shows_nothing_of_another(address: &str) {
    let Some(program) = stranger(false) else { return };
    let server = serve(address);
    let told = told(program, &server, "peek", &["echo", "unknown", "unknown_one_way"]);
    let of = |name: &str| told.iter().filter(|(of, _)| of == name).map(|(_, answer)| answer).collect::<Vec<_>>();
    assert!(of("filled").len() == 300 && of("filled one way").len() == 300, "{told:?}");
    let peeked = of("peeked");
    assert!(
        peeked.len() == 300 && peeked.iter().all(|answer| **answer == format!("status {INVALID_ARG}")),
        "{peeked:?}"
    );
    assert_eq!(of("full"), ["status 0"]);
    assert_eq!(of("one too many"), [&format!("status {INVALID_ARG}")]);
}

fn bad_answers_become_errors(address: &str) {
    let Some(program) = stranger(false) else { return };
    let (_stranger, theirs) = Stranger::serve(program, address);
    let client = engine(address).limits(|limits| limits.max_message = 64 << 10).connect().expect("a client starts");
    let to = client.lookup(&theirs).wait().expect("somebody is there");
    for (rpc, round) in [STATUS_CUT, VALUE_CUT, EMPTY].into_iter().zip(0..) {
        let error = to.call(rpc, &()).wait().expect_err("it is no answer");
        assert!(matches!(error, CallError::MalformedResponse { .. } | CallError::Decode { .. }), "{round}: {error:?}");
        assert_eq!(error.blame(), Blame::Server);
    }
    match to.call(HUGE, &()).wait() {
        Err(CallError::TooLarge { size, max }) => assert!(size == 1 << 20 && max == 64 << 10, "{size} {max}"),
        other => panic!("{other:?}"),
    }
    let missing: Rpc<(), ()> = Rpc::new("missing");
    assert!(matches!(to.call(missing, &()).wait(), Err(CallError::NoSuchRpc { .. })));
    let error = to.call(SILENT, &()).timeout(Duration::from_millis(100)).wait().expect_err("nobody answers");
    assert_eq!(error.blame(), Blame::Time);
    assert_eq!(client.load().calls, 0);
    client.shutdown().wait();
}

/// Neither a peer that stands still nor one that is killed keeps an engine from ending.
fn an_engine_ends_without_its_peers(address: &str) {
    let Some(program) = stranger(false) else { return };
    for stop in [true, false] {
        let (stranger, theirs) = Stranger::serve(program, address);
        let client = client(address);
        let to = client.lookup(&theirs).wait().expect("somebody is there");
        let silent: Vec<_> = (0..50).map(|_| to.call(SILENT, &()).start()).collect();
        if stop {
            let error = to.call(STOP, &()).timeout(Duration::from_millis(300)).wait().expect_err("it stands still");
            assert_eq!(error.blame(), Blame::Time, "{error:?}");
        } else {
            drop(stranger);
        }
        // Large ones have to be fetched by the peer.
        let large: Vec<_> = (0..3).map(|_| to.call(ECHO, &Blob(vec![1; 1 << 20])).start()).collect();
        client.shutdown().wait();
        for call in
            silent.into_iter().map(|call| call.wait().err()).chain(large.into_iter().map(|call| call.wait().err()))
        {
            assert!(call.is_some(), "nobody answered");
        }
    }
}

fn a_storm_of_strangers_ends_with_the_server(address: &str) {
    let Some(program) = stranger(false) else { return };
    for _ in 0..3 {
        let server = serve(address);
        let storms: Vec<_> = (0..2).map(|_| Stranger::storm(program, &server)).collect();
        let client = client(address);
        let to = lookup(&client, &server);
        for n in 0..50 {
            assert_eq!(to.call(SUM, &(n, 1)).wait().expect("there is room for an honest call"), n + 1);
        }
        server.shutdown().wait();
        if address == NA_SM {
            let file = format!("/dev/shm/na_sm-{}", server.address().location());
            assert!(!Path::new(&file).exists(), "{file} is left behind");
        }
        drop(storms);
        client.shutdown().wait();
    }
}

/// Mercury without checksums refuses what one with checksums sends, and says nothing to it.
fn a_peer_with_checksums_is_no_peer(address: &str) {
    let Some(program) = stranger(true) else { return };
    let (_stranger, theirs) = Stranger::serve(program, address);
    let impatient = |limits: &mut margo_rs::Limits| limits.connect_timeout = Duration::from_millis(500);
    let client = engine(address).limits(impatient).connect().expect("a client starts");
    match client.lookup(&theirs).wait() {
        // As a plain peer that answers nothing we understand.
        Ok(to) => {
            let error = to.call(EMPTY, &()).timeout(Duration::from_millis(500)).wait().expect_err("no common language");
            println!("a call to a peer with checksums: {error}");
        }
        Err(error) => {
            println!("a lookup of a peer with checksums: {error}");
            assert!(matches!(error, ConnectError::Timeout { .. } | ConnectError::Unreachable { .. }), "{error:?}");
        }
    }
    client.shutdown().wait();
    // And the other way round: its requests are dropped, and honest peers are served.
    let server = serve(address);
    let storm = Stranger::storm(program, &server);
    let honest = crate::support::client(address);
    let to = lookup(&honest, &server);
    for n in 0..50 {
        assert_eq!(to.call(SUM, &(n, 1)).wait().expect("honest calls work"), n + 1);
    }
    drop(storm);
    server.shutdown().wait();
}

/// Makes a test of each function for each plugin.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use crate::support::*;

            #[test]
            fn over_ofi_tcp() {
                with_mercury(concat!(stringify!($test), " over ofi+tcp"), || super::$test(OFI_TCP));
            }

            #[test]
            fn over_na_sm() {
                with_mercury(concat!(stringify!($test), " over na+sm"), || super::$test(NA_SM));
            }
        })*
    };
}

over_both! {
    bad_requests_get_a_reason,
    a_short_message_shows_nothing_of_another,
    bad_answers_become_errors,
    an_engine_ends_without_its_peers,
    a_storm_of_strangers_ends_with_the_server,
    a_peer_with_checksums_is_no_peer,
}

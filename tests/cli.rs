//! The `mochi` tool as its users and their scripts see it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use margo_rs::Engine;
use mochi_auth::mechanism::key_file::Key;
use mochi_test_support::{Ended, PATIENCE, Program, Watchdog};

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mochi"));
    command.args(arguments).env_remove("MOCHI_LOG").env_remove("RUST_LOG");
    command
}

fn mochi(arguments: &[&str]) -> Ended {
    Program::run(&mut tool(arguments))
}

/// As above, while the test's own engine goes on serving.
async fn mochi_async(arguments: &[&str]) -> Ended {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
    let run = move || mochi(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.expect("the tool can be waited for")
}

fn json(output: &Ended) -> serde_json::Value {
    serde_json::from_str(&output.text()).expect("JSON")
}

async fn server() -> (Engine, String) {
    let engine = Engine::listen("native+tcp://127.0.0.1").await.expect("loopback can be listened on");
    let address = engine.address().to_string();
    (engine, address)
}

#[test]
fn wrong_arguments_exit_with_2() {
    for arguments in [
        &[][..],
        &["bogus"],
        &["ping"],
        &["ping", "tcp://127.0.0.1:1", "--count", "0"],
        &["ping", "tcp://127.0.0.1:1", "--interval", "-1"],
        &["ping", "not an address"],
        &["shutdown"],
        &["shutdown", "127.0.0.1:1"],
        &["keygen", "a name without its option"],
    ] {
        mochi(arguments).usage_error();
    }
}

#[test]
fn info_says_what_works_and_what_the_rest_needs() {
    let text = mochi(&["info"]).text();
    let mercury = if mochi_sys::LINKED { "yes" } else { "no" };
    for (protocol, verdict) in [("native+tcp", "yes"), ("native+sm", "yes"), ("ofi+verbs", "no"), ("na+sm", mercury)] {
        let row = text.lines().find(|line| line.split_whitespace().next() == Some(protocol));
        assert_eq!(row.and_then(|row| row.split_whitespace().nth(1)), Some(verdict), "{text}");
    }
    assert!(text.contains("Mercury"), "{text}");
    let argobots = if mochi_sys::ARGOBOTS_LINKED { "Argobots linked" } else { "Argobots not linked" };
    assert!(text.lines().next().is_some_and(|line| line.ends_with(argobots)), "{text}");

    let report = json(&mochi(&["info", "--json"]));
    assert_eq!(report["protocols"][0]["protocol"], "native+tcp");
    assert_eq!(report["protocols"][0]["works"], true);
    assert_eq!(report["mercury"], mochi_sys::LINKED);
    assert_eq!(report["argobots"], mochi_sys::ARGOBOTS_LINKED);
}

/// For scripts: what they did not get, they must not take for what there is.
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("a.key");
    for arguments in [&["info"][..], &["info", "--json"], &["keygen", "-o", key.to_str().expect("UTF-8")]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let child = tool(arguments).stdout(full).stderr(Stdio::piped()).spawn().expect("the tool starts");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.starts_with("error: cannot write to standard output: ") && error.lines().count() == 1, "{error}");
    }
}

/// As in `mochi ping … | head -1`.
#[tokio::test(flavor = "multi_thread")]
async fn ping_ends_without_a_word_when_its_reader_has_left() {
    let (engine, address) = server().await;
    let mut endless = tool(&["ping", &address, "--count", "4000000000", "--interval", "0.02"]);
    let left = tokio::task::spawn_blocking(move || {
        let mut ping = endless.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tool starts");
        let mut line = String::new();
        BufReader::new(ping.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("connected to "), "{line}");
        let _watchdog = Watchdog::start("ping without a reader", PATIENCE);
        ping.wait_with_output().expect("it ends")
    });
    let output = left.await.expect("ping has ended");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_measures_a_server_without_handlers() {
    let (engine, address) = server().await;
    let text = mochi_async(&["ping", &address, "--count", "3", "--interval", "0"]).await.text();
    assert_eq!(text.lines().filter(|line| line.starts_with("answer ")).count(), 3, "{text}");

    let report = json(&mochi_async(&["ping", &address, "-c", "2", "-i", "0", "--json"]).await);
    assert_eq!(report["round_trips_us"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["address"], address);
    engine.shutdown().await;
}

#[test]
fn ping_of_nobody_is_one_error_line() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("native+tcp://127.0.0.1:{port}");
    assert!(mochi(&["ping", &address]).one_error_line().contains(&address));
    assert!(mochi(&["ping", "ofi+verbs://node7:1"]).one_error_line().contains("Mercury"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_is_refused_unless_the_server_allows_it() {
    let (engine, address) = server().await;
    mochi_async(&["shutdown", &address]).await.one_error_line();
    mochi_async(&["ping", &address, "-c", "1"]).await.text();

    engine.enable_remote_shutdown(|_request| true);
    mochi_async(&["shutdown", &address]).await.text();
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(30), engine.wait()).await;
    assert!(stopped.is_ok(), "the server is still there");
}

#[test]
fn keygen_makes_a_key_file_that_only_its_owner_can_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.key");
    let text = mochi(&["keygen", "--output", path.to_str().expect("UTF-8")]).text();
    let key = Key::load(&path).expect("a key file");
    assert!(text.contains(&key.id().to_string()) && text.contains(path.to_str().expect("UTF-8")), "{text}");
    assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o7777, 0o600);
    let secret = fs::read_to_string(&path).expect("a line").trim_end().replace("hgrpc1-key:", "");
    assert_eq!(secret.len(), 64);
    assert!(!text.contains(&secret), "the key itself is printed");

    let other = directory.path().join("b.key");
    mochi(&["keygen", "-o", other.to_str().expect("UTF-8")]).text();
    assert_ne!(Key::load(&other).expect("a key file").id(), key.id());
}

#[test]
fn keygen_replaces_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.key");
    for (name, before) in [("a.key", Some("something dear")), ("link.key", None), ("no/such/directory.key", None)] {
        let path = directory.path().join(name);
        if let Some(before) = before {
            fs::write(&path, before).expect("a file");
        }
        if name == "link.key" {
            std::os::unix::fs::symlink("elsewhere", &path).expect("a link");
        }
        let ended = mochi(&["keygen", "--output", path.to_str().expect("UTF-8")]);
        assert!(ended.one_error_line().contains(name), "{ended:?}");
    }
    assert_eq!(fs::read_to_string(&path).expect("a file"), "something dear");
    assert!(!directory.path().join("elsewhere").exists());
}

//! The `mochi` tool as its users and their scripts see it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

use margo_rs::Engine;
use mochi_auth::mechanism::key_file::Key;

fn mochi(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mochi"));
    command.args(arguments).env_remove("MOCHI_LOG").env_remove("RUST_LOG");
    command.output().expect("the tool starts")
}

/// As above, while the test's own engine goes on serving.
async fn mochi_async(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
    let run = move || mochi(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.expect("the tool can be waited for")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn error_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{output:?}");
    text.strip_prefix("error: ").unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&stdout(output)).expect("JSON")
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
        let output = mochi(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_ne!(output.stderr, b"", "{arguments:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
}

#[test]
fn info_says_what_works_and_what_the_rest_needs() {
    let text = stdout(&mochi(&["info"]));
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

#[tokio::test(flavor = "multi_thread")]
async fn ping_measures_a_server_without_handlers() {
    let (engine, address) = server().await;
    let text = stdout(&mochi_async(&["ping", &address, "--count", "3", "--interval", "0"]).await);
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
    assert!(error_line(&mochi(&["ping", &address])).contains(&address));
    assert!(error_line(&mochi(&["ping", "ofi+verbs://node7:1"])).contains("Mercury"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_is_refused_unless_the_server_allows_it() {
    let (engine, address) = server().await;
    error_line(&mochi_async(&["shutdown", &address]).await);
    stdout(&mochi_async(&["ping", &address, "-c", "1"]).await);

    engine.enable_remote_shutdown(|_request| true);
    stdout(&mochi_async(&["shutdown", &address]).await);
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(30), engine.wait()).await;
    assert!(stopped.is_ok(), "the server is still there");
}

#[test]
fn keygen_makes_a_key_file_that_only_its_owner_can_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.key");
    let text = stdout(&mochi(&["keygen", "--output", path.to_str().expect("UTF-8")]));
    let key = Key::load(&path).expect("a key file");
    assert!(text.contains(&key.id().to_string()) && text.contains(path.to_str().expect("UTF-8")), "{text}");
    assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o7777, 0o600);
    let secret = fs::read_to_string(&path).expect("a line").trim_end().replace("hgrpc1-key:", "");
    assert_eq!(secret.len(), 64);
    assert!(!text.contains(&secret), "the key itself is printed");

    let other = directory.path().join("b.key");
    stdout(&mochi(&["keygen", "-o", other.to_str().expect("UTF-8")]));
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
        let error = error_line(&mochi(&["keygen", "--output", path.to_str().expect("UTF-8")]));
        assert!(error.contains(name), "{error}");
    }
    assert_eq!(fs::read_to_string(&path).expect("a file"), "something dear");
    assert!(!directory.path().join("elsewhere").exists());
}

//! The service with users, when something is wrong: one line that says what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use mochi_test_support::{Ended, Program};
use rustix::process::getuid;

use crate::PROTOCOL;
use crate::full::{Keys, NOWHERE, audited, client, server};
use crate::process::example;
use crate::realm::realm;

fn run(name: &str, arguments: &[&str]) -> Ended {
    Program::start(&mut example(name, arguments, Path::new(NOWHERE))).wait()
}

#[test]
fn wrong_arguments_show_the_usage() {
    let address = "native+tcp://127.0.0.1:1";
    for (name, arguments) in [
        ("full_server", &[][..]),
        ("full_server", &[PROTOCOL, "--mechanism", "password"]),
        ("full_server", &[PROTOCOL, "--mechanism", "key"]),
        ("full_server", &[PROTOCOL, "--mechanism", "munge,key"]),
        ("full_server", &[PROTOCOL, "--mechanism", "munge", "--key-file", "k"]),
        ("full_server", &[PROTOCOL, "--key-file", "k=alice"]),
        ("full_server", &[PROTOCOL, "--key-file", "k=1:"]),
        ("full_server", &[PROTOCOL, "--idle", "0"]),
        ("full_server", &[PROTOCOL, "--lifetime", "1.5"]),
        ("full_server", &[PROTOCOL, "--allow-uid", "alice"]),
        ("full_client", &[]),
        ("full_client", &["127.0.0.1:1"]),
        ("full_client", &[address, "--mechanism", "key"]),
        ("full_client", &[address, "--mechanism", "munge", "--key-file", "k"]),
        ("full_client", &[address, "--server-uid", "alice"]),
    ] {
        let ended = run(name, arguments);
        assert_eq!(ended.status.code(), Some(2), "{name} {arguments:?}: {ended:?}");
        assert!(ended.stderr.contains("--help"), "{ended:?}");
        assert_eq!(ended.stdout, [""; 0], "{ended:?}");
    }
}

#[test]
fn key_files_that_are_not_ones_own_secret_are_refused() {
    let keys = Keys::new();
    let good = keys.make("good.key");
    let open = keys.make("open.key");
    fs::set_permissions(&open, Permissions::from_mode(0o640)).expect("our own file");
    let link = keys.path("link.key");
    symlink(&good, &link).expect("a link");
    let cut = keys.path("cut.key");
    fs::write(&cut, "hgrpc1-key:12\n").expect("a file");
    fs::set_permissions(&cut, Permissions::from_mode(0o600)).expect("our own file");
    for (path, reason) in [
        (open, "chmod 600"),
        (link, "symbolic link"),
        (cut, "mochi keygen"),
        (keys.path("none.key"), "check the path"),
        (keys.path(""), "not a regular file"),
    ] {
        let at_server = run("full_server", &[PROTOCOL, "--key-file", &path]);
        let at_client = run("full_client", &["native+tcp://127.0.0.1:1", "--key-file", &path]);
        for ended in [at_server, at_client] {
            let error = ended.one_error_line();
            assert!(error.contains(reason) && error.contains(&path), "{error}");
            assert_eq!(ended.stdout, [""; 0], "no port was open, nobody was called: {ended:?}");
        }
    }
    let twice = run("full_server", &[PROTOCOL, "--key-file", &good, "--key-file", &format!("{good}=1")]);
    assert!(twice.one_error_line().contains("a key of its own"), "{twice:?}");
}

#[test]
fn a_configuration_that_cannot_be_used_is_named_with_its_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let (wrong, broken, absent) = (path("wrong.json"), path("broken.json"), path("absent.json"));
    fs::write(&wrong, r#"{"limits": {"max_message": "a lot"}}"#).expect("a file");
    fs::write(&broken, r#"{"limits""#).expect("a file");
    for (path, reason) in [(wrong, "`limits.max_message`"), (broken, "not JSON"), (absent, "cannot be read")] {
        let ended = run("full_server", &[PROTOCOL, "--config", &path]);
        let error = ended.one_error_line();
        assert!(error.contains(reason) && error.contains(&path), "{error}");
    }
}

#[test]
fn a_server_does_not_start_without_its_munged() {
    let ended = run("full_server", &[PROTOCOL]);
    assert!(ended.one_error_line().contains(&format!("no munged at {NOWHERE}")), "{ended:?}");
    let ended = run("full_server", &[PROTOCOL, "--munge-socket", "/nonexistent/other.sock"]);
    assert!(ended.one_error_line().contains("no munged at /nonexistent/other.sock"), "{ended:?}");
}

#[test]
fn a_group_that_is_not_there_is_named() {
    let ended = run("full_server", &[PROTOCOL, "--allow-group", "no such group"]);
    assert!(ended.one_error_line().contains("no group \"no such group\" on this host"), "{ended:?}");
}

#[test]
fn an_unreachable_server_is_named() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("native+tcp://127.0.0.1:{port}");
    let ended = client(&address, &[], Path::new(NOWHERE));
    assert!(ended.one_error_line().contains(&address), "{ended:?}");
}

#[test]
fn a_client_without_munged_or_with_one_that_hangs_says_so() {
    let Some(realm) = realm() else { return };
    let (server, address) = server(&[], realm.socket());
    let ended = client(&address, &[], Path::new(NOWHERE));
    assert!(ended.one_error_line().contains(&format!("no munged at {NOWHERE}")), "{ended:?}");

    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("munge.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let ended = client(&address, &["--munge-socket", socket.to_str().expect("UTF-8")], Path::new(NOWHERE));
    assert!(ended.one_error_line().to_lowercase().contains("munge"), "{ended:?}");

    client(&address, &["--munge-socket", realm.socket().to_str().expect("UTF-8")], Path::new(NOWHERE)).assert_success();
    server.stop();
}

#[test]
fn a_handshake_is_refused_in_one_way_whatever_the_reason() {
    let keys = Keys::new();
    let (known, unknown) = (keys.make("known.key"), keys.make("unknown.key"));
    let (server, address) = server(&["--key-file", &known, "--service", "greetings"], Path::new(NOWHERE));
    let mut errors = Vec::new();
    for (options, reason) in [
        (&["--key-file", &unknown][..], "unknown key"),
        (&["--key-file", &known, "--service", "greeting"], "another service"),
        (&["--key-file", &known, "--integrity-only"], "another protection"),
    ] {
        let ended = client(&address, options, Path::new(NOWHERE));
        assert_eq!(ended.stdout, ["Refused without authentication, as it should be"], "{reason}: {ended:?}");
        errors.push(ended.one_error_line().to_owned());
    }
    errors.dedup();
    assert_eq!(errors.len(), 1, "{errors:?}");
    client(&address, &["--key-file", &known, "--service", "greetings"], Path::new(NOWHERE)).assert_success();
    let server = server.stop();
    assert_eq!(audited(&server, "handshake refused"), 3, "the reasons are in the server's log: {server:?}");
    for reason in ["unknown key id", "HELLO is for another server", "IntegrityOnly is not allowed here"] {
        assert!(server.stderr.contains(reason), "{reason}: {server:?}");
    }
}

#[test]
fn a_mechanism_that_the_server_does_not_take_is_refused() {
    let Some(realm) = realm() else { return };
    let keys = Keys::new();
    let key = keys.make("a.key");
    let (by_munge, address) = server(&[], realm.socket());
    assert!(client(&address, &["--key-file", &key], realm.socket()).one_error_line().contains("refused the handshake"));
    assert!(by_munge.stop().stderr.contains("mechanism KeyFile is not accepted here"));
    let (by_both, address) = server(&["--mechanism", "munge,key", "--key-file", &key], realm.socket());
    client(&address, &["--key-file", &key], realm.socket()).assert_success();
    client(&address, &["--mechanism", "munge"], realm.socket()).assert_success();
    by_both.stop();
}

#[test]
fn a_server_that_was_not_meant_is_refused() {
    let Some(realm) = realm() else { return };
    let (server, address) = server(&[], realm.socket());
    let own = getuid().as_raw();
    let other = (own + 1).to_string();
    let ended = client(&address, &["--server-uid", &other], realm.socket());
    let error = ended.one_error_line();
    assert!(error.contains(&format!("a server of uid {other} was meant, --server-uid names another")), "{error}");
    client(&address, &["--server-uid", &own.to_string()], realm.socket()).assert_success();
    server.stop();
}

#[test]
fn a_user_who_is_not_allowed_is_told_what_to_ask_for() {
    let keys = Keys::new();
    let key = keys.make("a.key");
    let of_stranger = format!("{key}=4321");
    let (server, address) = server(&["--key-file", &of_stranger], Path::new(NOWHERE));
    let ended = client(&address, &["--key-file", &key], Path::new(NOWHERE));
    let wanted = "the server does not greet uid 4321; whoever runs it can allow that with --allow-uid 4321";
    assert_eq!(ended.one_error_line(), wanted);
    let server = server.stop();
    assert_eq!((server.stdout.len(), audited(&server, "call denied")), (0, 1), "{server:?}");
    let rule = format!("reason=the rule of this RPC does not allow it: uid {}", getuid().as_raw());
    assert!(server.stderr.lines().any(|line| line.ends_with(&rule)), "{server:?}");
}

#[test]
fn a_server_without_users_is_recognised() {
    let Some(realm) = realm() else { return };
    let mut other = example("simple_auth_server", &[PROTOCOL], realm.socket());
    let (other, address) = Program::server(&mut other);
    client(&address, &[], realm.socket()).one_error_line();
    other.stop();
}

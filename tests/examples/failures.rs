//! What users see when something is wrong: one line that says what, and never a program that hangs.

use std::os::unix::net::UnixListener;
use std::path::Path;

use mochi_rs::stages::NOT_AUTHENTICATED;
use mochi_test_support::Program;

use crate::process::example;
use crate::realm::realm;
use crate::{PROTOCOL, STAGES};

const NOWHERE: &str = "/nonexistent/munge.sock";

fn run(name: &str, arguments: &[&str], socket: &Path) -> mochi_test_support::Ended {
    Program::start(&mut example(name, arguments, socket)).wait()
}

/// A socket where credentials are asked for and never given.
struct HungMunged {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl HungMunged {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("munge.sock")).expect("a socket");
        Self { directory, listener }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("munge.sock")
    }
}

#[test]
fn wrong_arguments_show_the_usage() {
    for stage in STAGES {
        for (side, arguments) in [
            ("server", &[][..]),
            ("server", &["tcp", "more"]),
            ("server", &["tcp://"]),
            ("client", &["127.0.0.1:1"]),
            ("client", &[]),
            ("client", &["native+tcp://127.0.0.1:1", "more"]),
            ("client", &["native+tcp://127.0.0.1:1", "--server-uid", "alice"]),
        ] {
            let ended = run(&format!("{stage}_{side}"), arguments, Path::new(NOWHERE));
            assert_eq!(ended.status.code(), Some(2), "{stage} {side} {arguments:?}: {ended:?}");
            assert!(ended.stderr.contains("Usage") || ended.stderr.contains("--help"), "{ended:?}");
            assert_eq!(ended.stdout, [""; 0], "{ended:?}");
        }
    }
}

#[test]
fn impossible_protocols_say_what_to_do() {
    for stage in STAGES {
        for protocol in ["verbs", "bananas", "tcp://no-such-interface-here"] {
            run(&format!("{stage}_server"), &[protocol], Path::new(NOWHERE)).one_error_line();
        }
    }
}

#[test]
fn unreachable_server_is_an_error() {
    // Bound and closed again, so nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("native+tcp://127.0.0.1:{port}");
    for stage in STAGES {
        let ended = run(&format!("{stage}_client"), &[&address], Path::new(NOWHERE));
        assert!(ended.one_error_line().contains(&address), "{ended:?}");
    }
}

#[test]
fn client_without_munged_says_so() {
    let Some(realm) = realm() else { return };
    for stage in STAGES {
        let mut server = example(&format!("{stage}_server"), &[PROTOCOL], realm.socket());
        let (server, address) = Program::server(&mut server);
        let ended = run(&format!("{stage}_client"), &[&address], Path::new(NOWHERE));
        assert!(ended.one_error_line().to_lowercase().contains("munge"), "{ended:?}");
        server.stop().assert_success();
    }
}

#[test]
fn server_without_munged_refuses_and_lives() {
    let Some(realm) = realm() else { return };
    for stage in STAGES {
        let mut server = example(&format!("{stage}_server"), &[PROTOCOL], Path::new(NOWHERE));
        let (server, address) = Program::server(&mut server);
        for _ in 0..2 {
            let ended = run(&format!("{stage}_client"), &[&address], realm.socket());
            assert_eq!(ended.one_error_line(), NOT_AUTHENTICATED);
        }
        let server = server.stop();
        server.assert_success();
        let refusals = server.stdout.iter().filter(|line| line.starts_with("Authentication refused: ")).count();
        assert_eq!(refusals, 2, "{server:?}");
    }
}

#[test]
fn hung_munged_does_not_hang_the_client() {
    let Some(realm) = realm() else { return };
    let hung = HungMunged::start();
    for stage in STAGES {
        let mut server = example(&format!("{stage}_server"), &[PROTOCOL], realm.socket());
        let (server, address) = Program::server(&mut server);
        let ended = run(&format!("{stage}_client"), &[&address], &hung.socket());
        assert!(ended.one_error_line().to_lowercase().contains("munge"), "{ended:?}");
        server.stop().assert_success();
    }
}

#[test]
fn server_killed_during_a_call_is_an_error_at_the_client() {
    let Some(realm) = realm() else { return };
    for stage in STAGES {
        let hung = HungMunged::start();
        let mut server = example(&format!("{stage}_server"), &[PROTOCOL], &hung.socket());
        let (server, address) = Program::server(&mut server);
        let client = Program::start(&mut example(&format!("{stage}_client"), &[&address], realm.socket()));
        // The server asks its munged, so it is in the middle of the client's call.
        let _connection = hung.listener.accept().expect("the server asks its munged");
        server.kill();
        let ended = client.wait();
        assert!(ended.one_error_line().contains("lost"), "{stage}: {ended:?}");
    }
}

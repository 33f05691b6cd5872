//! What each pair prints when all is well.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mochi_auth::users;
use mochi_rs::stages::NOT_AUTHENTICATED;
use mochi_test_support::Program;
use rustix::process::{getgid, getuid};

use crate::process::{as_user, example, example_path};
use crate::realm::{Realm, realm};
use crate::{PROTOCOL, STAGES, only_this_user};

fn name_of(uid: u32) -> String {
    users::name_of(uid).unwrap_or_else(|| uid.to_string())
}

/// Runs one pair as this user; returns what server and client printed, without the announcement.
fn run_pair(stage: &str, realm: &Realm) -> (Vec<String>, Vec<String>, String) {
    let mut server = example(&format!("{stage}_server"), &[PROTOCOL], realm.socket());
    let (server, address) = Program::server(&mut server);
    let (protocol, host) = PROTOCOL.split_once("://").unwrap_or((PROTOCOL, ""));
    assert!(address.starts_with(protocol) && address.contains(&format!("://{host}")), "{address}");
    let client = Program::start(&mut example(&format!("{stage}_client"), &[&address], realm.socket())).wait();
    client.assert_success();
    let server = server.stop();
    server.assert_success();
    (server.stdout, client.stdout, address)
}

fn authenticated(uid: u32, gid: u32) -> String {
    format!("Authenticated with uid={uid} ({}) and gid={gid}", name_of(uid))
}

fn authenticated_here() -> String {
    authenticated(getuid().as_raw(), getgid().as_raw())
}

#[test]
fn simple_auth_server_learns_who_its_client_is() {
    let Some(realm) = realm() else { return };
    let (server, client, address) = run_pair("simple_auth", &realm);
    assert_eq!(server, [authenticated_here()]);
    assert_eq!(client, [format!("Authenticated at {address}")]);
}

#[test]
fn mac_server_greets_only_after_authentication() {
    let Some(realm) = realm() else { return };
    let (server, client, address) = run_pair("mac", &realm);
    let me = name_of(getuid().as_raw());
    assert_eq!(
        server,
        [
            "Unauthorized attempt to call the hello RPC: this user has not authenticated".to_owned(),
            authenticated_here(),
            format!("Hello \"Matthieu\" (username {me})"),
        ]
    );
    assert_eq!(
        client,
        [
            "Refused before authentication, as it should be".to_owned(),
            format!("Authenticated at {address}"),
            "Greeted after authentication".to_owned(),
        ]
    );
}

#[test]
fn mac_session_server_greets_within_a_session() {
    let Some(realm) = realm() else { return };
    let (server, client, _) = run_pair("mac_session", &realm);
    let me = name_of(getuid().as_raw());
    let mut expected =
        vec!["Unauthorized attempt to call the hello RPC: there is no such session".to_owned(), authenticated_here()];
    expected.extend(["Matthieu", "Phil", "Rob"].map(|name| format!("Hello {name:?} (username {me})")));
    assert_eq!(server, expected);
    assert_eq!(client.last().map(String::as_str), Some("Greeted as Rob"));
}

#[test]
fn client_can_restrict_its_credential_to_the_user_of_the_server() {
    let Some(realm) = realm() else { return };
    for stage in STAGES {
        let mut server = example(&format!("{stage}_server"), &[PROTOCOL], realm.socket());
        let (server, address) = Program::server(&mut server);
        let (mine, other) = (getuid().as_raw().to_string(), (getuid().as_raw() + 1).to_string());
        let client = format!("{stage}_client");
        let run =
            |uid: &str| Program::start(&mut example(&client, &[&address, "--server-uid", uid], realm.socket())).wait();
        run(&mine).assert_success();
        assert_eq!(run(&other).one_error_line(), NOT_AUTHENTICATED);
        server.stop().assert_success();
    }
}

#[test]
fn each_user_gets_their_own_name() {
    let Some(realm) = realm() else { return };
    if only_this_user() {
        return;
    }
    if !getuid().is_root() {
        eprintln!("skipped: only root can run clients of several users");
        return;
    }
    // Two that every Linux system knows, and one that none does.
    let users = [(1, 1), (65534, 65534), (3_999_999_999, 3_999_999_999)];
    for stage in STAGES {
        let mut server = example(&format!("{stage}_server"), &[PROTOCOL], realm.socket());
        let (server, address) = Program::server(&mut server);
        // A copy that other users can reach, wherever the build is.
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("our own directory");
        let client = directory.path().join("client");
        fs::copy(example_path(&format!("{stage}_client")), &client).expect("a copy of the client");
        for (uid, gid) in users {
            let mut command = std::process::Command::new(&client);
            command.arg(&address).env("MUNGE_SOCKET", realm.socket());
            Program::start(as_user(&mut command, uid, gid)).wait().assert_success();
        }
        let server = server.stop();
        server.assert_success();
        let seen: Vec<&String> = server.stdout.iter().filter(|line| line.starts_with("Authenticated")).collect();
        let expected = users.map(|(uid, gid)| authenticated(uid, gid));
        assert_eq!(seen, expected.iter().collect::<Vec<_>>(), "{stage}");
        if stage != "simple_auth" {
            for (uid, _) in users {
                let hello = format!("Hello \"Matthieu\" (username {})", name_of(uid));
                assert!(server.stdout.contains(&hello), "{stage}: {server:?}");
            }
        }
    }
}

/// Servers once caught signals only after they had printed their address: a script that had what it wanted within that
/// time killed them, in half of all tries.
#[test]
fn server_that_gave_its_address_ends_gracefully() {
    for stage in STAGES {
        for _ in 0..20 {
            let mut server = example(&format!("{stage}_server"), &[PROTOCOL], Path::new("/nonexistent"));
            let (server, _) = Program::server(&mut server);
            server.stop().assert_success();
        }
    }
}

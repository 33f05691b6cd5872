//! The service with users: what the pair prints when all is well.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mochi_test_support::{Ended, Program};
use rustix::process::{getgid, getuid};
use tempfile::TempDir;

use crate::process::{as_user, example, example_path};
use crate::realm::realm;
use crate::{PROTOCOL, only_this_user};

pub(crate) const NOWHERE: &str = "/nonexistent/munge.sock";

/// Key files of one test.
pub(crate) struct Keys(TempDir);

impl Keys {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// The path of a new key file, made as users make them.
    pub(crate) fn make(&self, name: &str) -> String {
        let path = self.path(name);
        Program::run(Command::new(env!("CARGO_BIN_EXE_mochi")).args(["keygen", "--output", &path])).assert_success();
        path
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).into_os_string().into_string().expect("UTF-8")
    }
}

pub(crate) fn server(options: &[&str], socket: &Path) -> (Program, String) {
    Program::server(&mut example("full_server", &[&[PROTOCOL], options].concat(), socket))
}

pub(crate) fn client(address: &str, options: &[&str], socket: &Path) -> Ended {
    Program::start(&mut example("full_client", &[&[address], options].concat(), socket)).wait()
}

/// How often the audit log has an event.
pub(crate) fn audited(server: &Ended, event: &str) -> usize {
    let wanted = format!("event={event:?}");
    server.stderr.lines().filter(|line| line.contains("mochi_auth::audit") && line.contains(&wanted)).count()
}

/// What the client prints; the times in it are not compared.
fn expected(address: &str, identity: (u32, u32), proof: &str, sessions: &str) -> Vec<String> {
    let (uid, gid) = identity;
    let mut lines = vec![
        "Refused without authentication, as it should be".to_owned(),
        format!("Authenticated at {address} as uid {uid} gid {gid}, by {proof}"),
    ];
    lines.extend(["Matthieu", "Phil", "Rob"].map(|name| format!("Greeted: \"Hello {name}\"")));
    lines.push("8 greetings and a slow call in flight at once: greeted after".to_owned());
    lines.push(sessions.to_owned());
    lines.push("Replayed: a recorded call sent again got no answer, and nobody was greeted twice".to_owned());
    lines
}

/// With sessions that last 5 s: a busy machine may stop everybody for a second or two, and a call that is on its way when
/// its session ends is lost, as it must be.
const REFUSED_LATE: [&str; 2] = [
    "Expired: a call that arrived 5s late, after its session had ended, was refused",
    "The connection made a new session for its next call by itself",
];
const NOT_SHOWN: &str = "Expired: not shown, as sessions last 900s here; start the server with --idle 2 to see it";
const NO_OPERATOR: &str = "Not authorised to list the sessions, as it should be";

fn assert_printed(client: &Ended, expected: &[String]) {
    client.assert_success();
    assert_eq!(client.stdout.len(), expected.len(), "{client:?}");
    for (line, expected) in client.stdout.iter().zip(expected) {
        assert!(line == expected || expected.ends_with("after") && line.starts_with(expected), "{line:?} {expected:?}");
    }
}

/// Each greeting once: three by name, eight in flight at once, and one that was recorded.
fn assert_greeted(server: &Ended, identity: (u32, u32)) {
    assert!(server.status.success(), "{server:?}");
    let (uid, gid) = identity;
    assert_eq!(server.stdout.len(), 12, "{server:?}");
    for line in &server.stdout {
        assert!(line.starts_with("Hello \"") && line.ends_with(&format!("(uid {uid} gid {gid})")), "{line}");
    }
}

/// The recorder is reached by TCP of our own, whatever the server listens on.
#[test]
fn the_pair_runs_over_each_built_in_transport() {
    let keys = Keys::new();
    let key = keys.make("alice.key");
    for protocol in ["native+tcp://127.0.0.1", "native+sm"] {
        let (server, address) =
            Program::server(&mut example("full_server", &[protocol, "--key-file", &key], Path::new(NOWHERE)));
        let client = client(&address, &["--key-file", &key], Path::new(NOWHERE));
        let me = (getuid().as_raw(), getgid().as_raw());
        let mut lines = expected(&address, me, "a key file, encrypted", NO_OPERATOR);
        lines.extend([NOT_SHOWN, "Closed"].map(str::to_owned));
        assert_printed(&client, &lines);
        assert_greeted(&server.stop(), me);
    }
}

#[test]
fn users_of_munge_are_greeted_and_attacks_refused() {
    let Some(realm) = realm() else { return };
    let (server, address) = server(&["--idle", "5"], realm.socket());
    let client = client(&address, &[], realm.socket());
    let server = server.stop();
    let me = (getuid().as_raw(), getgid().as_raw());
    let mut lines = expected(&address, me, "MUNGE, encrypted", NO_OPERATOR);
    lines.extend(REFUSED_LATE.map(str::to_owned));
    lines.push("Closed".to_owned());
    assert_printed(&client, &lines);
    assert_greeted(&server, me);
    assert_eq!(audited(&server, "call denied"), 1, "{server:?}");
    let refused =
        |reason| server.stderr.lines().filter(|line| line.contains("rpc=\"greet\"") && line.contains(reason)).count();
    assert_eq!(refused("the caller must authenticate"), 1, "{server:?}");
    assert_eq!(refused("sequence number seen before"), 1, "{server:?}");
    // The server may or may not have swept it away by then.
    assert_eq!(refused("session has expired") + refused("unknown session"), 1, "{server:?}");
    assert!(audited(&server, "session opened") >= 3, "{server:?}");
}

#[test]
fn holders_of_keys_are_greeted_where_no_munged_is() {
    let keys = Keys::new();
    let (alice, bob) = (keys.make("alice.key"), keys.make("bob.key"));
    let (for_alice, for_bob) = (format!("{alice}=4321:99"), format!("{bob}=4322:99"));
    let options = ["--key-file", &for_alice, "--key-file", &for_bob, "--allow-gid", "99", "--lifetime", "5"];
    let (server, address) = server(&[&options[..], &["--operator-uid", "4321"]].concat(), Path::new(NOWHERE));
    let client = client(&address, &["--key-file", &alice], Path::new(NOWHERE));
    let server = server.stop();
    let sessions = "Allowed to list the sessions, as an operator: 1 open";
    let mut lines = expected(&address, (4321, 99), "a key file, encrypted", sessions);
    lines.extend(REFUSED_LATE.map(str::to_owned));
    lines.push("Closed".to_owned());
    assert_printed(&client, &lines);
    assert_greeted(&server, (4321, 99));
    assert_eq!(audited(&server, "call denied"), 0, "{server:?}");
    for key in [alice, bob] {
        let secret = fs::read_to_string(key).expect("a key file").trim_end().replace("hgrpc1-key:", "");
        assert!(!server.stderr.contains(&secret) && !client.stderr.contains(&secret));
    }
}

#[test]
fn a_service_may_have_a_name_and_do_without_encryption() {
    let keys = Keys::new();
    let key = keys.make("a.key");
    let both = ["--key-file", &key, "--service", "greetings", "--integrity-only"];
    let (server, address) = server(&both, Path::new(NOWHERE));
    let client = client(&address, &both, Path::new(NOWHERE));
    server.stop();
    let me = (getuid().as_raw(), getgid().as_raw());
    let mut lines = expected(&address, me, "a key file, integrity only", NO_OPERATOR);
    lines.extend([NOT_SHOWN.to_owned(), "Closed".to_owned()]);
    assert_printed(&client, &lines);
}

/// A copy that other users can run, wherever the build is.
fn copy_for_all(directory: &TempDir, name: &str) -> PathBuf {
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("our own directory");
    let copy = directory.path().join(name);
    fs::copy(example_path(name), &copy).expect("a copy of the example");
    copy
}

fn only_root() -> bool {
    let is_root = getuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can run programs of several users");
    }
    is_root
}

#[test]
fn several_users_are_served_as_themselves_and_only_those_allowed() {
    let Some(realm) = realm() else { return };
    if only_this_user() || !only_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let program = copy_for_all(&directory, "full_client");
    // One that every Linux system knows, and one that none does.
    let allowed = [(1, 1), (3_999_999_999, 3_999_999_999)];
    let (server, address) = server(&["--allow-uid", "1", "--allow-gid", "3999999999"], realm.socket());
    let run = |uid, gid| {
        let mut command = Command::new(&program);
        command.args([&address, "--server-uid", "0"]).env("MUNGE_SOCKET", realm.socket());
        Program::start(as_user(&mut command, uid, gid)).wait()
    };
    for (uid, gid) in allowed {
        let ended = run(uid, gid);
        ended.assert_success();
        let line = format!("Authenticated at {address} as uid {uid} gid {gid}, by MUNGE, encrypted");
        assert!(ended.stdout.contains(&line), "{ended:?}");
    }
    for (uid, gid) in [(65534, 65534), (0, 0)] {
        let wanted =
            format!("the server does not greet uid {uid}; whoever runs it can allow that with --allow-uid {uid}");
        assert_eq!(run(uid, gid).one_error_line(), wanted);
    }
    let server = server.stop();
    for (uid, gid) in allowed {
        assert!(server.stdout.contains(&format!("Hello \"Rob\" (uid {uid} gid {gid})")), "{server:?}");
    }
    assert_eq!(server.stdout.len(), 24, "nobody else was greeted: {server:?}");
}

#[test]
fn a_server_of_another_user_is_talked_to_only_if_it_was_meant() {
    let Some(realm) = realm() else { return };
    if only_this_user() || !only_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(copy_for_all(&directory, "full_server"));
    command.args([PROTOCOL, "--allow-uid", "0"]).env("MUNGE_SOCKET", realm.socket());
    let (server, address) = Program::server(as_user(&mut command, 65534, 65534));
    let ended = client(&address, &[], realm.socket());
    let error = ended.one_error_line();
    assert!(error.contains("a server of uid 0 was meant, --server-uid names another"), "{error}");
    client(&address, &["--server-uid", "65534"], realm.socket()).assert_success();
    let server = server.stop();
    assert_eq!(audited(&server, "handshake refused"), 1, "{server:?}");
}

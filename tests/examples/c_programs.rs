//! The first three stages against the C programs that they follow, both ways round, over Mercury.
//!
//! Those programs are not part of this project. Whoever has compiled them, each under the name of its source, names their
//! directory in `MOCHI_AUTH_EXAMPLES_C`. They know one socket of munged only, the system's, and their client listens on whatever
//! interface libfabric likes. So everything runs in namespaces of the test's own, where that socket is our munged's and
//! the loopback interface is the only one; only root can make those.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mochi_auth::users;
use mochi_test_support::{Ended, Program};
use rustix::process::{getgid, getuid};

use crate::STAGES;
use crate::process::example_path;
use crate::realm::{Realm, realm};

const PROTOCOLS: [&str; 2] = ["ofi+tcp://127.0.0.1", "na+sm"];

/// Namespaces with a munged at the system's place, no interface but the loopback, and shared memory of their own, so that
/// servers that can only be killed leave nothing behind.
struct Place {
    /// Lives as long as its standard input is open, and the namespaces with it.
    holder: Child,
    programs: PathBuf,
    realm: Realm,
}

impl Place {
    /// `None`, after a line that says why, where there are no such programs or no such namespaces.
    fn make() -> Option<Self> {
        let skip = |reason: &str| {
            println!("not tested: {reason}");
            None
        };
        let Some(programs) = env::var_os("MOCHI_AUTH_EXAMPLES_C") else {
            return skip("MOCHI_AUTH_EXAMPLES_C names no directory of C programs");
        };
        if !mochi_sys::LINKED {
            return skip("Mercury is not linked");
        }
        if !getuid().is_root() {
            return skip("only root can make the namespaces");
        }
        let realm = realm()?;
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-e", "-c"])
            .arg(
                "ip link set lo up; mount -t tmpfs none /run; mount -t tmpfs none /dev/shm; mkdir /run/munge; \
                 ln -s \"$0\" /run/munge/munge.socket.2; echo ready; read end",
            )
            .arg(realm.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let out = holder.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it can be read");
        assert_eq!(line, "ready\n", "namespaces can be made");
        Some(Self { holder, programs: programs.into(), realm })
    }

    /// A command that runs in here.
    fn command(&self, program: &Path, argument: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).args(["--net", "--mount"]);
        // A server of theirs says nothing through a pipe before its end otherwise, and it has none.
        command.args(["stdbuf", "--output=L"]).arg(program).arg(argument);
        command.env("IPATH_NO_BACKTRACE", "1").env("MUNGE_SOCKET", self.realm.socket());
        command.env_remove("MOCHI_LOG").env_remove("RUST_LOG");
        command
    }

    fn ours(&self, name: &str, argument: &str) -> Command {
        self.command(&example_path(name), argument)
    }

    fn theirs(&self, name: &str, argument: &str) -> Command {
        self.command(&self.programs.join(format!("margo_{}", name.replace("mac", "auth_mac"))), argument)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It reads a line, and ends.
        if let Some(stdin) = &mut self.holder.stdin {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.holder.wait();
    }
}

fn me() -> String {
    let uid = getuid().as_raw();
    users::name_of(uid).unwrap_or_else(|| uid.to_string())
}

fn authenticated() -> String {
    format!("with uid={} ({}) and gid={}", getuid().as_raw(), me(), getgid().as_raw())
}

/// What a server printed after its address, if its lines begin as expected.
fn assert_said(server: &Ended, expected: &[String]) {
    let said = &server.stdout;
    let matches =
        said.len() == expected.len() && said.iter().zip(expected).all(|(line, part)| line.contains(part.as_str()));
    assert!(matches, "{server:?}\nis not {expected:?}");
}

#[test]
fn c_clients_are_served() {
    let Some(place) = Place::make() else { return };
    for protocol in PROTOCOLS {
        for stage in STAGES {
            let (server, address) = Program::server(&mut place.ours(&format!("{stage}_server"), protocol));
            let client = Program::start(&mut place.theirs(&format!("{stage}_client"), &address)).wait();
            assert!(client.status.success(), "{protocol} {stage}: {client:?}");
            let server = server.stop();
            server.assert_success();
            let hello = format!("Hello \"Matthieu\" (username {})", me());
            let unknown = match stage {
                "mac" => "this user has not authenticated",
                _ => "there is no such session",
            };
            match stage {
                "simple_auth" => assert_said(&server, &[authenticated()]),
                _ => assert_said(&server, &[unknown.to_owned(), authenticated(), hello]),
            }
        }
    }
}

#[test]
fn c_servers_are_called() {
    let Some(place) = Place::make() else { return };
    for protocol in PROTOCOLS {
        for stage in STAGES {
            let (server, address) = Program::server(&mut place.theirs(&format!("{stage}_server"), protocol));
            let client = Program::start(&mut place.ours(&format!("{stage}_client"), &address)).wait();
            client.assert_success();
            assert!(client.stdout.contains(&format!("Authenticated at {address}")), "{client:?}");
            // It ends in no other way.
            let server = server.kill();
            let hello = |name| format!("Hello {name} (username {})", me());
            let mut expected = vec![authenticated()];
            if stage != "simple_auth" {
                expected.insert(0, "Unauthorized attempt to call the hello RPC".to_owned());
                expected.push(hello("Matthieu"));
            }
            if stage == "mac_session" {
                expected.extend(["Phil", "Rob"].map(hello));
            }
            assert_said(&server, &expected);
        }
    }
}

//! Two hosts as network namespaces: what an engine prints for others to use, and a host that vanishes.
//!
//! Needs root and iproute2; says so in one line and passes where they are missing.

use margo_rs::{CallError, Engine, Rpc, Wait};
use mochi_test_support::{Process, Watchdog, say};
use std::process::{Command, Stdio};
use std::time::Duration;

const HANG: Rpc<(), ()> = Rpc::new("hang");
const LONG: Duration = Duration::from_secs(100);

/// Not a test of its own: what a process on one of the hosts does.
#[test]
fn role() {
    let Some(role) = mochi_test_support::role() else { return };
    // Whatever becomes of the test, its processes end.
    let _watchdog = Watchdog::start("role", LONG + Duration::from_secs(20));
    match role.split_once(' ') {
        None => {
            let server = Engine::listen("native+tcp").wait().unwrap();
            server.register(HANG, |_, ()| std::future::pending()).unwrap();
            say(server.address().as_str());
            server.wait().wait();
        }
        Some((_, address)) => {
            let keepalive = Duration::from_secs(1);
            let impatient = |limits: &mut margo_rs::Limits| {
                limits.keepalive = keepalive;
                // The cable may be cut before the request is acknowledged.
                limits.unacknowledged_timeout = 3 * keepalive;
            };
            let client = Engine::builder("native+tcp").limits(impatient).connect().unwrap();
            let to = client.lookup(address).wait().unwrap();
            let call = to.call(HANG, &()).timeout(LONG).start();
            say("called");
            match call.wait() {
                Err(CallError::ConnectionLost { reason, .. }) => say(&format!("lost: {reason}")),
                other => say(&format!("wrong: {other:?}")),
            }
        }
    }
    std::process::exit(0);
}

/// Runs `ip` and says whether it succeeded.
fn ip(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Two namespaces with a cable between them; gone when dropped.
struct Hosts {
    names: [String; 2],
}

impl Hosts {
    fn new() -> Option<Self> {
        let names = ["a", "b"].map(|end| format!("margo-rs-{}-{end}", std::process::id()));
        let hosts = Self { names };
        let [a, b] = [hosts.names[0].as_str(), hosts.names[1].as_str()];
        let made = ip(&["netns", "add", a])
            && ip(&["netns", "add", b])
            && ip(&["-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b])
            && ip(&["-n", a, "addr", "add", "10.77.0.1/24", "dev", "cable"])
            && ip(&["-n", b, "addr", "add", "10.77.0.2/24", "dev", "cable"])
            && [a, b].iter().all(|host| {
                ip(&["-n", host, "link", "set", "lo", "up"]) && ip(&["-n", host, "link", "set", "cable", "up"])
            });
        made.then_some(hosts)
    }

    #[track_caller]
    fn start(&self, host: usize, role: &str) -> Process {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host]]).arg(std::env::current_exe().unwrap());
        Process::run(command, "role", role).expect("it says something")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&["netns", "del", name]);
        }
    }
}

#[test]
fn a_host_that_vanishes_is_noticed_long_before_the_deadline() {
    let Some(hosts) = Hosts::new() else {
        println!("skipped: no network namespaces here (needs root and iproute2)");
        return;
    };
    let server = hosts.start(0, "serve");
    let address = &server.says;
    assert!(address.starts_with("native+tcp://10.77.0.1:"), "a server on `tcp` prints a routable address: {address}");
    let client = hosts.start(1, &format!("call {address}"));
    assert_eq!(client.says, "called");
    // The cable is cut: nobody says goodbye.
    assert!(ip(&["-n", &hosts.names[0], "link", "set", "cable", "down"]));
    let end = client.next_line_within(LONG).expect("it says how its call ended");
    assert!(end.starts_with("lost: "), "{end}");
}

//! Shared memory under `native+tcp` on one node: that it is used, with whom, and with whom never.

mod elsewhere;
mod seen;
mod strangers;

use margo_rs::{Endpoint, Engine, Rpc, Wait};
use mochi_test_support::{Process, Watchdog, comes_to, say};
use rustix::net::{self, AddressFamily, SocketType};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
/// Whether the server knows the user who calls, and where the call comes from.
const KNOWN: Rpc<(), (bool, String)> = Rpc::new("known");
/// Never answers.
const HANG: Rpc<(), ()> = Rpc::new("hang");
/// Long enough that no test waits for it unless something is broken.
const LONG: Duration = Duration::from_secs(100);

fn watchdog(name: &'static str) -> Watchdog {
    Watchdog::start(name, LONG + Duration::from_secs(20))
}

fn serve(same_node: bool) -> Engine {
    serve_at("native+tcp://127.0.0.1", same_node)
}

fn serve_at(address: &str, same_node: bool) -> Engine {
    let server = Engine::builder(address).same_node(same_node).rpc_threads(2).listen().wait().expect("it listens");
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    server.register(HANG, |_, ()| std::future::pending()).unwrap();
    let known = |request: margo_rs::Request, ()| async move {
        Ok((request.peer_credentials().is_some(), request.peer().to_string()))
    };
    server.register(KNOWN, known).unwrap();
    server
}

fn reach(address: &str, same_node: bool) -> (Engine, Endpoint) {
    let client = Engine::builder("native+tcp").same_node(same_node).connect().unwrap();
    let to = client.lookup(address).wait().unwrap();
    (client, to)
}

/// Reaches a server through shared memory. On a machine that is busy, a client may be out of patience before the server
/// lets it in: another one may not be.
fn reach_through_memory(address: &str) -> (Engine, Endpoint) {
    loop {
        let (client, to) = reach(address, true);
        assert_eq!(to.call(SUM, &(1, 2)).timeout(LONG).wait().unwrap(), 3);
        if to.is_through_memory() {
            return (client, to);
        }
    }
}

fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// TCP connections of a server's port that stand, as the kernel lists them: some twice, while others come and go.
fn connections(port: u16) -> usize {
    let local = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let standing = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 3 && fields[1] == local && fields[3] == "01");
    standing.map(|fields| fields[2]).collect::<HashSet<_>>().len()
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Not a test of its own: what a process that a test starts does.
#[test]
fn role() {
    let Some(role) = mochi_test_support::role() else { return };
    let _watchdog = watchdog("role");
    let role: Vec<&str> = role.split(' ').collect();
    match role[..] {
        ["serve"] => {
            let server = serve(true);
            say(server.address().as_str());
            server.wait().wait();
        }
        ["call", address] => {
            let (_client, to) = reach(address, true);
            assert_eq!(to.call(SUM, &(1, 2)).timeout(LONG).wait().unwrap(), 3);
            assert_eq!(to.peer_credentials(), None);
            assert!(!to.call(KNOWN, &()).timeout(LONG).wait().unwrap().0);
            say(if to.is_through_memory() { "memory" } else { "tcp" });
        }
        ["find", instance] => {
            let found = net::connect(strangers::unix(), &strangers::unlisted(instance.parse().unwrap()));
            say(if found.is_ok() { "found" } else { "absent" });
        }
        _ => panic!("no such role"),
    }
    std::process::exit(0);
}

/// This binary in a role, started by `wrapper`, if that can be.
#[track_caller]
fn start_under(wrapper: &[&str], role: &str) -> Option<Process> {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
    Process::run(command, "role", role)
}

/// Waits until `count` TCP connections of a server's port stand.
#[track_caller]
fn connections_are(count: usize, port: u16) {
    comes_to(&format!("{count} TCP connections stand"), || connections(port), |now| *now == count);
}

#[test]
fn on_one_node_calls_leave_tcp_unless_somebody_says_otherwise() {
    let _watchdog = watchdog("on_one_node_calls_leave_tcp_unless_somebody_says_otherwise");
    let server = Engine::listen("native+tcp://127.0.0.1").wait().unwrap();
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    loop {
        let client = Engine::connect("native+tcp").unwrap();
        let to = client.lookup(server.address()).wait().unwrap();
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
        if to.is_through_memory() {
            connections_are(0, port_of(server.address().as_str()));
            assert_eq!(to.call(SUM, &(20, 22)).wait().unwrap(), 42);
            comes_to("there is one connection", || server.load(), |load| load.links == 1);
            return;
        }
    }
}

#[test]
fn either_side_can_keep_to_tcp() {
    let _watchdog = watchdog("either_side_can_keep_to_tcp");
    for (serving, calling) in [(false, true), (true, false), (false, false)] {
        let server = serve(serving);
        let (_client, to) = reach(server.address().as_str(), calling);
        for _ in 0..10 {
            assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
        }
        assert!(!to.is_through_memory());
        connections_are(1, port_of(server.address().as_str()));
    }
}

/// A relay for one connection, which goes on from `from`. Returns the address that clients are given.
fn relay(to: u16, from: impl FnOnce(SocketAddr) -> TcpStream + Send + 'static) -> String {
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("native+tcp://{}", relay.local_addr().unwrap());
    thread::spawn(move || {
        let (client, at) = relay.accept().unwrap();
        let server = from(at);
        assert_eq!(server.peer_addr().unwrap().port(), to);
        let (mut here, mut there) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut here, &mut there);
            let _ = there.shutdown(Shutdown::Both);
        });
        let _ = std::io::copy(&mut &server, &mut &client);
        let _ = client.shutdown(Shutdown::Both);
    });
    address
}

#[test]
fn a_relayed_connection_stays_with_the_relay() {
    let _watchdog = watchdog("a_relayed_connection_stays_with_the_relay");
    let server = serve(true);
    let port = port_of(server.address().as_str());
    let address = relay(port, move |_| TcpStream::connect(("127.0.0.1", port)).unwrap());
    let (_client, to) = reach(&address, true);
    for _ in 0..10 {
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    }
    assert_eq!(to.address().as_str(), address);
    assert!(!to.is_through_memory());
    connections_are(1, port);
}

/// By chance the relay's port can be the client's, whose address is another.
#[test]
fn a_relay_with_the_clients_port_is_not_passed_by_either() {
    let _watchdog = watchdog("a_relay_with_the_clients_port_is_not_passed_by_either");
    let server = serve(true);
    let port = port_of(server.address().as_str());
    let address = relay(port, move |client| {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), client.port()))).unwrap();
        net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
        socket.into()
    });
    let (_client, to) = reach(&address, true);
    for _ in 0..10 {
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    }
    assert!(!to.is_through_memory());
    connections_are(1, port);
}

#[test]
fn a_server_that_starts_again_is_found_again() {
    let _watchdog = watchdog("a_server_that_starts_again_is_found_again");
    let mut server = serve(true);
    let (_client, to) = reach_through_memory(server.address().as_str());
    let address = server.address().clone();
    loop {
        server.shutdown().wait();
        server = serve_at(address.as_str(), true);
        // A call that is made before the client knows that its connection is gone fails with it.
        while to.call(SUM, &(1, 2)).timeout(LONG).wait().is_err() {}
        // Unless the new one was too busy to let it in.
        if to.is_through_memory() {
            return;
        }
    }
}

#[test]
fn clients_through_memory_count_as_connections() {
    let _watchdog = watchdog("clients_through_memory_count_as_connections");
    let one = |limits: &mut margo_rs::Limits| limits.max_connections = 1;
    let server = Engine::builder("native+tcp://127.0.0.1").limits(one).rpc_threads(2).listen().wait().unwrap();
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    let first = loop {
        // The one before may not be gone yet.
        let client = Engine::connect("native+tcp").unwrap();
        let Ok(to) = client.lookup(server.address()).wait() else { continue };
        if to.call(SUM, &(1, 2)).wait().is_ok() && to.is_through_memory() {
            break (client, to);
        }
    };
    connections_are(0, port_of(server.address().as_str()));
    let second = Engine::connect("native+tcp").unwrap();
    second.lookup(server.address()).wait().expect_err("there is room for one");
    drop(first);
    while second.lookup(server.address()).wait().is_err() {}
}

//! Shared memory under `native+tcp` on one node: that it is used, with whom, and with whom never.

use margo_rs::wire::{FRAME_MAX, HELLO_LEN, Hello};
use margo_rs::{Endpoint, Engine, Rpc, Wait};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
/// Whether the server knows the user who calls.
const KNOWN: Rpc<(), bool> = Rpc::new("known");
const SEGMENT: usize = 4096 + 128 * 1024;
const ROLE: &str = "MARGO_RS_NODE_TEST_ROLE";

fn watchdog(name: &'static str) {
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(120));
        eprintln!("test {name} hangs");
        std::process::abort();
    });
}

fn eventually(what: impl Fn() -> bool) {
    while !what() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn serve(same_node: bool) -> Engine {
    let server = Engine::builder("native+tcp://127.0.0.1")
        .same_node(same_node)
        .rpc_threads(2)
        .listen()
        .wait()
        .expect("listening works");
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    server.register(KNOWN, |request, ()| async move { Ok(request.peer_credentials().is_some()) }).unwrap();
    server
}

fn reach(address: &str, same_node: bool) -> (Engine, Endpoint) {
    let client = Engine::builder("native+tcp").same_node(same_node).connect().unwrap();
    let to = client.lookup(address).wait().unwrap();
    (client, to)
}

fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// TCP connections of a server's port that stand, as the kernel lists them.
fn connections(port: u16) -> usize {
    let local = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 3 && fields[1] == local && fields[3] == "01")
        .count()
}

#[test]
fn on_one_node_calls_leave_tcp_and_nothing_else_changes() {
    watchdog("on_one_node_calls_leave_tcp_and_nothing_else_changes");
    let server = serve(true);
    let (_client, to) = reach(server.address().as_str(), true);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    eventually(|| connections(port_of(server.address().as_str())) == 0);
    assert_eq!(to.call(SUM, &(20, 22)).wait().unwrap(), 42);
    assert_eq!(to.address(), server.address());
    assert!(to.peer_credentials().is_none(), "what is known of the server is what TCP tells");
    assert!(!to.call(KNOWN, &()).wait().unwrap(), "what is known of the client is what TCP tells");
    assert_eq!(server.load().links, 1);
}

#[test]
fn either_side_can_keep_to_tcp() {
    watchdog("either_side_can_keep_to_tcp");
    for (serving, calling) in [(false, true), (true, false), (false, false)] {
        let server = serve(serving);
        let (_client, to) = reach(server.address().as_str(), calling);
        for _ in 0..10 {
            assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
        }
        assert_eq!(connections(port_of(server.address().as_str())), 1, "server {serving}, client {calling}");
    }
}

#[test]
fn a_relayed_connection_stays_with_the_relay() {
    watchdog("a_relayed_connection_stays_with_the_relay");
    let server = serve(true);
    let port = port_of(server.address().as_str());
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("native+tcp://{}", relay.local_addr().unwrap());
    thread::spawn(move || {
        let (client, _) = relay.accept().unwrap();
        let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut &server, &mut &client);
    });
    let (_client, to) = reach(&address, true);
    for _ in 0..10 {
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    }
    assert_eq!(connections(port), 1);
}

fn hello(instance: u64, extra: [u8; 16]) -> Hello {
    Hello { max_frame: FRAME_MAX, max_in_flight: 16, max_message: 1 << 20, max_bytes: 1 << 20, instance, extra }
}

fn unlisted(instance: u64) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(format!("mochi-rs-{instance:016x}").as_bytes()).unwrap()
}

fn unix() -> OwnedFd {
    net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap()
}

/// Says hello with a proper segment.
fn greet(socket: &OwnedFd, hello: &Hello) {
    let segment = rustix::fs::memfd_create("raw", MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(rustix::io::pwrite(&segment, &vec![0; SEGMENT], 0), Ok(SEGMENT));
    rustix::fs::fcntl_add_seals(&segment, SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [segment.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let _ = net::sendmsg(socket, &[IoSlice::new(&hello.encode())], &mut control, SendFlags::NOSIGNAL);
}

/// What the peer says first; `None` if it closes instead.
fn answer(socket: &OwnedFd) -> Option<Hello> {
    let mut bytes = [0; HELLO_LEN];
    match net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
        Ok((HELLO_LEN, _)) => Some(Hello::decode(&bytes).unwrap()),
        _ => None,
    }
}

/// Connects as a client does that has nothing to say; returns the server's hello.
fn knock(server: &Engine) -> (TcpStream, Hello) {
    let mut stream = TcpStream::connect(("127.0.0.1", port_of(server.address().as_str()))).unwrap();
    stream.write_all(&hello(1, [0; 16]).encode()).unwrap();
    let mut bytes = [0; HELLO_LEN];
    stream.read_exact(&mut bytes).unwrap();
    (stream, Hello::decode(&bytes).unwrap())
}

/// Asks to be let in with an offer, changed in one place.
fn ask(theirs: &Hello, flip: usize) -> Option<Hello> {
    let mut extra = [0; 16];
    extra[6..12].copy_from_slice(&theirs.extra[6..12]);
    extra[flip] ^= 1;
    show(theirs, extra)
}

fn show(theirs: &Hello, extra: [u8; 16]) -> Option<Hello> {
    let socket = unix();
    net::connect(&socket, &unlisted(theirs.instance)).unwrap();
    greet(&socket, &hello(2, extra));
    answer(&socket)
}

#[test]
fn nobody_comes_in_without_an_offer_that_stands() {
    watchdog("nobody_comes_in_without_an_offer_that_stands");
    let server = serve(true);
    let (stream, theirs) = knock(&server);
    assert_ne!(theirs.extra, [0; 16], "a client on the node is offered something");
    assert!(show(&theirs, [0; 16]).is_none(), "without an ask");
    for flip in 6..12 {
        assert!(ask(&theirs, flip).is_none(), "with a wrong ask");
    }
    let mut extra = [0; 16];
    extra[6..12].copy_from_slice(&theirs.extra[6..12]);
    let answered = show(&theirs, extra).expect("the ask opens the door");
    assert_eq!(answered.extra[12..16], theirs.extra[12..16], "the server proves that the offer was its own");
    assert!(show(&theirs, extra).is_none(), "a second time");

    let (other, offered) = knock(&server);
    assert_ne!(offered.extra[6..16], theirs.extra[6..16], "each connection has an offer of its own");
    eventually(|| server.load().links >= 1);
    drop((stream, other));
    eventually(|| server.load().links == 0);
    let mut extra = [0; 16];
    extra[6..12].copy_from_slice(&offered.extra[6..12]);
    assert!(show(&offered, extra).is_none(), "after the connection has ended");
    let (_client, to) = reach(server.address().as_str(), true);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
}

/// A server of bytes: makes an offer over TCP and sees who comes. Returns what the client did with it.
#[derive(Debug, PartialEq, Eq)]
enum Followed {
    /// It showed the ask, and went on over TCP all the same.
    ShownAndLeft,
    /// It did not even say what it was offered.
    LeftAtOnce,
}

fn lure(uid: u32, wrong_answer: bool) -> Followed {
    let instance = 0x7E57_0000_0000_0000 | u64::from(std::process::id()) << 8 | u64::from(uid != own_uid());
    let socket = unix();
    net::bind(&socket, &unlisted(instance)).unwrap();
    net::listen(&socket, 8).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("native+tcp://{}", listener.local_addr().unwrap());
    let client = thread::spawn(move || {
        let (_client, to) = reach(&address, true);
        to.call(SUM, &(1, 2)).timeout(Duration::from_secs(100)).wait().expect_err("nobody serves there");
    });
    let (mut stream, peer) = listener.accept().unwrap();
    let mut extra = [7; 16];
    extra[0..4].copy_from_slice(&uid.to_le_bytes());
    extra[4..6].copy_from_slice(&peer.port().to_le_bytes());
    stream.write_all(&hello(instance, extra).encode()).unwrap();
    let mut theirs = [0; HELLO_LEN];
    stream.read_exact(&mut theirs).unwrap();
    let guest = net::accept(&socket).unwrap();
    let shown = answer(&guest);
    if let Some(shown) = &shown {
        assert_eq!(shown.extra, [0, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0]);
        assert!(wrong_answer);
        let mut extra = [0; 16];
        extra[12..16].copy_from_slice(&[7, 7, 7, 8]);
        greet(&guest, &hello(instance, extra));
    }
    // The call comes here, where the client has connected to.
    let mut frame = [0; 16];
    stream.read_exact(&mut frame).unwrap();
    drop(stream);
    client.join().unwrap();
    if shown.is_some() { Followed::ShownAndLeft } else { Followed::LeftAtOnce }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn a_client_goes_to_nobody_who_does_not_know_the_answer() {
    watchdog("a_client_goes_to_nobody_who_does_not_know_the_answer");
    assert_eq!(lure(own_uid(), true), Followed::ShownAndLeft);
}

#[test]
fn a_client_goes_to_no_other_user_than_the_server_said() {
    watchdog("a_client_goes_to_no_other_user_than_the_server_said");
    assert_eq!(lure(own_uid() + 1, false), Followed::LeftAtOnce);
}

/// Not a test of its own: tries, in the network namespace that it runs in, to find a server.
#[test]
fn role() {
    let Ok(instance) = std::env::var(ROLE) else { return };
    let found = net::connect(unix(), &unlisted(instance.parse().unwrap()));
    println!("\nsays {}", if found.is_ok() { "found" } else { "absent" });
}

#[test]
fn a_server_is_found_in_its_own_network_namespace_alone() {
    watchdog("a_server_is_found_in_its_own_network_namespace_alone");
    let server = serve(true);
    let (_stream, theirs) = knock(&server);
    let look = |unshare: bool| {
        let own = std::env::current_exe().unwrap();
        let mut command = if unshare { Command::new("unshare") } else { Command::new(&own) };
        if unshare {
            command.args(["-n", "--"]).arg(&own);
        }
        command.args(["--exact", "role", "--nocapture"]).env(ROLE, theirs.instance.to_string());
        let said = command.output().ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        said.and_then(|said| Some(said.lines().find_map(|line| line.strip_prefix("says "))?.to_owned()))
    };
    assert_eq!(look(false).as_deref(), Some("found"));
    match look(true) {
        Some(said) => assert_eq!(said, "absent"),
        None => println!("skipped: no network namespaces here (needs root and util-linux)"),
    }
}

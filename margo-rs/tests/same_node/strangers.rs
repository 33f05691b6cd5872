//! Who is let in through shared memory, and to whom a client goes.

use super::*;
use margo_rs::wire::{FRAME_MAX, HELLO_LEN, Hello};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::IpAddr;

const SEGMENT: usize = 4096 + 128 * 1024;
/// Links through shared memory that a server takes in.
const GUESTS_MAX: usize = 256;

fn hello(instance: u64, extra: [u8; 16]) -> Hello {
    Hello { max_frame: FRAME_MAX, max_in_flight: 16, max_message: 1 << 20, max_bytes: 1 << 20, instance, extra }
}

pub(super) fn unlisted(instance: u64) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(format!("mochi-rs-{instance:016x}").as_bytes()).unwrap()
}

pub(super) fn unix() -> OwnedFd {
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
pub(super) fn knock(address: &str) -> (TcpStream, Hello) {
    let mut stream = TcpStream::connect(("127.0.0.1", port_of(address))).unwrap();
    stream.write_all(&hello(1, [0; 16]).encode()).unwrap();
    let mut bytes = [0; HELLO_LEN];
    stream.read_exact(&mut bytes).unwrap();
    (stream, Hello::decode(&bytes).unwrap())
}

/// What tells connections apart: 48 bits of a hash (FNV-1a) of both ends, as the client sees them.
fn mark(client: SocketAddr, server: SocketAddr) -> [u8; 6] {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for end in [client, server] {
        let IpAddr::V4(ip) = end.ip() else { unreachable!("tests are over IPv4") };
        for byte in ip.to_ipv6_mapped().octets().into_iter().chain(end.port().to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    *(hash ^ hash >> 48).to_le_bytes().first_chunk().unwrap()
}

/// What a client shows that has taken an offer on this connection.
fn asking(stream: &TcpStream, theirs: &Hello) -> [u8; 16] {
    let mut extra = [0; 16];
    extra[0..6].copy_from_slice(&mark(stream.local_addr().unwrap(), stream.peer_addr().unwrap()));
    extra[6..12].copy_from_slice(&theirs.extra[6..12]);
    extra
}

/// Asks to be let in. Returns what the server says, and the way in.
fn show(theirs: &Hello, extra: [u8; 16]) -> Option<(Hello, OwnedFd)> {
    let socket = unix();
    net::connect(&socket, &unlisted(theirs.instance)).unwrap();
    greet(&socket, &hello(2, extra));
    Some((answer(&socket)?, socket))
}

#[test]
fn nobody_comes_in_without_an_offer_that_stands() {
    let _watchdog = watchdog("nobody_comes_in_without_an_offer_that_stands");
    let server = serve(true);
    let (stream, theirs) = knock(server.address().as_str());
    assert_ne!(theirs.extra, [0; 16], "a client on the node is offered something");
    assert!(show(&theirs, [0; 16]).is_none(), "without an ask");
    let extra = asking(&stream, &theirs);
    for at in 0..16 {
        let mut wrong = extra;
        wrong[at] ^= 1;
        assert!(show(&theirs, wrong).is_none(), "another connection, a wrong ask, or something else: byte {at}");
    }
    let (answered, _link) = show(&theirs, extra).expect("the ask opens the door");
    assert_eq!(answered.extra[12..16], theirs.extra[12..16], "the server proves that the offer was its own");
    assert_eq!(answered.extra[0..12], [0; 12], "and says nothing else");
    assert!(show(&theirs, extra).is_none(), "a second time");

    let (other, offered) = knock(server.address().as_str());
    assert_ne!(offered.extra[6..16], theirs.extra[6..16], "each connection has an offer of its own");
    comes_to("there is a connection", || server.load(), |load| load.links >= 1);
    let extra = asking(&other, &offered);
    drop((stream, other, _link));
    comes_to("no connection is left", || server.load(), |load| load.links == 0);
    assert!(show(&offered, extra).is_none(), "after the connection has ended");
    reach_through_memory(server.address().as_str());
}

/// Each of them takes memory that a TCP connection does not.
#[test]
fn so_many_come_in_and_the_others_stay_on_tcp() {
    let _watchdog = watchdog("so_many_come_in_and_the_others_stay_on_tcp");
    let server = serve(true);
    let mut links: Vec<OwnedFd> = Vec::new();
    while links.len() < GUESTS_MAX {
        let (stream, theirs) = knock(server.address().as_str());
        assert_ne!(theirs.extra, [0; 16], "after {}", links.len());
        links.push(show(&theirs, asking(&stream, &theirs)).expect("there is room").1);
    }
    let (_stream, theirs) = knock(server.address().as_str());
    assert_eq!(theirs.extra, [0; 16], "no offer");
    let (_client, to) = reach(server.address().as_str(), true);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    assert!(!to.is_through_memory());
    drop(links);
    reach_through_memory(server.address().as_str());
}

/// What waits where an offer leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lure {
    /// Somebody who does not know the answer.
    WrongAnswer,
    /// Another user than the offer names.
    OtherUser,
    /// Somebody who takes in clients and says nothing.
    Silence,
    /// A queue that is full.
    FullQueue,
    /// Nobody.
    Nobody,
}

/// A server of bytes: makes an offer over TCP and sees who comes. Returns what the client showed there, if anything. The
/// client's call comes over TCP, where it has connected to.
fn lure(lure: Lure) -> Option<[u8; 16]> {
    let instance = 0x7E57_0000_0000_0000 | u64::from(std::process::id()) << 8 | lure as u64;
    let socket = unix();
    if lure != Lure::Nobody {
        net::bind(&socket, &unlisted(instance)).unwrap();
        net::listen(&socket, if lure == Lure::FullQueue { 0 } else { 8 }).unwrap();
    }
    let filler = unix();
    if lure == Lure::FullQueue {
        net::connect(&filler, &unlisted(instance)).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("native+tcp://{}", listener.local_addr().unwrap());
    let client = thread::spawn(move || {
        let (_client, to) = reach(&address, true);
        to.call(SUM, &(1, 2)).timeout(LONG).wait().expect_err("nobody serves there");
        assert!(!to.is_through_memory());
    });
    let (mut stream, peer) = listener.accept().unwrap();
    let uid = own_uid() + u32::from(lure == Lure::OtherUser);
    let mut extra = [7; 16];
    extra[0..4].copy_from_slice(&uid.to_le_bytes());
    extra[4..6].copy_from_slice(&peer.port().to_le_bytes());
    stream.write_all(&hello(instance, extra).encode()).unwrap();
    let mut theirs = [0; HELLO_LEN];
    stream.read_exact(&mut theirs).unwrap();
    let mut expected = [0; 16];
    expected[0..6].copy_from_slice(&mark(peer, stream.local_addr().unwrap()));
    expected[6..12].copy_from_slice(&[7; 6]);
    let mut guest = None;
    let shown = match lure {
        Lure::WrongAnswer | Lure::OtherUser | Lure::Silence => {
            let guest = guest.insert(net::accept(&socket).unwrap());
            answer(guest)
        }
        Lure::FullQueue | Lure::Nobody => None,
    };
    if lure == Lure::WrongAnswer {
        let mut extra = [0; 16];
        extra[12..16].copy_from_slice(&[7, 7, 7, 8]);
        greet(guest.as_ref().unwrap(), &hello(instance, extra));
    }
    let mut frame = [0; 16];
    stream.read_exact(&mut frame).unwrap();
    drop(stream);
    client.join().unwrap();
    let shown = shown.map(|hello| hello.extra);
    assert!(shown.is_none_or(|shown| shown == expected));
    shown
}

#[test]
fn a_client_goes_to_nobody_who_does_not_know_the_answer() {
    let _watchdog = watchdog("a_client_goes_to_nobody_who_does_not_know_the_answer");
    assert!(lure(Lure::WrongAnswer).is_some());
}

#[test]
fn a_client_does_not_even_show_itself_to_another_user_than_the_server_said() {
    let _watchdog = watchdog("a_client_does_not_even_show_itself_to_another_user_than_the_server_said");
    assert_eq!(lure(Lure::OtherUser), None);
}

#[test]
fn an_offer_that_leads_nowhere_leaves_the_client_on_tcp() {
    let _watchdog = watchdog("an_offer_that_leads_nowhere_leaves_the_client_on_tcp");
    assert!(lure(Lure::Silence).is_some());
    assert_eq!(lure(Lure::FullQueue), None);
    assert_eq!(lure(Lure::Nobody), None);
}

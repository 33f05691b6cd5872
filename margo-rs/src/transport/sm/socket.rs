//! The Unix socket beside the shared memory: it carries the handshake, rings the bell, and breaks when a process dies.

use crate::wire::HELLO_LEN;
use parking_lot::RwLock;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// Packets taken in at a time from one peer.
const PACKETS_MAX: usize = 64;
/// Length of the queue of connections that wait to be accepted.
const BACKLOG: i32 = 4096;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A socket that can be closed while others still hold on to its connection.
#[derive(Debug, Default)]
pub(super) struct Socket(RwLock<Option<OwnedFd>>);

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// Nothing is left.
    Empty,
    /// More may be there.
    More,
    /// The peer has closed it, or is gone.
    Closed,
}

/// Length of a packet that hands over a loan: its number, little-endian.
const LOAN_LEN: usize = 8;

/// A packet after the first.
enum Packet {
    /// Whatever it holds.
    Bell,
    /// A loan's number and its file.
    Loan(u64, OwnedFd),
    /// There is none, and there will be none.
    Closed,
}

/// A first packet: its bytes and what came with them.
pub(super) type Greeting = ([u8; HELLO_LEN], OwnedFd);

/// Listens at a path or under a name that is free.
pub(super) fn listen(at: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    net::bind(&socket, at)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects, or fails with `AGAIN` where too many others wait for that.
pub(super) fn connect(to: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    net::connect(&socket, to)?;
    Ok(socket)
}

/// Takes a connection that waits.
pub(super) fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    net::accept_with(listener, FLAGS)
}

impl Socket {
    /// Puts the socket in. Said once, before anything else is done.
    pub(super) fn set(&self, socket: OwnedFd) {
        *self.0.write() = Some(socket);
    }

    /// Uses the socket, unless it is closed. The use must not call back into the connection.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&OwnedFd) -> Result<T, Errno>) -> Result<T, Errno> {
        match &*self.0.read() {
            Some(socket) => use_it(socket),
            None => Err(Errno::NOTCONN),
        }
    }

    /// Sends the first packet, and a segment with it.
    pub(super) fn send_greeting(&self, hello: &[u8; HELLO_LEN], segment: &OwnedFd) -> Result<(), Errno> {
        self.send_file(hello, segment)
    }

    /// Hands over a loan's file. `AGAIN` if the peer has not looked at too many other packets yet.
    pub(super) fn send_loan(&self, loan: u64, file: &OwnedFd) -> Result<(), Errno> {
        self.send_file(&loan.to_le_bytes(), file)
    }

    fn send_file(&self, bytes: &[u8], file: &OwnedFd) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = self.with(|socket| net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE) }
    }

    /// Takes the peer's first packet: `None` if it is anything else than a hello and one descriptor.
    pub(super) fn receive_greeting(&self) -> Result<Option<Greeting>, Errno> {
        // One byte more than there must be shows a packet that is longer.
        let mut bytes = [0; HELLO_LEN + 1];
        let (count, segment) = self.receive(&mut bytes)?;
        if count == 0 {
            return Err(Errno::CONNRESET);
        }
        let (Some(hello), Some(segment), HELLO_LEN) = (bytes.first_chunk(), segment, count) else { return Ok(None) };
        Ok(Some((*hello, segment)))
    }

    /// Takes a packet, and the descriptor that came with it if it is whole and there is exactly one.
    fn receive(&self, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = self.with(|socket| net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags))?;
        // What does not fit is closed by the kernel; what is not wanted, when it is dropped here.
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let complete = !received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
        let file = descriptors.pop().filter(|_| complete && descriptors.is_empty());
        Ok((received.bytes, file))
    }

    fn receive_packet(&self) -> Result<Packet, Errno> {
        let mut bytes = [0; LOAN_LEN + 1];
        let (count, file) = self.receive(&mut bytes)?;
        Ok(match (count, file, bytes.first_chunk()) {
            (0, ..) => Packet::Closed,
            (LOAN_LEN, Some(file), Some(loan)) => Packet::Loan(u64::from_le_bytes(*loan), file),
            _ => Packet::Bell,
        })
    }

    /// Wakes the peer. Packets that wait already will do as well.
    pub(super) fn ring(&self) {
        // Fails if the peer has not looked at so many others yet, and if it is gone: neither needs this one.
        let _ = self.with(|socket| net::send(socket, &[0], SendFlags::NOSIGNAL | SendFlags::DONTWAIT));
    }

    /// Takes in what the bell left, and hands loans to `on_loan`. What other packets hold is of no interest.
    pub(super) fn drain(&self, mut on_loan: impl FnMut(u64, OwnedFd)) -> Drained {
        for _ in 0..PACKETS_MAX {
            match self.receive_packet() {
                Ok(Packet::Closed) => return Drained::Closed,
                Ok(Packet::Loan(loan, file)) => on_loan(loan, file),
                Ok(Packet::Bell) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Drained::Empty,
                Err(_) => return Drained::Closed,
            }
        }
        Drained::More
    }

    /// Tells the peer, and frees the descriptor.
    pub(super) fn close(&self) {
        if let Some(socket) = self.0.write().take() {
            // Fails if the peer has done the same before.
            let _ = net::shutdown(&socket, Shutdown::Both);
        }
    }
}

//! A socket that can be closed while others still hold on to its connection.

use parking_lot::RwLock;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read};
use std::net::TcpStream;

/// Slices of one system call: as many as a window gives at a time, and what goes before and after.
const SLICES_MAX: usize = 18;

/// A non-blocking TCP socket. Once closed, every operation fails as if the peer had gone.
///
/// Its descriptor goes when it is closed, not when the last of its users does: a handler may keep the request of a
/// connection for long after that is lost.
#[derive(Debug)]
pub(super) struct Socket(RwLock<Option<TcpStream>>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(RwLock::new(Some(stream)))
    }

    /// Uses the socket, unless it is closed. The use must not call back into the connection.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        match &*self.0.read() {
            Some(stream) => use_it(stream),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Whether the kernel has finished connecting.
    ///
    /// # Errors
    /// The connection attempt failed.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        self.with(|stream| {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            match stream.peer_addr() {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Reads what is there; 0 at the end of the stream.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.with(|mut stream| {
            loop {
                match stream.read(into) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    result => return result,
                }
            }
        })
    }

    /// Appends what is there, at most `most` bytes, without clearing memory first. Ends with `WouldBlock` where nothing
    /// more is there yet, and keeps what it has.
    pub(super) fn append_to(&self, into: &mut Vec<u8>, most: usize) -> io::Result<()> {
        self.with(|stream| stream.take(most as u64).read_to_end(into)).map(|_| ())
    }

    /// Writes `head` and then `body` as far as the socket takes them.
    pub(super) fn send(&self, head: &[u8], body: &[u8]) -> Result<usize, Errno> {
        let stream = self.0.read();
        let Some(stream) = &*stream else { return Err(Errno::NOTCONN) };
        match (head, body) {
            (one, []) | ([], one) => rustix::net::send(stream, one, SendFlags::NOSIGNAL),
            (head, body) => {
                let slices = [IoSlice::new(head), IoSlice::new(body)];
                rustix::net::sendmsg(stream, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
            }
        }
    }

    /// Writes `head`, then the slices of `body`, then `tail`, as far as the socket takes them.
    pub(super) fn send_all(&self, head: &[u8], body: &[IoSlice<'_>], tail: &[u8]) -> Result<usize, Errno> {
        let stream = self.0.read();
        let Some(stream) = &*stream else { return Err(Errno::NOTCONN) };
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        slices[0] = IoSlice::new(head);
        let count = body.len().min(SLICES_MAX - 2);
        slices[1..=count].copy_from_slice(&body[..count]);
        slices[count + 1] = IoSlice::new(tail);
        let slices = &slices[..count + 2];
        rustix::net::sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
    }

    /// Reads into the slices of `body`, and what follows into `rest`; 0 at the end of the stream.
    pub(super) fn read_all(&self, body: &mut [IoSliceMut<'_>], rest: &mut [u8]) -> io::Result<usize> {
        let mut slices: [IoSliceMut<'_>; SLICES_MAX] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let count = body.len().min(SLICES_MAX - 1);
        for (slice, body) in slices.iter_mut().zip(&mut body[..count]) {
            *slice = IoSliceMut::new(body);
        }
        slices[count] = IoSliceMut::new(rest);
        self.with(|mut stream| {
            loop {
                match stream.read_vectored(&mut slices[..=count]) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    result => return result,
                }
            }
        })
    }

    /// Tells the peer, and frees the descriptor.
    pub(super) fn close(&self) {
        if let Some(stream) = self.0.write().take() {
            // Fails if the peer has done the same before.
            let _ = rustix::net::shutdown(&stream, Shutdown::Both);
        }
    }
}

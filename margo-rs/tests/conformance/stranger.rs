//! Sockets that belong to no engine.

use crate::support::{NA_SM, Setup, TCP6};
use margo_rs::Wait;
use margo_rs::wire::HELLO_LEN;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use std::any::Any;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Control page and ring of a segment, in bytes.
const SEGMENT: u64 = 4096 + 128 * 1024;

/// A socket that listens; nobody does when it is dropped.
pub(crate) struct Stranger {
    pub(crate) address: String,
    listener: Listening,
}

enum Listening {
    Tcp(TcpListener),
    Unix(OwnedFd, PathBuf),
    /// Mercury's shared memory knows nobody but its own processes.
    Nobody,
}

impl Stranger {
    /// At an address of its own.
    pub(crate) fn new(setup: Setup) -> Self {
        if setup.is_tcp() {
            return Self::try_at(if setup.address == TCP6.address { "[::1]:0" } else { "127.0.0.1:0" }, setup).unwrap();
        }
        if setup.address == NA_SM.address {
            let engine = setup.serve();
            let location = engine.address().location().to_owned();
            engine.shutdown().wait();
            return Self::try_at(&location, setup).unwrap();
        }
        static STRANGERS: AtomicU32 = AtomicU32::new(0);
        // The directory is made by the first server.
        let server = setup.serve();
        let uid = server.address().location().split('/').next().unwrap();
        let number = STRANGERS.fetch_add(1, Ordering::Relaxed);
        Self::try_at(&format!("{uid}/stranger-{}-{number}", std::process::id()), setup).unwrap()
    }

    /// At the place of a server that has ended, as soon as that is free.
    pub(crate) fn taking_over(setup: Setup, location: &str) -> Self {
        loop {
            if let Some(stranger) = Self::try_at(location, setup) {
                return stranger;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn try_at(location: &str, setup: Setup) -> Option<Self> {
        if setup.is_tcp() {
            let listener = TcpListener::bind(location).ok()?;
            let address = format!("{}://{}", setup.protocol(), listener.local_addr().unwrap());
            return Some(Self { address, listener: Listening::Tcp(listener) });
        }
        let address = format!("{}://{location}", setup.protocol());
        if setup.address == NA_SM.address {
            return Some(Self { address, listener: Listening::Nobody });
        }
        let path = PathBuf::from(format!("/tmp/mochi-sm-{location}"));
        let listener = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).ok()?;
        net::listen(&listener, 16).unwrap();
        Some(Self { address, listener: Listening::Unix(listener, path) })
    }

    /// Takes one connection, says something and leaves.
    pub(crate) fn greet(&self, greeting: &[u8]) {
        match &self.listener {
            Listening::Tcp(listener) => {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.write_all(greeting);
            }
            Listening::Unix(listener, _) => {
                let stream = net::accept(listener).unwrap();
                let _ = net::send(&stream, greeting, SendFlags::NOSIGNAL);
            }
            Listening::Nobody => unreachable!("nobody greets"),
        }
    }

    /// Takes one connection, greets as an engine does, and reads nothing more for as long as what is returned lives.
    pub(crate) fn greet_and_stop(&self) -> Box<dyn Any + Send> {
        let mut hello = [0; HELLO_LEN];
        match &self.listener {
            Listening::Tcp(listener) => {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut hello).unwrap();
                stream.write_all(&hello).unwrap();
                Box::new(stream)
            }
            Listening::Unix(listener, _) => {
                let stream = net::accept(listener).unwrap();
                net::recv(&stream, &mut hello[..], RecvFlags::empty()).unwrap();
                let segment = rustix::fs::memfd_create("stranger", MemfdFlags::ALLOW_SEALING).unwrap();
                rustix::io::write(&segment, &vec![0; SEGMENT as usize]).unwrap();
                rustix::fs::fcntl_add_seals(&segment, SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE)
                    .unwrap();
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let descriptors = [segment.as_fd()];
                control.push(SendAncillaryMessage::ScmRights(&descriptors));
                net::sendmsg(&stream, &[IoSlice::new(&hello)], &mut control, SendFlags::empty()).unwrap();
                Box::new(stream)
            }
            Listening::Nobody => unreachable!("nobody greets"),
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        if let Listening::Unix(_, path) = &self.listener {
            let _ = std::fs::remove_file(path);
        }
    }
}

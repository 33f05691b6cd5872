//! A peer that speaks the protocol by itself, and so can break it.

use crate::memory::{AtomicU64, CONTROL_WORDS};
use crate::ring::{Consumer, Producer, RECORD_MAX, Words, prepare};
use margo_rs::Engine;
use margo_rs::bulk::{BulkDescriptor, RegionKey};
use margo_rs::wire::{FRAME_MAX, HELLO_LEN, Header, Hello, Kind, Loan, RequestHead, TransferHead};
use margo_rs::{ProviderId, RpcId};
use memmap2::MmapRaw;
use mochi_test_support::{Awaited, Patience};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Seals that shared files must have.
pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);
const RING: usize = 128 * 1024;

/// A mapped segment.
struct Segment(MmapRaw);

impl Words for Segment {
    #[allow(unsafe_code)]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is aligned to a page, lives as long as `self`, and its file cannot shrink. Integers can hold
        // anything; others write them, for which they are atomic.
        unsafe { std::slice::from_raw_parts(self.0.as_mut_ptr().cast(), self.0.len() / size_of::<AtomicU64>()) }
    }
}

/// A memory file of zeros.
pub(crate) fn memory_file(size: usize) -> OwnedFd {
    let file = rustix::fs::memfd_create("raw", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, size as u64).unwrap();
    if size > 0 {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size as u64).unwrap();
    }
    file
}

/// A memory file full of `byte`, sealed.
pub(crate) fn sealed_file(size: usize, byte: u8, seals: SealFlags) -> OwnedFd {
    let file = memory_file(size);
    assert_eq!(rustix::io::pwrite(&file, &vec![byte; size], 0), Ok(size));
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

/// What a frame says.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) call: u64,
    pub(crate) body: Vec<u8>,
}

/// A connection to a server.
pub(crate) struct Raw {
    socket: OwnedFd,
    producer: Producer<Arc<Segment>>,
    consumer: Consumer<Arc<Segment>>,
    read: Vec<u8>,
    /// Loans that came while something else was looked for.
    pub(crate) files: Vec<(u64, OwnedFd)>,
}

impl Raw {
    pub(crate) fn connect(server: &Engine) -> Self {
        let path = format!("/tmp/mochi-sm-{}", server.address().as_str().strip_prefix("native+sm://").unwrap());
        let socket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let file = memory_file(CONTROL_WORDS * 8 + RING);
        let own = Arc::new(Segment(MmapRaw::map_raw(&file).unwrap()));
        rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
        prepare(own.words(), 77);
        let hello = Hello {
            max_frame: FRAME_MAX,
            max_in_flight: 16,
            max_message: 1 << 20,
            max_bytes: 1 << 20,
            instance: 1,
            extra: [0; 16],
        };
        assert!(send(&socket, &hello.encode(), &[&file]));
        let (bytes, mut files) = receive(&socket, RecvFlags::empty()).unwrap();
        assert_eq!(bytes.len(), HELLO_LEN);
        let peer = File::from(files.pop().unwrap());
        let peer = Arc::new(Segment(memmap2::MmapOptions::new().map_raw_read_only(&peer).unwrap()));
        Self {
            socket,
            producer: Producer::new(own.clone(), peer.clone()),
            consumer: Consumer::new(own, peer),
            read: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Sends a frame, whether or not anybody is left.
    #[track_caller]
    pub(crate) fn send(&mut self, kind: Kind, call: u64, body: &[u8]) {
        let header = Header { length: body.len() as u32, kind, flags: 0, call };
        let bytes = [&header.to_bytes()[..], body].concat();
        let (mut sent, mut patience) = (0, Patience::default());
        let _awaited = Awaited::here(format!("room for a frame {kind:?} of {} bytes", body.len()));
        while sent < bytes.len() && self.look() {
            sent += self.producer.write(&bytes[sent..]).unwrap();
            assert!(!patience.is_over(), "the server makes no room: {sent} of {} bytes are written", bytes.len());
            let _ = net::send(&self.socket, &[0], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }

    /// Hands over a file.
    pub(crate) fn hand_over(&self, loan: u64, files: &[&OwnedFd]) {
        send(&self.socket, &loan.to_le_bytes(), files);
    }

    /// Hands over a file, with nothing of what the server says read. `false` once the server has closed.
    pub(crate) fn hand_over_unheard(&self, loan: u64, file: &OwnedFd) -> bool {
        send(&self.socket, &loan.to_le_bytes(), &[file])
    }

    /// Sends any packet.
    pub(crate) fn send_packet(&self, bytes: &[u8], files: &[&OwnedFd]) {
        send(&self.socket, bytes, files);
    }

    /// The next frame that is not about a loan's end, or `None` once the server has closed.
    ///
    /// # Panics
    /// At the caller's line, if there is none for long.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let _awaited = Awaited::here("a frame of the server");
        let mut patience = Patience::default();
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk() {
                let header = Header::decode(head, FRAME_MAX).unwrap();
                if rest.len() >= header.length as usize {
                    let body = rest[..header.length as usize].to_vec();
                    self.read.drain(..Header::LEN + body.len());
                    return Some(Frame { kind: header.kind, call: header.call, body });
                }
            }
            let mut record = [0; RECORD_MAX];
            // The order matters: what is found after the end is all that there is.
            let open = self.look();
            let count = self.consumer.read(&mut record).unwrap();
            self.read.extend_from_slice(&record[..count]);
            if count > 0 {
                // It may wait for room.
                let _ = net::send(&self.socket, &[0], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            } else if !open {
                return None;
            } else {
                let kept = (self.files.len(), self.read.len());
                assert!(
                    !patience.is_over(),
                    "the server sends no frame; {kept:?}: loans and bytes of one that are here"
                );
                std::thread::yield_now();
            }
        }
    }

    /// The next frame of that kind; others are thrown away.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, kind: Kind) -> Frame {
        loop {
            let frame = self.frame().expect("the server stays");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Whether the server closes, whatever it says before.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) {
        while self.frame().is_some() {}
    }

    /// Takes in the packets that are there. `false` if there will be no more.
    fn look(&mut self) -> bool {
        loop {
            match receive(&self.socket, RecvFlags::DONTWAIT) {
                Ok((bytes, _)) if bytes.is_empty() => return false,
                Ok((bytes, mut files)) => {
                    if let (Ok(loan), Some(file)) = (bytes[..].try_into(), files.pop()) {
                        self.files.push((u64::from_le_bytes(loan), file));
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Pulls all of a region, and would borrow. Returns what came: the data, or a loan.
    #[track_caller]
    pub(crate) fn borrow(&mut self, call: u64, descriptor: &BulkDescriptor) -> Result<Vec<u8>, Loan> {
        self.send(Kind::Borrow, call, &wish(descriptor));
        let mut data = Vec::new();
        loop {
            let frame = self.frame().expect("the server stays");
            match frame.kind {
                Kind::PullData => data.extend(frame.body),
                Kind::Lent => {
                    // Its file was sent before it, perhaps after the last look.
                    self.look();
                    return Err(Loan::decode(frame.body[..].try_into().unwrap()));
                }
                Kind::TransferEnd => {
                    assert_eq!(frame.body, [0; 4]);
                    return Ok(data);
                }
                Kind::LoanEnd => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// As [`Raw::borrow`], again and again until the region is lent; returns the file.
    #[track_caller]
    pub(crate) fn borrow_until_lent(&mut self, descriptor: &BulkDescriptor) -> (Loan, OwnedFd) {
        for call in 0..super::OFTEN as u64 {
            if let Err(loan) = self.borrow(call, descriptor) {
                let at = self.files.iter().position(|(id, _)| *id == loan.id).expect("its file came before");
                return (loan, self.files.remove(at).1);
            }
        }
        panic!("it is not lent");
    }

    /// Has the server pull from a region that it believes to be here.
    #[track_caller]
    pub(crate) fn offer(&mut self, call: u64, length: usize) {
        let rpc = RpcId::new("take", ProviderId::DEFAULT);
        let mut body = Vec::new();
        RequestHead { rpc, timeout_ms: 0, one_way: false }.encode(&mut body);
        // No RPC of ours is the parent of this one.
        body.extend_from_slice(&[0; 8]);
        body.extend_from_slice(&margo_rs::codec::to_vec(&invented(length)).unwrap());
        self.send(Kind::Request, call, &body);
    }
}

/// The body of a pull or push of all of a region.
pub(crate) fn wish(descriptor: &BulkDescriptor) -> Vec<u8> {
    let mut body = Vec::new();
    TransferHead { key: *descriptor.key().unwrap(), offset: 0, length: descriptor.len() }.encode(&mut body);
    body
}

/// The body of a lend of all of a region.
pub(crate) fn lend(descriptor: &BulkDescriptor, loan: Loan) -> Vec<u8> {
    let mut body = wish(descriptor);
    loan.encode(&mut body);
    body
}

/// The descriptor of a region that is not there.
fn invented(length: usize) -> BulkDescriptor {
    let mut bytes = b"mochi\0\x01\xff".to_vec();
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&RegionKey::from_bytes(&[9; RegionKey::LEN]).to_bytes());
    BulkDescriptor::from_bytes(&bytes).unwrap()
}

/// `false` once the server has closed.
fn send(socket: &OwnedFd, bytes: &[u8], files: &[&OwnedFd]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    }
    net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).is_ok()
}

fn receive(socket: &OwnedFd, flags: RecvFlags) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 256];
    let received =
        net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let files = rights.flatten().collect();
    Ok((bytes[..received.bytes].to_vec(), files))
}

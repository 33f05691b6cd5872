//! One connection: handshake, reading, writing, closing.

mod handshake;
mod lending;
mod receiving;
mod sending;

use self::lending::{Copying, DataWay};
use self::receiving::Up;
use super::super::PeerCredentials;
use super::super::lifecycle::{Ending, Lifecycle};
use super::super::outgoing::Outgoing;
use super::super::restraint::{Restrained, Restraint};
use super::super::same_node::Offer;
use super::super::timers::Watch;
use super::Shared;
use super::credentials;
use super::loan::borrower::Borrowed;
use super::loan::lender::Lender;
use super::ring::{self, Bell, Producer, Words};
use super::segment::Segment;
use super::socket::Socket;
use crate::address::Address;
use crate::buffer::Buffer;
use crate::bulk::{Transfer, TransferError};
use crate::transport::{CallId, Flush, Link, LinkError, LinkEvents};
use crate::wire::{RequestHead, WriteJob};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

/// Bytes of the ring that we write, per connection.
const RING: usize = 128 * 1024;

/// A connection, ours or the peer's.
pub(super) struct Connection {
    /// Its place in the transport's table.
    pub(super) token: u64,
    pub(super) socket: Socket,
    lifecycle: Lifecycle,
    /// Of the other end, once connected.
    credentials: OnceLock<PeerCredentials>,
    /// For those that we open.
    to: Option<Target>,
    shared: Weak<Shared>,
    this: Weak<Connection>,
    outbox: Mutex<Outbox>,
    inbox: Mutex<Inbox>,
    /// What the peer has of ours.
    lender: Mutex<Lender>,
    /// What we have of the peer's.
    borrowed: Mutex<Borrowed>,
    /// Transfers whose data is being copied from there; changed by the polling thread only, and by the end.
    copying: Mutex<VecDeque<Copying>>,
    /// There are some.
    copies: AtomicBool,
    /// In the transport's list of connections with something to flush.
    listed: AtomicBool,
    /// Something is queued, and not yet in the ring.
    queues: AtomicBool,
    /// Something waits for room in the ring.
    blocked: AtomicBool,
    /// Regions were taken back while they were being sent.
    withdrawn: AtomicBool,
    /// Requests sent that want a response; changed under the lock of the outbox.
    requests: AtomicU64,
    /// What the peer had read when that was looked at, and whether somebody looks.
    taken: AtomicU64,
    watched_blocked: AtomicBool,
    /// The peer has closed its side: what stands in the ring is all.
    hangup: AtomicBool,
    /// How the peer keeps up.
    restraint: Restraint,
}

/// Where to connect to, and who must be there.
pub(super) struct Target {
    pub(super) at: SocketAddrUnix,
    /// Whose socket it must be.
    pub(super) uid: u32,
    /// What to show, and whose second half the peer must know.
    pub(super) offer: Option<Offer>,
}

/// Both directions of the shared memory.
pub(super) struct Lane {
    pub(super) peer: Arc<Segment>,
    pub(super) bell: Bell<Arc<Segment>>,
    /// How far the peer's ring was read.
    pub(super) position: AtomicU64,
}

struct Outbox {
    /// What is queued.
    outgoing: Outgoing,
    job: WriteJob,
    /// Our segment while the peer's is awaited.
    own: Option<Arc<Segment>>,
    writer: Option<Writer>,
}

struct Writer {
    producer: Producer<Arc<Segment>>,
    lane: Arc<Lane>,
}

enum Inbox {
    /// The peer's hello is awaited.
    Greeting,
    Up(Up),
    Closed,
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// Nothing was there.
    Nothing,
    /// Something was handled, and the ring is empty.
    Drained,
    /// Something was handled, and more may be there.
    MoreToCome,
}

impl Connection {
    /// A connection that a peer opened.
    pub(super) fn accepted(shared: &Arc<Shared>, token: u64, socket: OwnedFd) -> Result<Arc<Self>, Errno> {
        let (credentials, process) = credentials::of(&socket)?;
        let process = process.map_or_else(|| "unknown".to_owned(), |process| process.to_string());
        let peer = super::location::printed(credentials.uid, &process);
        let connection = Self::new(shared, token, peer, None, None);
        let _ = connection.credentials.set(credentials);
        connection.socket.set(socket);
        connection.lifecycle.begin_greeting();
        Ok(connection)
    }

    /// A connection that is to be opened by [`Connection::try_connect`].
    pub(super) fn opening(
        shared: &Arc<Shared>,
        token: u64,
        peer: Address,
        to: Target,
        events: Arc<dyn LinkEvents>,
    ) -> Arc<Self> {
        Self::new(shared, token, peer, Some(to), Some(events))
    }

    fn new(
        shared: &Arc<Shared>,
        token: u64,
        peer: Address,
        to: Option<Target>,
        events: Option<Arc<dyn LinkEvents>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            token,
            socket: Socket::default(),
            credentials: OnceLock::new(),
            lifecycle: Lifecycle::new(peer, to.is_none(), events),
            to,
            shared: Arc::downgrade(shared),
            this: this.clone(),
            outbox: Mutex::new(Outbox {
                outgoing: shared.allowances.outgoing(),
                job: WriteJob::default(),
                own: None,
                writer: None,
            }),
            inbox: Mutex::new(Inbox::Greeting),
            lender: Mutex::default(),
            borrowed: Mutex::default(),
            copying: Mutex::default(),
            copies: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            queues: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            watched_blocked: AtomicBool::new(false),
            hangup: AtomicBool::new(false),
            restraint: shared.allowances.restraint(),
        })
    }

    /// The user of a peer that opened it.
    pub(super) fn guest(&self) -> Option<u32> {
        self.credentials.get().filter(|_| self.lifecycle.was_accepted()).map(|user| user.uid)
    }

    /// The shared memory, for whoever looks at it all the time.
    pub(super) fn lane(&self) -> Option<Arc<Lane>> {
        self.outbox.lock().writer.as_ref().map(|writer| writer.lane.clone())
    }

    /// Drops what the reading side holds. Called by the polling thread, which alone uses it.
    pub(super) fn clear_inbox(&self) {
        *self.inbox.lock() = Inbox::Closed;
    }
}

impl Ending for Connection {
    fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    fn may_warn(&self, error: &LinkError) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        // Whoever brings an offer has another way, and may have taken it meanwhile.
        let has_another_way = matches!(error, LinkError::Connect(_)) && shared.door.get().is_some();
        !has_another_way && shared.warnings.allow(Instant::now())
    }

    fn release(&self) {
        let mut outbox = self.outbox.lock();
        outbox.outgoing.clear();
        outbox.job = WriteJob::default();
        outbox.own = None;
        outbox.writer = None;
        drop(outbox);
        self.end_loans();
        if let Some(shared) = self.shared.upgrade() {
            shared.remove(self);
        }
        self.socket.close();
    }
}

impl Restrained for Connection {
    fn restraint(&self) -> &Restraint {
        &self.restraint
    }

    fn outgoing(&self) -> MappedMutexGuard<'_, Outgoing> {
        MutexGuard::map(self.outbox.lock(), |outbox| &mut outbox.outgoing)
    }

    fn is_unwritable(&self) -> bool {
        false
    }

    fn schedule(&self, flush: Flush) {
        match flush {
            Flush::Now => self.flush(),
            Flush::Later => {
                if !self.listed.swap(true, Ordering::AcqRel)
                    && let (Some(shared), Some(this)) = (self.shared.upgrade(), self.this.upgrade())
                {
                    shared.list_dirty(this);
                }
            }
        }
    }

    fn look_after(&self, watch: Watch) {
        if let Some(shared) = self.shared.upgrade() {
            shared.look_after(self.token, watch);
        }
    }
}

impl Link for Connection {
    fn peer(&self) -> &Address {
        self.lifecycle.peer()
    }

    fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.credentials.get().copied()
    }

    fn is_through_memory(&self) -> bool {
        true
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, flush: Flush) {
        let mut outbox = self.outbox.lock();
        if !head.one_way {
            self.requests.store(self.requests.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        if let Some(ringing) = outbox.send_request(call.0, head, &payload) {
            drop(outbox);
            return self.after_direct(ringing);
        }
        outbox.outgoing.queue.request(call.0, head, payload);
        self.queues.store(true, Ordering::Release);
        drop(outbox);
        self.schedule(flush);
    }

    fn respond(&self, call: CallId, payload: Buffer, flush: Flush) {
        let mut outbox = self.outbox.lock();
        if let Some(ringing) = outbox.send_response(call.0, &payload) {
            drop(outbox);
            return self.after_direct(ringing);
        }
        if self.lifecycle.is_closed() {
            return;
        }
        outbox.outgoing.queue.response(call.0, payload);
        self.queues.store(true, Ordering::Release);
        self.restraint.note_queued(&mut outbox.outgoing);
        drop(outbox);
        self.schedule(flush);
    }

    fn cancel(&self, call: CallId) {
        if self.lifecycle.is_closed() {
            return;
        }
        self.outgoing().cancel(call.0);
        self.schedule(Flush::Now);
    }

    fn transfer(&self, call: CallId, transfer: Transfer, flush: Flush) -> Result<(), TransferError> {
        let way = self.way_of(&transfer);
        let mut outbox = self.outbox.lock();
        if self.lifecycle.is_closed() {
            // The link's end is the transfer's, and has been told or is about to be.
            return Ok(());
        }
        let Outgoing { queue, transfers, .. } = &mut outbox.outgoing;
        match way {
            DataWay::Ring => transfers.begin(call.0, transfer, queue),
            DataWay::Borrow => transfers.begin_borrowing(call.0, transfer, queue),
            DataWay::Lend(loan) => transfers.begin_lending(call.0, transfer, loan, queue),
        }?;
        drop(outbox);
        self.schedule(flush);
        Ok(())
    }

    fn flush(&self) {
        self.write_out();
    }

    fn queued(&self) -> usize {
        // Without the lock on the way of every small call, behind which nothing waits.
        if !self.queues.load(Ordering::Acquire) {
            return 0;
        }
        let outbox = self.outbox.lock();
        let [head, chunk] = outbox.job.slices();
        outbox.outgoing.queue.queued() + head.len() + chunk.len()
    }

    fn close(&self, reason: &str) {
        self.fail(reason);
    }
}

impl Lane {
    /// What the peer has taken out of our ring so far.
    fn read_by_peer(&self) -> u64 {
        ring::read_by(self.peer.words())
    }
}

//! One TCP connection: handshake, reading, writing, closing.

use super::Shared;
use super::socket::Socket;
use crate::address::Address;
use crate::buffer::Buffer;
use crate::error::ConnectError;
use crate::transport::{CallId, Flush, Link, LinkError, LinkEvents, PeerLimits};
use crate::wire::{Event, FRAME_MAX, HELLO_LEN, Hello, Inbound, Outbound, RequestHead, WriteJob};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// What is read at most from one connection before others get their turn, in bytes.
const READ_QUANTUM: usize = 2 * 1024 * 1024;

/// How a connection ends most often; a peer that says nothing and leaves is not worth a warning.
const CLOSED_BY_PEER: &str = "the peer closed the connection";

/// How the reason begins when the peer broke the protocol.
const PROTOCOL_ERROR: &str = "protocol error";
/// The reason when the peer began a message and sends nothing more.
const STALLED: &str = "the peer stopped in the middle of a message";

/// Phases of a connection, in order.
mod phase {
    /// The kernel is connecting.
    pub(super) const CONNECTING: u8 = 0;
    /// Connected; the peer's hello is awaited.
    pub(super) const GREETING: u8 = 1;
    /// Requests and responses flow.
    pub(super) const UP: u8 = 2;
    /// Over.
    pub(super) const CLOSED: u8 = 3;
}

/// A connection, ours or the peer's.
pub(super) struct Connection {
    /// Its place in the transport's table.
    pub(super) token: u64,
    pub(super) socket: Socket,
    peer: Address,
    /// Bytes waiting to be sent past which nothing more is read.
    max_queued: usize,
    /// The peer opened it.
    accepted: bool,
    phase: AtomicU8,
    shared: Weak<Shared>,
    this: Weak<Connection>,
    /// Takes the events; gone once the connection is lost.
    events: Mutex<Option<Arc<dyn LinkEvents>>>,
    outbox: Mutex<Outbox>,
    inbox: Mutex<Inbox>,
    /// In the transport's list of connections with something to flush.
    listed: AtomicBool,
    /// Why nothing more can be written. What the peer sent before is still read.
    unwritable: OnceLock<String>,
    /// Bytes read, and whether somebody looks whether they grow.
    read: AtomicU64,
    seen: AtomicU64,
    watched: AtomicBool,
    mid_message: AtomicBool,
    /// The peer has closed its side: no further edge tells of the end that stands behind the last bytes.
    hangup: AtomicBool,
    /// Responses may have piled up: nothing more is handled before that was looked at.
    overfull: AtomicBool,
}

struct Outbox {
    queue: Outbound,
    job: WriteJob,
    /// A thread is inside the write call.
    writing: bool,
    /// The socket is full.
    blocked: bool,
    /// The socket may have room again since the write call began.
    unblocked: bool,
    /// Reading stopped because too much is queued.
    reading_paused: bool,
}

enum Inbox {
    /// The first bytes of the peer's hello.
    Greeting {
        bytes: [u8; HELLO_LEN],
        received: usize,
    },
    Up {
        inbound: Inbound,
        /// Read and not handled yet, because responses pile up.
        rest: Vec<u8>,
        events: Arc<dyn LinkEvents>,
    },
    Closed,
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// Nothing was there.
    Nothing,
    /// Something was handled, and the socket is empty.
    Drained,
    /// Something was handled, and more may be there.
    MoreToCome,
}

impl Connection {
    /// A connection that is not yet watched. Events are known from the start for those that we open.
    pub(super) fn new(
        shared: &Arc<Shared>,
        token: u64,
        stream: TcpStream,
        peer: Address,
        events: Option<Arc<dyn LinkEvents>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            token,
            socket: Socket::new(stream),
            peer,
            max_queued: shared.limits.max_queued,
            accepted: events.is_none(),
            phase: AtomicU8::new(phase::CONNECTING),
            shared: Arc::downgrade(shared),
            this: this.clone(),
            events: Mutex::new(events),
            outbox: Mutex::new(Outbox {
                queue: Outbound::new(FRAME_MAX),
                job: WriteJob::default(),
                writing: false,
                blocked: false,
                unblocked: false,
                reading_paused: false,
            }),
            inbox: Mutex::new(Inbox::Greeting { bytes: [0; HELLO_LEN], received: 0 }),
            listed: AtomicBool::new(false),
            unwritable: OnceLock::new(),
            read: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            mid_message: AtomicBool::new(false),
            hangup: AtomicBool::new(false),
            overfull: AtomicBool::new(false),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::CLOSED
    }

    /// Whether the handshake is over, one way or the other.
    pub(super) fn is_past_handshake(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= phase::UP
    }

    /// Whether the peer opened it.
    pub(super) fn was_accepted(&self) -> bool {
        self.accepted
    }

    fn is_up(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::UP
    }

    /// Takes notice of readiness: connects on, writes on, reads. Called by the polling thread only.
    pub(super) fn handle_ready(&self, hangup: bool, scratch: &mut [u8]) -> ReadOutcome {
        if hangup {
            self.hangup.store(true, Ordering::Release);
        }
        if self.phase.load(Ordering::Acquire) == phase::CONNECTING && !self.finish_connecting() {
            return ReadOutcome::Nothing;
        }
        let mut outbox = self.outbox.lock();
        // A write call that is just finding the socket full would miss this news.
        outbox.unblocked = outbox.writing;
        let blocked = outbox.blocked;
        drop(outbox);
        if blocked {
            self.flush();
        }
        self.read(scratch)
    }

    /// Whether the connection stands; sends our hello if it does.
    fn finish_connecting(&self) -> bool {
        match self.socket.is_connected() {
            Ok(true) => {}
            // The readiness was a stale one.
            Ok(false) => return false,
            Err(error) => {
                self.fail_connecting(error);
                return false;
            }
        }
        self.greet();
        true
    }

    /// Sends our hello: the first bytes on an empty socket, so they fit.
    pub(super) fn greet(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        if self.phase.compare_exchange(phase::CONNECTING, phase::GREETING, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return;
        }
        match self.socket.send(&shared.hello().encode(), &[]) {
            Ok(HELLO_LEN) => {}
            Ok(_) => self.fail("the handshake could not be sent"),
            Err(error) => self.fail_connecting(error.into()),
        }
    }

    /// Reads and hands over what is there, up to [`READ_QUANTUM`].
    pub(super) fn read(&self, scratch: &mut [u8]) -> ReadOutcome {
        // A panic of user code in a callback ends this connection, whose state is lost with it, and no other.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read_on(scratch)));
        outcome.unwrap_or_else(|_| {
            tracing::error!(peer = %self.peer, "a callback panicked");
            self.fail("internal error");
            ReadOutcome::Drained
        })
    }

    fn read_on(&self, scratch: &mut [u8]) -> ReadOutcome {
        let mut inbox = self.inbox.lock();
        let mut outcome = ReadOutcome::Nothing;
        let mut taken = 0;
        loop {
            if self.is_closed() {
                *inbox = Inbox::Closed;
                return outcome;
            }
            let result = match &mut *inbox {
                Inbox::Closed => return outcome,
                Inbox::Greeting { bytes, received } => match self.receive(&mut bytes[*received..]) {
                    Ok(Received { count, .. }) => {
                        *received += count;
                        if !Hello::may_begin_with(&bytes[..*received]) || *received == HELLO_LEN {
                            let hello = Hello::decode(bytes);
                            match hello.map_err(|error| error.to_string()).and_then(|hello| self.come_up(&hello)) {
                                Ok(up) => *inbox = up,
                                Err(reason) => {
                                    drop(inbox);
                                    self.refuse(reason);
                                    return ReadOutcome::Drained;
                                }
                            }
                            outcome = ReadOutcome::Drained;
                        }
                        // The next round finds out whether the socket is empty.
                        Ok(Received { count, emptied: false })
                    }
                    Err(stop) => Err(stop),
                },
                Inbox::Up { inbound, rest, events } => {
                    if self.overfull.load(Ordering::Acquire) && self.pause_reading() {
                        return outcome;
                    }
                    self.read_messages(inbound, rest, &**events, scratch)
                }
            };
            match result {
                Ok(Received { count, emptied }) => {
                    taken += count;
                    outcome = ReadOutcome::Drained;
                    self.read.fetch_add(count as u64, Ordering::Relaxed);
                    if let Inbox::Up { inbound, .. } = &*inbox {
                        self.note_mid_message(inbound.is_mid_message());
                    }
                    if emptied && !self.hangup.load(Ordering::Acquire) {
                        return outcome;
                    }
                    if taken >= READ_QUANTUM {
                        return ReadOutcome::MoreToCome;
                    }
                    if self.pause_reading() {
                        return outcome;
                    }
                }
                Err(Stop::Empty) => {
                    if let Some(reason) = self.unwritable.get() {
                        drop(inbox);
                        self.fail(reason);
                    }
                    return outcome;
                }
                Err(Stop::Failed(reason)) => {
                    drop(inbox);
                    self.fail(&reason);
                    return ReadOutcome::Drained;
                }
            }
        }
    }

    fn read_messages(
        &self,
        inbound: &mut Inbound,
        rest: &mut Vec<u8>,
        events: &dyn LinkEvents,
        scratch: &mut [u8],
    ) -> Result<Received, Stop> {
        let mut sink = |event: Event<'_>| match event {
            Event::Request(call, head, payload) => events.on_request(CallId(call), head, payload),
            Event::RequestRefused(call, head, refusal) => events.on_request_refused(CallId(call), head, refusal),
            Event::ResponseBegins(call, wanted) => *wanted = events.expects(CallId(call)),
            Event::Response(call, payload) => events.on_response(CallId(call), payload),
            Event::ResponseRefused(call, refusal) => events.on_refused(CallId(call), refusal),
            Event::Cancel(call) => {
                self.outbox.lock().queue.abort_response(call);
                events.on_cancel(CallId(call));
            }
            Event::GoAway => events.on_go_away(),
        };
        let broken = |error: crate::wire::WireError| Stop::Failed(format!("{PROTOCOL_ERROR}: {error}"));
        let go_on = || !self.overfull.load(Ordering::Relaxed);
        if !rest.is_empty() {
            let count = inbound.handle_while(rest, &mut sink, &go_on).map_err(broken)?;
            rest.drain(..count);
            return Ok(Received { count, emptied: false });
        }
        if let Some((into, most)) = inbound.direct() {
            let before = into.len();
            let ended = self.socket.append_to(into, most);
            let count = into.len() - before;
            inbound.direct_done(count, &mut sink).map_err(broken)?;
            return match ended {
                Ok(_) if count < most => Err(Stop::Failed("the peer closed the connection in a message".to_owned())),
                Ok(_) => Ok(Received { count, emptied: false }),
                Err(error) if error.kind() == ErrorKind::WouldBlock && count == 0 => Err(Stop::Empty),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received { count, emptied: true }),
                Err(error) => Err(Stop::Failed(error.to_string())),
            };
        }
        let received = self.receive(scratch)?;
        let read = &scratch[..received.count];
        let count = inbound.handle_while(read, &mut sink, &go_on).map_err(broken)?;
        if count == read.len() {
            return Ok(received);
        }
        rest.extend_from_slice(&read[count..]);
        Ok(Received { count: received.count, emptied: false })
    }

    fn receive(&self, into: &mut [u8]) -> Result<Received, Stop> {
        match self.socket.read(into) {
            Ok(0) => Err(Stop::Failed(CLOSED_BY_PEER.to_owned())),
            Ok(count) => Ok(Received { count, emptied: count < into.len() }),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Stop::Empty),
            Err(error) => Err(Stop::Failed(error.to_string())),
        }
    }

    /// Has the progress of a message that is not whole watched.
    fn note_mid_message(&self, mid_message: bool) {
        self.mid_message.store(mid_message, Ordering::Relaxed);
        if mid_message
            && !self.watched.swap(true, Ordering::AcqRel)
            && let Some(shared) = self.shared.upgrade()
        {
            self.seen.store(self.read.load(Ordering::Relaxed), Ordering::Relaxed);
            shared.watch_progress(self.token);
        }
    }

    /// Whether the progress of a message is being watched.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Looks, after the time that a peer may be silent in the middle of a message, whether it was. `true` to look again
    /// after the same time.
    pub(super) fn check_progress(&self) -> bool {
        let read = self.read.load(Ordering::Relaxed);
        if !self.mid_message.load(Ordering::Relaxed) || self.is_closed() {
            self.watched.store(false, Ordering::Release);
            return false;
        }
        if self.seen.swap(read, Ordering::Relaxed) == read && !self.outbox.lock().reading_paused {
            self.fail(STALLED);
            return false;
        }
        true
    }

    /// Whether responses pile up because the peer does not read them: then it gets no further requests read.
    fn pause_reading(&self) -> bool {
        let mut outbox = self.outbox.lock();
        // Requests of ours do not count: a peer that is slow to read them would not get its answers taken either, and
        // both would wait for each other.
        outbox.reading_paused = self.unwritable.get().is_none() && outbox.queue.has_responses_beyond(self.max_queued);
        if outbox.reading_paused {
            drop(outbox);
            // What is queued may be only what this very poll answered: try to get rid of it first.
            self.flush();
            outbox = self.outbox.lock();
        }
        self.overfull.store(outbox.reading_paused, Ordering::Release);
        outbox.reading_paused
    }

    /// The handshake is complete.
    fn come_up(&self, hello: &Hello) -> Result<Inbox, String> {
        let shared = self.shared.upgrade().ok_or("the engine was shut down")?;
        let this = self.this.upgrade().ok_or("the connection was closed")?;
        let known = self.events.lock().clone();
        let events = match known {
            Some(events) => events,
            None => {
                let acceptor = shared.acceptor.get().ok_or("this engine takes no connections")?;
                let events = acceptor.accept(this.clone());
                *self.events.lock() = Some(events.clone());
                events
            }
        };
        let link: Arc<dyn Link> = this;
        self.outbox.lock().queue.limit_frame(hello.max_frame);
        if self.phase.compare_exchange(phase::GREETING, phase::UP, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Closed meanwhile, perhaps before it was known whom to tell.
            let untold = self.events.lock().take();
            if let Some(events) = untold {
                events.on_lost(&LinkError::Lost("closed during the handshake".to_owned()));
            }
            return Ok(Inbox::Closed);
        }
        let limits = PeerLimits {
            max_in_flight: hello.max_in_flight,
            max_message: hello.max_message,
            max_bytes: hello.max_bytes,
        };
        events.on_up(&link, limits);
        self.flush();
        Ok(Inbox::Up {
            inbound: Inbound::new(shared.inbound_limits(), shared.budget.clone()),
            rest: Vec::new(),
            events,
        })
    }

    /// Writes what is queued until the socket is full.
    fn write_out(&self) -> Result<(), Errno> {
        let mut outbox = self.outbox.lock();
        if outbox.writing || !self.is_up() || self.unwritable.get().is_some() {
            return Ok(());
        }
        outbox.writing = true;
        outbox.blocked = false;
        let mut job = std::mem::take(&mut outbox.job);
        let result = loop {
            if job.is_done() {
                outbox.queue.written(&mut job);
                if !outbox.queue.next_write(&mut job) {
                    break Ok(());
                }
            }
            outbox.unblocked = false;
            drop(outbox);
            let [head, chunk] = job.slices();
            let written = self.socket.send(head, chunk);
            outbox = self.outbox.lock();
            match written {
                Ok(count) => job.advance(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if outbox.unblocked => {}
                Err(Errno::AGAIN) => {
                    outbox.blocked = true;
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        outbox.job = job;
        outbox.writing = false;
        if outbox.reading_paused
            && let Some(shared) = self.shared.upgrade()
            && !outbox.queue.has_responses_beyond(self.max_queued / 2)
        {
            outbox.reading_paused = false;
            drop(outbox);
            shared.mark_ready(self.token);
        }
        result
    }

    /// Flushes now, or puts the connection on the list for the next poll.
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

    /// Writes out as a member of the list that [`Flush::Later`] fills.
    pub(super) fn flush_listed(&self) {
        self.listed.store(false, Ordering::Release);
        self.flush();
    }

    /// Tells the peer to send no further requests.
    pub(super) fn go_away(&self) {
        self.outbox.lock().queue.go_away();
        self.flush();
    }

    fn fail_connecting(&self, error: io::Error) {
        let source = Arc::new(error);
        self.end(LinkError::Connect(ConnectError::Unreachable { address: self.peer.clone(), source }));
    }

    /// The peer's handshake was not acceptable.
    fn refuse(&self, reason: String) {
        self.end(LinkError::Connect(ConnectError::Handshake { address: self.peer.clone(), reason }));
    }

    /// The handshake or the connection attempt took too long.
    pub(super) fn time_out(&self, after: Duration) {
        self.end(LinkError::Connect(ConnectError::Timeout { address: self.peer.clone(), after }));
    }

    /// Ends the connection after it failed or was closed.
    pub(super) fn fail(&self, reason: &str) {
        if self.is_past_handshake() {
            self.end(LinkError::Lost(reason.to_owned()));
        } else {
            self.refuse(reason.to_owned());
        }
    }

    fn end(&self, error: LinkError) {
        if self.phase.swap(phase::CLOSED, Ordering::AcqRel) == phase::CLOSED {
            return;
        }
        let reason = match &error {
            LinkError::Connect(error) => error.to_string(),
            LinkError::Lost(reason) => reason.clone(),
        };
        let shared = self.shared.upgrade();
        let worth_a_warning = match &error {
            LinkError::Connect(_) => self.accepted && !reason.ends_with(CLOSED_BY_PEER),
            LinkError::Lost(reason) => reason.starts_with(PROTOCOL_ERROR) || reason == STALLED,
        };
        if worth_a_warning && shared.as_ref().is_some_and(|shared| shared.warnings.allow(Instant::now())) {
            tracing::warn!(peer = %self.peer, reason, "connection closed");
        } else {
            tracing::debug!(peer = %self.peer, reason, "connection ended");
        }
        self.outbox.lock().queue.clear();
        if let Some(shared) = &shared {
            shared.remove(self);
        }
        self.socket.close();
        let events = self.events.lock().take();
        if let Some(events) = events {
            events.on_lost(&error);
        }
    }

    /// Drops what the reading side holds. Called by the polling thread, which alone uses it.
    pub(super) fn clear_inbox(&self) {
        *self.inbox.lock() = Inbox::Closed;
    }
}

impl Link for Connection {
    fn peer(&self) -> &Address {
        &self.peer
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, flush: Flush) {
        self.outbox.lock().queue.request(call.0, head, payload);
        self.schedule(flush);
    }

    fn respond(&self, call: CallId, payload: Buffer, flush: Flush) {
        if self.is_closed() || self.unwritable.get().is_some() {
            return;
        }
        let mut outbox = self.outbox.lock();
        outbox.queue.response(call.0, payload);
        if outbox.queue.queued() > self.max_queued {
            self.overfull.store(true, Ordering::Release);
        }
        drop(outbox);
        self.schedule(flush);
    }

    fn cancel(&self, call: CallId) {
        if self.is_closed() {
            return;
        }
        self.outbox.lock().queue.cancel(call.0);
        self.schedule(Flush::Now);
    }

    fn flush(&self) {
        let Err(error) = self.write_out() else { return };
        // Answers may be here that the peer sent before it left: they are read before the connection ends.
        if self.unwritable.set(io::Error::from(error).to_string()).is_ok() {
            let mut outbox = self.outbox.lock();
            outbox.queue.clear();
            outbox.job = WriteJob::default();
            drop(outbox);
            self.hangup.store(true, Ordering::Release);
            if let Some(shared) = self.shared.upgrade() {
                shared.mark_ready(self.token);
            }
        }
    }

    fn queued(&self) -> usize {
        let outbox = self.outbox.lock();
        let [head, chunk] = outbox.job.slices();
        // Of a write call that is under way only this is known.
        outbox.queue.queued() + head.len() + chunk.len() + usize::from(outbox.writing)
    }

    fn close(&self, reason: &str) {
        self.fail(reason);
    }
}

struct Received {
    count: usize,
    /// The socket held no more than this.
    emptied: bool,
}

enum Stop {
    /// Nothing to read.
    Empty,
    /// The connection is over.
    Failed(String),
}

//! One TCP connection: handshake, reading, writing, closing.

mod receiving;
mod sending;

use self::receiving::Up;
use super::super::intake::Intake;
use super::super::lifecycle::{Ending, Lifecycle};
use super::super::outgoing::Outgoing;
use super::super::restraint::{Restrained, Restraint};
use super::super::same_node::{Offer, Route};
use super::super::timers::Watch;
use super::socket::Socket;
use super::{Shared, is_here};
use crate::address::Address;
use crate::buffer::Buffer;
use crate::bulk::{Transfer, TransferError};
use crate::transport::{CallId, Flush, Link, LinkError, LinkEvents};
use crate::wire::{EXTRA_LEN, HELLO_LEN, Hello, RequestHead, WriteJob};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

/// A connection, ours or the peer's.
pub(super) struct Connection {
    /// Its place in the transport's table.
    pub(super) token: u64,
    pub(super) socket: Socket,
    lifecycle: Lifecycle,
    shared: Weak<Shared>,
    this: Weak<Connection>,
    outbox: Mutex<Outbox>,
    inbox: Mutex<Inbox>,
    /// The other way to the same server: what we have offered the peer, or it us.
    offer: OnceLock<Offer>,
    /// The number that the peer's engine has stated.
    instance: OnceLock<u64>,
    /// In the transport's list of connections with something to flush.
    listed: AtomicBool,
    /// Why nothing more can be written. What the peer sent before is still read.
    unwritable: OnceLock<String>,
    /// The peer has closed its side: no further edge tells of the end that stands behind the last bytes.
    hangup: AtomicBool,
    /// How the peer keeps up.
    restraint: Restraint,
}

/// Responses that wait for the end of a poll to go out together. Where more have arrived, the caller can work on the first
/// of them while the others are being served; and it does not go to sleep in the meantime.
const RESPONSES_AT_ONCE: u32 = 32;

struct Outbox {
    /// What is queued.
    outgoing: Outgoing,
    /// Responses queued since the last write.
    unsent_responses: u32,
    job: WriteJob,
    /// A thread is inside the write call.
    writing: bool,
    /// The socket is full.
    blocked: bool,
    /// The socket may have room again since the write call began.
    unblocked: bool,
}

enum Inbox {
    /// The first bytes of the peer's hello.
    Greeting {
        bytes: [u8; HELLO_LEN],
        received: usize,
    },
    Up(Up),
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
            lifecycle: Lifecycle::new(peer, events.is_none(), events),
            shared: Arc::downgrade(shared),
            this: this.clone(),
            outbox: Mutex::new(Outbox {
                outgoing: shared.allowances.outgoing(),
                job: WriteJob::default(),
                writing: false,
                blocked: false,
                unblocked: false,
                unsent_responses: 0,
            }),
            inbox: Mutex::new(Inbox::Greeting { bytes: [0; HELLO_LEN], received: 0 }),
            offer: OnceLock::new(),
            instance: OnceLock::new(),
            listed: AtomicBool::new(false),
            unwritable: OnceLock::new(),
            hangup: AtomicBool::new(false),
            restraint: shared.allowances.restraint(),
        })
    }

    /// Takes notice of readiness: connects on, writes on, reads. Called by the polling thread only.
    pub(super) fn handle_ready(&self, hangup: bool, scratch: &mut [u8]) -> ReadOutcome {
        if hangup {
            self.hangup.store(true, Ordering::Release);
        }
        if self.lifecycle.is_connecting() && !self.finish_connecting() {
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
        self.end_withdrawn();
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
        if !self.lifecycle.begin_greeting() {
            return;
        }
        match self.socket.send(&shared.allowances.hello(self.make_offer(&shared)).encode(), &[]) {
            Ok(HELLO_LEN) => {}
            Ok(_) => self.fail("the handshake could not be sent"),
            Err(error) => self.fail_connecting(error.into()),
        }
    }

    /// Offers a peer on this host another way, if there is one.
    fn make_offer(&self, shared: &Shared) -> [u8; EXTRA_LEN] {
        let none = [0; EXTRA_LEN];
        let (true, Some(offers), Some(this)) =
            (self.lifecycle.was_accepted(), shared.offers.get(), self.this.upgrade())
        else {
            return none;
        };
        let route = self.socket.with(|stream| {
            let (client, server) = (stream.peer_addr()?, stream.local_addr()?);
            Ok(is_here(stream, &client).then(|| Route::new(client, server)))
        });
        let Ok(Some(route)) = route else { return none };
        let Some(offer) = offers.make(&route, this) else { return none };
        let _ = self.offer.set(offer);
        if self.lifecycle.is_closed() {
            // Its end may have come before there was something to withdraw.
            offers.withdraw(offer.ask);
        }
        offer.encode()
    }

    /// Keeps what the server offers, if there is nobody between it and us.
    fn note_offer(&self, hello: &Hello) {
        let offer = self.socket.with(|stream| {
            let (client, server) = (stream.local_addr()?, stream.peer_addr()?);
            let offer = Offer::decode(&hello.extra, &Route::new(client, server));
            Ok(offer.filter(|_| is_here(stream, &server)))
        });
        if let Ok(Some(offer)) = offer {
            let _ = self.instance.set(hello.instance);
            let _ = self.offer.set(offer);
        }
    }

    /// The handshake is complete.
    fn come_up(&self, hello: &Hello) -> Result<Inbox, String> {
        let shared = self.shared.upgrade().ok_or("the engine was shut down")?;
        let this = self.this.upgrade().ok_or("the connection was closed")?;
        if !self.lifecycle.was_accepted() {
            self.note_offer(hello);
        }
        let events = self.lifecycle.events_of(this.clone(), &shared.acceptor)?;
        let link: Arc<dyn Link> = this;
        self.outbox.lock().outgoing.queue.limit_frame(hello.max_frame);
        if !self.lifecycle.come_up() {
            return Ok(Inbox::Closed);
        }
        events.on_up(&link, hello.into());
        self.flush();
        let inbound = shared.allowances.inbound();
        Ok(Inbox::Up(Up::new(inbound, Intake::new(events, shared.allowances.held()))))
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

    fn may_warn(&self, _error: &LinkError) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.warnings.allow(Instant::now()))
    }

    fn release(&self) {
        let mut outbox = self.outbox.lock();
        outbox.outgoing.clear();
        outbox.job = WriteJob::default();
        drop(outbox);
        if let Some(shared) = self.shared.upgrade() {
            shared.remove(self);
        }
        self.socket.close();
    }

    fn end_is_told(&self) {
        if let (true, Some(offer), Some(shared)) =
            (self.lifecycle.was_accepted(), self.offer.get(), self.shared.upgrade())
            && let Some(offers) = shared.offers.get()
        {
            offers.withdraw(offer.ask);
        }
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
        self.unwritable.get().is_some()
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

    fn offer(&self) -> Option<(u64, Offer)> {
        let offer = self.offer.get()?;
        Some((self.instance.get().copied().unwrap_or(0), *offer))
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, flush: Flush) {
        self.outbox.lock().outgoing.queue.request(call.0, head, payload);
        self.schedule(flush);
    }

    fn respond(&self, call: CallId, payload: Buffer, flush: Flush) {
        let mut outbox = self.outbox.lock();
        // Under the lock: whoever ends the connection clears it after that.
        if self.lifecycle.is_closed() || self.unwritable.get().is_some() {
            return;
        }
        outbox.outgoing.queue.response(call.0, payload);
        outbox.unsent_responses += 1;
        let flush = if outbox.unsent_responses >= RESPONSES_AT_ONCE { Flush::Now } else { flush };
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
        let mut outbox = self.outbox.lock();
        if self.lifecycle.is_closed() {
            // The link's end is the transfer's, and has been told or is about to be.
            return Ok(());
        }
        let Outgoing { queue, transfers, .. } = &mut outbox.outgoing;
        transfers.begin(call.0, transfer, queue)?;
        drop(outbox);
        self.schedule(flush);
        Ok(())
    }

    fn flush(&self) {
        let Err(error) = self.write_out() else { return };
        // Answers may be here that the peer sent before it left: they are read before the connection ends.
        if self.unwritable.set(io::Error::from(error).to_string()).is_ok() {
            let mut outbox = self.outbox.lock();
            outbox.outgoing.clear_queue();
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
        outbox.outgoing.queue.queued() + head.len() + chunk.len() + usize::from(outbox.writing)
    }

    fn close(&self, reason: &str) {
        self.fail(reason);
    }
}

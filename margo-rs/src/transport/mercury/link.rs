//! A way to one peer: what is in flight on it, both ways.
//!
//! Mercury has no connections. Towards a peer of this crate a link is made of the messages in [`envelope`](super::envelope);
//! towards all others it is only the place where their calls are kept.

mod ending;
mod moves;
mod replies;
mod sending;
mod serving;
mod watch;

use self::moves::Moves;
use super::envelope::{Answer, HELLO, Head, Hello, Kind, Purpose, TUNNEL};
use super::fabric::{Addr, Code, Incoming, Outgoing, explain};
use super::shared::Shared;
use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::bulk::{Plugin, Transfer, TransferError};
use crate::transport::{CallId, Flush, Link, LinkError, LinkEvents, PeerLimits};
use crate::wire::RequestHead;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// How a link is used.
mod state {
    /// The hello has no answer yet.
    pub(super) const CONNECTING: u8 = 0;
    /// The peer is of this crate.
    pub(super) const KIN: u8 = 1;
    /// It is not: Margo, Thallium, or anything else on Mercury.
    pub(super) const PLAIN: u8 = 2;
    pub(super) const LOST: u8 = 3;
}

/// Tokens of requests that are no call of the engine's. Its calls are numbered from below and never get so far.
mod token {
    pub(super) const HELLO: u64 = u64::MAX;
    pub(super) const PING: u64 = u64::MAX - 1;
    pub(super) const ONE_WAY: u64 = u64::MAX - 2;
    /// Large responses, counted downwards from here; as many as can be in flight.
    pub(super) const LARGE_FIRST: u64 = u64::MAX - 3;
    pub(super) const LARGE_LAST: u64 = u64::MAX - (1 << 31);
}

/// Requests in flight to a plain peer, past which those that are cancelled are given up although it may answer them.
const FORGOTTEN_MAX: usize = 1024;
/// A plain peer that has sent nothing for this long, in keepalive times, is forgotten.
const GUEST_IDLE: u64 = 6;

/// A link.
pub(super) struct MercuryLink {
    this: Weak<MercuryLink>,
    /// Its name towards a peer of this crate.
    id: u64,
    shared: Weak<Shared>,
    peer: Address,
    dialed: bool,
    /// A plain peer from whom requests came.
    guest: bool,
    state: AtomicU8,
    addr: Mutex<Option<Arc<Addr>>>,
    events: Mutex<Option<Arc<dyn LinkEvents>>>,
    /// Requests made before it was known whom they go to.
    waiting: Mutex<Vec<(CallId, RequestHead, Buffer)>>,
    outgoing: Mutex<HashMap<u64, Sent>>,
    incoming: Mutex<HashMap<u64, Arc<Incoming>>>,
    /// Further requests under a number that is in use: they get the answer that is sent first.
    doubled: Mutex<Vec<(u64, Arc<Incoming>)>>,
    /// Our transfers.
    moves: Moves,
    /// Numbers the requests of plain peers, who do not.
    next_incoming: AtomicU64,
    /// Numbers our large responses.
    next_large: AtomicU64,
    /// Bytes of those that the peer has not fetched yet.
    large_bytes: AtomicUsize,
    /// When something was last heard from the peer or asked of it, in milliseconds of the transport's clock.
    heard: AtomicU64,
    /// When the ping was sent that is not answered yet, or 0.
    pinged: AtomicU64,
}

struct Sent {
    request: Arc<Outgoing>,
    cancelled: bool,
    /// The response was announced to come apart.
    large_awaited: bool,
    /// It came before it was announced.
    large_is_in: bool,
    bytes: usize,
}

impl MercuryLink {
    /// A link that we open; its events go to `events`.
    pub(super) fn dialed(
        shared: &Arc<Shared>,
        peer: Address,
        addr: Addr,
        id: u64,
        events: Arc<dyn LinkEvents>,
    ) -> Arc<Self> {
        Self::new(shared, peer, Some(addr), id, true, state::CONNECTING, Some(events))
    }

    /// A link that a peer of this crate opened.
    pub(super) fn accepted(shared: &Arc<Shared>, peer: Address, addr: Addr, id: u64) -> Arc<Self> {
        Self::new(shared, peer, Some(addr), id, false, state::KIN, None)
    }

    /// The link of a plain peer from whom a request came.
    pub(super) fn guest(shared: &Arc<Shared>, peer: Address, addr: Addr, id: u64) -> Arc<Self> {
        Self::new(shared, peer, Some(addr), id, false, state::PLAIN, None)
    }

    fn new(
        shared: &Arc<Shared>,
        peer: Address,
        addr: Option<Addr>,
        id: u64,
        dialed: bool,
        state: u8,
        events: Option<Arc<dyn LinkEvents>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            id,
            shared: Arc::downgrade(shared),
            peer,
            dialed,
            guest: !dialed && state == state::PLAIN,
            state: AtomicU8::new(state),
            addr: Mutex::new(addr.map(Arc::new)),
            events: Mutex::new(events),
            waiting: Mutex::new(Vec::new()),
            outgoing: Mutex::new(HashMap::new()),
            incoming: Mutex::new(HashMap::new()),
            doubled: Mutex::new(Vec::new()),
            moves: Moves::default(),
            next_incoming: AtomicU64::new(0),
            next_large: AtomicU64::new(0),
            large_bytes: AtomicUsize::new(0),
            heard: AtomicU64::new(shared.now_ms()),
            pinged: AtomicU64::new(0),
        })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn is_guest(&self) -> bool {
        self.guest
    }

    /// Whether a peer opened it or came with a request.
    pub(super) fn is_accepted(&self) -> bool {
        !self.dialed
    }

    /// Ends a link that was never handed out: without an event.
    pub(super) fn abandon(&self) {
        self.events.lock().take();
        self.lose(LinkError::Lost(String::new()), false);
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }

    /// Says where the events go, and that the link is up.
    pub(super) fn come_up(&self, events: Arc<dyn LinkEvents>, limits: PeerLimits) {
        let Some(this) = self.this.upgrade() else { return };
        *self.events.lock() = Some(events.clone());
        let link: Arc<dyn Link> = this;
        events.on_up(&link, limits);
    }

    fn events(&self) -> Option<Arc<dyn LinkEvents>> {
        self.events.lock().clone()
    }

    /// Asks the peer who it is.
    pub(super) fn greet(&self) -> Result<(), Code> {
        self.hello(Purpose::Open, token::HELLO)
    }

    fn hello(&self, purpose: Purpose, token: u64) -> Result<(), Code> {
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        let hello = Hello { purpose, link: self.id, limits: shared.limits_stated() };
        self.send(HELLO.as_u64(), false, token, &hello.encode(), &[])
    }

    /// The plugin that the link goes over.
    fn plugin(&self) -> Plugin {
        match self.peer.protocol().split_once('+') {
            Some(("ofi", _)) => Plugin::Ofi,
            Some(("ucx", _)) => Plugin::Ucx,
            Some(("na", "sm")) => Plugin::SharedMemory,
            _ => Plugin::Other,
        }
    }
}

impl Link for MercuryLink {
    fn peer(&self) -> &Address {
        &self.peer
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, _: Flush) {
        if self.state() == state::CONNECTING {
            let mut waiting = self.waiting.lock();
            if self.state() == state::CONNECTING {
                return waiting.push((call, head, payload));
            }
        }
        self.send_call(call, head, &payload);
    }

    fn respond(&self, call: CallId, payload: Buffer, _: Flush) {
        let Some(request) = self.incoming.lock().remove(&call.0) else { return };
        let kin = self.state() == state::KIN;
        if kin && request.is_large_answer(Answer::LEN + payload.len()) {
            let large = self.next_large.fetch_add(1, Ordering::Relaxed) % (token::LARGE_FIRST - token::LARGE_LAST);
            let head = Head { link: self.id, call: call.0, kind: Kind::Response };
            let token = token::LARGE_FIRST - large;
            self.large_bytes.fetch_add(payload.len(), Ordering::AcqRel);
            if let Err(code) = self.send(TUNNEL.as_u64(), false, token, &head.encode(), &payload) {
                tracing::debug!(peer = %self.peer, reason = explain(code), "a large response cannot be sent");
                return self.lose(lost(code), true);
            }
            let _ = request.respond(&Answer::Apart.encode(), &[]);
            for doubled in self.take_doubled(call.0) {
                let _ = doubled.respond(&Answer::Apart.encode(), &[]);
            }
            return;
        }
        let answer = Answer::Response.encode();
        let head: &[u8] = if kin { &answer } else { &[] };
        if let Err(code) = request.respond(head, &payload) {
            tracing::debug!(peer = %self.peer, reason = explain(code), "a response cannot be sent");
        }
        for doubled in self.take_doubled(call.0) {
            let _ = doubled.respond(head, &payload);
        }
    }

    fn cancel(&self, call: CallId) {
        if self.moves.cancel(call) {
            return;
        }
        // The request stays until its answer comes, so that nothing arrives that nobody expects; see `lose`.
        let kin = self.state() == state::KIN;
        let too_many = {
            let mut outgoing = self.outgoing.lock();
            let many = outgoing.len() > FORGOTTEN_MAX;
            let Some(sent) = outgoing.get_mut(&call.0) else { return };
            sent.cancelled = true;
            (many && !kin).then(|| sent.request.clone())
        };
        if kin {
            // The peer answers at once then.
            self.tell(Kind::Cancel, call.0);
        } else if let Some(request) = too_many {
            request.cancel();
        }
    }

    fn transfer(&self, call: CallId, transfer: Transfer, _: Flush) -> Result<(), TransferError> {
        self.begin_transfer(call, transfer)
    }

    fn flush(&self) {}

    fn queued(&self) -> usize {
        self.large_bytes.load(Ordering::Acquire)
    }

    fn close(&self, reason: &str) {
        if self.state() == state::KIN {
            self.tell(Kind::Bye, 0);
        }
        self.lose(LinkError::Lost(reason.to_owned()), true);
    }
}

/// A payload without its first bytes.
fn without(payload: Payload<'_>, count: usize) -> Payload<'_> {
    match payload {
        Payload::Borrowed(bytes) => Payload::Borrowed(bytes.get(count..).unwrap_or_default()),
        Payload::Owned(mut buffer) => {
            buffer.skip(count);
            Payload::Owned(buffer)
        }
    }
}

fn lost(code: Code) -> LinkError {
    LinkError::Lost(explain(code))
}

/// What Mercury, here or at the peer, said instead of a response, in the form of one.
fn status_payload(code: Code) -> Buffer {
    Buffer::copy_from(&code.to_le_bytes())
}

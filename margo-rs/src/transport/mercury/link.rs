//! A way to one peer: what is in flight on it, both ways.
//!
//! Mercury has no connections. Towards a peer of this crate a link is made of the messages in [`envelope`](super::envelope);
//! towards all others it is only the place where their calls are kept.

mod moves;
mod replies;

use self::moves::Moves;
use super::Shared;
use super::envelope::{Answer, HELLO, Head, Hello, Kind, Purpose, TUNNEL, TUNNEL_ONE_WAY, Wish};
use super::fabric::{Addr, Code, Incoming, Outgoing, explain, is_network_error};
use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::bulk::{self, Direction, Plugin, Transfer, TransferError};
use crate::error::{ConnectError, Status};
use crate::transport::{CallId, Flush, Link, LinkError, LinkEvents, PeerLimits};
use crate::wire::{Refusal, RequestHead};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
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

    /// Sends a request of any kind. Nothing else happens if this fails.
    fn send(&self, id: u64, one_way: bool, token: u64, head: &[u8], body: &[u8]) -> Result<(), Code> {
        let (Some(shared), Some(this)) = (self.shared.upgrade(), self.this.upgrade()) else { return Ok(()) };
        let (Some(fabric), Some(addr)) = (shared.fabric(), self.addr.lock().clone()) else { return Ok(()) };
        fabric.register(id, one_way)?;
        let request = fabric.request(&addr, id, one_way)?;
        if !one_way {
            let mut outgoing = self.outgoing.lock();
            if outgoing.is_empty() {
                self.heard.store(shared.now_ms(), Ordering::Relaxed);
            }
            let sent = Sent {
                request: request.clone(),
                cancelled: false,
                large_awaited: false,
                large_is_in: false,
                bytes: body.len(),
            };
            outgoing.insert(token, sent);
        }
        let sent = request.send(head, body, this, token);
        if sent.is_err() {
            self.outgoing.lock().remove(&token);
        } else if !one_way {
            shared.check_at(self.due(&shared));
            if self.state() == state::LOST {
                // It was lost meanwhile, and perhaps nobody saw this request.
                shared.leave_behind(self.this.clone());
            }
        }
        sent
    }

    /// Tells a peer of this crate something that has no answer. Whether it arrives is not known.
    fn tell(&self, kind: Kind, call: u64) {
        let head = Head { link: self.id, call, kind };
        let _ = self.send(TUNNEL_ONE_WAY.as_u64(), true, token::ONE_WAY, &head.encode(), &[]);
    }

    pub(super) fn go_away(&self) {
        if self.state() == state::KIN && !self.dialed {
            self.tell(Kind::GoAway, 0);
        }
    }

    fn send_call(&self, call: CallId, head: RequestHead, payload: &Buffer) {
        let RequestHead { rpc, timeout_ms, one_way } = head;
        let token = if one_way { token::ONE_WAY } else { call.0 };
        let sent = if self.state() == state::KIN {
            let id = if one_way { TUNNEL_ONE_WAY } else { TUNNEL };
            let head = Head { link: self.id, call: call.0, kind: Kind::Request { rpc, timeout_ms, one_way } };
            self.send(id.as_u64(), one_way, token, &head.encode(), payload)
        } else {
            self.send(rpc.as_u64(), one_way, token, &[], payload)
        };
        if let Err(code) = sent {
            if is_network_error(code) {
                self.lose(lost(code), false);
            } else if let (false, Some(shared), Some(this)) = (one_way, self.shared.upgrade(), self.this.upgrade()) {
                shared.defer(this, call, code);
            }
        }
    }

    /// Ends a call that could not be sent. Inside of the transport's poll.
    pub(super) fn fail_call(&self, call: CallId, code: Code) {
        if self.finish_transfer(call) {
            return;
        }
        if let Some(events) = self.events() {
            events.on_response(call, Payload::Owned(status_payload(code)));
        }
    }

    /// A request of a plain peer.
    pub(super) fn on_plain_request(&self, request: &Arc<Incoming>, rpc: crate::rpc::RpcId) {
        let one_way = request.is_one_way();
        let call = self.next_incoming.fetch_add(1, Ordering::Relaxed);
        self.serve(request, CallId(call), RequestHead { rpc, timeout_ms: 0, one_way }, 0);
    }

    /// A message in an envelope.
    pub(super) fn on_enveloped(&self, request: &Arc<Incoming>, head: Head) {
        match head.kind {
            Kind::Request { rpc, timeout_ms, one_way } => {
                let one_way = one_way || request.is_one_way();
                self.serve(request, CallId(head.call), RequestHead { rpc, timeout_ms, one_way }, Head::LEN);
            }
            Kind::Response => self.on_large(request, head.call),
            Kind::Cancel => {
                self.heard_now();
                let cancelled = self.incoming.lock().remove(&head.call);
                for doubled in self.take_doubled(head.call) {
                    let _ = doubled.respond(&Answer::Cancelled.encode(), &[]);
                }
                if let Some(cancelled) = cancelled {
                    // So that its caller's receive ends too.
                    let _ = cancelled.respond(&Answer::Cancelled.encode(), &[]);
                }
                if let Some(events) = self.events() {
                    events.on_cancel(CallId(head.call));
                }
            }
            Kind::GoAway => {
                if let Some(events) = self.events() {
                    events.on_go_away();
                }
            }
            Kind::Bye => self.lose(LinkError::Lost("the peer has closed the connection".to_owned()), true),
            Kind::Grant(direction) => self.on_wish(request, head.call, direction),
            // The transport takes these.
            Kind::Release => {}
        }
    }

    /// The peer wants to move data from or to a region of ours.
    fn on_wish(&self, request: &Arc<Incoming>, call: u64, direction: Direction) {
        self.heard_now();
        let wish = request.read(|payload| Wish::decode(&payload.bytes()[Head::LEN..]));
        let (Ok(Some(wish)), Some(events), Some(shared)) = (wish, self.events(), self.shared.upgrade()) else {
            let _ = request.respond(&Answer::Gone.encode(), &[]);
            return;
        };
        let Wish { key, whole, piece } = wish;
        let granted = events.grant(&key, direction, whole.0, whole.1);
        let granted = granted.and_then(|_| events.grant(&key, direction, piece.0, piece.1));
        let granted = granted.and_then(|window| window.pin().map_err(|_| bulk::Refusal::Revoked));
        let granted = granted.and_then(|pinned| shared.grants.add(self.id, call, pinned, shared.limits.max_in_flight));
        if granted.is_ok() {
            shared.stir();
        }
        if granted.is_ok() && self.state() == state::LOST {
            shared.grants.release(self.id, call);
            let _ = request.respond(&Answer::Gone.encode(), &[]);
            return;
        }
        let code = granted.map_or_else(|refusal| refusal.code(), |()| 0);
        if request.respond(&Answer::Response.encode(), &code.to_le_bytes()).is_err() {
            shared.grants.release(self.id, call);
        }
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

    /// The further requests under a number.
    fn take_doubled(&self, call: u64) -> Vec<Arc<Incoming>> {
        let mut doubled = self.doubled.lock();
        if doubled.is_empty() {
            return Vec::new();
        }
        doubled.extract_if(.., |(number, _)| *number == call).map(|(_, request)| request).collect()
    }

    /// Hands a request to the engine, without the first `skip` bytes of its payload.
    fn serve(&self, request: &Arc<Incoming>, call: CallId, head: RequestHead, skip: usize) {
        self.heard_now();
        let (Some(events), Some(shared)) = (self.events(), self.shared.upgrade()) else { return };
        if !head.one_way {
            if let Some(first) = self.incoming.lock().insert(call.0, request.clone()) {
                self.doubled.lock().push((call.0, first));
            }
            if self.state() == state::LOST {
                self.incoming.lock().remove(&call.0);
                self.doubled.lock().clear();
                return;
            }
        }
        let max = shared.limits.max_message;
        let read = request.read(|payload| {
            let size = (payload.bytes().len() - skip) as u64;
            if size > max {
                return events.on_request_refused(call, head, Refusal::TooLarge { size, max });
            }
            events.on_request(call, head, without(payload, skip));
        });
        if let Err(code) = read {
            tracing::debug!(peer = %self.peer, reason = explain(code), "a request cannot be read");
            self.respond(call, status_payload(code), Flush::Now);
        }
    }

    fn heard_now(&self) {
        if let Some(shared) = self.shared.upgrade() {
            self.heard.store(shared.now_ms(), Ordering::Relaxed);
        }
    }

    /// When something has to be done about this link if nothing happens, in milliseconds of the transport's clock;
    /// `u64::MAX` if never.
    pub(super) fn due(&self, shared: &Shared) -> u64 {
        let (heard, pinged) = (self.heard.load(Ordering::Relaxed), self.pinged.load(Ordering::Acquire));
        match self.state() {
            state::CONNECTING => heard.saturating_add(shared.connect_ms),
            state::LOST => u64::MAX,
            _ if pinged != 0 => pinged.saturating_add(shared.keepalive_ms * 3 / 5 + 1),
            state::PLAIN if !self.dialed => heard.saturating_add(GUEST_IDLE.saturating_mul(shared.keepalive_ms)),
            _ if self.dialed && self.outgoing.lock().is_empty() && !self.moves.is_busy() => u64::MAX,
            _ => heard.saturating_add(shared.keepalive_ms),
        }
    }

    /// Does what is due. Inside of the transport's poll.
    pub(super) fn on_time(&self, shared: &Shared, now: u64) {
        if self.due(shared) > now {
            return;
        }
        match self.state() {
            state::CONNECTING => {
                let error = ConnectError::Timeout { address: self.peer.clone(), after: shared.limits.connect_timeout };
                self.lose(LinkError::Connect(error), false);
            }
            state::PLAIN if !self.dialed => {
                let busy = !self.incoming.lock().is_empty() || !self.outgoing.lock().is_empty() || self.moves.is_busy();
                if busy {
                    self.heard.store(now, Ordering::Relaxed);
                } else {
                    self.lose(LinkError::Lost("nothing was heard of the peer for long".to_owned()), false);
                }
            }
            state::KIN if self.pinged.load(Ordering::Acquire) != 0 => {
                self.lose(LinkError::Lost("the peer does not answer any more".to_owned()), false);
            }
            _ => {
                // A plain peer may run handlers on the thread that would answer: it is given more time, without end.
                self.heard.store(now, Ordering::Relaxed);
                if self.outgoing.lock().contains_key(&token::PING) {
                    return self.pinged.store(0, Ordering::Release);
                }
                self.pinged.store(now.max(1), Ordering::Release);
                if let Err(code) = self.hello(Purpose::Ping, token::PING) {
                    self.on_pong(Err(code));
                }
            }
        }
    }

    fn unreachable(&self, source: io::Error) -> LinkError {
        LinkError::Connect(ConnectError::Unreachable { address: self.peer.clone(), source: Arc::new(source) })
    }

    /// Ends all requests of ours without waiting for the peer.
    pub(super) fn give_up(&self) {
        let outgoing = std::mem::take(&mut *self.outgoing.lock());
        for sent in outgoing.into_values() {
            sent.request.cancel();
        }
    }

    /// Ends the link. `answer`: the peer is there, and is told so for each of its requests.
    pub(super) fn lose(&self, error: LinkError, answer: bool) {
        let before = self.state.swap(state::LOST, Ordering::AcqRel);
        if before == state::LOST {
            return;
        }
        tracing::debug!(peer = %self.peer, ?error, "link ended");
        if let Some(shared) = self.shared.upgrade() {
            shared.remove(self);
        }
        if answer {
            // The peer ends them. Receives that were given up would leave its answers to nobody, and libfabric keeps
            // such messages, until none of its buffers is left for others.
            let left = {
                let mut outgoing = self.outgoing.lock();
                outgoing.values_mut().for_each(|sent| sent.cancelled = true);
                !outgoing.is_empty()
            };
            if let (true, Some(shared)) = (left, self.shared.upgrade()) {
                shared.leave_behind(self.this.clone());
            }
        } else {
            self.give_up();
        }
        let incoming = std::mem::take(&mut *self.incoming.lock());
        if answer {
            for request in incoming.values() {
                let _ = match before {
                    state::KIN => request.respond(&Answer::Gone.encode(), &[]),
                    _ => request.respond(&Status::PERMISSION.0.to_le_bytes(), &[]),
                };
            }
        }
        drop(incoming);
        self.doubled.lock().clear();
        self.waiting.lock().clear();
        self.moves.abandon();
        self.addr.lock().take();
        if let Some(shared) = self.shared.upgrade() {
            shared.grants.orphan(&shared, self.id, &self.peer);
        }
        let events = self.events.lock().take();
        if let Some(events) = events {
            events.on_lost(&error);
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

//! A link with the calls in flight on it, both ways.

use super::lifecycle::Serving;
use super::{Core, DriverKey};
use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::bulk::{self, Direction, RegionKey, TransferError, Window};
use crate::client::{CallTable, ConnectionId};
use crate::error::{CallError, MESSAGE_MAX, Status};
use crate::rpc::RpcId;
use crate::server::{InFlight, RawResponder, Request, Running};
use crate::transport::{CallId, Flush, Link, LinkError, LinkEvents, PeerLimits};
use crate::wire::{Budget, Refusal, RequestHead};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Length of the parent RPC id that starts every request payload, as in Margo, in bytes.
pub const REQUEST_HEADER: usize = 8;
/// Length of the status that starts every response payload, as in Margo, in bytes.
pub const RESPONSE_HEADER: usize = 4;

/// A link, from the engine's side.
pub(crate) struct LinkState {
    id: ConnectionId,
    this: Weak<LinkState>,
    core: Weak<Core>,
    peer: Address,
    link: OnceLock<Arc<dyn Link>>,
    is_local: bool,
    /// Calls of ours.
    pub(crate) calls: CallTable,
    /// Requests of the peer's whose handler did not end at once.
    pub(crate) running: Running,
    /// Requests of the peer's that are not answered yet.
    in_flight: AtomicUsize,
    /// Bytes of their payloads.
    bytes: Budget,
    /// Requests being served by the whole engine.
    serving: Arc<Serving>,
    /// Which driver's `poll` answers go out at the end of.
    driver: DriverKey,
    /// The link is lost, or its peer takes no new requests.
    ending: Arc<AtomicBool>,
}

impl LinkState {
    pub(crate) fn new(core: &Arc<Core>, peer: Address, is_local: bool) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = Arc::new_cyclic(|this| Self {
            id: ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed)),
            this: this.clone(),
            core: Arc::downgrade(core),
            calls: CallTable::new(peer.clone()),
            peer,
            link: OnceLock::new(),
            is_local,
            running: Running::default(),
            in_flight: AtomicUsize::new(0),
            bytes: Budget::new(core.limits.bytes_borne()),
            serving: core.serving.clone(),
            driver: core.driver.key(),
            ending: Arc::default(),
        });
        core.track(&state);
        state
    }

    /// Says which link it is; before the link's first event that needs it.
    pub(crate) fn attach(&self, link: Arc<dyn Link>) {
        let _ = self.link.set(link);
    }

    pub(crate) fn link(&self) -> Option<&Arc<dyn Link>> {
        self.link.get()
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }

    pub(crate) fn peer(&self) -> &Address {
        &self.peer
    }

    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }

    /// Whether new calls should go over another link.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// To be asked about that without the link.
    pub(crate) fn ending(&self) -> &Arc<AtomicBool> {
        &self.ending
    }

    pub(crate) fn close(&self, reason: &str) {
        if let Some(link) = self.link() {
            link.close(reason);
        }
    }

    /// Answers a request.
    pub(crate) fn respond(&self, call: CallId, payload: Buffer) {
        let Some(link) = self.link() else { return };
        // Inside of the transport's poll, everything answered goes out together at its end.
        let flush = if self.driver.is_polling_here() { Flush::Later } else { Flush::Now };
        link.respond(call, payload, flush);
    }

    /// Answers a request with an error.
    pub(crate) fn refuse(&self, call: CallId, status: Status, message: &str) {
        self.respond(call, error_payload(status, message));
    }

    /// A request is about to be answered: the peer may send another.
    pub(crate) fn settle_request(&self, bytes: u64) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.bytes.release(bytes);
    }

    /// A request has its answer, or nobody will give one.
    pub(crate) fn end_request(&self, bytes: u64) {
        self.serving.end(bytes);
    }

    /// Counts a request in, unless there are too many.
    fn admit(&self, core: &Core, bytes: u64) -> bool {
        if !self.bytes.claim(bytes) {
            return false;
        }
        let others = self.in_flight.fetch_add(1, Ordering::AcqRel);
        if others < core.limits.requests_borne() && self.serving.begin(bytes) {
            return true;
        }
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.bytes.release(bytes);
        false
    }

    fn refuse_unless_one_way(&self, call: CallId, head: &RequestHead, status: Status, message: &str) {
        tracing::debug!(peer = %self.peer, rpc = %head.rpc, status = status.0, message, "request refused");
        if !head.one_way {
            self.refuse(call, status, message);
        }
    }
}

/// A response that is a status and, for peers of this crate, a text; others read no further than the status.
fn error_payload(status: Status, message: &str) -> Buffer {
    let mut end = message.len().min(MESSAGE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Buffer::new();
    payload.vec_mut().extend_from_slice(&status.0.to_le_bytes());
    payload.vec_mut().extend_from_slice(&message.as_bytes()[..end]);
    payload
}

impl Drop for LinkState {
    fn drop(&mut self) {
        // A link that was never handed out, or lost before it came up, has no last event.
        if let Some(core) = self.core() {
            core.untrack(self);
        }
    }
}

impl LinkEvents for LinkState {
    fn on_up(&self, link: &Arc<dyn Link>, limits: PeerLimits) {
        self.attach(link.clone());
        self.calls.come_up(limits);
    }

    fn on_request(&self, call: CallId, head: RequestHead, payload: Payload<'_>) {
        let Some(core) = self.core() else { return };
        let Some(link) = self.this.upgrade() else { return };
        if !core.is_running() {
            return self.refuse_unless_one_way(call, &head, Status::PERMISSION, "shutting down");
        }
        let Some(parent) = payload.bytes().first_chunk::<REQUEST_HEADER>() else {
            return self.refuse_unless_one_way(call, &head, Status::INVALID_ARG, "request without Margo's header");
        };
        let parent = RpcId::from_raw(u64::from_le_bytes(*parent));
        let Some(registration) = core.registry.find(head.rpc) else {
            return self.refuse_unless_one_way(call, &head, Status::NOENTRY, "");
        };
        let bytes = payload.bytes().len() as u64;
        if !self.admit(&core, bytes) {
            return self.refuse_unless_one_way(call, &head, Status::BUSY, "");
        }
        let deadline = match head.timeout_ms {
            // The last is what longer ones are cut to.
            0 | u32::MAX => None,
            ms => Some(core.driver.now() + Duration::from_millis(ms.into())),
        };
        let in_flight = InFlight::new(link, call, bytes, registration.response_disabled, deadline);
        let responder = RawResponder::new(in_flight.clone(), head.one_way || registration.response_disabled);
        let request = Request::new(in_flight, head.rpc, parent);
        registration.dispatch(&core, request, responder, payload);
    }

    fn on_request_refused(&self, call: CallId, head: RequestHead, refusal: Refusal) {
        match refusal {
            Refusal::TooLarge { size, max } => {
                let message = format!("{size} bytes exceed the limit of {max}");
                tracing::warn!(peer = %self.peer, rpc = %head.rpc, size, max, "request too large");
                self.refuse_unless_one_way(call, &head, Status::MSGSIZE, &message);
            }
            Refusal::Overloaded => self.refuse_unless_one_way(call, &head, Status::BUSY, ""),
        }
    }

    fn expects(&self, call: CallId) -> bool {
        !self.calls.is_done(call)
    }

    fn on_response(&self, call: CallId, payload: Payload<'_>) {
        self.calls.complete(call, || Ok(payload.into_buffer()));
    }

    fn on_refused(&self, call: CallId, refusal: Refusal) {
        let error = match refusal {
            Refusal::TooLarge { size, max } => CallError::TooLarge { size, max },
            Refusal::Overloaded => CallError::Overloaded { peer: self.peer.clone() },
        };
        self.calls.complete(call, || Err(Box::new(error)));
    }

    fn on_cancel(&self, call: CallId) {
        self.running.cancel(call);
    }

    fn on_transferred(&self, call: CallId, result: Result<(), TransferError>) {
        let outcome = || result.map(|()| Buffer::default()).map_err(|error| Box::new(CallError::Transfer(error)));
        self.calls.complete(call, outcome);
    }

    fn grant(&self, key: &RegionKey, direction: Direction, offset: u64, length: u64) -> Result<Window, bulk::Refusal> {
        let core = self.core().filter(|core| !core.lifecycle.has_ended()).ok_or(bulk::Refusal::ShuttingDown)?;
        let granted = core.regions.grant(key, direction, offset, length);
        if let Err(refusal) = &granted
            && core.warnings.allow(core.driver.now())
        {
            tracing::warn!(peer = %self.peer, ?key, ?direction, offset, length, %refusal, "transfer refused");
        }
        granted
    }

    fn on_go_away(&self) {
        self.ending.store(true, Ordering::Release);
    }

    fn on_lost(&self, error: &LinkError) {
        let error = match error {
            LinkError::Connect(error) => CallError::Unreachable(error.clone()),
            LinkError::Lost(reason) => CallError::ConnectionLost { peer: self.peer.clone(), reason: reason.clone() },
        };
        self.ending.store(true, Ordering::Release);
        self.calls.lose(error);
        self.running.cancel_all();
        if let Some(core) = self.core() {
            core.untrack(self);
        }
    }
}

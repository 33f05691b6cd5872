//! A link that has two ways to its peer, of which it uses one.

use super::super::{CallId, Flush, Link, LinkError, LinkEvents, PeerLimits};
use super::OTHER_WAY_ENDED;
use super::offer::Offer;
use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::bulk::{self, Direction, RegionKey, Transfer, TransferError, Window};
use crate::transport::sm::SmTransport;
use crate::wire::{Refusal, RequestHead};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Why TCP is not used any more.
const THROUGH_MEMORY: &str = "the peer is reached through shared memory";
/// Why shared memory is not used.
const THROUGH_TCP: &str = "the peer is reached through TCP";

/// A server that lets nobody in through shared memory costs its clients so many times what TCP has taken to come up, since
/// the same thread of it has just answered there...
const PATIENCE: u32 = 4;
/// ...but no less, and no more, than this.
const PATIENCE_MIN: Duration = Duration::from_millis(5);
const PATIENCE_MAX: Duration = Duration::from_millis(100);

/// Which way a link goes. Once settled it stays.
mod course {
    /// Not settled: nothing was sent or received yet.
    pub(super) const OPEN: u8 = 0;
    pub(super) const TCP: u8 = 1;
    pub(super) const SM: u8 = 2;
}

/// The link.
///
/// The way is settled by the first use of it, in either direction. The client uses none before it knows whether shared
/// memory works, unless it must; the server follows it. So no request can be lost between the two.
pub(super) struct Way {
    this: Weak<Way>,
    peer: Address,
    begun: Instant,
    course: AtomicU8,
    tcp: OnceLock<Arc<dyn Link>>,
    sm: OnceLock<Arc<dyn Link>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Shared memory is agreed upon, though nothing went through it yet.
    agreed: bool,
    tcp_lost: bool,
    /// The user knows that the link is up.
    told: bool,
    /// The user closes the link.
    closing: bool,
    lost: bool,
    /// As stated over TCP, while shared memory is tried.
    limits: Option<PeerLimits>,
}

impl Way {
    pub(super) fn new(peer: Address) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            peer,
            begun: Instant::now(),
            course: AtomicU8::new(course::OPEN),
            tcp: OnceLock::new(),
            sm: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    /// Says what goes over TCP.
    pub(super) fn set_tcp(&self, link: Arc<dyn Link>) {
        let _ = self.tcp.set(link);
    }

    /// The client has come through shared memory. `false` if it is too late for that.
    pub(super) fn agree(&self, sm: Arc<dyn Link>) -> bool {
        let mut state = self.state.lock();
        if self.course.load(Ordering::Acquire) != course::OPEN || state.tcp_lost || self.sm.set(sm).is_err() {
            return false;
        }
        state.agreed = true;
        true
    }

    /// There is no TCP any more. `true` if that is the end of the link and nobody knew of it.
    pub(super) fn abandon_tcp(&self) -> bool {
        let mut state = self.state.lock();
        state.tcp_lost = true;
        if state.agreed && self.course.load(Ordering::Acquire) == course::OPEN {
            self.course.store(course::SM, Ordering::Release);
        }
        let ends = !state.lost && self.course.load(Ordering::Acquire) != course::SM;
        state.lost |= ends;
        ends
    }

    /// Settles on `wanted`, if nothing is settled. Returns what is.
    fn settle(&self, wanted: u8) -> u8 {
        match self.course.load(Ordering::Acquire) {
            course::OPEN => {}
            settled => return settled,
        }
        // Under the lock, so that whoever decides under it sees one course.
        let _state = self.state.lock();
        match self.course.compare_exchange(course::OPEN, wanted, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => wanted,
            Err(settled) => settled,
        }
    }

    /// The link to use.
    fn used(&self) -> Option<&Arc<dyn Link>> {
        let mut settled = self.course.load(Ordering::Acquire);
        if settled == course::OPEN {
            let agreed = self.state.lock().agreed;
            settled = self.settle(if agreed { course::SM } else { course::TCP });
        }
        self.of(settled)
    }

    /// The link that would be used.
    fn current(&self) -> Option<&Arc<dyn Link>> {
        self.of(self.course.load(Ordering::Acquire))
    }

    fn of(&self, settled: u8) -> Option<&Arc<dyn Link>> {
        if settled == course::SM { self.sm.get() } else { self.tcp.get() }
    }

    /// Tells the user that requests may flow, unless that was said.
    fn tell_up(&self, events: &dyn LinkEvents, limits: PeerLimits) {
        let mut state = self.state.lock();
        if state.told || state.lost || state.closing {
            return;
        }
        state.told = true;
        drop(state);
        if let Some(this) = self.this.upgrade() {
            let link: Arc<dyn Link> = this;
            events.on_up(&link, limits);
        }
    }

    /// Ends what is left of both ways.
    fn close_both(&self, reason: &str) {
        for link in [self.sm.get(), self.tcp.get()].into_iter().flatten() {
            link.close(reason);
        }
    }
}

impl Link for Way {
    fn peer(&self) -> &Address {
        &self.peer
    }

    // No credentials: what an identity rests on does not depend on which way was found.

    fn is_through_memory(&self) -> bool {
        self.course.load(Ordering::Acquire) == course::SM
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, flush: Flush) {
        if let Some(link) = self.used() {
            link.request(call, head, payload, flush);
        }
    }

    fn respond(&self, call: CallId, payload: Buffer, flush: Flush) {
        if let Some(link) = self.current() {
            link.respond(call, payload, flush);
        }
    }

    fn cancel(&self, call: CallId) {
        if let Some(link) = self.current() {
            link.cancel(call);
        }
    }

    fn transfer(&self, call: CallId, transfer: Transfer, flush: Flush) -> Result<(), TransferError> {
        // Without a link there is its end to come, which is the transfer's.
        self.used().map_or(Ok(()), |link| link.transfer(call, transfer, flush))
    }

    fn flush(&self) {
        if let Some(link) = self.current() {
            link.flush();
        }
    }

    fn queued(&self) -> usize {
        self.current().map_or(0, |link| link.queued())
    }

    fn close(&self, reason: &str) {
        self.state.lock().closing = true;
        self.close_both(reason);
    }
}

/// Whose side of the connection this is.
pub(super) enum Role {
    /// Ours to open; shared memory is tried with this, if it is still there.
    Client(Weak<SmTransport>),
    Server,
}

/// Takes the events of one of the two ways.
pub(super) struct Side {
    way: Arc<Way>,
    /// The user's.
    events: Arc<dyn LinkEvents>,
    /// [`course::TCP`] or [`course::SM`].
    course: u8,
    role: Role,
}

impl Side {
    pub(super) fn tcp(way: Arc<Way>, events: Arc<dyn LinkEvents>, role: Role) -> Arc<Self> {
        Arc::new(Self { way, events, course: course::TCP, role })
    }

    pub(super) fn sm(way: Arc<Way>, events: Arc<dyn LinkEvents>, role: Role) -> Arc<Self> {
        Arc::new(Self { way, events, course: course::SM, role })
    }

    fn is_client(&self) -> bool {
        matches!(self.role, Role::Client(_))
    }

    /// Whether what came this way counts: it does not once the other one is settled on.
    fn counts(&self) -> bool {
        self.way.settle(self.course) == self.course
    }

    /// Tries the way that the server offers. `false` if that cannot be.
    fn follow(&self, instance: u64, offer: Offer, limits: PeerLimits) -> bool {
        let Role::Client(sm) = &self.role else { return false };
        let Some(sm) = sm.upgrade() else { return false };
        let mut state = self.way.state.lock();
        if self.way.course.load(Ordering::Acquire) != course::OPEN || state.closing {
            return false;
        }
        state.limits = Some(limits);
        drop(state);
        let events = Side::sm(self.way.clone(), self.events.clone(), Role::Client(Weak::new()));
        let patience = (self.way.begun.elapsed() * PATIENCE).clamp(PATIENCE_MIN, PATIENCE_MAX);
        match sm.follow(&self.way.peer, instance, offer, patience, events) {
            Ok(link) => {
                let _ = self.way.sm.set(link.clone());
                if self.way.state.lock().lost {
                    // Closed meanwhile by somebody who did not know of it yet.
                    link.close(THROUGH_TCP);
                }
                true
            }
            Err(error) => {
                tracing::debug!(peer = %self.way.peer, %error, "shared memory was offered and cannot be used");
                false
            }
        }
    }

    fn sm_up(&self, link: &Arc<dyn Link>, limits: PeerLimits) {
        if !self.is_client() {
            return self.way.tell_up(&*self.events, limits);
        }
        let _ = self.way.sm.set(link.clone());
        if !self.counts() {
            return link.close(THROUGH_TCP);
        }
        tracing::debug!(peer = %self.way.peer, THROUGH_MEMORY);
        self.way.tell_up(&*self.events, limits);
        if let Some(tcp) = self.way.tcp.get() {
            tcp.close(THROUGH_MEMORY);
        }
    }

    fn tcp_up(&self, link: &Arc<dyn Link>, limits: PeerLimits) {
        let _ = self.way.tcp.set(link.clone());
        let offer = link.offer().filter(|_| self.is_client());
        if offer.is_some_and(|(instance, offer)| self.follow(instance, offer, limits)) {
            return;
        }
        if self.is_client() {
            self.way.settle(course::TCP);
        }
        self.way.tell_up(&*self.events, limits);
    }

    /// Judges the end of one way. `true` if it is the end of the link.
    fn ends_all(&self, state: &mut State) -> bool {
        let settled = self.way.course.load(Ordering::Acquire);
        if self.course == course::TCP {
            state.tcp_lost = true;
            if settled == course::OPEN && state.agreed {
                self.way.course.store(course::SM, Ordering::Release);
                return false;
            }
            return settled != course::SM;
        }
        if settled != course::OPEN {
            return settled == course::SM;
        }
        state.agreed = false;
        if self.is_client() {
            self.way.course.store(course::TCP, Ordering::Release);
        }
        state.tcp_lost
    }
}

impl LinkEvents for Side {
    fn on_up(&self, link: &Arc<dyn Link>, limits: PeerLimits) {
        if self.course == course::SM {
            self.sm_up(link, limits);
        } else {
            self.tcp_up(link, limits);
        }
    }

    fn on_request(&self, call: CallId, head: RequestHead, payload: Payload<'_>) {
        if self.counts() {
            self.events.on_request(call, head, payload);
        }
    }

    fn on_request_refused(&self, call: CallId, head: RequestHead, refusal: Refusal) {
        if self.counts() {
            self.events.on_request_refused(call, head, refusal);
        }
    }

    fn expects(&self, call: CallId) -> bool {
        self.events.expects(call)
    }

    fn on_response(&self, call: CallId, payload: Payload<'_>) {
        if self.counts() {
            self.events.on_response(call, payload);
        }
    }

    fn on_refused(&self, call: CallId, refusal: Refusal) {
        if self.counts() {
            self.events.on_refused(call, refusal);
        }
    }

    fn on_cancel(&self, call: CallId) {
        if self.counts() {
            self.events.on_cancel(call);
        }
    }

    fn on_transferred(&self, call: CallId, result: Result<(), TransferError>) {
        if self.counts() {
            self.events.on_transferred(call, result);
        }
    }

    fn grant(&self, key: &RegionKey, direction: Direction, offset: u64, length: u64) -> Result<Window, bulk::Refusal> {
        if self.counts() { self.events.grant(key, direction, offset, length) } else { Err(bulk::Refusal::ShuttingDown) }
    }

    fn on_go_away(&self) {
        self.events.on_go_away();
    }

    fn on_lost(&self, error: &LinkError) {
        let mut state = self.way.state.lock();
        let ends = self.ends_all(&mut state);
        let was_lost = state.lost;
        state.lost |= ends;
        let limits = state.limits;
        drop(state);
        if was_lost {
            return;
        }
        if ends {
            self.way.close_both(OTHER_WAY_ENDED);
            self.events.on_lost(error);
        } else if self.course == course::SM
            && self.is_client()
            && let Some(limits) = limits
        {
            tracing::debug!(peer = %self.way.peer, ?error, THROUGH_TCP);
            self.way.tell_up(&*self.events, limits);
        }
    }
}

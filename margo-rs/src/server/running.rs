//! Requests that are being served, and how they are cancelled.

use crate::engine::LinkState;
use crate::transport::CallId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Poll, Waker};
use std::time::Instant;

const CANCELLED: u8 = 1;
const ANSWERED: u8 = 2;
/// In the link's table.
const LISTED: u8 = 4;

/// A request from its arrival to its answer.
pub(crate) struct InFlight {
    link: Arc<LinkState>,
    call: CallId,
    /// Length of its payload.
    bytes: u64,
    /// The handler works for nobody who waits: it runs to its end whoever goes away.
    detached: bool,
    /// When nobody waits any more, whether the caller says so or not.
    deadline: Option<Instant>,
    state: AtomicU8,
    wakers: Mutex<Vec<Waker>>,
}

impl InFlight {
    pub(crate) fn new(
        link: Arc<LinkState>,
        call: CallId,
        bytes: u64,
        detached: bool,
        deadline: Option<Instant>,
    ) -> Arc<Self> {
        let (state, wakers) = (AtomicU8::new(0), Mutex::new(Vec::new()));
        Arc::new(Self { link, call, bytes, detached, deadline, state, wakers })
    }

    /// Until when the caller waits, if it said so.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn link(&self) -> &Arc<LinkState> {
        &self.link
    }

    pub(crate) fn call(&self) -> CallId {
        self.call
    }

    /// Lets the request be cancelled from now on. One that is answered at once never needs it.
    pub(crate) fn make_cancellable(self: &Arc<Self>) {
        if !self.detached && self.state.load(Ordering::Acquire) & LISTED == 0 {
            self.link.running.list(self);
            if let (Some(deadline), Some(core)) = (self.deadline, self.link.core()) {
                core.driver.watch_deadline(deadline);
            }
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) & CANCELLED != 0
    }

    /// Done when the request is cancelled.
    pub(crate) fn poll_cancelled(&self, waker: &Waker) -> Poll<()> {
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        let mut wakers = self.wakers.lock();
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        drop(wakers);
        if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.state.load(Ordering::Acquire) & ANSWERED != 0
    }

    /// The request is about to get its answer, or nobody will give one. Called once, before the answer goes out: the
    /// caller may make its next call as soon as it has the answer, and then there must be room for it.
    pub(crate) fn settle(&self) {
        if self.state.fetch_or(ANSWERED, Ordering::AcqRel) & LISTED != 0 {
            self.link.running.unlist(self);
        }
        self.link.settle_request(self.bytes);
    }

    /// The answer is on its way. Called once, after [`InFlight::settle`].
    pub(crate) fn end(&self) {
        self.link.end_request(self.bytes);
    }

    fn cancel(&self) {
        self.state.fetch_or(CANCELLED, Ordering::AcqRel);
        for waker in std::mem::take(&mut *self.wakers.lock()) {
            waker.wake();
        }
    }
}

/// The requests of one link that can be cancelled.
#[derive(Default)]
pub(crate) struct Running {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_call: HashMap<CallId, Arc<InFlight>>,
    /// The link is gone: everything counts as cancelled.
    all_cancelled: bool,
}

impl Running {
    fn list(&self, request: &Arc<InFlight>) {
        let mut entries = self.entries.lock();
        let twin = entries.by_call.insert(request.call, request.clone());
        let before = request.state.fetch_or(LISTED, Ordering::AcqRel);
        if before & ANSWERED != 0 {
            entries.by_call.remove(&request.call);
        }
        let all_cancelled = entries.all_cancelled;
        drop(entries);
        if all_cancelled {
            request.cancel();
        }
        // A peer that uses an id twice gets one answer; without this the first request could never be cancelled.
        if let Some(twin) = twin.filter(|twin| !Arc::ptr_eq(twin, request)) {
            twin.cancel();
        }
    }

    fn unlist(&self, request: &InFlight) {
        let mut entries = self.entries.lock();
        if entries.by_call.get(&request.call).is_some_and(|listed| std::ptr::eq(&**listed, request)) {
            entries.by_call.remove(&request.call);
        }
    }

    /// The caller no longer waits for the response.
    pub(crate) fn cancel(&self, call: CallId) {
        let request = self.entries.lock().by_call.get(&call).cloned();
        if let Some(request) = request {
            request.cancel();
        }
    }

    /// Cancels what nobody waits for any more; returns the next deadline. The caller's cancel may be lost or late: it can
    /// overtake its request, or stand behind others that are not read yet.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        for request in self.entries.lock().by_call.values() {
            match request.deadline {
                Some(deadline) if deadline > now => next = Some(next.map_or(deadline, |next| next.min(deadline))),
                Some(_) if !request.is_cancelled() => expired.push(request.clone()),
                _ => {}
            }
        }
        for request in expired {
            request.cancel();
        }
        next
    }

    /// The link is gone.
    pub(crate) fn cancel_all(&self) {
        let requests: Vec<_> = {
            let mut entries = self.entries.lock();
            entries.all_cancelled = true;
            entries.by_call.values().cloned().collect()
        };
        for request in requests {
            request.cancel();
        }
    }
}

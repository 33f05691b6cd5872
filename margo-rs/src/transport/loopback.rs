//! Calls of an engine to itself: no socket, the same rules.

use super::{CallId, Flush, Link, LinkEvents};
use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::wire::RequestHead;
use std::sync::{Arc, OnceLock, Weak};

/// The link of an engine to itself: what is sent comes straight back as an event.
pub(crate) struct LoopbackLink {
    address: Address,
    events: OnceLock<Weak<dyn LinkEvents>>,
}

impl LoopbackLink {
    /// A link whose events go to what [`LoopbackLink::attach`] names.
    pub(crate) fn new(address: Address) -> Self {
        Self { address, events: OnceLock::new() }
    }

    pub(crate) fn attach(&self, events: Weak<dyn LinkEvents>) {
        let _ = self.events.set(events);
    }

    fn events(&self) -> Option<Arc<dyn LinkEvents>> {
        self.events.get()?.upgrade()
    }
}

impl Link for LoopbackLink {
    fn peer(&self) -> &Address {
        &self.address
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, _: Flush) {
        if let Some(events) = self.events() {
            events.on_request(call, head, Payload::Owned(payload));
        }
    }

    fn respond(&self, call: CallId, payload: Buffer, _: Flush) {
        if let Some(events) = self.events() {
            events.on_response(call, Payload::Owned(payload));
        }
    }

    fn cancel(&self, call: CallId) {
        if let Some(events) = self.events() {
            events.on_cancel(call);
        }
    }

    fn flush(&self) {}

    fn queued(&self) -> usize {
        0
    }

    fn close(&self, _: &str) {}
}

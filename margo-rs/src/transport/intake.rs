//! What a link hands to its engine: requests, unless they must wait, and answers.

use super::{CallId, LinkEvents};
use crate::buffer::Payload;
use crate::wire::{Event, Held, HeldRequest, Refusal};
use std::sync::Arc;

/// The link, as far as its requests are concerned.
pub(super) trait Holder {
    /// Whether no request is to be handled now, because its peer does not read the answers.
    fn holds_requests(&self) -> bool;

    /// Drops what is queued of a response that the peer no longer wants.
    fn abort_response(&self, call: u64);
}

/// Who takes what arrives on a link, and the requests that wait for it.
pub(super) struct Intake {
    pub(super) events: Arc<dyn LinkEvents>,
    /// Not handled yet, because responses pile up.
    held: Box<Held>,
}

impl Intake {
    /// Hands everything to `events`; what cannot be handled at once is `held`.
    pub(super) fn new(events: Arc<dyn LinkEvents>, held: Held) -> Self {
        Self { events, held: Box::new(held) }
    }

    /// Takes what has arrived, or gives it back if it is about bulk data.
    pub(super) fn handle<'a>(&mut self, event: Event<'a>, link: &impl Holder) -> Option<Event<'a>> {
        let Self { events, held } = self;
        match event {
            Event::Request(call, head, payload) if held.is_empty() && !link.holds_requests() => {
                events.on_request(CallId(call), head, payload);
            }
            Event::Request(call, head, payload) => {
                if !held.hold(call, head, payload) {
                    events.on_request_refused(CallId(call), head, Refusal::Overloaded);
                }
            }
            Event::RequestRefused(call, head, refusal) => events.on_request_refused(CallId(call), head, refusal),
            Event::ResponseBegins(call, wanted) => *wanted = events.expects(CallId(call)),
            Event::Response(call, payload) => events.on_response(CallId(call), payload),
            Event::ResponseRefused(call, refusal) => events.on_refused(CallId(call), refusal),
            Event::Cancel(call) => {
                if !held.cancel(call) {
                    link.abort_response(call);
                    events.on_cancel(CallId(call));
                }
            }
            Event::GoAway => events.on_go_away(),
            bulk => return Some(bulk),
        }
        None
    }

    /// Handles the requests that are held, for as long as responses do not pile up again. `true` if there were any.
    pub(super) fn go_on(&mut self, link: &impl Holder) -> bool {
        let mut some = false;
        while !self.held.is_empty()
            && !link.holds_requests()
            && let Some(HeldRequest { call, head, payload }) = self.held.pop()
        {
            self.events.on_request(CallId(call), head, Payload::Owned(payload));
            some = true;
        }
        some
    }

    /// Handles what is held and wants no response, because the peer is gone.
    pub(super) fn end(&mut self) {
        while let Some(HeldRequest { call, head, payload }) = self.held.pop() {
            if head.one_way {
                self.events.on_request(CallId(call), head, Payload::Owned(payload));
            }
        }
    }
}

//! What comes in over a link: the peer's requests, in an envelope or without, and its wishes to move data.

use super::{MercuryLink, state, status_payload, without};
use crate::bulk::{self, Direction};
use crate::transport::mercury::envelope::{Answer, Head, Kind, Wish};
use crate::transport::mercury::fabric::{Incoming, explain};
use crate::transport::{CallId, Flush, Link, LinkError};
use crate::wire::{Refusal, RequestHead};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl MercuryLink {
    /// A request of a plain peer.
    pub(in super::super) fn on_plain_request(&self, request: &Arc<Incoming>, rpc: crate::rpc::RpcId) {
        let one_way = request.is_one_way();
        let call = self.next_incoming.fetch_add(1, Ordering::Relaxed);
        self.serve(request, CallId(call), RequestHead { rpc, timeout_ms: 0, one_way }, 0);
    }

    /// A message in an envelope.
    pub(in super::super) fn on_enveloped(&self, request: &Arc<Incoming>, head: Head) {
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
    pub(super) fn on_wish(&self, request: &Arc<Incoming>, call: u64, direction: Direction) {
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

    /// The further requests under a number.
    pub(super) fn take_doubled(&self, call: u64) -> Vec<Arc<Incoming>> {
        let mut doubled = self.doubled.lock();
        if doubled.is_empty() {
            return Vec::new();
        }
        doubled.extract_if(.., |(number, _)| *number == call).map(|(_, request)| request).collect()
    }

    /// Hands a request to the engine, without the first `skip` bytes of its payload.
    pub(super) fn serve(&self, request: &Arc<Incoming>, call: CallId, head: RequestHead, skip: usize) {
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
}

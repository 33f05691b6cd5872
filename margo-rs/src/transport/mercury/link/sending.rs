//! What goes out over a link: calls, and what engines of this crate tell each other.

use super::{MercuryLink, Sent, lost, state, status_payload, token};
use crate::buffer::{Buffer, Payload};
use crate::transport::CallId;
use crate::transport::mercury::envelope::{Head, Kind, TUNNEL, TUNNEL_ONE_WAY};
use crate::transport::mercury::fabric::{Code, is_network_error};
use crate::wire::RequestHead;
use std::sync::atomic::Ordering;

impl MercuryLink {
    /// Sends a request of any kind. Nothing else happens if this fails.
    pub(super) fn send(&self, id: u64, one_way: bool, token: u64, head: &[u8], body: &[u8]) -> Result<(), Code> {
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
    pub(super) fn tell(&self, kind: Kind, call: u64) {
        let head = Head { link: self.id, call, kind };
        let _ = self.send(TUNNEL_ONE_WAY.as_u64(), true, token::ONE_WAY, &head.encode(), &[]);
    }

    pub(in super::super) fn go_away(&self) {
        if self.state() == state::KIN && !self.dialed {
            self.tell(Kind::GoAway, 0);
        }
    }

    pub(super) fn send_call(&self, call: CallId, head: RequestHead, payload: &Buffer) {
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
    pub(in super::super) fn fail_call(&self, call: CallId, code: Code) {
        if self.finish_transfer(call) {
            return;
        }
        if let Some(events) = self.events() {
            events.on_response(call, Payload::Owned(status_payload(code)));
        }
    }
}

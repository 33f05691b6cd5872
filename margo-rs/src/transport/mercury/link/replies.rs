//! What comes back over a link: the peer's welcome, its answers, and large ones that come apart.

use super::super::envelope::{Answer, Head, Welcome};
use super::super::fabric::{Code, Incoming, Replies, is_network_error};
use super::{MercuryLink, Sent, lost, state, status_payload, token, without};
use crate::buffer::Payload;
use crate::transport::{CallId, LinkError, LinkEvents};
use crate::wire::Refusal;
use mochi_sys::mercury::HG_CANCELED;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Replies for MercuryLink {
    fn on_reply(&self, token: u64, reply: Result<&[u8], Code>) {
        if reply.is_ok() {
            self.heard_now();
        }
        match token {
            token::HELLO => {
                self.outgoing.lock().remove(&token);
                self.on_welcome(reply);
            }
            token::PING => {
                if self.outgoing.lock().remove(&token).is_some() {
                    self.on_pong(reply);
                }
            }
            token::ONE_WAY => {
                if let Err(code) = reply
                    && is_network_error(code)
                {
                    self.lose(lost(code), false);
                }
            }
            token::LARGE_LAST..=token::LARGE_FIRST => {
                let fetched = self.outgoing.lock().remove(&token);
                self.large_bytes.fetch_sub(fetched.map_or(0, |sent| sent.bytes), Ordering::AcqRel);
            }
            call if self.asks_for_grant(call) => self.on_verdict(call, reply),
            call => self.on_answer(call, reply),
        }
    }
}

impl MercuryLink {
    fn on_welcome(&self, reply: Result<&[u8], Code>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let (kind, limits) = match reply.map(Welcome::decode) {
            Ok(Some(Welcome::Up(limits))) => (state::KIN, limits),
            Ok(Some(Welcome::Refused)) => {
                let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "it takes no new connections");
                return self.lose(self.unreachable(refused), false);
            }
            Err(code) if is_network_error(code) || code == HG_CANCELED => {
                return self.lose(self.unreachable(io::Error::other(shared.why_unreachable(code))), false);
            }
            // Also an error is an answer of somebody.
            Ok(None) | Err(_) => (state::PLAIN, shared.limits_stated()),
        };
        if self.state.compare_exchange(state::CONNECTING, kind, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        let events = self.events();
        if let Some(events) = events {
            self.come_up(events, limits);
        }
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (call, head, payload) in waiting {
            self.send_call(call, head, &payload);
        }
        self.begin_waiting_transfers();
    }

    pub(super) fn on_pong(&self, reply: Result<&[u8], Code>) {
        self.pinged.store(0, Ordering::Release);
        match reply.map(Welcome::decode) {
            Ok(Some(Welcome::Refused)) => self.lose(LinkError::Lost("the peer has restarted".to_owned()), false),
            Ok(None) if self.state() == state::KIN => {
                self.lose(LinkError::Lost("another process has taken the peer's place".to_owned()), false);
            }
            Err(code) if is_network_error(code) => self.lose(lost(code), false),
            _ => {}
        }
    }

    fn on_answer(&self, call: u64, reply: Result<&[u8], Code>) {
        // One that is not there any more was in flight when the link was lost.
        let Some(sent) = self.outgoing.lock().remove(&call) else { return };
        let Some(events) = self.events() else { return };
        let call = CallId(call);
        let payload = match reply {
            Err(code) if is_network_error(code) => return self.lose(lost(code), false),
            Err(_) if sent.cancelled => return,
            Err(code) => return events.on_response(call, Payload::Owned(status_payload(code))),
            Ok(payload) if self.state() == state::KIN => match Answer::decode(payload) {
                Some((Answer::Response, payload)) => payload,
                Some((Answer::Apart, _)) => return self.await_large(call.0, sent),
                Some((Answer::Cancelled, _)) if sent.cancelled => return,
                Some((Answer::Gone, _)) => return self.lose(LinkError::Lost("the peer has ended it".to_owned()), true),
                Some((Answer::Cancelled, _)) | None => {
                    return self.lose(LinkError::Lost("the peer answered nonsense".to_owned()), true);
                }
            },
            Ok(payload) => payload,
        };
        if sent.cancelled {
            return;
        }
        self.deliver(&events, call, Payload::Borrowed(payload));
    }

    fn deliver(&self, events: &Arc<dyn LinkEvents>, call: CallId, payload: Payload<'_>) {
        let size = payload.bytes().len() as u64;
        let max = self.shared.upgrade().map_or(0, |shared| shared.limits.max_message);
        if size > max {
            return events.on_refused(call, Refusal::TooLarge { size, max });
        }
        events.on_response(call, payload);
    }

    /// The response comes apart, or has come already: both are on their way at the same time.
    fn await_large(&self, call: u64, sent: Sent) {
        if !sent.large_is_in {
            self.outgoing.lock().insert(call, Sent { large_awaited: true, ..sent });
        }
    }

    /// A large response came in.
    pub(super) fn on_large(&self, request: &Arc<Incoming>, call: u64) {
        let wanted = {
            let mut outgoing = self.outgoing.lock();
            match outgoing.get_mut(&call) {
                // The announcement is still to come, and ends the entry.
                Some(sent) if !sent.large_awaited && !sent.large_is_in => {
                    sent.large_is_in = true;
                    !sent.cancelled
                }
                Some(sent) if sent.large_awaited => {
                    let wanted = !sent.cancelled;
                    outgoing.remove(&call);
                    wanted
                }
                _ => false,
            }
        };
        if let (true, Some(events)) = (wanted, self.events()) {
            let read = request.read(|payload| self.deliver(&events, CallId(call), without(payload, Head::LEN)));
            if let Err(code) = read {
                events.on_response(CallId(call), Payload::Owned(status_payload(code)));
            }
        }
        let _ = request.respond(&Answer::Response.encode(), &[]);
    }
}

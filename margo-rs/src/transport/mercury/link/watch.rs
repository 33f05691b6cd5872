//! Whether the peer is still there: when it is asked, and how long it may say nothing.

use super::{GUEST_IDLE, MercuryLink, state, token};
use crate::error::ConnectError;
use crate::transport::LinkError;
use crate::transport::mercury::envelope::Purpose;
use crate::transport::mercury::shared::Shared;
use std::sync::atomic::Ordering;

impl MercuryLink {
    pub(super) fn heard_now(&self) {
        if let Some(shared) = self.shared.upgrade() {
            self.heard.store(shared.now_ms(), Ordering::Relaxed);
        }
    }

    /// When something has to be done about this link if nothing happens, in milliseconds of the transport's clock;
    /// `u64::MAX` if never.
    pub(in super::super) fn due(&self, shared: &Shared) -> u64 {
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
    pub(in super::super) fn on_time(&self, shared: &Shared, now: u64) {
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
}

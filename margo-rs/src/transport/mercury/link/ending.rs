//! How a link ends: everything on it ends, and the peer is told if it is there.

use super::{MercuryLink, state};
use crate::error::{ConnectError, Status};
use crate::transport::LinkError;
use crate::transport::mercury::envelope::Answer;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl MercuryLink {
    pub(super) fn unreachable(&self, source: io::Error) -> LinkError {
        LinkError::Connect(ConnectError::Unreachable { address: self.peer.clone(), source: Arc::new(source) })
    }

    /// Ends all requests of ours without waiting for the peer.
    pub(in super::super) fn give_up(&self) {
        let outgoing = std::mem::take(&mut *self.outgoing.lock());
        for sent in outgoing.into_values() {
            sent.request.cancel();
        }
    }

    /// Ends the link. `answer`: the peer is there, and is told so for each of its requests.
    pub(in super::super) fn lose(&self, error: LinkError, answer: bool) {
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

//! What the peers of one engine may take of its memory, and how they are told.

use super::PeerLimits;
use super::outgoing::Outgoing;
use super::restraint::Restraint;
use crate::limits::Limits;
use crate::wire::{Backlog, Budget, EXTRA_LEN, FRAME_MAX, Held, Hello, INTERLEAVED_MAX, Inbound, InboundLimits};
use std::sync::Arc;

/// Messages that a peer may have begun and not ended. Ours begin far fewer; the rest is for what was cancelled.
const BEGUN_MAX: usize = 16 * INTERLEAVED_MAX;

/// The limits of an engine, and what all of its links may take together.
pub(super) struct Allowances {
    pub(super) limits: Limits,
    /// Of messages that are still arriving, and of requests that are held.
    arriving: Arc<Budget>,
    /// Of answers that wait for peers to read them.
    answers: Arc<Budget>,
    instance: u64,
}

impl Allowances {
    /// Nothing is taken. `instance` is the engine's number.
    pub(super) fn new(limits: Limits, instance: u64) -> Self {
        let budget = || Arc::new(Budget::new(limits.max_bytes_total));
        Self { arriving: budget(), answers: budget(), limits, instance }
    }

    /// What a peer is told first, and `extra`.
    pub(super) fn hello(&self, extra: [u8; EXTRA_LEN]) -> Hello {
        Hello {
            max_frame: FRAME_MAX,
            max_in_flight: self.limits.max_in_flight,
            max_message: self.limits.max_message,
            max_bytes: self.limits.max_bytes,
            instance: self.instance,
            extra,
        }
    }

    /// For what goes to the peer of one link.
    pub(super) fn outgoing(&self) -> Outgoing {
        let backlog = Backlog::new(self.answers.clone(), self.limits.max_queued);
        Outgoing::new(self.limits.requests_borne(), backlog)
    }

    /// For the peer of one link.
    pub(super) fn restraint(&self) -> Restraint {
        Restraint::new(self.limits.requests_borne())
    }

    /// For the requests of one link that must wait.
    pub(super) fn held(&self) -> Held {
        Held::new(self.limits.requests_borne(), self.limits.bytes_borne(), self.arriving.clone())
    }

    /// For the messages that arrive on one link.
    pub(super) fn inbound(&self) -> Inbound {
        let limits = InboundLimits {
            max_frame: FRAME_MAX,
            max_message: self.limits.max_message,
            max_bytes: self.limits.bytes_borne(),
            max_messages: BEGUN_MAX,
        };
        Inbound::new(limits, self.arriving.clone())
    }
}

impl From<&Hello> for PeerLimits {
    fn from(hello: &Hello) -> Self {
        Self { max_in_flight: hello.max_in_flight, max_message: hello.max_message, max_bytes: hello.max_bytes }
    }
}

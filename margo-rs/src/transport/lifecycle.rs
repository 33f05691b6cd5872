//! How a connection begins and ends: its phases, who is told, and which ends are worth a warning.

use super::restraint::{HOARDED, STALLED, UNREAD};
use super::same_node::OTHER_WAY_ENDED;
use super::{Acceptor, Link, LinkError, LinkEvents};
use crate::address::Address;
use crate::error::ConnectError;
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How a connection ends most often; a peer that says nothing and leaves is not worth a warning.
pub(super) const CLOSED_BY_PEER: &str = "the peer closed the connection";
/// How the reason begins when the peer broke the protocol.
pub(super) const PROTOCOL_ERROR: &str = "protocol error";

/// Not connected yet.
const CONNECTING: u8 = 0;
/// Connected; the peer's hello is awaited.
const GREETING: u8 = 1;
/// Requests and responses flow.
const UP: u8 = 2;
/// Over.
const CLOSED: u8 = 3;

/// Where a connection stands. The phases only go forward.
pub(super) struct Lifecycle {
    peer: Address,
    /// The peer opened it.
    accepted: bool,
    phase: AtomicU8,
    /// Takes the events; gone once the connection is lost.
    events: Mutex<Option<Arc<dyn LinkEvents>>>,
}

impl Lifecycle {
    /// Of a connection that is being made. Who takes the events is known from the start for those that we open.
    pub(super) fn new(peer: Address, accepted: bool, events: Option<Arc<dyn LinkEvents>>) -> Self {
        Self { peer, accepted, phase: AtomicU8::new(CONNECTING), events: Mutex::new(events) }
    }

    pub(super) fn peer(&self) -> &Address {
        &self.peer
    }

    /// Whether the peer opened it.
    pub(super) fn was_accepted(&self) -> bool {
        self.accepted
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CONNECTING
    }

    /// Whether the peer's hello is awaited.
    pub(super) fn is_greeting(&self) -> bool {
        self.phase.load(Ordering::Acquire) == GREETING
    }

    pub(super) fn is_up(&self) -> bool {
        self.phase.load(Ordering::Acquire) == UP
    }

    /// Whether the handshake is over, one way or the other.
    pub(super) fn is_past_handshake(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= UP
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CLOSED
    }

    /// Who is told of what happens; nobody once the connection is lost.
    pub(super) fn events(&self) -> Option<Arc<dyn LinkEvents>> {
        self.events.lock().clone()
    }

    /// `events` takes them.
    pub(super) fn tell(&self, events: Arc<dyn LinkEvents>) {
        *self.events.lock() = Some(events);
    }

    /// Who is told: if that is not known, whoever takes in what peers open.
    pub(super) fn events_of(
        &self,
        link: Arc<dyn Link>,
        acceptor: &OnceLock<Arc<dyn Acceptor>>,
    ) -> Result<Arc<dyn LinkEvents>, &'static str> {
        if let Some(events) = self.events() {
            return Ok(events);
        }
        let events = acceptor.get().ok_or("this engine takes no connections")?.accept(link);
        self.tell(events.clone());
        Ok(events)
    }

    /// Connected. `false` if it was closed meanwhile.
    pub(super) fn begin_greeting(&self) -> bool {
        self.advance(CONNECTING, GREETING)
    }

    /// The handshake is complete. `false` if it was closed meanwhile; whoever takes the events has been told.
    pub(super) fn come_up(&self) -> bool {
        if self.advance(GREETING, UP) {
            return true;
        }
        // Perhaps it was closed before it was known whom to tell.
        self.tell_end(&LinkError::Lost("closed during the handshake".to_owned()));
        false
    }

    fn advance(&self, from: u8, to: u8) -> bool {
        self.phase.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// `false` if it was closed before.
    fn close(&self) -> bool {
        self.phase.swap(CLOSED, Ordering::AcqRel) != CLOSED
    }

    /// Tells whoever takes the events, once.
    fn tell_end(&self, error: &LinkError) {
        let events = self.events.lock().take();
        if let Some(events) = events {
            events.on_lost(error);
        }
    }

    /// Whether an end is one to know of, besides those that are ordinary.
    fn is_worth_a_warning(&self, error: &LinkError, reason: &str) -> bool {
        match error {
            LinkError::Connect(_) => {
                self.accepted && ![CLOSED_BY_PEER, OTHER_WAY_ENDED].iter().any(|usual| reason.ends_with(usual))
            }
            LinkError::Lost(_) => reason.starts_with(PROTOCOL_ERROR) || [STALLED, UNREAD, HOARDED].contains(&reason),
        }
    }
}

/// A connection, as far as that is concerned.
pub(super) trait Ending {
    fn lifecycle(&self) -> &Lifecycle;

    /// Whether a warning of this end may be logged now.
    fn may_warn(&self, error: &LinkError) -> bool;

    /// Frees what the connection holds, and closes its socket.
    fn release(&self);

    /// Whoever takes the events knows of the end.
    fn end_is_told(&self) {}

    /// The attempt to connect has failed.
    fn fail_connecting(&self, error: io::Error) {
        let (address, source) = (self.lifecycle().peer.clone(), Arc::new(error));
        self.give_up(ConnectError::Unreachable { address, source });
    }

    /// As [`Ending::fail_connecting`].
    fn give_up(&self, error: ConnectError) {
        self.end(LinkError::Connect(error));
    }

    /// The peer's handshake was not acceptable.
    fn refuse(&self, reason: String) {
        self.give_up(ConnectError::Handshake { address: self.lifecycle().peer.clone(), reason });
    }

    /// The handshake or the connection attempt took too long.
    fn time_out(&self, after: Duration) {
        self.give_up(ConnectError::Timeout { address: self.lifecycle().peer.clone(), after });
    }

    /// Ends the connection after it failed or was closed.
    fn fail(&self, reason: &str) {
        if self.lifecycle().is_past_handshake() {
            self.end(LinkError::Lost(reason.to_owned()));
        } else {
            self.refuse(reason.to_owned());
        }
    }

    /// Ends the connection; the second end changes nothing.
    fn end(&self, error: LinkError) {
        let lifecycle = self.lifecycle();
        if !lifecycle.close() {
            return;
        }
        let reason = match &error {
            LinkError::Connect(error) => error.to_string(),
            LinkError::Lost(reason) => reason.clone(),
        };
        if lifecycle.is_worth_a_warning(&error, &reason) && self.may_warn(&error) {
            tracing::warn!(peer = %lifecycle.peer, reason, "connection closed");
        } else {
            tracing::debug!(peer = %lifecycle.peer, reason, "connection ended");
        }
        self.release();
        lifecycle.tell_end(&error);
        self.end_is_told();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifecycle(accepted: bool) -> Lifecycle {
        Lifecycle::new("native+tcp://127.0.0.1:4711".parse().unwrap(), accepted, None)
    }

    #[test]
    fn phases_only_go_forward() {
        let one = lifecycle(true);
        assert!(one.is_connecting() && !one.come_up(), "not before the peer was greeted");
        assert!(one.begin_greeting() && !one.begin_greeting());
        assert!(one.is_greeting() && !one.is_past_handshake());
        assert!(one.come_up() && one.is_up() && one.is_past_handshake());
        assert!(one.close() && !one.close(), "one end is the first");
        assert!(one.is_closed() && !one.is_up() && !one.come_up() && !one.begin_greeting());
    }

    #[test]
    fn only_ends_to_know_of_are_worth_a_warning() {
        let refused = |accepted, reason: &str| {
            let one = lifecycle(accepted);
            let error =
                LinkError::Connect(ConnectError::Handshake { address: one.peer().clone(), reason: reason.into() });
            one.is_worth_a_warning(&error, reason)
        };
        assert!(refused(true, "not a hello"));
        assert!(!refused(true, CLOSED_BY_PEER), "a port scan");
        assert!(!refused(true, OTHER_WAY_ENDED));
        assert!(!refused(false, "not a hello"), "the caller gets it as an error");
        let lost = |reason: &str| lifecycle(true).is_worth_a_warning(&LinkError::Lost(reason.into()), reason);
        assert!(lost(&format!("{PROTOCOL_ERROR}: a chunk without a start")) && lost(STALLED) && lost(UNREAD));
        assert!(!lost(CLOSED_BY_PEER) && !lost("the engine was shut down"));
    }
}

//! Timers of the transport: what must be looked at although nothing arrives.

use crate::limits::deadline_after;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watch {
    /// The handshake must be over.
    Handshake,
    /// The server's queue may have room.
    Connecting,
    /// A message that has begun must have gone on.
    Message,
    /// The peer must have read something.
    Reading,
    /// The peer must have read answers, if memory is short.
    Answers,
    /// Descriptors may be there again.
    Accepting,
}

/// Timers by when they are due. One that is no longer needed stays until it is, or until somebody asks for the first.
#[derive(Debug, Default)]
pub(super) struct Timers(Mutex<BinaryHeap<Reverse<(Instant, u64, Watch)>>>);

impl Timers {
    /// Sets a timer of the connection with this token.
    pub(super) fn add(&self, after: Duration, token: u64, watch: Watch) {
        self.0.lock().push(Reverse((deadline_after(Instant::now(), after), token, watch)));
    }

    /// Takes out a timer that is due.
    pub(super) fn take_due(&self, now: Instant) -> Option<(u64, Watch)> {
        let mut timers = self.0.lock();
        timers.peek().filter(|Reverse((when, ..))| *when <= now)?;
        timers.pop().map(|Reverse((_, token, watch))| (token, watch))
    }

    /// When the first timer is due that is still needed.
    pub(super) fn first(&self, is_needed: impl Fn(u64, Watch) -> bool) -> Option<Instant> {
        let mut timers = self.0.lock();
        while let Some(Reverse((when, token, watch))) = timers.peek() {
            if is_needed(*token, *watch) {
                return Some(*when);
            }
            timers.pop();
        }
        None
    }
}

//! How a link bears a peer that does not keep up.
//!
//! Responses that the peer does not read pile up. Past a limit its requests are *held*, while all else is read on: two peers
//! that are slow in the same way would wait for each other otherwise. Past what a peer can have asked for that keeps to the
//! limits, nothing more is read (*stopped*). A message that begins must go on, and while memory is short answers must be
//! read: timers look after both.

use super::intake::Holder;
use super::lifecycle::Ending;
use super::outgoing::{BulkStep, Outgoing, WrongTransfer};
use super::pace::Pace;
use super::timers::Watch;
use super::{CallId, Flush, Link, LinkEvents};
use crate::bulk::TransferError;
use crate::wire::Event;
use parking_lot::MappedMutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

/// The reason when the peer began a message and sends nothing more.
pub(super) const STALLED: &str = "the peer stopped in the middle of a message";
/// The reason when the peer takes nothing of what is written.
pub(super) const UNREAD: &str = "the peer reads nothing any more";
/// The reason when memory is short and the peer does not read the answers that hold it.
pub(super) const HOARDED: &str = "the peer does not read its answers, and others need the memory";

/// Small answers that may wait for a peer while its requests are held, as a multiple of what it may have begun and not ended:
/// only one that breaks the limits gets there.
const ANSWERS_MARGIN: usize = 2;

/// What is known of how a peer keeps up.
pub(super) struct Restraint {
    /// What is read, looked at in the middle of a message.
    pub(super) read: Pace,
    mid_message: AtomicBool,
    /// What is written, looked at while requests are held.
    pub(super) written: Pace,
    /// Responses may have piled up: no request is handled before that was looked at.
    overfull: AtomicBool,
    /// Nothing more is read; changed under the lock of [`Outgoing`].
    stopped: AtomicBool,
    /// Small answers waiting to be sent while requests are held, past which nothing more is read.
    max_answers: usize,
}

impl Restraint {
    /// Of a peer that may have begun so many requests and not ended them.
    pub(super) fn new(requests_max: usize) -> Self {
        Self {
            read: Pace::default(),
            mid_message: AtomicBool::new(false),
            written: Pace::default(),
            overfull: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            max_answers: ANSWERS_MARGIN * requests_max,
        }
    }

    /// Whether more small answers wait than a peer can have asked for that keeps to the limits.
    pub(super) fn is_overstrained(&self, outgoing: &Outgoing) -> bool {
        outgoing.queue.small_answers() > self.max_answers
    }

    /// Takes notice of what was queued, and whether that may be too much.
    pub(super) fn note_queued(&self, outgoing: &mut Outgoing) {
        outgoing.count_answers();
        if outgoing.is_overfull() {
            self.overfull.store(true, Ordering::Release);
        }
    }

    /// Takes notice of what was written. `true` if held requests are to be handled now.
    pub(super) fn note_written(&self, outgoing: &mut Outgoing) -> bool {
        outgoing.count_answers();
        let resumes = outgoing.resume();
        if resumes {
            self.stopped.store(false, Ordering::Release);
        }
        resumes
    }

    /// Whether nothing more is read for now.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether somebody looks whether a message goes on.
    pub(super) fn is_message_watched(&self) -> bool {
        self.read.is_watched()
    }

    /// Whether somebody looks whether the peer reads its answers.
    pub(super) fn is_reader_watched(&self) -> bool {
        self.written.is_watched()
    }
}

/// A link, as far as that is concerned.
pub(super) trait Restrained: Ending + Link + Sized {
    fn restraint(&self) -> &Restraint;

    /// Locks the writing half.
    fn outgoing(&self) -> MappedMutexGuard<'_, Outgoing>;

    /// Whether nothing can be written any more, although the link is not closed.
    fn is_unwritable(&self) -> bool;

    /// Writes out now, or with the next poll.
    fn schedule(&self, flush: Flush);

    /// Has `watch` looked after, when the time for it is over.
    fn look_after(&self, watch: Watch);

    /// Takes notice of what arrived for bulk transfers.
    fn handle_bulk(&self, event: Event<'_>, events: &dyn LinkEvents) -> Result<(), WrongTransfer> {
        let mut outgoing = self.outgoing();
        let mut ended = None;
        match outgoing.handle(event)? {
            BulkStep::Nothing => return Ok(()),
            BulkStep::Write => {}
            BulkStep::Ask(call, direction, head) => {
                drop(outgoing);
                let granted = events.grant(&head.key, direction, head.offset, head.length);
                outgoing = self.outgoing();
                outgoing.serve(call, direction, granted);
            }
            BulkStep::End(call, outcome) => ended = Some((call, outcome)),
        }
        self.send_what_that_took(outgoing);
        if let Some((call, outcome)) = ended {
            events.on_transferred(CallId(call), outcome);
        }
        Ok(())
    }

    /// Sends what was queued for the peer, soon.
    fn send_what_that_took(&self, mut outgoing: MappedMutexGuard<'_, Outgoing>) {
        let something_to_send = !outgoing.queue.is_empty();
        self.restraint().note_queued(&mut outgoing);
        drop(outgoing);
        if something_to_send {
            self.schedule(Flush::Later);
        }
    }

    /// Ends the pushes of ours whose region was taken back while they were being sent, and tells who waits for them.
    fn end_withdrawn(&self) {
        let withdrawn = self.outgoing().end_withdrawn();
        if withdrawn.is_empty() {
            return;
        }
        self.schedule(Flush::Later);
        let Some(events) = self.lifecycle().events() else { return };
        for call in withdrawn {
            events.on_transferred(CallId(call), Err(TransferError::LocalRevoked));
        }
    }

    /// Has the progress of a message that is not whole watched.
    fn note_mid_message(&self, mid_message: bool) {
        let restraint = self.restraint();
        if mid_message != restraint.mid_message.load(Ordering::Relaxed) {
            restraint.mid_message.store(mid_message, Ordering::Relaxed);
        }
        if mid_message && restraint.read.watch() {
            self.look_after(Watch::Message);
        }
    }

    /// Looks, after the time that a peer may be silent in the middle of a message, whether it was. `true` to look again
    /// after the same time.
    fn check_progress(&self) -> bool {
        let restraint = self.restraint();
        if !restraint.mid_message.load(Ordering::Relaxed) || self.lifecycle().is_closed() {
            restraint.read.unwatch();
            return false;
        }
        if restraint.read.is_slow() && !restraint.is_stopped() {
            self.close(STALLED);
            return false;
        }
        true
    }

    /// Looks, after the time that a peer may leave its answers unread while they hold memory that others need, whether it
    /// did. `true` to look again after the same time.
    fn check_reader(&self) -> bool {
        let outgoing = self.outgoing();
        let restraint = self.restraint();
        if !outgoing.requests_held || self.lifecycle().is_closed() {
            restraint.written.unwatch();
            return false;
        }
        let hoards = outgoing.backlog.is_to_blame();
        drop(outgoing);
        if restraint.written.is_slow() && hoards {
            self.close(HOARDED);
            return false;
        }
        true
    }

    /// Whether nothing more is read: requests are held, and more small answers wait than a peer can have asked for that
    /// keeps to the limits.
    fn must_stop(&self) -> bool {
        if !self.holds_requests() {
            return false;
        }
        let outgoing = self.outgoing();
        let restraint = self.restraint();
        let stops = outgoing.requests_held && restraint.is_overstrained(&outgoing);
        restraint.stopped.store(stops, Ordering::Release);
        stops
    }
}

impl<T: Restrained> Holder for T {
    fn abort_response(&self, call: u64) {
        let mut outgoing = self.outgoing();
        outgoing.queue.abort_response(call);
        outgoing.count_answers();
        let held = outgoing.requests_held;
        drop(outgoing);
        if held {
            // There may be nothing left to write after which requests would be handled again.
            self.schedule(Flush::Later);
        }
    }

    fn holds_requests(&self) -> bool {
        let restraint = self.restraint();
        if !restraint.overfull.load(Ordering::Acquire) {
            return false;
        }
        let mut outgoing = self.outgoing();
        if !outgoing.requests_held {
            drop(outgoing);
            // What is queued may be only what this very poll answered: try to get rid of it first.
            self.flush();
            outgoing = self.outgoing();
            outgoing.requests_held = outgoing.has_too_many_responses();
        }
        outgoing.requests_held &= !self.is_unwritable();
        restraint.overfull.store(outgoing.requests_held, Ordering::Release);
        if outgoing.requests_held && restraint.written.watch() {
            self.look_after(Watch::Answers);
        }
        outgoing.requests_held
    }
}

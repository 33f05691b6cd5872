//! The reading half of a connection.

use super::super::ring::{Broken, Consumer};
use super::super::segment::Segment;
use super::{CLOSED_BY_PEER, Connection, Inbox, PROTOCOL_ERROR, ReadOutcome, STALLED};
use crate::transport::{CallId, LinkEvents};
use crate::wire::{Event, Inbound, WireError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is read at most from one connection before others get their turn, in bytes.
const READ_QUANTUM: usize = 2 * 1024 * 1024;
/// What a peer that is in the middle of a message must send in the time that it may be silent, in bytes: a byte now and
/// then must not keep what others could use.
const PROGRESS_MIN: u64 = 256 * 1024;

impl Connection {
    /// Reads and hands over what is there, up to [`READ_QUANTUM`].
    fn read(&self, scratch: &mut [u8]) -> ReadOutcome {
        // A panic of user code in a callback ends this connection, whose state is lost with it, and no other.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read_on(scratch)));
        outcome.unwrap_or_else(|_| {
            tracing::error!(peer = %self.peer, "a callback panicked");
            self.fail("internal error");
            ReadOutcome::Drained
        })
    }

    /// Goes on with whatever waited: writes if there is room, reads, wakes a peer that waits for what was read.
    pub(in super::super) fn attend(&self, scratch: &mut [u8]) -> ReadOutcome {
        if self.is_blocked() {
            self.write_out();
        }
        self.read(scratch)
    }

    fn read_on(&self, scratch: &mut [u8]) -> ReadOutcome {
        let mut inbox = self.inbox.lock();
        let outcome = self.read_within(&mut inbox, scratch);
        match &mut *inbox {
            _ if self.is_closed() => *inbox = Inbox::Closed,
            Inbox::Up { consumer, lane, room_shown, .. } => {
                lane.position.store(consumer.head(), Ordering::Relaxed);
                if *room_shown != consumer.head() && lane.bell.must_ring_for_room() {
                    // Once for what was read so far: a peer that finds the ring still full would ask again and again.
                    *room_shown = consumer.head();
                    self.socket.ring();
                }
            }
            Inbox::Greeting | Inbox::Closed => {}
        }
        drop(inbox);
        outcome.unwrap_or_else(|reason| {
            self.fail(&reason);
            ReadOutcome::Drained
        })
    }

    /// Fails with the reason why the connection is over.
    fn read_within(&self, inbox: &mut Inbox, scratch: &mut [u8]) -> Result<ReadOutcome, String> {
        let mut outcome = ReadOutcome::Nothing;
        let mut taken = 0;
        let Inbox::Up { consumer, inbound, rest, events, answers, .. } = inbox else { return Ok(outcome) };
        loop {
            if self.is_closed() {
                return Ok(outcome);
            }
            if self.is_overfull() && self.pause_reading() {
                return Ok(outcome);
            }
            // The order matters: what is found after the peer has gone is all that there will be.
            let hangup = self.hangup.load(Ordering::Acquire);
            let answers_before = *answers;
            let count = self.read_messages(consumer, inbound, rest, &**events, answers, scratch)?;
            if count == 0 {
                return if hangup { Err(CLOSED_BY_PEER.to_owned()) } else { Ok(outcome) };
            }
            taken += count;
            outcome = ReadOutcome::Drained;
            self.read.store(self.read.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
            self.note_mid_message(inbound.is_mid_message());
            // Whoever waits for this answer should have it before anybody looks for what may come behind it.
            let last_answer = *answers != answers_before && *answers >= self.requests.load(Ordering::Relaxed);
            if taken >= READ_QUANTUM || last_answer {
                return Ok(ReadOutcome::MoreToCome);
            }
        }
    }

    /// Returns how many bytes were read.
    fn read_messages(
        &self,
        consumer: &mut Consumer<Arc<Segment>>,
        inbound: &mut Inbound,
        rest: &mut Vec<u8>,
        events: &dyn LinkEvents,
        answers: &mut u64,
        scratch: &mut [u8],
    ) -> Result<usize, String> {
        let mut sink = |event: Event<'_>| match event {
            Event::Request(call, head, payload) => events.on_request(CallId(call), head, payload),
            Event::RequestRefused(call, head, refusal) => events.on_request_refused(CallId(call), head, refusal),
            Event::ResponseBegins(call, wanted) => *wanted = events.expects(CallId(call)),
            Event::Response(call, payload) => {
                *answers += 1;
                events.on_response(CallId(call), payload);
            }
            Event::ResponseRefused(call, refusal) => {
                *answers += 1;
                events.on_refused(CallId(call), refusal);
            }
            Event::Cancel(call) => {
                self.outbox.lock().queue.abort_response(call);
                events.on_cancel(CallId(call));
            }
            Event::GoAway => events.on_go_away(),
        };
        let wrong = |error: WireError| format!("{PROTOCOL_ERROR}: {error}");
        let go_on = || !self.is_overfull();
        if !rest.is_empty() {
            let count = inbound.handle_while(rest, &mut sink, &go_on).map_err(wrong)?;
            rest.drain(..count);
            return Ok(count);
        }
        let broken = |Broken(what)| format!("{PROTOCOL_ERROR}: {what}");
        let received = consumer.read(scratch).map_err(broken)?;
        let read = &scratch[..received];
        let count = inbound.handle_while(read, &mut sink, &go_on).map_err(wrong)?;
        rest.extend_from_slice(&read[count..]);
        Ok(received)
    }

    /// Has the progress of a message that is not whole watched.
    fn note_mid_message(&self, mid_message: bool) {
        if mid_message != self.mid_message.load(Ordering::Relaxed) {
            self.mid_message.store(mid_message, Ordering::Relaxed);
        }
        if mid_message
            && !self.watched.swap(true, Ordering::AcqRel)
            && let Some(shared) = self.shared.upgrade()
        {
            self.seen.store(self.read.load(Ordering::Relaxed), Ordering::Relaxed);
            shared.watch_progress(self.token);
        }
    }

    /// Whether the progress of a message is being watched.
    pub(in super::super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Looks, after the time that a peer may be silent in the middle of a message, whether it was. `true` to look again
    /// after the same time.
    pub(in super::super) fn check_progress(&self) -> bool {
        let read = self.read.load(Ordering::Relaxed);
        if !self.mid_message.load(Ordering::Relaxed) || self.is_closed() {
            self.watched.store(false, Ordering::Release);
            return false;
        }
        let progress = read - self.seen.swap(read, Ordering::Relaxed);
        if progress < PROGRESS_MIN && !self.outbox.lock().reading_paused {
            self.fail(STALLED);
            return false;
        }
        true
    }

    /// Whether reading has stopped because too many responses wait, or is to find out whether it must.
    pub(in super::super) fn is_overfull(&self) -> bool {
        self.overfull.load(Ordering::Acquire)
    }

    /// Whether responses pile up because the peer does not read them: then it gets no further requests read.
    fn pause_reading(&self) -> bool {
        // What is queued may be only what this very poll answered: try to get rid of it first.
        self.write_out();
        let mut outbox = self.outbox.lock();
        // Requests of ours do not count: a peer that is slow to read them would not get its answers taken either, and
        // both would wait for each other.
        outbox.reading_paused = outbox.queue.has_responses_beyond(self.max_queued);
        self.overfull.store(outbox.reading_paused, Ordering::Release);
        outbox.reading_paused
    }
}

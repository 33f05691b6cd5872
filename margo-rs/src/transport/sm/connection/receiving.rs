//! The reading half of a connection.

use super::super::ring::{Broken, Consumer};
use super::super::segment::Segment;
use super::{Connection, Inbox, Lane, ReadOutcome};
use crate::bulk::Withdrawn;
use crate::transport::intake::Intake;
use crate::transport::lifecycle::{CLOSED_BY_PEER, Ending, PROTOCOL_ERROR};
use crate::transport::outgoing::WrongTransfer;
use crate::transport::restraint::Restrained;
use crate::wire::{Event, Inbound, WireError};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is read at most from one connection before others get their turn, in bytes.
const READ_QUANTUM: usize = 2 * 1024 * 1024;
/// The reading half once the connection stands.
pub(super) struct Up {
    consumer: Consumer<Arc<Segment>>,
    lane: Arc<Lane>,
    inbound: Box<Inbound>,
    /// Read and not handled yet, because reading has stopped.
    rest: Vec<u8>,
    intake: Intake,
    /// What was read when the peer was last woken because it waited for room.
    room_shown: u64,
    /// Responses read.
    answers: u64,
}

impl Up {
    /// Nothing was read yet.
    pub(super) fn new(consumer: Consumer<Arc<Segment>>, lane: Arc<Lane>, inbound: Inbound, intake: Intake) -> Self {
        Self { consumer, lane, inbound: Box::new(inbound), rest: Vec::new(), intake, room_shown: 0, answers: 0 }
    }
}

/// The peer broke the protocol of the frames.
fn broken(error: WireError) -> String {
    format!("{PROTOCOL_ERROR}: {error}")
}

/// The peer broke the rules of the ring.
fn lied(Broken(what): Broken) -> String {
    format!("{PROTOCOL_ERROR}: {what}")
}

/// Reads records into `into` as long as there are some that fit whole.
fn read_whole_records(consumer: &mut Consumer<Arc<Segment>>, into: &mut [u8]) -> Result<usize, Broken> {
    let mut read = 0;
    while consumer.next_length()?.is_some_and(|length| length <= into.len() - read) {
        // The length may have changed since: what is there now must fit as well.
        read += consumer.read(&mut into[read..])?;
    }
    Ok(read)
}

/// Appends records to a message as long as there are some that are wholly of its next `missing` bytes.
fn append_records(
    consumer: &mut Consumer<Arc<Segment>>,
    message: &mut Vec<u8>,
    missing: usize,
) -> Result<usize, Broken> {
    let mut read = 0;
    while read < missing {
        match consumer.append_to(message, missing - read)? {
            0 => break,
            count => read += count,
        }
    }
    Ok(read)
}

impl Connection {
    /// Reads and hands over what is there, up to [`READ_QUANTUM`].
    fn read(&self, scratch: &mut [u8]) -> ReadOutcome {
        // A panic of user code in a callback ends this connection, whose state is lost with it, and no other.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let outcome = self.read_on(scratch);
            match self.copy_on() {
                Ok(copied) => {
                    if copied {
                        ReadOutcome::MoreToCome
                    } else {
                        outcome
                    }
                }
                Err((call, what)) => {
                    self.fail(&broken(WireError::Transfer { call, what }));
                    ReadOutcome::Drained
                }
            }
        }));
        outcome.unwrap_or_else(|_| {
            tracing::error!(peer = %self.lifecycle.peer(), "a callback panicked");
            self.fail("internal error");
            ReadOutcome::Drained
        })
    }

    /// Goes on with whatever waited: writes if there is room, reads, wakes a peer that waits for what was read.
    pub(in super::super) fn attend(&self, scratch: &mut [u8]) -> ReadOutcome {
        if self.is_blocked() {
            self.write_out();
        }
        if self.withdrawn.swap(false, Ordering::AcqRel) {
            self.end_withdrawn();
        }
        self.read(scratch)
    }

    fn read_on(&self, scratch: &mut [u8]) -> ReadOutcome {
        let mut inbox = self.inbox.lock();
        let outcome = self.read_within(&mut inbox, scratch);
        match &mut *inbox {
            _ if self.lifecycle.is_closed() => *inbox = Inbox::Closed,
            Inbox::Up(Up { consumer, lane, room_shown, .. }) => {
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
        let Inbox::Up(up) = inbox else { return Ok(outcome) };
        loop {
            if self.lifecycle.is_closed() {
                return Ok(outcome);
            }
            if up.intake.go_on(self) {
                outcome = ReadOutcome::Drained;
            }
            if self.must_stop() {
                return Ok(outcome);
            }
            // The order matters: what is found after the peer has gone is all that there will be.
            let hangup = self.hangup.load(Ordering::Acquire);
            let answers_before = up.answers;
            let count = self.read_messages(up, scratch)?;
            if count == 0 {
                if hangup {
                    up.intake.end();
                }
                return if hangup { Err(CLOSED_BY_PEER.to_owned()) } else { Ok(outcome) };
            }
            taken += count;
            outcome = ReadOutcome::Drained;
            self.restraint.read.add(count);
            self.note_mid_message(up.inbound.is_mid_message());
            // Whoever waits for this answer should have it before anybody looks for what may come behind it.
            let last_answer = up.answers != answers_before && up.answers >= self.requests.load(Ordering::Relaxed);
            if taken >= READ_QUANTUM || last_answer {
                return Ok(ReadOutcome::MoreToCome);
            }
        }
    }

    /// Returns how many bytes were read.
    fn read_messages(&self, up: &mut Up, scratch: &mut [u8]) -> Result<usize, String> {
        let wrong = Cell::new(None);
        let count = self.read_frames(up, scratch, &wrong);
        match wrong.get() {
            Some((call, what)) => Err(broken(WireError::Transfer { call, what })),
            None => count,
        }
    }

    /// Reads one record. What a peer did wrong in its bulk transfers is left in `wrong`.
    fn read_frames(
        &self,
        up: &mut Up,
        scratch: &mut [u8],
        wrong: &Cell<Option<WrongTransfer>>,
    ) -> Result<usize, String> {
        let Up { consumer, inbound, rest, intake, answers, .. } = up;
        let mut sink = |event: Event<'_>| {
            if matches!(event, Event::Response(..) | Event::ResponseRefused(..)) {
                *answers += 1;
            }
            let Some(bulk) = intake.handle(event, self) else { return };
            let events = &*intake.events;
            let handled = match bulk {
                Event::Borrow(call, head) => self.handle_borrow(call, &head, events),
                Event::Lend(call, head, loan) => self.handle_lend(call, &head, loan, events),
                Event::Lent(call, loan) => self.handle_lent(call, loan),
                Event::LoanEnd(loan) => self.handle_loan_end(loan),
                Event::LoanReturn(loan) => {
                    self.handle_loan_return(loan);
                    Ok(())
                }
                other => self.handle_bulk(other, events),
            };
            if let Err(error) = handled {
                wrong.set(Some(error));
            }
        };
        let go_on = || !self.must_stop() && wrong.get().is_none();
        if !rest.is_empty() {
            let count = inbound.handle_while(rest, &mut sink, &go_on).map_err(broken)?;
            rest.drain(..count);
            return Ok(count);
        }
        if let Some((message, missing)) = inbound.direct() {
            let count = append_records(consumer, message, missing).map_err(lied)?;
            if count > 0 {
                inbound.direct_done(count, &mut sink).map_err(broken)?;
                return Ok(count);
            }
        }
        if let Some((window, at, missing)) = inbound.direct_data()
            && consumer.next_length().map_err(lied)?.is_some_and(|length| length <= missing)
        {
            let read = window.write(at..at + missing as u64, |slices| match slices.first_mut() {
                Some(slice) => read_whole_records(consumer, slice),
                None => Ok(0),
            });
            match read {
                // The next record does not fit into what the region has here in one piece: it goes through the scratch.
                Ok(Ok(0)) => {}
                Ok(count) => {
                    let count = count.map_err(lied)?;
                    inbound.data_done(count, &mut sink);
                    return Ok(count);
                }
                Err(Withdrawn) => inbound.data_withdrawn(),
            }
        }
        let received = consumer.read(scratch).map_err(lied)?;
        let read = &scratch[..received];
        let count = inbound.handle_while(read, &mut sink, &go_on).map_err(broken)?;
        rest.extend_from_slice(&read[count..]);
        Ok(received)
    }
}

//! The reading half of a connection.

use super::{Connection, Inbox, ReadOutcome};
use crate::transport::intake::Intake;
use crate::transport::lifecycle::{CLOSED_BY_PEER, Ending, PROTOCOL_ERROR};
use crate::transport::outgoing::WrongTransfer;
use crate::transport::restraint::Restrained;
use crate::wire::{Event, HELLO_LEN, Hello, Inbound, WireError};
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

/// What is read at most from one connection before others get their turn, in bytes.
const READ_QUANTUM: usize = 2 * 1024 * 1024;

/// Bytes read after bulk data, or where bulk data may begin.
const READ_AHEAD: usize = 4 * 1024;

/// The reading half once the connection stands.
pub(super) struct Up {
    inbound: Box<Inbound>,
    /// Read and not handled yet, because reading has stopped.
    rest: Vec<u8>,
    intake: Intake,
}

impl Up {
    /// Nothing was read yet.
    pub(super) fn new(inbound: Inbound, intake: Intake) -> Self {
        Self { inbound: Box::new(inbound), rest: Vec::new(), intake }
    }
}

impl Connection {
    /// Reads and hands over what is there, up to [`READ_QUANTUM`].
    pub(in super::super) fn read(&self, scratch: &mut [u8]) -> ReadOutcome {
        // A panic of user code in a callback ends this connection, whose state is lost with it, and no other.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read_on(scratch)));
        outcome.unwrap_or_else(|_| {
            tracing::error!(peer = %self.lifecycle.peer(), "a callback panicked");
            self.fail("internal error");
            ReadOutcome::Drained
        })
    }

    fn read_on(&self, scratch: &mut [u8]) -> ReadOutcome {
        let mut inbox = self.inbox.lock();
        let mut outcome = ReadOutcome::Nothing;
        let mut taken = 0;
        loop {
            if self.lifecycle.is_closed() {
                *inbox = Inbox::Closed;
                return outcome;
            }
            let result = match &mut *inbox {
                Inbox::Closed => return outcome,
                Inbox::Greeting { bytes, received } => match self.receive(&mut bytes[*received..]) {
                    Ok(Received { count, .. }) => {
                        *received += count;
                        if !Hello::may_begin_with(&bytes[..*received]) || *received == HELLO_LEN {
                            let hello = Hello::decode(bytes);
                            match hello.map_err(|error| error.to_string()).and_then(|hello| self.come_up(&hello)) {
                                Ok(up) => *inbox = up,
                                Err(reason) => {
                                    drop(inbox);
                                    self.refuse(reason);
                                    return ReadOutcome::Drained;
                                }
                            }
                            outcome = ReadOutcome::Drained;
                        }
                        // The next round finds out whether the socket is empty.
                        Ok(Received { count, emptied: false })
                    }
                    Err(stop) => Err(stop),
                },
                Inbox::Up(up) => {
                    if up.intake.go_on(self) {
                        outcome = ReadOutcome::Drained;
                    }
                    if self.must_stop() {
                        return outcome;
                    }
                    let read = self.read_messages(up, scratch);
                    if let Err(Stop::Failed(_)) = read {
                        up.intake.end();
                    }
                    read
                }
            };
            match result {
                Ok(Received { count, emptied }) => {
                    taken += count;
                    outcome = ReadOutcome::Drained;
                    self.restraint.read.add(count);
                    if let Inbox::Up(up) = &*inbox {
                        self.note_mid_message(up.inbound.is_mid_message());
                    }
                    if emptied && !self.hangup.load(Ordering::Acquire) {
                        return outcome;
                    }
                    if taken >= READ_QUANTUM {
                        return ReadOutcome::MoreToCome;
                    }
                }
                Err(Stop::Empty) => {
                    if let Some(reason) = self.unwritable.get() {
                        drop(inbox);
                        self.fail(reason);
                    }
                    return outcome;
                }
                Err(Stop::Failed(reason)) => {
                    drop(inbox);
                    self.fail(&reason);
                    return ReadOutcome::Drained;
                }
            }
        }
    }

    fn read_messages(&self, up: &mut Up, scratch: &mut [u8]) -> Result<Received, Stop> {
        let wrong = Cell::new(None);
        let received = self.read_frames(up, scratch, &wrong);
        match wrong.get() {
            Some((call, what)) => Err(broken(WireError::Transfer { call, what })),
            None => received,
        }
    }

    /// Reads once. What a peer did wrong in its bulk transfers is left in `wrong`.
    fn read_frames(
        &self,
        up: &mut Up,
        scratch: &mut [u8],
        wrong: &Cell<Option<WrongTransfer>>,
    ) -> Result<Received, Stop> {
        let Up { inbound, rest, intake } = up;
        let mut sink = |event: Event<'_>| {
            let Some(bulk) = intake.handle(event, self) else { return };
            let handled = match bulk {
                Event::Borrow(call, ..) | Event::Lend(call, ..) | Event::Lent(call, ..) => {
                    Err((call, "there is no shared memory to lend"))
                }
                other => self.handle_bulk(other, &*intake.events),
            };
            if let Err(error) = handled {
                wrong.set(Some(error));
            }
        };
        let go_on = || !self.must_stop() && wrong.get().is_none();
        if !rest.is_empty() {
            let count = inbound.handle_while(rest, &mut sink, &go_on).map_err(broken)?;
            rest.drain(..count);
            return Ok(Received { count, emptied: false });
        }
        if let Some((into, most)) = inbound.direct() {
            let before = into.len();
            let ended = self.socket.append_to(into, most);
            let count = into.len() - before;
            inbound.direct_done(count, &mut sink).map_err(broken)?;
            return match ended {
                Ok(_) if count < most => Err(Stop::Failed("the peer closed the connection in a message".to_owned())),
                Ok(_) => Ok(Received { count, emptied: false }),
                Err(error) if error.kind() == ErrorKind::WouldBlock && count == 0 => Err(Stop::Empty),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received { count, emptied: true }),
                Err(error) => Err(Stop::Failed(error.to_string())),
            };
        }
        if let Some((window, at, missing)) = inbound.direct_data() {
            // What follows the data comes with the same call, to be copied: little, as it may be the next data.
            let next = &mut scratch[..READ_AHEAD];
            let read = window.write(at..at + missing as u64, |slices| {
                let room: usize = slices.iter().map(|slice| slice.len()).sum();
                let next = if room == missing { &mut next[..] } else { &mut [] };
                (room + next.len(), self.socket.read_all(slices, next))
            });
            let Ok((room, read)) = read else {
                inbound.data_withdrawn();
                return Ok(Received { count: 0, emptied: false });
            };
            let received = received(read, room)?;
            inbound.data_done(received.count.min(missing), &mut sink);
            let next = &next[..received.count.saturating_sub(missing)];
            let count = inbound.handle_while(next, &mut sink, &go_on).map_err(broken)?;
            if count < next.len() {
                rest.extend_from_slice(&next[count..]);
                return Ok(Received { emptied: false, ..received });
            }
            return Ok(received);
        }
        // While bulk data may come, no more of it is read at once than may well be copied: the rest goes straight to its
        // region.
        let most = if self.outgoing().transfers.expects_data() { READ_AHEAD } else { scratch.len() };
        let received = self.receive(&mut scratch[..most])?;
        let read = &scratch[..received.count];
        let count = inbound.handle_while(read, &mut sink, &go_on).map_err(broken)?;
        if count == read.len() {
            return Ok(received);
        }
        rest.extend_from_slice(&read[count..]);
        Ok(Received { count: received.count, emptied: false })
    }

    fn receive(&self, into: &mut [u8]) -> Result<Received, Stop> {
        received(self.socket.read(into), into.len())
    }
}

fn broken(error: WireError) -> Stop {
    Stop::Failed(format!("{PROTOCOL_ERROR}: {error}"))
}

/// Judges what reading into `room` bytes brought.
fn received(read: io::Result<usize>, room: usize) -> Result<Received, Stop> {
    match read {
        Ok(0) => Err(Stop::Failed(CLOSED_BY_PEER.to_owned())),
        Ok(count) => Ok(Received { count, emptied: count < room }),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Stop::Empty),
        Err(error) => Err(Stop::Failed(error.to_string())),
    }
}

struct Received {
    count: usize,
    /// The socket held no more than this.
    emptied: bool,
}

enum Stop {
    /// Nothing to read.
    Empty,
    /// The connection is over.
    Failed(String),
}

//! The reading half of a connection.

use super::{CLOSED_BY_PEER, Connection, Inbox, Outbox, PROTOCOL_ERROR, ReadOutcome, STALLED, UNREAD};
use crate::bulk::TransferError;
use crate::transport::intake::{Holder, Intake};
use crate::transport::{CallId, Flush, Link, LinkEvents};
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
            tracing::error!(peer = %self.peer, "a callback panicked");
            self.fail("internal error");
            ReadOutcome::Drained
        })
    }

    fn read_on(&self, scratch: &mut [u8]) -> ReadOutcome {
        let mut inbox = self.inbox.lock();
        let mut outcome = ReadOutcome::Nothing;
        let mut taken = 0;
        loop {
            if self.is_closed() {
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
                    self.read.add(count);
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
            if let Err(error) = self.handle_bulk(bulk, &*intake.events) {
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
        let most = if self.outbox.lock().transfers.expects_data() { READ_AHEAD } else { scratch.len() };
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

    /// Takes notice of what arrived for bulk transfers.
    fn handle_bulk(&self, event: Event<'_>, events: &dyn LinkEvents) -> Result<(), WrongTransfer> {
        let mut outbox = self.outbox.lock();
        let Outbox { queue, transfers, .. } = &mut *outbox;
        let mut ended = None;
        match event {
            Event::Transfer(call, direction, head) => {
                if transfers.handle_wish(call, queue).map_err(|what| (call, what))? {
                    drop(outbox);
                    let granted = events.grant(&head.key, direction, head.offset, head.length);
                    outbox = self.outbox.lock();
                    let Outbox { queue, transfers, .. } = &mut *outbox;
                    transfers.serve(call, direction, granted, queue);
                }
            }
            Event::DataBegins(direction, call, length, target) => {
                *target = transfers.target(direction, call, length).map_err(|what| (call, what))?;
                return Ok(());
            }
            Event::DataEnds(direction, call, length, in_place) => {
                ended = transfers.handle_data(direction, call, length, in_place, queue).map(|outcome| (call, outcome));
            }
            Event::TransferEnd(call, code) => {
                let outcome = transfers.handle_end(call, code, queue).map_err(|what| (call, what))?;
                ended = outcome.map(|outcome| (call, outcome));
            }
            Event::PushReady(call) => transfers.handle_ready(call, queue),
            Event::TransferCancel(call) => transfers.handle_cancel(call, queue),
            Event::Borrow(call, ..) | Event::Lend(call, ..) | Event::Lent(call, ..) => {
                return Err((call, "there is no shared memory to lend"));
            }
            _ => return Ok(()),
        }
        let something_to_send = !outbox.queue.is_empty();
        self.note_queued(&mut outbox);
        drop(outbox);
        if something_to_send {
            self.schedule(Flush::Later);
        }
        if let Some((call, outcome)) = ended {
            events.on_transferred(CallId(call), outcome);
        }
        Ok(())
    }

    /// Ends the pushes of ours whose region was taken back while they were being sent.
    pub(super) fn end_withdrawn(&self) {
        let mut outbox = self.outbox.lock();
        let Outbox { queue, transfers, .. } = &mut *outbox;
        if !queue.has_withdrawn() {
            return;
        }
        let mut withdrawn = queue.take_withdrawn();
        withdrawn.retain(|call| transfers.cancel(*call, queue));
        drop(outbox);
        self.schedule(Flush::Later);
        let events = self.events.lock().clone();
        for call in withdrawn {
            if let Some(events) = &events {
                events.on_transferred(CallId(call), Err(TransferError::LocalRevoked));
            }
        }
    }

    /// Has the progress of a message that is not whole watched.
    fn note_mid_message(&self, mid_message: bool) {
        self.mid_message.store(mid_message, Ordering::Relaxed);
        if mid_message
            && self.read.watch()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.watch_progress(self.token);
        }
    }

    /// Whether the progress of a message is being watched.
    pub(in super::super) fn is_watched(&self) -> bool {
        self.read.is_watched()
    }

    /// Looks, after the time that a peer may be silent in the middle of a message, whether it was. `true` to look again
    /// after the same time.
    pub(in super::super) fn check_progress(&self) -> bool {
        if !self.mid_message.load(Ordering::Relaxed) || self.is_closed() {
            self.read.unwatch();
            return false;
        }
        if self.read.is_slow() && !self.stopped.load(Ordering::Acquire) {
            self.fail(STALLED);
            return false;
        }
        true
    }

    /// Takes notice of what was queued, and whether that may be too much.
    pub(super) fn note_queued(&self, outbox: &mut Outbox) {
        outbox.count_answers();
        if outbox.queue.queued() > outbox.backlog.max_queued() {
            self.overfull.store(true, Ordering::Release);
        }
    }

    /// Whether somebody looks whether the peer reads its answers.
    pub(in super::super) fn is_watched_as_reader(&self) -> bool {
        self.written.is_watched()
    }

    /// Looks, after the time that a peer may leave its answers unread while they hold memory that others need, whether it
    /// did. `true` to look again after the same time.
    pub(in super::super) fn check_reader(&self) -> bool {
        let outbox = self.outbox.lock();
        if !outbox.requests_held || self.is_closed() {
            self.written.unwatch();
            return false;
        }
        let hoards = outbox.backlog.is_to_blame();
        drop(outbox);
        if self.written.is_slow() && hoards {
            self.fail(UNREAD);
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
        let outbox = self.outbox.lock();
        let stops = outbox.requests_held && outbox.queue.small_answers() > self.max_answers;
        self.stopped.store(stops, Ordering::Release);
        stops
    }
}

impl Holder for Connection {
    fn abort_response(&self, call: u64) {
        let mut outbox = self.outbox.lock();
        outbox.queue.abort_response(call);
        outbox.count_answers();
        let held = outbox.requests_held;
        drop(outbox);
        if held {
            // There may be nothing left to write after which requests would be handled again.
            self.schedule(Flush::Later);
        }
    }

    /// Whether responses pile up because the peer does not read them. All but requests is read on: two peers that are slow
    /// in the same way would wait for each other otherwise.
    fn holds_requests(&self) -> bool {
        if !self.overfull.load(Ordering::Acquire) {
            return false;
        }
        let mut outbox = self.outbox.lock();
        if self.unwritable.get().is_some() {
            outbox.requests_held = false;
        } else if !outbox.requests_held {
            // Requests of ours do not count: those the peer must read before it can answer them.
            outbox.requests_held = outbox.queue.has_responses_beyond(outbox.backlog.max_queued());
            if outbox.requests_held {
                drop(outbox);
                // What is queued may be only what this very poll answered: try to get rid of it first.
                self.flush();
                outbox = self.outbox.lock();
            }
        }
        self.overfull.store(outbox.requests_held, Ordering::Release);
        if outbox.requests_held
            && self.written.watch()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.watch_reader(self.token);
        }
        outbox.requests_held
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

/// The transfer that a peer has broken, and how.
type WrongTransfer = (u64, &'static str);

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

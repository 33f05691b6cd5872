//! What is on its way to the peer of a link: messages, the data of transfers, and what answers take of the memory of all.

use crate::bulk::{Direction, Refusal, TransferError, Window};
use crate::wire::{Backlog, Event, FRAME_MAX, Outbound, TransferHead, Transfers};

/// What a peer did wrong in which of its transfers.
pub(super) type WrongTransfer = (u64, &'static str);

/// Everything that is to be written; behind the lock of the link's writing half.
pub(super) struct Outgoing {
    pub(super) queue: Outbound,
    pub(super) transfers: Transfers,
    /// Requests of the peer are held because too many responses are queued.
    pub(super) requests_held: bool,
    /// What the queued responses take of what all links may.
    pub(super) backlog: Backlog,
}

/// What comes of something that arrived for a transfer.
pub(super) enum BulkStep {
    /// Nothing is to be done.
    Nothing,
    /// There may be something to write.
    Write,
    /// The owner of the memory is to be asked, and then [`Outgoing::serve`].
    Ask(u64, Direction, TransferHead),
    /// A transfer of ours is over; and there may be something to write.
    End(u64, Result<(), TransferError>),
}

impl Outgoing {
    /// Nothing, to a peer that may have begun so many transfers.
    pub(super) fn new(transfers_max: usize, backlog: Backlog) -> Self {
        Self {
            queue: Outbound::new(FRAME_MAX),
            transfers: Transfers::new(transfers_max),
            requests_held: false,
            backlog,
        }
    }

    /// Drops everything: the link is over.
    pub(super) fn clear(&mut self) {
        self.transfers.clear();
        self.clear_queue();
    }

    /// Drops what is queued: nothing more can be written.
    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
        self.backlog.update(0);
    }

    /// Takes down what the queued responses take of what all links may.
    pub(super) fn count_answers(&mut self) {
        self.backlog.update(self.queue.response_memory());
    }

    /// Whether more may be queued than is to wait for one peer.
    pub(super) fn is_overfull(&self) -> bool {
        self.queue.queued() > self.backlog.max_queued()
    }

    /// Whether more responses are queued than that. Requests of ours do not count: those the peer must read before it can
    /// answer them.
    pub(super) fn has_too_many_responses(&self) -> bool {
        self.queue.has_responses_beyond(self.backlog.max_queued())
    }

    /// Lets go of the requests that are held, once half of the responses are written. `true` if that is so.
    pub(super) fn resume(&mut self) -> bool {
        let resumes = self.requests_held && !self.queue.has_responses_beyond(self.backlog.max_queued() / 2);
        self.requests_held &= !resumes;
        resumes
    }

    /// Gives up a call or a transfer of ours.
    pub(super) fn cancel(&mut self, call: u64) {
        if !self.transfers.cancel(call, &mut self.queue) {
            self.queue.cancel(call);
        }
    }

    /// Takes notice of what arrived for transfers.
    pub(super) fn handle(&mut self, event: Event<'_>) -> Result<BulkStep, WrongTransfer> {
        let Self { queue, transfers, .. } = self;
        let ended = match event {
            Event::Transfer(call, direction, head) => {
                return match transfers.handle_wish(call, queue) {
                    Ok(true) => Ok(BulkStep::Ask(call, direction, head)),
                    Ok(false) => Ok(BulkStep::Write),
                    Err(what) => Err((call, what)),
                };
            }
            Event::DataBegins(direction, call, length, target) => {
                *target = transfers.target(direction, call, length).map_err(|what| (call, what))?;
                return Ok(BulkStep::Nothing);
            }
            Event::DataEnds(direction, call, length, in_place) => {
                transfers.handle_data(direction, call, length, in_place, queue).map(|outcome| (call, outcome))
            }
            Event::TransferEnd(call, code) => {
                let outcome = transfers.handle_end(call, code, queue).map_err(|what| (call, what))?;
                outcome.map(|outcome| (call, outcome))
            }
            Event::PushReady(call) => {
                transfers.handle_ready(call, queue);
                None
            }
            Event::TransferCancel(call) => {
                transfers.handle_cancel(call, queue);
                None
            }
            _ => return Ok(BulkStep::Nothing),
        };
        Ok(ended.map_or(BulkStep::Write, |(call, outcome)| BulkStep::End(call, outcome)))
    }

    /// Serves a transfer of the peer's as the owner of the memory has said.
    pub(super) fn serve(&mut self, call: u64, direction: Direction, granted: Result<Window, Refusal>) {
        self.transfers.serve(call, direction, granted, &mut self.queue);
    }

    /// Ends the pushes of ours whose region was taken back while they were being sent.
    pub(super) fn end_withdrawn(&mut self) -> Vec<u64> {
        if !self.queue.has_withdrawn() {
            return Vec::new();
        }
        let mut withdrawn = self.queue.take_withdrawn();
        withdrawn.retain(|call| self.transfers.cancel(*call, &mut self.queue));
        withdrawn
    }
}

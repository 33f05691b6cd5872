//! The sending half of a connection: messages in, batches of bytes out.

use super::frame::{Header, Kind, RequestHead};
use super::transfers::end_frame;
use crate::buffer::Buffer;
use crate::bulk::{Refusal, Window};
use std::collections::{HashSet, VecDeque};

/// A payload up to this size is copied behind the other small ones, so that one write carries many, in bytes.
const BATCHED_MAX: usize = 16 * 1024;
/// Large messages of which some chunks were sent and others not, at a time: the receiver holds that many unfinished.
pub const INTERLEAVED_MAX: usize = 4;
/// A batch buffer that grew past this is freed after its write instead of kept, in bytes.
const BATCH_CAPACITY_KEPT: usize = 256 * 1024;

/// Queues messages and cuts them into writes.
///
/// Small messages are batched in order. Large ones take turns chunk by chunk, and each write carries everything small
/// that is waiting before at most one chunk, so that a large transfer delays a small call by one chunk at most.
#[derive(Debug)]
pub struct Outbound {
    max_frame: usize,
    batch: Vec<u8>,
    /// How much of `batch` is responses.
    batch_responses: usize,
    /// How many answers to what the peer began are in `batch`.
    batch_answers: usize,
    /// The first [`INTERLEAVED_MAX`] take turns; the others wait for one of those to end.
    large: VecDeque<Large>,
    /// What `large` holds, for cancels, of which a peer may send any number.
    queued_large: HashSet<(Kind, u64)>,
    /// Payload bytes of `large` that are not yet cut into a write.
    large_bytes: usize,
    /// Bytes that responses hold which are or were in `large`, until nothing more of them is to be written.
    large_responses: usize,
    /// What the write under way belongs to, and whether its message was given up meanwhile.
    in_write: Option<(Kind, u64, bool)>,
    /// Bulk data, which is not copied here: it takes turns with itself and with `large`.
    data: VecDeque<Data>,
    /// As `in_write`.
    data_in_write: Option<DataInWrite>,
    /// It is the turn of `data`.
    data_next: bool,
    /// Pushes of ours whose region was taken back while they were being sent.
    withdrawn: Vec<u64>,
    /// Pulls of the peer's that are over.
    sent: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct DataInWrite {
    kind: Kind,
    call: u64,
    given_up: bool,
    /// Nothing of the transfer follows.
    is_last: bool,
}

/// Data of one transfer on its way out.
#[derive(Debug)]
struct Data {
    kind: Kind,
    call: u64,
    window: Window,
    sent: u64,
}

/// The data of one frame that is being written.
#[derive(Debug)]
struct DataFrame {
    data: Data,
    end: u64,
    /// The region was taken back: zeros go out instead.
    withdrawn: bool,
    /// What follows the data: the transfer's end, if this is its last frame.
    tail: Vec<u8>,
    tail_written: usize,
}

#[derive(Debug)]
struct Large {
    call: u64,
    /// `None` for a response.
    head: Option<RequestHead>,
    payload: Buffer,
    sent: usize,
}

impl Large {
    fn kind(&self) -> Kind {
        if self.head.is_some() { Kind::Request } else { Kind::Response }
    }
}

/// Bytes being written: first `head`, then part of a large payload.
#[derive(Debug, Default)]
pub struct WriteJob {
    head: Vec<u8>,
    head_written: usize,
    chunk: Option<(Large, usize)>,
    /// Never together with a chunk.
    data: Option<DataFrame>,
}

/// Bulk data to be written.
#[derive(Debug, Clone, Copy)]
pub enum DataPart<'a> {
    /// These bytes of a window.
    Region(&'a Window, u64, u64),
    /// So many zeros, because the region was taken back.
    Zeros(u64),
}

impl WriteJob {
    /// What is still to be written, in order; between the two comes what [`WriteJob::data`] says.
    pub fn slices(&self) -> [&[u8]; 2] {
        let rest = match (&self.chunk, &self.data) {
            (Some((large, end)), _) => &large.payload[large.sent..*end],
            (None, Some(frame)) => &frame.tail[frame.tail_written..],
            (None, None) => &[],
        };
        [&self.head[self.head_written..], rest]
    }

    /// Bulk data that comes between the two slices.
    pub fn data(&self) -> Option<DataPart<'_>> {
        let frame = self.data.as_ref().filter(|frame| frame.data.sent < frame.end)?;
        Some(match frame.withdrawn {
            false => DataPart::Region(&frame.data.window, frame.data.sent, frame.end),
            true => DataPart::Zeros(frame.end - frame.data.sent),
        })
    }

    /// The region of the data was taken back: zeros are sent in place of the rest.
    pub fn data_withdrawn(&mut self) {
        if let Some(frame) = &mut self.data {
            frame.withdrawn = true;
            if !frame.tail.is_empty() {
                frame.tail = end_frame(frame.data.call, Refusal::Revoked.code()).to_vec();
            }
        }
    }

    /// Whether everything was written.
    pub fn is_done(&self) -> bool {
        let [head, chunk] = self.slices();
        head.is_empty() && chunk.is_empty() && self.data().is_none()
    }

    /// Notes that `count` bytes were written.
    pub fn advance(&mut self, count: usize) {
        let head = count.min(self.head.len() - self.head_written);
        self.head_written += head;
        if let Some((large, end)) = &mut self.chunk {
            large.sent = (large.sent + count - head).min(*end);
        }
        if let Some(frame) = &mut self.data {
            let data = ((count - head) as u64).min(frame.end - frame.data.sent);
            frame.data.sent += data;
            frame.tail_written = (frame.tail_written + count - head - data as usize).min(frame.tail.len());
        }
    }
}

impl Outbound {
    /// An empty queue for a peer that accepts frame bodies of up to `max_frame` bytes.
    pub fn new(max_frame: u32) -> Self {
        Self {
            max_frame: max_frame as usize,
            batch: Vec::new(),
            batch_responses: 0,
            batch_answers: 0,
            large: VecDeque::new(),
            queued_large: HashSet::new(),
            large_bytes: 0,
            large_responses: 0,
            in_write: None,
            data: VecDeque::new(),
            data_in_write: None,
            data_next: false,
            withdrawn: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Lowers the frame limit to what the peer's handshake stated; nothing may have been cut before.
    pub fn limit_frame(&mut self, max_frame: u32) {
        self.max_frame = self.max_frame.min(max_frame as usize);
    }

    /// Forgets everything queued.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_frame as u32);
    }

    /// Bytes queued and not yet given to a write, without those that stay in their regions.
    pub fn queued(&self) -> usize {
        self.batch.len() + self.large_bytes
    }

    /// Memory that responses take, in bytes: a large one counts whole until all of it was written.
    pub fn response_memory(&self) -> usize {
        self.batch_responses + self.large_responses
    }

    /// Whether more than `max` bytes of responses are queued.
    pub fn has_responses_beyond(&self, max: usize) -> bool {
        // Looks at each message only if there is a reason to.
        self.queued() > max && {
            let large = self.large.iter().filter(|large| large.head.is_none());
            self.batch_responses + large.map(|large| large.payload.len() - large.sent).sum::<usize>() > max
        }
    }

    /// Small answers to the peer's requests and transfers that are queued. A peer that keeps to the limits cannot have more
    /// of them than it may have begun and not ended.
    pub fn small_answers(&self) -> usize {
        self.batch_answers
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.large.is_empty() && self.data.is_empty()
    }

    /// Queues a request.
    pub fn request(&mut self, call: u64, head: RequestHead, payload: Buffer) {
        if payload.len() > BATCHED_MAX {
            return self.push_large(Large { call, head: Some(head), payload, sent: 0 });
        }
        let flags = if head.one_way { Header::ONE_WAY } else { 0 };
        let length = (RequestHead::LEN + payload.len()) as u32;
        Header { length, kind: Kind::Request, flags, call }.encode(&mut self.batch);
        head.encode(&mut self.batch);
        self.batch.extend_from_slice(&payload);
    }

    /// Queues a response.
    pub fn response(&mut self, call: u64, payload: Buffer) {
        if payload.len() > BATCHED_MAX {
            return self.push_large(Large { call, head: None, payload, sent: 0 });
        }
        Header { length: payload.len() as u32, kind: Kind::Response, flags: 0, call }.encode(&mut self.batch);
        self.batch.extend_from_slice(&payload);
        self.batch_responses += Header::LEN + payload.len();
        self.batch_answers += 1;
    }

    /// Takes back a request: what is queued of it is dropped, and the peer is told.
    pub fn cancel(&mut self, call: u64) {
        // A large request of which nothing was cut yet is simply forgotten.
        if !self.give_up(Kind::Request, call) {
            Header { length: 0, kind: Kind::Cancel, flags: 0, call }.encode(&mut self.batch);
        }
    }

    /// Gives up on a response that the peer no longer wants.
    pub fn abort_response(&mut self, call: u64) {
        let queued = self.queued_large.contains(&(Kind::Response, call));
        let begun =
            queued && self.large.iter().any(|large| large.head.is_none() && large.call == call && large.sent > 0);
        if !self.give_up(Kind::Response, call) && begun {
            Header { length: 0, kind: Kind::ResponseAbort, flags: 0, call }.encode(&mut self.batch);
        }
    }

    /// Tells the peer that no new requests are taken.
    pub fn go_away(&mut self) {
        Header { length: 0, kind: Kind::GoAway, flags: 0, call: 0 }.encode(&mut self.batch);
    }

    /// Queues a short frame.
    pub(super) fn frame(&mut self, kind: Kind, call: u64, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.batch.len();
        Header { length: 0, kind, flags: 0, call }.encode(&mut self.batch);
        body(&mut self.batch);
        let length = (self.batch.len() - start - Header::LEN) as u32;
        self.batch[start..start + 4].copy_from_slice(&length.to_le_bytes());
        if matches!(kind, Kind::PushReady | Kind::TransferEnd | Kind::Lent | Kind::LoanReturn) {
            // What a peer can make us say must not pile up either.
            self.batch_responses += self.batch.len() - start;
            self.batch_answers += 1;
        }
    }

    /// Queues the data of a transfer: all of a window that is not empty.
    pub(super) fn data(&mut self, kind: Kind, call: u64, window: Window) {
        debug_assert!(kind.is_bulk_data() && !window.is_empty());
        self.data.push_back(Data { kind, call, window, sent: 0 });
    }

    /// Drops the queued data of a transfer.
    pub(super) fn give_up_data(&mut self, kind: Kind, call: u64) {
        if let Some(writing) = &mut self.data_in_write
            && (writing.kind, writing.call) == (kind, call)
        {
            writing.given_up = true;
        } else if let Some(at) = self.data.iter().position(|data| data.kind == kind && data.call == call) {
            self.data.remove(at);
        }
    }

    /// Whether data of a transfer is still to be sent. The last of it may be with the peer before the write call returns.
    pub(super) fn has_data(&self, kind: Kind, call: u64) -> bool {
        self.data_in_write.is_some_and(|it| (it.kind, it.call) == (kind, call) && !it.is_last)
            || self.data.iter().any(|data| data.kind == kind && data.call == call)
    }

    /// Takes out the pulls of the peer's whose data was sent, or was given up because the region was taken back.
    pub(super) fn take_sent(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.sent)
    }

    /// Whether there are pushes of ours whose region was taken back.
    pub fn has_withdrawn(&self) -> bool {
        !self.withdrawn.is_empty()
    }

    /// Takes out the pushes of ours whose region was taken back.
    pub fn take_withdrawn(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.withdrawn)
    }

    /// Fills `job`, which must be done, with the next bytes to write; `false` when nothing waits.
    pub fn next_write(&mut self, job: &mut WriteJob) -> bool {
        debug_assert!(job.is_done() && job.chunk.is_none() && job.data.is_none());
        job.head.clear();
        job.head_written = 0;
        if job.head.capacity() > BATCH_CAPACITY_KEPT {
            job.head = Vec::new();
        }
        std::mem::swap(&mut job.head, &mut self.batch);
        self.batch_responses = 0;
        self.batch_answers = 0;
        if (self.data_next || self.large.is_empty())
            && let Some(data) = self.data.pop_front()
        {
            self.data_next = false;
            let left = data.window.len() - data.sent;
            let length = left.min(self.max_frame as u64);
            Header { length: length as u32, kind: data.kind, flags: 0, call: data.call }.encode(&mut job.head);
            let is_last = length == left;
            let tail =
                if is_last && data.kind == Kind::PullData { end_frame(data.call, 0).to_vec() } else { Vec::new() };
            let end = data.sent + length;
            self.data_in_write = Some(DataInWrite { kind: data.kind, call: data.call, given_up: false, is_last });
            job.data = Some(DataFrame { data, end, withdrawn: false, tail, tail_written: 0 });
        } else if let Some(large) = self.large.pop_front() {
            self.data_next = true;
            self.queued_large.remove(&(large.kind(), large.call));
            let end = self.cut(&large, &mut job.head);
            self.large_bytes -= end - large.sent;
            self.in_write = Some((large.kind(), large.call, false));
            job.chunk = Some((large, end));
        }
        !job.is_done()
    }

    /// Takes back a job that was written to its end.
    pub fn written(&mut self, job: &mut WriteJob) {
        debug_assert!(job.is_done());
        if let Some(frame) = job.data.take() {
            self.data_written(frame);
        }
        let Some((large, _)) = job.chunk.take() else { return };
        // Nothing is known of the write if everything was forgotten meanwhile.
        let Some((_, _, given_up)) = self.in_write.take() else { return };
        if large.sent == large.payload.len() {
            return self.response_ends(&large);
        }
        if given_up {
            self.response_ends(&large);
            self.large_bytes -= large.payload.len() - large.sent;
            // For a request, `cancel` has queued the cancel already.
            if large.head.is_none() {
                Header { length: 0, kind: Kind::ResponseAbort, flags: 0, call: large.call }.encode(&mut self.batch);
            }
        } else {
            self.queued_large.insert((large.kind(), large.call));
            self.large.insert(self.large.len().min(INTERLEAVED_MAX - 1), large);
        }
    }

    fn data_written(&mut self, frame: DataFrame) {
        // As below: nothing is known if everything was forgotten.
        let Some(DataInWrite { kind, call, given_up, is_last }) = self.data_in_write.take() else { return };
        if given_up {
            return;
        }
        match kind {
            // The tail of the last frame has said how it ended.
            Kind::PullData if is_last => self.sent.push(call),
            Kind::PullData if frame.withdrawn => {
                self.batch.extend_from_slice(&end_frame(call, Refusal::Revoked.code()));
                self.sent.push(call);
            }
            Kind::PushData if frame.withdrawn => self.withdrawn.push(call),
            _ if is_last => {}
            _ => self.data.push_back(frame.data),
        }
    }

    fn push_large(&mut self, large: Large) {
        self.large_bytes += large.payload.len();
        if large.head.is_none() {
            self.large_responses += large.payload.len();
        }
        self.queued_large.insert((large.kind(), large.call));
        self.large.push_back(large);
    }

    /// Writes the frame header of the next chunk of `large`; returns where in the payload the chunk ends.
    fn cut(&self, large: &Large, out: &mut Vec<u8>) -> usize {
        let left = large.payload.len() - large.sent;
        let first = large.sent == 0;
        let fixed = if first && large.head.is_some() { RequestHead::LEN } else { 0 };
        let more = fixed + left > self.max_frame;
        let prefix = fixed + if first && more { 8 } else { 0 };
        let size = left.min(self.max_frame - prefix);
        let kind = match (large.kind(), first) {
            (kind, true) => kind,
            (Kind::Request, false) => Kind::RequestChunk,
            (_, false) => Kind::ResponseChunk,
        };
        let mut flags = if more { Header::MORE } else { 0 };
        if first && large.head.is_some_and(|head| head.one_way) {
            flags |= Header::ONE_WAY;
        }
        Header { length: (prefix + size) as u32, kind, flags, call: large.call }.encode(out);
        if let (true, Some(head)) = (first, &large.head) {
            head.encode(out);
        }
        if first && more {
            out.extend_from_slice(&(large.payload.len() as u64).to_le_bytes());
        }
        large.sent + size
    }

    /// Drops the queued rest of a large message. `true` if no byte of it was cut, so that the peer need not know, or
    /// if the write under way will tell it.
    fn give_up(&mut self, kind: Kind, call: u64) -> bool {
        if let Some((writing, id, given_up)) = &mut self.in_write
            && (*writing, *id) == (kind, call)
        {
            *given_up = true;
            // A response needs no more than that. A request may be whole after this write: then only a cancel helps.
            return kind == Kind::Response;
        }
        if !self.queued_large.remove(&(kind, call)) {
            return false;
        }
        let Some(at) = self.large.iter().position(|large| large.kind() == kind && large.call == call) else {
            return false;
        };
        let Some(large) = self.large.remove(at) else { return false };
        self.large_bytes -= large.payload.len() - large.sent;
        self.response_ends(&large);
        large.sent == 0
    }

    /// Nothing more of a large message is to be written.
    fn response_ends(&mut self, large: &Large) {
        if large.head.is_none() {
            self.large_responses -= large.payload.len();
        }
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;

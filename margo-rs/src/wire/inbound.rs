//! The receiving half of a connection: bytes in, whole messages out.

use super::arriving::{DIRECT_MIN, Data, Message, RESERVE_STEP, Sort};
use super::budget::Budget;
use super::event::{Event, Refusal};
use super::frame::{Header, Kind, Loan, RequestHead, TransferHead, WireError};
use crate::buffer::{Buffer, Payload};
use crate::bulk::{Direction, Window};
use std::collections::HashMap;
use std::sync::Arc;

/// What this side lets the peer send.
#[derive(Debug, Clone, Copy)]
pub struct InboundLimits {
    /// Largest frame body, in bytes.
    pub max_frame: u32,
    /// Largest payload of one message, in bytes.
    pub max_message: u64,
    /// Payload bytes of all partly received requests together.
    pub max_bytes: u64,
    /// Messages that may be partly received at a time.
    pub max_messages: usize,
}

/// Reassembles messages from whatever pieces the bytes arrive in.
///
/// Memory held is bounded by what was received plus one step of `RESERVE_STEP`, never by what a peer announced.
#[derive(Debug)]
pub struct Inbound {
    limits: InboundLimits,
    /// Shared with the other connections of the engine.
    budget: Arc<Budget>,
    /// The first bytes of a frame that is not whole yet; shorter than `DIRECT_MIN` plus two headers.
    stash: Vec<u8>,
    /// The message whose frame body is being read, and how much of that body is missing.
    body: Option<(Message, usize)>,
    /// Or the bulk data.
    data: Option<Data>,
    /// Chunked messages between two of their chunks, by sort and call.
    partial: HashMap<(Sort, u64), Message>,
    /// Bytes of begun requests, counted when their frame begins; claimed from the budget too.
    claimed: u64,
}

impl Inbound {
    /// An empty receiver.
    pub fn new(limits: InboundLimits, budget: Arc<Budget>) -> Self {
        Self { limits, budget, stash: Vec::new(), body: None, data: None, partial: HashMap::new(), claimed: 0 }
    }

    /// Whether a message or frame has begun and is not whole.
    pub fn is_mid_message(&self) -> bool {
        !self.stash.is_empty() || self.body.is_some() || self.data.is_some() || !self.partial.is_empty()
    }

    /// Where the next bytes may be read to without a copy, if they are bulk data: a window, from where on, and how many
    /// bytes at most. Call [`Inbound::data_done`] with the number read.
    pub fn direct_data(&self) -> Option<(&Window, u64, usize)> {
        let data = self.data.as_ref()?;
        let (window, at) = data.target.as_ref()?;
        (!window.is_shared()).then_some((window, *at, data.missing))
    }

    /// Says how many bytes were read to where [`Inbound::direct_data`] said.
    pub fn data_done(&mut self, count: usize, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(data) = &mut self.data else { return };
        debug_assert!(count <= data.missing);
        data.missing -= count;
        if let Some((_, at)) = &mut data.target {
            *at += count as u64;
        }
        self.end_data_if_whole(sink);
    }

    /// The region that [`Inbound::direct_data`] named was taken back: the rest is thrown away.
    pub fn data_withdrawn(&mut self) {
        if let Some(data) = &mut self.data {
            data.target = None;
        }
    }

    fn end_data_if_whole(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        if let Some(data) = self.data.take_if(|data| data.missing == 0)
            && data.wanted
        {
            sink(Event::DataEnds(data.direction, data.call, data.length, data.target.is_some()));
        }
    }

    /// Starts the body of a data frame, of which `body` is there.
    fn begin_data(&mut self, header: Header, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) {
        let direction = if header.kind == Kind::PullData { Direction::Pull } else { Direction::Push };
        let (call, length) = (header.call, u64::from(header.length));
        let mut target = None;
        sink(Event::DataBegins(direction, call, length, &mut target));
        let wanted = target.is_some();
        let mut data = Data { direction, call, length, missing: header.length as usize, target, wanted };
        data.take(body);
        self.data = Some(data);
        self.end_data_if_whole(sink);
    }

    /// Where the next bytes may be read to without a copy: a vector to append to, and how many bytes at most.
    /// Call [`Inbound::direct_done`] with the number appended.
    pub fn direct(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let (message, missing) = self.body.as_mut()?;
        if message.discard || *missing < DIRECT_MIN {
            return None;
        }
        let bytes = message.bytes.vec_mut();
        bytes.reserve((*missing).min(RESERVE_STEP));
        Some((bytes, *missing))
    }

    /// Says how many bytes were appended to what [`Inbound::direct`] returned.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn direct_done(&mut self, appended: usize, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), WireError> {
        let Some((message, missing)) = self.body.as_mut() else { return Ok(()) };
        debug_assert!(appended <= *missing);
        message.received += appended as u64;
        *missing -= appended;
        if *missing == 0 { self.end_body(sink) } else { Ok(()) }
    }

    /// Takes received bytes in and hands whole messages to `sink`, in the order in which they end.
    ///
    /// # Errors
    /// The peer broke the protocol; nothing more may be handed in.
    pub fn handle(&mut self, data: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), WireError> {
        self.handle_while(data, sink, &|| true).map(|_| ())
    }

    /// As [`Inbound::handle`], for as long as `go_on` says so before each frame. Returns how many bytes were taken in;
    /// the others are to be handed in again.
    ///
    /// # Errors
    /// The peer broke the protocol; nothing more may be handed in.
    pub fn handle_while(
        &mut self,
        mut data: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
        go_on: &dyn Fn() -> bool,
    ) -> Result<usize, WireError> {
        let all = data.len();
        while !data.is_empty() && go_on() {
            if let Some(bulk) = self.data.as_mut() {
                let (now, rest) = data.split_at(data.len().min(bulk.missing));
                bulk.take(now);
                data = rest;
                self.end_data_if_whole(sink);
            } else if let Some((message, missing)) = self.body.as_mut() {
                let (now, rest) = data.split_at(data.len().min(*missing));
                message.take(now);
                *missing -= now.len();
                data = rest;
                if *missing == 0 {
                    self.end_body(sink)?;
                }
            } else if self.stash.is_empty() {
                data = self.frame_in_place(data, sink)?;
            } else {
                data = self.fill_stash(data, sink)?;
            }
        }
        Ok(all - data.len())
    }

    /// Handles the frame that `data` starts with; what is not whole goes to the stash or begins a body.
    fn frame_in_place<'a>(&mut self, data: &'a [u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<&'a [u8], WireError> {
        let Some((head, rest)) = data.split_first_chunk::<{ Header::LEN }>() else {
            self.stash.extend_from_slice(data);
            return Ok(&[]);
        };
        let header = Header::decode(head, self.limits.max_frame)?;
        let length = header.length as usize;
        if rest.len() >= length {
            let (body, rest) = rest.split_at(length);
            self.frame(header, body, sink)?;
            return Ok(rest);
        }
        if header.kind.is_bulk_data() {
            self.begin_data(header, rest, sink);
        } else if length >= DIRECT_MIN && rest.len() >= header.prefix_len() {
            self.begin_body(header, rest, sink)?;
        } else {
            self.stash.extend_from_slice(data);
        }
        Ok(&[])
    }

    /// Completes the stashed frame as far as it must be, then handles it.
    fn fill_stash<'a>(&mut self, data: &'a [u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<&'a [u8], WireError> {
        let mut wanted = Header::LEN;
        let mut header = None;
        if let Some(head) = self.stash.first_chunk::<{ Header::LEN }>() {
            let decoded = Header::decode(head, self.limits.max_frame)?;
            let length = decoded.length as usize;
            wanted += if length >= DIRECT_MIN { decoded.prefix_len() } else { length };
            header = Some(decoded);
        }
        let missing = wanted - self.stash.len();
        let (now, rest) = data.split_at(missing.min(data.len()));
        self.stash.extend_from_slice(now);
        if self.stash.len() < wanted {
            return Ok(rest);
        }
        let Some(header) = header else {
            // Only the header is whole. A frame without a body ends right here; others go on in the next round.
            let Some(head) = self.stash.first_chunk::<{ Header::LEN }>() else { return Ok(rest) };
            let header = Header::decode(head, self.limits.max_frame)?;
            if header.length == 0 {
                self.stash.clear();
                self.frame(header, &[], sink)?;
            } else if header.kind.is_bulk_data() {
                self.stash.clear();
                self.begin_data(header, &[], sink);
            }
            return Ok(rest);
        };
        let mut stash = std::mem::take(&mut self.stash);
        let result = if header.length as usize >= DIRECT_MIN {
            self.begin_body(header, &stash[Header::LEN..], sink)
        } else {
            self.frame(header, &stash[Header::LEN..], sink)
        };
        stash.clear();
        self.stash = stash;
        result.map(|()| rest)
    }

    /// A whole frame.
    fn frame(&mut self, header: Header, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), WireError> {
        match header.kind {
            Kind::Request if !header.more() => {
                let (head, payload) = split_request(&header, body)?;
                if payload.len() as u64 > self.limits.max_message {
                    let refusal = Refusal::TooLarge { size: payload.len() as u64, max: self.limits.max_message };
                    sink(Event::RequestRefused(header.call, head, refusal));
                } else {
                    sink(Event::Request(header.call, head, Payload::Borrowed(payload)));
                }
            }
            Kind::Response if !header.more() => {
                if self.partial.contains_key(&(Sort::Response, header.call)) {
                    return Err(WireError::Chunk { call: header.call, what: "response begun twice" });
                }
                if body.len() as u64 > self.limits.max_message {
                    let refusal = Refusal::TooLarge { size: body.len() as u64, max: self.limits.max_message };
                    sink(Event::ResponseRefused(header.call, refusal));
                } else {
                    sink(Event::Response(header.call, Payload::Borrowed(body)));
                }
            }
            Kind::Cancel => {
                self.forget(Sort::Request, header.call);
                sink(Event::Cancel(header.call));
            }
            Kind::ResponseAbort => self.forget(Sort::Response, header.call),
            Kind::GoAway => sink(Event::GoAway),
            Kind::Pull | Kind::Push | Kind::Borrow | Kind::Lend => {
                let (Some((head, loan)), call) = (body.split_first_chunk(), header.call) else {
                    return Err(WireError::FrameTooShort { kind: header.kind as u8, length: header.length });
                };
                let head = TransferHead::decode(head);
                sink(match (header.kind, loan.first_chunk()) {
                    (Kind::Pull, _) => Event::Transfer(call, Direction::Pull, head),
                    (Kind::Borrow, _) => Event::Borrow(call, head),
                    (Kind::Lend, Some(loan)) => Event::Lend(call, head, Loan::decode(loan)),
                    _ => Event::Transfer(call, Direction::Push, head),
                });
            }
            Kind::Lent => {
                let Some(loan) = body.first_chunk() else {
                    return Err(WireError::FrameTooShort { kind: header.kind as u8, length: header.length });
                };
                sink(Event::Lent(header.call, Loan::decode(loan)));
            }
            Kind::LoanEnd => sink(Event::LoanEnd(header.call)),
            Kind::LoanReturn => sink(Event::LoanReturn(header.call)),
            Kind::PushReady => sink(Event::PushReady(header.call)),
            Kind::TransferEnd => {
                let Some(code) = body.first_chunk() else {
                    return Err(WireError::FrameTooShort { kind: header.kind as u8, length: header.length });
                };
                sink(Event::TransferEnd(header.call, u32::from_le_bytes(*code)));
            }
            Kind::TransferCancel => sink(Event::TransferCancel(header.call)),
            Kind::PushData | Kind::PullData => self.begin_data(header, body, sink),
            _ => {
                self.begin_body(header, body, sink)?;
                if self.body.as_ref().is_some_and(|(_, missing)| *missing == 0) {
                    self.end_body(sink)?;
                }
            }
        }
        Ok(())
    }

    /// Starts a frame body that goes to a message; `body` is what is there of it, at least the prefix.
    fn begin_body(&mut self, header: Header, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), WireError> {
        let call = header.call;
        let (mut message, payload) = match header.kind {
            Kind::Request => {
                let (head, rest) = split_request(&header, body)?;
                self.start(header, Some(head), rest, sink)?
            }
            Kind::Response => self.start(header, None, body, sink)?,
            Kind::RequestChunk | Kind::ResponseChunk => {
                let sort = if header.kind == Kind::RequestChunk { Sort::Request } else { Sort::Response };
                let Some(mut message) = self.partial.remove(&(sort, call)) else {
                    return Err(WireError::Chunk { call, what: "never started" });
                };
                message.more = header.more();
                (message, body)
            }
            kind => return Err(WireError::FrameTooShort { kind: kind as u8, length: header.length }),
        };
        let here = header.length as usize - (body.len() - payload.len());
        let end = message.received + here as u64;
        if end > message.total || (!message.more && end != message.total) || (message.more && here == 0) {
            return Err(WireError::Chunk { call, what: "size differs from the one announced" });
        }
        self.claim(&mut message, here as u64, sink);
        message.take(payload);
        self.body = Some((message, here - payload.len()));
        Ok(())
    }

    /// A new message, refused or accepted.
    fn start<'a>(
        &mut self,
        header: Header,
        head: Option<RequestHead>,
        rest: &'a [u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(Message, &'a [u8]), WireError> {
        let call = header.call;
        let prefix = header.prefix_len() - if head.is_some() { RequestHead::LEN } else { 0 };
        let (announced, payload) = rest.split_at(prefix);
        let chunked = header.more();
        let total = match announced.first_chunk::<8>() {
            Some(total) => u64::from_le_bytes(*total),
            None => header.length as u64 - header.prefix_len() as u64,
        };
        let mut message = Message {
            call,
            head,
            total,
            received: 0,
            bytes: Buffer::with_room(total as usize),
            claimed: 0,
            discard: false,
            more: chunked,
        };
        if self.partial.contains_key(&(message.sort(), call)) {
            return Err(WireError::Chunk { call, what: "begun twice" });
        }
        if total > self.limits.max_message {
            message.discard = true;
            let refusal = Refusal::TooLarge { size: total, max: self.limits.max_message };
            sink(match head {
                Some(head) => Event::RequestRefused(call, head, refusal),
                None => Event::ResponseRefused(call, refusal),
            });
        } else if head.is_none() {
            let mut wanted = false;
            sink(Event::ResponseBegins(call, &mut wanted));
            message.discard = !wanted;
        }
        if chunked && self.partial.len() >= self.limits.max_messages {
            return Err(WireError::TooManyMessages(self.limits.max_messages));
        }
        Ok((message, payload))
    }

    fn end_body(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), WireError> {
        let Some((message, _)) = self.body.take() else { return Ok(()) };
        if message.more {
            self.partial.insert((message.sort(), message.call), message);
            return Ok(());
        }
        if message.discard {
            return Ok(());
        }
        self.unclaim(message.claimed);
        let payload = Payload::Owned(message.bytes);
        sink(match message.head {
            Some(head) => Event::Request(message.call, head, payload),
            None => Event::Response(message.call, payload),
        });
        Ok(())
    }

    fn forget(&mut self, sort: Sort, call: u64) {
        if let Some(message) = self.partial.remove(&(sort, call)) {
            self.unclaim(message.claimed);
        }
    }

    /// Makes room for the next `bytes` of a request, or gives the request up. Only what really arrives counts, up to one
    /// frame: an announcement alone must not take room from others.
    fn claim(&mut self, message: &mut Message, bytes: u64, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(head) = message.head.filter(|_| !message.discard) else { return };
        if self.claimed.saturating_add(bytes) <= self.limits.max_bytes && self.budget.claim(bytes) {
            self.claimed += bytes;
            message.claimed += bytes;
            return;
        }
        self.unclaim(std::mem::take(&mut message.claimed));
        message.discard = true;
        message.bytes = Buffer::default();
        sink(Event::RequestRefused(message.call, head, Refusal::Overloaded));
    }

    fn unclaim(&mut self, bytes: u64) {
        self.claimed -= bytes;
        self.budget.release(bytes);
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.budget.release(self.claimed);
    }
}

fn split_request<'a>(header: &Header, body: &'a [u8]) -> Result<(RequestHead, &'a [u8]), WireError> {
    let Some((head, rest)) = body.split_first_chunk::<{ RequestHead::LEN }>() else {
        return Err(WireError::FrameTooShort { kind: header.kind as u8, length: header.length });
    };
    Ok((RequestHead::decode(head, header)?, rest))
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;

//! Transfers that we make over a link: asking the owner, moving the bytes, and saying that it is over.
//!
//! An owner of this crate is asked first ([`Kind::Grant`]). From any other, the bytes are moved with what its descriptor
//! says, as programs in C do it: nobody but the network checks that, where it does.

use super::super::bulk::Bulk;
use super::super::bulk::{Ended, Operation, Part, Way};
use super::super::envelope::{Answer, Head, Kind, TUNNEL, TUNNEL_ONE_WAY, Wish};
use super::super::fabric::{Addr, Code, Replies, explain, is_network_error};
use super::super::registration::Registered;
use super::{MercuryLink, lost, state};
use crate::bulk::{Foreign, Refusal, Transfer, TransferError, Withdrawn};
use crate::transport::{CallId, LinkError};
use mochi_sys::mercury::{HG_INVALID_ARG, HG_PERMISSION, HG_SUCCESS};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::vec;

/// Operations of one transfer in flight at a time. Only memory in many segments needs more than one.
const OPERATIONS_MAX: usize = 16;

/// The transfers of a link.
#[derive(Default)]
pub(super) struct Moves {
    /// Begun before it was known whom they go to.
    waiting: Mutex<Vec<(CallId, Transfer)>>,
    table: Mutex<HashMap<u64, Arc<Move>>>,
}

/// A transfer.
struct Move {
    call: CallId,
    link: Weak<MercuryLink>,
    link_id: u64,
    peer: Arc<Addr>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// There until it is known whether it may be made.
    transfer: Option<Transfer>,
    /// The owner keeps its memory for it.
    granted: bool,
    /// Nobody wants to know how it ends.
    cancelled: bool,
    way: Option<Way>,
    parts: vec::IntoIter<Part>,
    running: Vec<Arc<Operation>>,
    failed: Option<Code>,
}

impl Moves {
    pub(super) fn is_busy(&self) -> bool {
        !self.table.lock().is_empty()
    }

    /// Takes back a transfer. `false` if it is none of these.
    pub(super) fn cancel(&self, call: CallId) -> bool {
        let waiting = {
            let mut waiting = self.waiting.lock();
            waiting.iter().position(|(waiting, _)| *waiting == call).map(|at| waiting.swap_remove(at))
        };
        if waiting.is_some() {
            return true;
        }
        let found = self.table.lock().get(&call.0).cloned();
        found.inspect(|found| found.cancel()).is_some()
    }

    /// The link has ended.
    pub(super) fn abandon(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let table = std::mem::take(&mut *self.table.lock());
        drop(waiting);
        table.values().for_each(|found| found.cancel());
    }

    fn remove(&self, call: CallId) -> bool {
        let removed = self.table.lock().remove(&call.0);
        removed.is_some()
    }
}

impl MercuryLink {
    /// Begins a transfer, now or when the link is up.
    pub(super) fn begin_transfer(&self, call: CallId, transfer: Transfer) -> Result<(), TransferError> {
        if self.state() == state::CONNECTING {
            let mut waiting = self.moves.waiting.lock();
            if self.state() == state::CONNECTING {
                waiting.push((call, transfer));
                return Ok(());
            }
        }
        self.ask_or_move(call, transfer)
    }

    /// Begins those that waited for the link. Inside of the transport's poll.
    pub(super) fn begin_waiting_transfers(&self) {
        let waiting = std::mem::take(&mut *self.moves.waiting.lock());
        for (call, transfer) in waiting {
            if let (Err(error), Some(events)) = (self.ask_or_move(call, transfer), self.events()) {
                events.on_transferred(call, Err(error));
            }
        }
    }

    fn ask_or_move(&self, call: CallId, transfer: Transfer) -> Result<(), TransferError> {
        // Without an address the link is lost: whoever waits is told so.
        let Some(peer) = self.addr.lock().clone() else { return Ok(()) };
        let key = transfer.remote.descriptor.key().copied().filter(|_| self.state() == state::KIN);
        let direction = transfer.direction;
        let whole = (transfer.whole.start, transfer.whole.end - transfer.whole.start);
        let piece = (transfer.remote.offset, transfer.local.len());
        let progress = Mutex::new(Progress { transfer: Some(transfer), ..Progress::default() });
        let begun = Arc::new(Move { call, link: self.this.clone(), link_id: self.id, peer, progress });
        self.moves.table.lock().insert(call.0, begun.clone());
        if self.state() == state::LOST {
            self.moves.remove(call);
            return Ok(());
        }
        let Some(key) = key else {
            return begun.set_off(self).inspect_err(|_| {
                self.moves.remove(call);
            });
        };
        let wish = Wish { key, whole, piece }.encode();
        let head = Head { link: self.id, call: call.0, kind: Kind::Grant(direction) };
        match self.send(TUNNEL.as_u64(), false, call.0, &head.encode(), &wish) {
            Err(code) if is_network_error(code) => self.lose(lost(code), false),
            Err(code) => {
                self.moves.remove(call);
                return Err(failed(code));
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// Ends a transfer that was over before it began. Inside of the transport's poll. `false` if it is none.
    pub(super) fn finish_transfer(&self, call: CallId) -> bool {
        let found = self.moves.table.lock().get(&call.0).cloned();
        found.inspect(|found| found.finish()).is_some()
    }

    /// Whether a request is the question for a grant.
    pub(super) fn asks_for_grant(&self, call: u64) -> bool {
        self.moves.table.lock().contains_key(&call)
    }

    /// The owner has said whether a transfer may be made.
    pub(super) fn on_verdict(&self, call: u64, reply: Result<&[u8], Code>) {
        let sent = self.outgoing.lock().remove(&call);
        let asked = self.moves.table.lock().get(&call).cloned();
        let (Some(_), Some(asked)) = (sent, asked) else { return };
        let verdict = match reply.map(Answer::decode) {
            Err(code) if is_network_error(code) => return self.lose(lost(code), false),
            Err(code) => Err(failed(code)),
            Ok(Some((Answer::Response, &[0, 0, 0, 0]))) => Ok(()),
            Ok(Some((Answer::Response, &[a, b, c, d]))) => {
                let code = u32::from_le_bytes([a, b, c, d]);
                let unknown = || TransferError::Failed(format!("the owner refuses, for a reason unknown here: {code}"));
                Err(Refusal::from_code(code).map_or_else(unknown, TransferError::Refused))
            }
            Ok(Some((Answer::Gone, _))) => {
                return self.lose(LinkError::Lost("the peer has ended it".to_owned()), true);
            }
            Ok(_) => return self.lose(LinkError::Lost("the peer answered nonsense".to_owned()), true),
        };
        let result = verdict.and_then(|()| {
            asked.progress.lock().granted = true;
            asked.set_off(self)
        });
        if let Err(error) = result {
            asked.end(Err(error));
        }
    }
}

impl Move {
    /// Begins to move the bytes. An error is to be told; else the end comes by [`Move::end`].
    fn set_off(self: &Arc<Self>, link: &MercuryLink) -> Result<(), TransferError> {
        let mut progress = self.progress.lock();
        let Some(transfer) = progress.transfer.take() else { return Ok(()) };
        if let Some(shared) = link.shared.upgrade() {
            shared.stir();
        }
        if !progress.cancelled && !transfer.local.is_empty() {
            let (way, parts) = self.way(link, &transfer)?;
            progress.way = Some(way);
            progress.parts = parts.into_iter();
        } else if !progress.cancelled {
            self.remote(link, &transfer)?;
        }
        if self.go_on(&mut progress)
            && let (Some(shared), Some(link)) = (link.shared.upgrade(), self.link.upgrade())
        {
            // The caller is told inside of the transport's poll.
            shared.defer(link, self.call, progress.failed.unwrap_or(HG_SUCCESS));
        }
        Ok(())
    }

    /// The remote end as its descriptor describes it.
    fn remote<'a>(&self, link: &MercuryLink, transfer: &'a Transfer) -> Result<Foreign<'a>, TransferError> {
        let remote = &transfer.remote;
        let bytes = remote.descriptor.mercury_bytes().ok_or(TransferError::OtherTransport)?;
        let malformed = |what| TransferError::Failed(format!("malformed bulk descriptor: {what}"));
        let foreign = Foreign::read(bytes).map_err(malformed)?;
        if !foreign.is_consistent(link.plugin()) {
            return Err(malformed("its memory handles are not those of this transport, or lie"));
        }
        if !foreign.permission().allows(transfer.direction) {
            return Err(Refusal::WrongDirection.into());
        }
        if remote.offset.checked_add(transfer.local.len()).is_none_or(|end| end > foreign.len()) {
            return Err(Refusal::OutOfBounds.into());
        }
        Ok(foreign)
    }

    fn way(&self, link: &MercuryLink, transfer: &Transfer) -> Result<(Way, Vec<Part>), TransferError> {
        let foreign = self.remote(link, transfer)?;
        let (direction, window) = (transfer.direction, &transfer.local);
        let fabric = self.peer.fabric();
        if fabric.is_own(&self.peer) {
            // Mercury would copy between addresses of this process, with those in the descriptor as they are.
            return Err(TransferError::Failed("the peer claims to be at this engine's own address".to_owned()));
        }
        let registered = window.with_registration(|registration, start| {
            let registered = registration.and_then(|it| it.as_any().downcast_ref::<Registered>());
            let registered =
                registered.ok_or_else(|| TransferError::Failed("the memory is unknown here".to_owned()))?;
            let local = registered.local(direction).map_err(failed)?;
            Ok::<_, TransferError>((local, start, registered.lengths().collect::<Vec<_>>()))
        });
        let (local, start, lengths) = registered.map_err(|Withdrawn| TransferError::LocalRevoked)??;
        let pinned = Arc::new(window.pin().map_err(|Withdrawn| TransferError::LocalRevoked)?);
        let remote = Bulk::remote(fabric, &foreign.trimmed()).map_err(failed)?;
        let whole = Part { remote: transfer.remote.offset, local: start, length: window.len() };
        let parts = if foreign.is_one_piece() && (lengths.len() == 1 || local.is_one_piece()) {
            vec![whole]
        } else {
            split(whole, foreign.lengths(), lengths.into_iter())
        };
        Ok((Way { direction, peer: self.peer.clone(), remote, local, _pinned: pinned }, parts))
    }

    /// Begins as many operations as may be in flight. `true` if all is over.
    fn go_on(self: &Arc<Self>, progress: &mut Progress) -> bool {
        progress.running.retain(|operation| !operation.is_over());
        while let (None, false, Some(way)) = (progress.failed, progress.cancelled, &progress.way) {
            if progress.running.len() >= OPERATIONS_MAX {
                return false;
            }
            let Some(part) = progress.parts.next() else { break };
            match Operation::begin(way, part, self.clone()) {
                Ok(operation) => progress.running.push(operation),
                Err(code) => progress.failed = Some(code),
            }
        }
        if progress.running.is_empty() {
            progress.way = None;
        }
        progress.running.is_empty()
    }

    fn cancel(&self) {
        let mut progress = self.progress.lock();
        progress.cancelled = true;
        for operation in &progress.running {
            operation.cancel();
        }
    }

    /// All operations have ended.
    fn finish(&self) {
        let failure = self.progress.lock().failed.take();
        if let (Some(code), Some(link)) = (failure.filter(|code| is_network_error(*code)), self.link.upgrade()) {
            link.lose(lost(code), false);
        }
        self.end(failure.map_or(Ok(()), |code| Err(failed(code))));
    }

    /// It is over, and nothing of it touches memory any more.
    fn end(&self, result: Result<(), TransferError>) {
        let link = self.link.upgrade();
        let listed = link.as_ref().is_some_and(|link| link.moves.remove(self.call));
        let (granted, cancelled) = {
            let mut progress = self.progress.lock();
            (std::mem::take(&mut progress.granted), progress.cancelled)
        };
        if granted {
            self.release();
        }
        if let (true, false, Some(events)) = (listed, cancelled, link.and_then(|link| link.events())) {
            events.on_transferred(self.call, result);
        }
    }

    /// Tells the owner that its memory is free again; also after the link has ended.
    fn release(&self) {
        let head = Head { link: self.link_id, call: self.call.0, kind: Kind::Release };
        let request = self.peer.fabric().request(&self.peer, TUNNEL_ONE_WAY.as_u64(), true);
        let sent = request.and_then(|request| request.send(&head.encode(), &[], Arc::new(Nobody), 0));
        if let Err(code) = sent {
            tracing::debug!(reason = explain(code), "a peer cannot be told that a transfer is over");
        }
    }
}

impl Ended for Move {
    fn on_ended(self: Arc<Self>, result: Result<(), Code>) {
        let mut progress = self.progress.lock();
        if let Err(code) = result {
            progress.failed.get_or_insert(code);
        }
        let over = self.go_on(&mut progress);
        drop(progress);
        if over {
            self.finish();
        }
    }
}

/// Takes replies that nobody waits for.
struct Nobody;

impl Replies for Nobody {
    fn on_reply(&self, _: u64, _: Result<&[u8], Code>) {}
}

fn failed(code: Code) -> TransferError {
    match code {
        HG_PERMISSION => Refusal::WrongDirection.into(),
        HG_INVALID_ARG => TransferError::Failed("the network refuses the transfer's arguments".to_owned()),
        code => TransferError::Failed(explain(code)),
    }
}

/// Cuts a transfer where a segment of either end ends. Mercury would do so, too; but what it has begun of several
/// operations when one of them fails is known to nobody.
fn split(whole: Part, remote: impl Iterator<Item = u64>, local: impl Iterator<Item = u64>) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut remote, mut local) = (ends(remote), ends(local));
    let (mut remote_end, mut local_end) = (0, 0);
    let mut done = 0;
    while done < whole.length {
        let (at, here) = (whole.remote + done, whole.local + done);
        while remote_end <= at {
            remote_end = remote.next().unwrap_or(u64::MAX);
        }
        while local_end <= here {
            local_end = local.next().unwrap_or(u64::MAX);
        }
        let length = (remote_end - at).min(local_end - here).min(whole.length - done);
        parts.push(Part { remote: at, local: here, length });
        done += length;
    }
    parts
}

/// Where each segment ends.
fn ends(lengths: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    lengths.scan(0u64, |end, length| {
        *end = end.saturating_add(length);
        Some(*end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cross_no_border_and_are_all_of_it(
            remote in proptest::collection::vec(0u64..20, 1..10),
            local in proptest::collection::vec(0u64..20, 1..10),
            offsets in (0u64..100, 0u64..100),
            length in 0u64..100,
        ) {
            let (there, here): (u64, u64) = (remote.iter().sum(), local.iter().sum());
            let whole = Part { remote: offsets.0.min(there), local: offsets.1.min(here), length };
            let whole = Part { length: length.min(there - whole.remote).min(here - whole.local), ..whole };
            let parts = split(whole, remote.iter().copied(), local.iter().copied());
            let mut done = 0;
            for part in parts {
                prop_assert_eq!((part.remote, part.local), (whole.remote + done, whole.local + done));
                prop_assert!(part.length > 0);
                for (start, lengths) in [(part.remote, &remote), (part.local, &local)] {
                    let crossed = ends(lengths.iter().copied()).any(|end| start < end && end < start + part.length);
                    prop_assert!(!crossed, "{part:?}");
                }
                done += part.length;
            }
            prop_assert_eq!(done, whole.length);
        }
    }
}

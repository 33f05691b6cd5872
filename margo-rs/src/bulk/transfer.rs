//! Transfers between a local region and a remote one.

use super::descriptor::BulkDescriptor;
use super::error::{BulkError, Refusal};
use super::layout::is_within;
use super::memory::Memory;
use super::region::Region;
use super::store::{Access, Store, Window};
use super::table::Direction;
use crate::client::{Peer, RawCall};
use crate::engine::Core;
use crate::error::{CallError, ConnectError};
use crate::limits::deadline_after;
use crate::transport;
use std::fmt;
use std::future::Future;
use std::ops::{Bound, Range, RangeBounds};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Pieces of one transfer in flight at a time.
const PIECES_MAX: usize = 8;

/// A part of a remote region.
#[derive(Debug, Clone)]
pub struct RemoteRange {
    /// Which region.
    pub descriptor: BulkDescriptor,
    /// Where the range starts in it, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl From<&BulkDescriptor> for RemoteRange {
    fn from(descriptor: &BulkDescriptor) -> Self {
        descriptor.slice(..)
    }
}

/// A part of a local region.
#[derive(Clone)]
pub struct LocalRange {
    store: Arc<Store>,
    offset: u64,
    length: u64,
    lent: bool,
}

impl LocalRange {
    pub(crate) fn new(store: Arc<Store>, offset: u64, length: u64) -> Self {
        Self { store, offset, length, lent: false }
    }

    pub(crate) fn lent(self) -> Self {
        Self { lent: true, ..self }
    }

    fn window(&self, access: Access) -> Result<Window, BulkError> {
        let (offset, length, size) = (self.offset, self.length, self.store.len());
        let outside = BulkError::LocalOutOfBounds { offset, length, size };
        if !is_within(offset, length, size) {
            return Err(outside);
        }
        if access == Access::Write && !self.store.is_writable() {
            return Err(BulkError::ReadOnlyMemory);
        }
        self.store.window(access, offset, length).ok_or(outside)
    }
}

impl<M: Memory> From<&Region<M>> for LocalRange {
    fn from(region: &Region<M>) -> Self {
        region.slice(..)
    }
}

impl fmt::Debug for LocalRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRange").field("offset", &self.offset).field("length", &self.length).finish_non_exhaustive()
    }
}

/// Offset and length of a range of something of `size` bytes. What lies outside stays outside; a range that ends before
/// it starts is longer than anything.
pub(crate) fn range_of(range: impl RangeBounds<u64>, size: u64) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => size.max(start),
    };
    (start, end.checked_sub(start).unwrap_or(u64::MAX))
}

/// What a transport is asked to move: as many bytes as `local` has.
#[derive(Debug)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// The local end: for writing in a pull, for reading in a push.
    pub local: Window,
    /// The remote end, of the same length.
    pub remote: RemoteRange,
    /// Where the remote end lies that the user asked for, of which this is a piece. Nothing is moved unless its owner
    /// grants all of it.
    pub whole: Range<u64>,
    /// Of a push: the peer may read all of the local region from now on, until it is taken back.
    pub lent: bool,
}

/// A transfer between a local and a remote region: a future that is ready when all bytes are in place.
///
/// * It starts when the future is first polled. The deadline counts from then; without [`BulkTransfer::timeout`] it is the
///   engine's default for calls.
/// * Dropping the future cancels the transfer: from then on it touches no local memory, except over Mercury, where what
///   the network is moving at that moment may still arrive; [`Region::into_inner`] waits for that. What a cancelled, failed
///   or late push has left in the remote region is unknown, and so is what a pull has left in the local one.
/// * Large transfers go in several pieces at a time. The order in which bytes get to their places is not defined.
/// * A push is done when the bytes are in the owner's memory.
///
/// Any executor will do; [`BulkTransfer::wait`] blocks without one.
#[must_use = "a transfer starts when it is awaited or waited for"]
pub struct BulkTransfer {
    timeout: Duration,
    state: State,
}

enum State {
    Failed(Box<BulkError>),
    Moving(Box<Moving>),
    Over,
}

struct Moving {
    peer: Arc<Peer>,
    direction: Direction,
    local: Window,
    remote: RemoteRange,
    lent: bool,
    piece: u64,
    deadline: Option<Instant>,
    /// How far pieces were begun.
    begun: u64,
    /// Even an empty transfer has one, so that the owner checks it.
    first: bool,
    pieces: Vec<RawCall>,
}

impl BulkTransfer {
    pub(crate) fn new(peer: Arc<Peer>, direction: Direction, remote: RemoteRange, local: LocalRange) -> Self {
        let core = peer.core().clone();
        Self::from_parts(&core, Ok(peer), direction, remote, local)
    }

    /// A transfer with whoever the descriptor names.
    pub(crate) fn with_owner(core: &Arc<Core>, direction: Direction, remote: RemoteRange, local: LocalRange) -> Self {
        let peer = owner(core, &remote.descriptor);
        Self::from_parts(core, peer, direction, remote, local)
    }

    fn from_parts(
        core: &Core,
        peer: Result<Arc<Peer>, BulkError>,
        direction: Direction,
        remote: RemoteRange,
        local: LocalRange,
    ) -> Self {
        let piece = core.transport.transfer_piece().max(1);
        let moving = peer.and_then(|peer| Moving::new(peer, direction, remote, &local, piece));
        let state = match moving {
            Ok(moving) => State::Moving(Box::new(moving)),
            Err(error) => State::Failed(Box::new(error)),
        };
        Self { timeout: core.limits.default_timeout, state }
    }

    /// Sets how long the transfer may take, from when it starts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Blocks the thread until the transfer is done.
    ///
    /// # Errors
    /// The transfer's own, and [`BulkError::WouldDeadlock`] inside an asynchronous handler on the progress thread.
    pub fn wait(mut self) -> Result<(), BulkError> {
        let timeout = self.timeout;
        let mut moving = match std::mem::replace(&mut self.state, State::Over) {
            State::Moving(moving) => moving,
            State::Failed(error) => return Err(*error),
            State::Over => panic!("transfer used after it was done"),
        };
        while moving.begin_pieces(timeout) {
            moving.pieces = moving.pieces.drain(..).map(RawCall::start).collect();
            let mut oldest = moving.pieces.remove(0);
            oldest.wait_for_outcome().map_err(|error| moving.error(*error, timeout))?;
        }
        Ok(())
    }
}

impl Moving {
    fn new(
        peer: Arc<Peer>,
        direction: Direction,
        remote: RemoteRange,
        local: &LocalRange,
        piece: u64,
    ) -> Result<Self, BulkError> {
        let lent = local.lent;
        let local = local.window(match direction {
            Direction::Pull => Access::Write,
            Direction::Push => Access::Read,
        })?;
        if remote.length != local.len() {
            return Err(BulkError::LengthMismatch { remote: remote.length, local: local.len() });
        }
        // The owner looks again; this only spares an honest user the way.
        let refused = |refusal| BulkError::Refused { peer: peer.address().clone(), refusal };
        if !is_within(remote.offset, remote.length, remote.descriptor.len()) {
            return Err(refused(Refusal::OutOfBounds));
        }
        if !remote.descriptor.permission().allows(direction) {
            return Err(refused(Refusal::WrongDirection));
        }
        Ok(Self {
            peer,
            direction,
            local,
            remote,
            lent,
            piece,
            deadline: None,
            begun: 0,
            first: true,
            pieces: Vec::new(),
        })
    }

    /// Begins as many pieces as may be in flight. `false` if none are left.
    fn begin_pieces(&mut self, timeout: Duration) -> bool {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert_with(|| deadline_after(now, timeout));
        while self.pieces.len() < PIECES_MAX && (self.first || self.begun < self.local.len()) {
            self.first = false;
            let length = (self.local.len() - self.begun).min(self.piece);
            let remote = RemoteRange {
                descriptor: self.remote.descriptor.clone(),
                offset: self.remote.offset + self.begun,
                length,
            };
            let local = self.local.part(self.begun, length);
            let whole = self.remote.offset..self.remote.offset + self.remote.length;
            let transfer = Transfer { direction: self.direction, local, remote, whole, lent: self.lent };
            let left = deadline.saturating_duration_since(now);
            self.pieces.push(RawCall::transfer(self.peer.clone(), transfer, left));
            self.begun += length;
        }
        !self.pieces.is_empty()
    }

    fn poll(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<Result<(), BulkError>> {
        while self.begin_pieces(timeout) {
            let mut ended = false;
            let mut at = 0;
            while at < self.pieces.len() {
                match self.pieces[at].poll_outcome(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(_)) => {
                        drop(self.pieces.remove(at));
                        ended = true;
                    }
                    Poll::Ready(Err(error)) => {
                        drop(self.pieces.remove(at));
                        return Poll::Ready(Err(self.error(*error, timeout)));
                    }
                }
            }
            if !ended {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn error(&self, error: CallError, timeout: Duration) -> BulkError {
        match BulkError::from_call(error, self.peer.address()) {
            // A piece only knows what was left for it.
            BulkError::DeadlineExceeded { .. } => BulkError::DeadlineExceeded { after: timeout },
            error => error,
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        // Whatever the transport still has of it touches no memory from here on.
        self.local.close();
    }
}

/// The peer that a descriptor names as its owner.
fn owner(core: &Arc<Core>, descriptor: &BulkDescriptor) -> Result<Arc<Peer>, BulkError> {
    let address = descriptor.owner().ok_or(BulkError::OwnerUnknown)?;
    if !core.is_running() {
        return Err(BulkError::ShutDown);
    }
    let ours = core.own_address();
    let Some(in_our_words) = transport::in_words_of(ours, address) else {
        let ours = ours.protocol().to_owned();
        return Err(ConnectError::OtherProtocol { address: address.clone(), ours }.into());
    };
    if core.is_listening() && in_our_words == *ours {
        return Ok(Arc::new(Peer::given(core.clone(), core.local())));
    }
    // An engine prints numbers; a name would have to be looked up here, by whoever polls.
    if !transport::is_literal(address) {
        return Err(BulkError::OwnerUnknown);
    }
    Ok(core.peer(address))
}

impl Future for BulkTransfer {
    type Output = Result<(), BulkError>;

    /// # Panics
    /// It was polled after it was done.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let timeout = self.timeout;
        let result = match &mut self.state {
            State::Moving(moving) => std::task::ready!(moving.poll(cx, timeout)),
            State::Failed(_) | State::Over => Ok(()),
        };
        match std::mem::replace(&mut self.state, State::Over) {
            State::Failed(error) => Poll::Ready(Err(*error)),
            State::Moving(_) => Poll::Ready(result),
            State::Over => panic!("transfer polled after it was done"),
        }
    }
}

impl fmt::Debug for BulkTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("BulkTransfer");
        if let State::Moving(moving) = &self.state {
            debug.field("direction", &moving.direction).field("remote", &moving.remote);
        }
        debug.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_keep_what_was_asked_for() {
        assert_eq!(range_of(.., 10), (0, 10));
        assert_eq!(range_of(3.., 10), (3, 7));
        assert_eq!(range_of(3..5, 10), (3, 2));
        assert_eq!(range_of(3..=5, 10), (3, 3));
        assert_eq!(range_of(12.., 10), (12, 0));
        assert_eq!(range_of(..=u64::MAX, 10), (0, u64::MAX));
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 5..3;
        assert_eq!(range_of(backwards, 10), (5, u64::MAX));
    }
}

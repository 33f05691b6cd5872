//! Calls of an engine to itself: no socket, the same rules.

use super::{CallId, Flush, Link, LinkEvents, PeerCredentials};
use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::bulk::{Direction, Refusal, Transfer, TransferError, Window};
use crate::wire::RequestHead;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

/// A transfer up to this size is made by whoever begins it, a larger one by a thread of its own, in bytes.
const COPIED_HERE_MAX: u64 = 1024 * 1024;
/// Bytes copied at a time, between looks at whether the transfer is still wanted.
const PIECE: u64 = 256 * 1024;

/// The link of an engine to itself: what is sent comes straight back as an event.
pub(crate) struct LoopbackLink {
    address: Address,
    events: OnceLock<Weak<dyn LinkEvents>>,
    copying: Arc<Copying>,
}

/// The transfers that run.
#[derive(Default)]
struct Copying(Mutex<HashSet<CallId>>);

impl Copying {
    fn begin(&self, call: CallId) {
        self.0.lock().insert(call);
    }

    fn is_wanted(&self, call: CallId) -> bool {
        self.0.lock().contains(&call)
    }

    /// `true` if it had not ended before.
    fn end(&self, call: CallId) -> bool {
        self.0.lock().remove(&call)
    }
}

impl LoopbackLink {
    /// A link whose events go to what [`LoopbackLink::attach`] names.
    pub(crate) fn new(address: Address) -> Self {
        Self { address, events: OnceLock::new(), copying: Arc::default() }
    }

    pub(crate) fn attach(&self, events: Weak<dyn LinkEvents>) {
        let _ = self.events.set(events);
    }

    fn events(&self) -> Option<Arc<dyn LinkEvents>> {
        self.events.get()?.upgrade()
    }
}

impl Link for LoopbackLink {
    fn peer(&self) -> &Address {
        &self.address
    }

    fn peer_credentials(&self) -> Option<PeerCredentials> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Some(PeerCredentials { uid, gid })
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, _: Flush) {
        if let Some(events) = self.events() {
            events.on_request(call, head, Payload::Owned(payload));
        }
    }

    fn respond(&self, call: CallId, payload: Buffer, _: Flush) {
        if let Some(events) = self.events() {
            events.on_response(call, Payload::Owned(payload));
        }
    }

    fn cancel(&self, call: CallId) {
        if let Some(events) = self.events() {
            events.on_cancel(call);
        }
        self.copying.end(call);
    }

    fn transfer(&self, call: CallId, transfer: Transfer, _: Flush) -> Result<(), TransferError> {
        let events = self.events().ok_or_else(|| TransferError::Failed("the engine was shut down".to_owned()))?;
        let key = transfer.remote.descriptor.key().ok_or(TransferError::OtherTransport)?;
        let (direction, length) = (transfer.direction, transfer.local.len());
        events.grant(key, direction, transfer.whole.start, transfer.whole.end - transfer.whole.start)?;
        let theirs = events.grant(key, direction, transfer.remote.offset, length)?;
        let (from, to) = match direction {
            Direction::Pull => (theirs, transfer.local),
            Direction::Push => (transfer.local, theirs),
        };
        let copying = self.copying.clone();
        copying.begin(call);
        let work = move || {
            let result = copy(&from, &to, || copying.is_wanted(call)).map_err(|end| end.seen_from(direction));
            if copying.end(call) {
                events.on_transferred(call, result);
            }
        };
        if length <= COPIED_HERE_MAX {
            work();
        } else {
            let spawned = thread::Builder::new().name("margo-copy".to_owned()).spawn(work);
            spawned.map_err(|error| TransferError::Failed(format!("no thread to copy: {error}")))?;
        }
        Ok(())
    }

    fn flush(&self) {}

    fn queued(&self) -> usize {
        0
    }

    fn close(&self, _: &str) {}
}

/// Which end of a copy was taken back.
enum Gone {
    Source,
    Target,
}

impl Gone {
    fn seen_from(self, direction: Direction) -> TransferError {
        match (self, direction) {
            (Gone::Source, Direction::Pull) | (Gone::Target, Direction::Push) => Refusal::Revoked.into(),
            (Gone::Target, Direction::Pull) | (Gone::Source, Direction::Push) => TransferError::LocalRevoked,
        }
    }
}

/// Copies for as long as it is wanted. The windows are of the same length.
fn copy(from: &Window, to: &Window, wanted: impl Fn() -> bool) -> Result<(), Gone> {
    let mut piece = vec![0; from.len().min(PIECE) as usize];
    let mut at = 0;
    while at < from.len() && wanted() {
        // By way of a buffer that stays in the cache: the two locks are never held together, so that copies in opposite
        // directions cannot wait for each other, nor one within a region for itself.
        let length = (from.len() - at).min(PIECE);
        let now = &mut piece[..length as usize];
        from.copy_out(at, now).map_err(|_| Gone::Source)?;
        to.copy_in(at, now).map_err(|_| Gone::Target)?;
        at += length;
    }
    Ok(())
}

//! Messages and bulk data of which a part has arrived.

use super::frame::RequestHead;
use crate::buffer::Buffer;
use crate::bulk::{Direction, Window};

/// A frame body at least this long is read straight into its message once its head is known, in bytes.
pub(super) const DIRECT_MIN: usize = 8 * 1024;
/// Reserved at once for a message that is still arriving, in bytes; more only as bytes really come in.
pub(super) const RESERVE_STEP: usize = 1024 * 1024;

/// The body of a data frame while it arrives.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) direction: Direction,
    pub(super) call: u64,
    pub(super) length: u64,
    pub(super) missing: usize,
    /// Where it goes, and from where on. Nowhere if nobody wants it, or its region was taken back.
    pub(super) target: Option<(Window, u64)>,
    pub(super) wanted: bool,
}

impl Data {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.missing -= bytes.len();
        let Some((window, at)) = &mut self.target else { return };
        if window.copy_in(*at, bytes).is_err() {
            self.target = None;
        } else {
            *at += bytes.len() as u64;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sort {
    Request,
    Response,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) call: u64,
    /// `None` for a response.
    pub(super) head: Option<RequestHead>,
    pub(super) total: u64,
    pub(super) received: u64,
    pub(super) bytes: Buffer,
    /// What it has claimed; 0 for responses, which nobody sends unasked and unnoticed.
    pub(super) claimed: u64,
    /// Refused: counted, not kept.
    pub(super) discard: bool,
    /// The last frame seen had the `MORE` flag.
    pub(super) more: bool,
}

impl Message {
    pub(super) fn sort(&self) -> Sort {
        if self.head.is_some() { Sort::Request } else { Sort::Response }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        if !self.discard {
            let missing = self.total.saturating_sub(self.received) as usize;
            let message = self.bytes.vec_mut();
            // Where much comes at a time, few allocations, and never more than one step ahead of what has come.
            if bytes.len() >= DIRECT_MIN && message.capacity() - message.len() < bytes.len() {
                message.reserve(bytes.len().max(missing.min(RESERVE_STEP)));
            }
            message.extend_from_slice(bytes);
        }
        self.received += bytes.len() as u64;
    }
}

//! What the receiving half of a connection makes of the bytes.

use super::frame::{Loan, RequestHead, TransferHead};
use crate::buffer::Payload;
use crate::bulk::{Direction, Window};

/// Why a message was refused; its chunks are read and thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The message is larger than the stated limit.
    TooLarge {
        /// Stated size in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Too many bytes are under way on this connection.
    Overloaded,
}

/// Something that arrived whole.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request of the peer's.
    Request(u64, RequestHead, Payload<'a>),
    /// A request that is refused before it is read.
    RequestRefused(u64, RequestHead, Refusal),
    /// The first part of a response to a call of ours. Unless the call is still wanted and `true` is put here, the rest
    /// is thrown away.
    ResponseBegins(u64, &'a mut bool),
    /// The response to a call of ours.
    Response(u64, Payload<'a>),
    /// The response to a call of ours, refused before it is read.
    ResponseRefused(u64, Refusal),
    /// The peer no longer wants the response to its call.
    Cancel(u64),
    /// The peer takes no new requests.
    GoAway,
    /// The peer wants to move data from or to a region of ours.
    Transfer(u64, Direction, TransferHead),
    /// The peer wants to pull from a region of ours, and would borrow the data.
    Borrow(u64, TransferHead),
    /// The peer wants to push into a region of ours, and lends the data.
    Lend(u64, TransferHead, Loan),
    /// The data of a pull of ours is lent.
    Lent(u64, Loan),
    /// The peer has taken back this loan of its.
    LoanEnd(u64),
    /// The peer has let go of this loan of ours.
    LoanReturn(u64),
    /// The owner waits for the data of a push of ours.
    PushReady(u64),
    /// A pull or push of ours is over, with this code.
    TransferEnd(u64, u32),
    /// The peer gives up its pull or push.
    TransferCancel(u64),
    /// This many bytes of data begin to arrive: of a pull of ours or a push of the peer's. What is put here is where they
    /// go, if anywhere.
    DataBegins(Direction, u64, u64, &'a mut Option<(Window, u64)>),
    /// This many bytes of data have arrived. They are in place if `true`; their region was taken back if not.
    DataEnds(Direction, u64, u64, bool),
}

//! Frames of the built-in transports: pure encoding and decoding, no input or output.
//!
//! Everything is little-endian. A connection starts with one [`Hello`] each way; then frames follow, each a 16-byte
//! [`Header`] and a body:
//!
//! ```text
//!  0  u32  length of the body, at most the receiver's `max_frame`
//!  4  u8   kind: 1 request, 2 response, 3 request chunk, 4 response chunk, 5 cancel, 6 response abort, 7 go away,
//!          8 pull, 9 push, 10 push ready, 11 push data, 12 pull data, 13 transfer end, 14 transfer cancel,
//!          15 borrow, 16 lend, 17 lent, 18 loan end, 19 loan return
//!  5  u8   flags: bit 0 more chunks follow, bit 1 no response wanted
//!  6  u16  zero
//!  8  u64  call id, chosen by the caller
//! ```
//!
//! A request's body starts with 16 bytes (`u64` RPC id, `u32` timeout in milliseconds or 0, `u32` zero). If more
//! chunks follow, the `u64` total payload length comes next. The rest is payload. A connection carries calls in both
//! directions: requests name the sender's calls, responses the receiver's.
//!
//! Bulk transfers are numbered in the same sequence as the calls of the side that begins them. The body of a pull or push
//! is the region's key (32 bytes), a `u64` offset and a `u64` length. For a pull the owner sends as much data in pull data
//! frames, in order, and then a transfer end with the `u32` code 0; or a transfer end with another code
//! ([`Refusal`](crate::bulk::Refusal)) and no more data. For a push of at most [`EAGER_MAX`] bytes the data follows at
//! once, for a longer one after the owner's push ready; the transfer end comes when all is in place. Data frames of
//! transfers that are not known (any more) are read and thrown away.
//!
//! Where the two share memory, data may be lent instead of sent: the receiver copies it out of the sender's memory by
//! itself. A borrow is a pull whose owner may answer with a lent: a `u64` loan, which the owner has numbered, and the `u64`
//! offset in it. A lend is a push with the same 16 bytes behind its body. Whoever gets a lent or a lend and cannot use the
//! loan asks for the data: by a pull of the same number, or by a push ready. A loan end takes a loan back; a loan return
//! says that the other side has let go of it, for that or another reason. How a loan gets to the peer is the transport's
//! matter ([`transport::sm`](crate::transport::sm)).

mod arriving;
mod backlog;
mod budget;
mod event;
mod frame;
mod held;
mod hello;
mod inbound;
mod loans;
mod outbound;
mod transfers;

pub use backlog::Backlog;
pub use budget::Budget;
pub use event::{Event, Refusal};
pub use frame::{Header, Kind, Loan, RequestHead, TransferHead, WireError};
pub use held::{Held, HeldRequest};
pub use hello::{EXTRA_LEN, HELLO_LEN, Hello, PROTOCOL_VERSION};
pub use inbound::{Inbound, InboundLimits};
pub use outbound::{DataPart, INTERLEAVED_MAX, Outbound, WriteJob};
pub use transfers::{EAGER_MAX, Transfers};

/// Largest frame body that an implementation of this version may send, in bytes.
pub const FRAME_MAX: u32 = 256 * 1024;

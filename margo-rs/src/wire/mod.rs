//! Frames of the built-in transports: pure encoding and decoding, no input or output.
//!
//! Everything is little-endian. A connection starts with one [`Hello`] each way; then frames follow, each a 16-byte
//! [`Header`] and a body:
//!
//! ```text
//!  0  u32  length of the body, at most the receiver's `max_frame`
//!  4  u8   kind: 1 request, 2 response, 3 request chunk, 4 response chunk, 5 cancel, 6 response abort, 7 go away,
//!          8 pull, 9 push, 10 push ready, 11 push data, 12 pull data, 13 transfer end, 14 transfer cancel
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

mod backlog;
mod frame;
mod held;
mod hello;
mod inbound;
mod outbound;
mod transfers;

pub use backlog::Backlog;
pub use frame::{Header, Kind, RequestHead, TransferHead, WireError};
pub use held::{Held, HeldRequest};
pub use hello::{EXTRA_LEN, HELLO_LEN, Hello, PROTOCOL_VERSION};
pub use inbound::{Budget, Event, Inbound, InboundLimits, Refusal};
pub use outbound::{DataPart, INTERLEAVED_MAX, Outbound, WriteJob};
pub use transfers::{EAGER_MAX, Transfers};

/// Largest frame body that an implementation of this version may send, in bytes.
pub const FRAME_MAX: u32 = 256 * 1024;

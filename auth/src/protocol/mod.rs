//! The protocol "hgrpc1" without input, output, clocks or randomness: bytes, random values, key pairs and the time come in
//! as arguments, messages go out.
//!
//! * [`Hello`], [`HelloReply`]: the two messages of a handshake, of one exact form each.
//! * [`client`] and [`server`]: the two sides of a handshake, begin -> (the mechanism's result) -> complete.
//! * [`HandshakeSecret`]: the key schedule.
//! * [`message`]: requests and replies of a session, sealed and opened.
//! * [`Window`]: the anti-replay window.
//! * [`BareError`], [`SealedError`]: the two kinds of errors.

pub mod client;
pub mod error;
mod hello;
mod hello_reply;
mod ids;
pub(crate) mod kdf;
pub mod message;
mod parse;
mod schedule;
mod secret;
pub mod server;
pub(crate) mod traffic;
mod transcript;
mod window;

pub use error::{BareError, SealedError};
pub use hello::{HELLO_FIXED, HELLO_MAX, Hello, SUITES_MAX, SuiteOffer};
pub use hello_reply::{FINISHED_LEN, HELLO_REP_FIXED, HELLO_REP_MAX, HelloReply, MESSAGE_LEN_MIN, Terms};
pub use ids::{MechanismId, Protection, ServerId, SessionId, Suite, Tick};
pub use parse::ParseError;
pub use schedule::{Agreed, Ephemeral, HandshakeSecret, LowOrderPoint, Psk, SessionSecrets, WrongFinished};
pub use secret::Secret;
pub use transcript::{ProofTranscript, Th1, Th2, Th3};
pub use window::{SEQ_END, Window, WindowError};

/// The first byte of every message: magic and version.
pub const MAGIC: u8 = 0xA1;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const SEALED_ERROR: u8 = 3;
const HELLO: u8 = 4;
const HELLO_REP: u8 = 5;
const BARE_ERROR: u8 = 6;
const CLOSE: u8 = 8;

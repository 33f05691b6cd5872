//! Messages of a session: a 48-byte header, a body, and a 16-byte tag. A sealed body is filled up with zeros to whole blocks
//! of 16 bytes before it is encrypted, which takes the cipher less time than half a block does.
//!
//! ```text
//!  0 u8 0xA1   1 u8 type: 1 request 2 reply 3 sealed error 8 close
//!  2 u8 flags: bit 0 sealed body, bit 1 has bulk, bit 2 large-args descriptor; others 0
//!  3 u8 key epoch (low 8 bits)          4 u32 part (0)
//!  8 16 session id                     24 u64 seq              32 u64 rpc id
//! 40 u16 provider id   42 u16 zero     44 u32 body length      48 body   48+n 16 tag
//! ```
//!
//! The tag covers the whole header. Type, flags, provider, body length and RPC id are associated data;
//! the number is in the nonce, the epoch picks the key, the session's id is in the transcript that the keys come from, and
//! the rest is constant.

use super::ids::{Protection, SessionId};
use super::parse::{ParseError, Reader};
use super::window::SEQ_END;
use super::{CLOSE, MAGIC, REPLY, REQUEST, SEALED_ERROR};

/// Bytes of the header.
pub const HEADER_LEN: usize = 48;
/// Bytes of the tag.
pub const TAG_LEN: usize = 16;
/// What a message is longer than its body, at least.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// What a message is longer than its body, at most.
pub const OVERHEAD_MAX: usize = OVERHEAD + BLOCK - 1;
/// Sealed bodies are filled up to a multiple of so many bytes.
const BLOCK: usize = 16;
/// Bytes of a header that are associated data of a sealed body.
pub const ASSOCIATED_LEN: usize = 16;

/// A message's authentication tag. No secret.
pub type Tag = [u8; TAG_LEN];

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A call.
    Request = REQUEST,
    /// Its result.
    Reply = REPLY,
    /// Its failure, see [`SealedError`](super::SealedError).
    Error = SEALED_ERROR,
    /// The client ends the session; the body is empty.
    Close = CLOSE,
}

impl Kind {
    fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            REQUEST => Self::Request,
            REPLY => Self::Reply,
            SEALED_ERROR => Self::Error,
            CLOSE => Self::Close,
            _ => return None,
        })
    }
}

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Target {
    /// The RPC's id.
    pub rpc: u64,
    /// The provider's id.
    pub provider: u16,
}

/// What a body carries, for the receiver to know before it decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// A bulk descriptor is in the body.
    pub bulk: bool,
    /// The body is a descriptor of large arguments, not the arguments.
    pub large: bool,
}

/// A header whose form is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub(crate) kind: Kind,
    pub(crate) protection: Protection,
    pub(crate) content: Content,
    pub(crate) epoch: u8,
    pub(crate) session: SessionId,
    pub(crate) seq: u64,
    pub(crate) target: Target,
    pub(crate) body_len: u32,
}

impl Header {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The session it names.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What it calls.
    pub fn target(&self) -> Target {
        self.target
    }

    /// What is in its body.
    pub fn content(&self) -> Content {
        self.content
    }

    /// Writes it where it is to be: a copy would wait for each of its fields.
    #[inline]
    pub(super) fn write(&self, out: &mut [u8; HEADER_LEN]) {
        (out[0], out[1], out[2], out[3]) = (MAGIC, self.kind as u8, self.flags(), self.epoch);
        out[4..8].fill(0);
        out[8..24].copy_from_slice(self.session.as_bytes());
        out[24..32].copy_from_slice(&self.seq.to_le_bytes());
        out[32..40].copy_from_slice(&self.target.rpc.to_le_bytes());
        let end = u64::from(self.target.provider) | u64::from(self.body_len) << 32;
        out[40..].copy_from_slice(&end.to_le_bytes());
    }

    /// What of the header is told to the cipher beside key and nonce: one block, since each costs time.
    #[inline]
    pub(super) fn associated(&self) -> [u8; ASSOCIATED_LEN] {
        let start = u32::from_le_bytes([self.kind as u8, self.flags(), 0, 0]) | u32::from(self.target.provider) << 16;
        let start = u64::from(start) | u64::from(self.body_len) << 32;
        (u128::from(start) | u128::from(self.target.rpc) << 64).to_le_bytes()
    }

    /// Bytes between header and tag: the body, and what it is filled up with.
    #[inline]
    pub(super) fn filled_len(&self) -> u64 {
        match self.protection {
            Protection::Sealed => u64::from(self.body_len).next_multiple_of(BLOCK as u64),
            Protection::IntegrityOnly => self.body_len.into(),
        }
    }

    #[inline]
    fn flags(&self) -> u8 {
        u8::from(self.protection == Protection::Sealed)
            | u8::from(self.content.bulk) << 1
            | u8::from(self.content.large) << 2
    }

    #[inline(always)]
    fn parse(wire: &[u8]) -> Result<Self, ParseError> {
        let Some(head) = wire.first_chunk::<HEADER_LEN>() else {
            Reader::new(wire).version()?;
            return Err(ParseError::Length(wire.len()));
        };
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let [version, kind, flags, epoch, part @ ..] = u64_at(0).to_le_bytes();
        if version != MAGIC {
            return Err(ParseError::Version(version));
        }
        let kind = Kind::from_wire(kind).ok_or(ParseError::Type(kind))?;
        if flags & !0b111 != 0 {
            return Err(ParseError::Field("flags"));
        }
        let protection = if flags & 1 == 0 { Protection::IntegrityOnly } else { Protection::Sealed };
        let content = Content { bulk: flags & 2 != 0, large: flags & 4 != 0 };
        if part != [0; 4] {
            return Err(ParseError::Field("part"));
        }
        let session = SessionId::new(head[8..24].try_into().expect("16 bytes"));
        let seq = u64_at(24);
        if seq >= SEQ_END {
            return Err(ParseError::Field("seq"));
        }
        let end = u64_at(40);
        let target = Target { rpc: u64_at(32), provider: end as u16 };
        if end as u32 >> 16 != 0 {
            return Err(ParseError::Field("zero"));
        }
        Ok(Self { kind, protection, content, epoch, session, seq, target, body_len: (end >> 32) as u32 })
    }
}

/// Whether a message says that its body is sealed, whatever else may be wrong with it.
pub(crate) fn is_sealed(wire: &[u8]) -> bool {
    wire.get(2).is_some_and(|flags| flags & 1 != 0)
}

/// A message from a peer whose form is right: version, type, flags, and the length to the byte. Nothing in it is proven.
pub struct Incoming<'a> {
    pub(super) header: Header,
    pub(super) wire: &'a mut [u8],
}

impl<'a> Incoming<'a> {
    /// Checks the form. Allocates nothing, and does not look at the body.
    ///
    /// # Errors
    /// For any byte string that is not exactly one message.
    #[inline(always)]
    pub fn parse(wire: &'a mut [u8]) -> Result<Self, ParseError> {
        let header = Header::parse(wire)?;
        let expected = header.filled_len() + OVERHEAD as u64;
        if wire.len() as u64 != expected {
            return Err(ParseError::Length(wire.len()));
        }
        if header.kind == Kind::Close && (header.body_len != 0 || header.content != Content::default()) {
            return Err(ParseError::Field("body of close"));
        }
        Ok(Self { header, wire })
    }

    /// The header: claims, until the message was opened.
    #[inline]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The tag, as it came.
    #[inline]
    pub(crate) fn tag(&self) -> Tag {
        *self.wire.last_chunk().expect("a message ends with a tag")
    }

    /// The body: only after the tag was found good.
    #[inline]
    pub(crate) fn into_body(self) -> &'a mut [u8] {
        &mut self.wire[HEADER_LEN..HEADER_LEN + self.header.body_len as usize]
    }
}

/// The body of a message to be sent, with room for header and tag, so that it is sealed where it is.
pub struct Draft {
    bytes: Vec<u8>,
    /// Where the message begins, behind what a transport puts first.
    start: usize,
}

impl Draft {
    /// An empty body with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::behind(Vec::with_capacity(capacity.saturating_add(OVERHEAD_MAX)))
    }

    /// An empty body of a message that begins behind these bytes, which are neither sealed nor authenticated.
    #[inline]
    pub fn behind(mut bytes: Vec<u8>) -> Self {
        bytes.extend_from_slice(&[0; HEADER_LEN]);
        Self::within(bytes)
    }

    /// As [`behind`](Self::behind), with the last [`HEADER_LEN`] bytes there for the header.
    ///
    /// # Panics
    /// They are fewer.
    #[inline]
    pub fn within(bytes: Vec<u8>) -> Self {
        let start = bytes.len().checked_sub(HEADER_LEN).expect("bytes with room for a header");
        Self { bytes, start }
    }

    /// A copy of these bytes.
    pub fn copy_of(body: &[u8]) -> Self {
        let mut draft = Self::with_capacity(body.len());
        draft.bytes.extend_from_slice(body);
        draft
    }

    /// Lets `write` append to the buffer; what is in it already is to be left alone.
    #[inline]
    pub fn append<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.bytes.len();
        let result = write(&mut self.bytes);
        if self.bytes.len() < before {
            self.bytes.resize(before, 0); // a header must fit in any case
        }
        result
    }

    /// Bytes of the body.
    #[inline]
    pub fn body_len(&self) -> usize {
        self.bytes.len() - self.start - HEADER_LEN
    }

    /// The draft, in exchange for one that is no good but to be dropped.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        Self { bytes: std::mem::take(&mut self.bytes), start: self.start }
    }

    /// Drops the body, to write another one.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.start + HEADER_LEN);
    }

    /// The bytes, and where the message begins in them.
    #[inline]
    pub(super) fn into_bytes(self) -> (Vec<u8>, usize) {
        (self.bytes, self.start)
    }
}

/// Proof that a (seq, part) was never sealed with in its direction: made once per number by a client's counter or by an
/// accepted request, and used up by sealing. Not `Clone`.
pub(crate) struct Unused {
    seq: u64,
}

impl Unused {
    /// Only for a counter that gives each number once, and for a window that accepts each number once.
    pub(crate) fn assume(seq: u64) -> Self {
        Self { seq }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;

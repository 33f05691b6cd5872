use std::time::Duration;

use super::ids::{Protection, SessionId, Suite};
use super::parse::{ParseError, Reader};
use super::transcript::{ProofTranscript, Th2};
use super::window::Window;
use super::{HELLO_REP, MAGIC};

/// Bytes of HELLO_REP before the token.
pub const HELLO_REP_FIXED: usize = 106;
/// Bytes of Finished.
pub const FINISHED_LEN: usize = 32;
/// The longest HELLO_REP.
pub const HELLO_REP_MAX: usize = 16 << 10;
/// The least that a server may limit messages to, in bytes: errors always fit.
pub const MESSAGE_LEN_MIN: u32 = 4096;

/// What the server grants a session; in the transcript, so both ends know the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The cipher.
    pub suite: Suite,
    /// What happens to bodies.
    pub protection: Protection,
    /// The anti-replay window, see [`Window`].
    pub window_bits: u16,
    /// Time without a call after which the session ends; whole seconds.
    pub idle: Duration,
    /// Time after which it ends in any case; whole seconds.
    pub absolute: Duration,
    /// Calls in flight; at most half of the window.
    pub max_in_flight: u32,
    /// Bytes of a body.
    pub max_message: u32,
}

impl Terms {
    /// The limits of every field, as parser and server both apply them.
    pub(super) fn check(&self) -> Result<(), ParseError> {
        if !Window::is_size(self.window_bits) {
            return Err(ParseError::Field("window bits"));
        }
        let seconds = |time: Duration| time.subsec_nanos() == 0 && (1..=u64::from(u32::MAX)).contains(&time.as_secs());
        if !seconds(self.idle) || !seconds(self.absolute) {
            return Err(ParseError::Field("lifetime"));
        }
        if !(1..=u32::from(self.window_bits) / 2).contains(&self.max_in_flight) {
            return Err(ParseError::Field("max_in_flight"));
        }
        if self.max_message < MESSAGE_LEN_MIN {
            return Err(ParseError::Field("max message bytes"));
        }
        Ok(())
    }
}

/// A HELLO_REP whose form is right, borrowed from its exact bytes. Nothing in it is proven before Finished is checked.
///
/// ```text
///  0 u8 0xA1  1 u8 type = 5  2 u16 length  4 u8 suite  5 u8 flags: bit 0 integrity-only  6 u16 window bits
///  8 16 session id           24 32 s_random   56 32 s_eph
/// 88 u32 idle s  92 u32 absolute s  96 u32 max_in_flight  100 u32 max message bytes
/// 104 u16 token length, token, 32-byte Finished
/// ```
#[derive(Clone, Copy)]
pub struct HelloReply<'a> {
    wire: &'a [u8],
    session: SessionId,
    public_key: [u8; 32],
    terms: Terms,
    token: &'a [u8],
    finished: [u8; 32],
}

impl<'a> HelloReply<'a> {
    /// Checks the form of a HELLO_REP. Allocates nothing.
    ///
    /// # Errors
    /// For any byte string that is not exactly one HELLO_REP.
    pub fn parse(wire: &'a [u8]) -> Result<Self, ParseError> {
        if wire.len() > HELLO_REP_MAX {
            return Err(ParseError::Length(wire.len()));
        }
        let mut reader = Reader::new(wire);
        reader.start(HELLO_REP)?;
        if usize::from(reader.u16()?) != wire.len() {
            return Err(ParseError::Length(wire.len()));
        }
        let suite = Suite::from_wire(reader.u8()?).ok_or(ParseError::Field("suite"))?;
        let protection = Protection::from_hello_flags(reader.u8()?).ok_or(ParseError::Field("flags"))?;
        let window_bits = reader.u16()?;
        let session = SessionId::new(reader.array()?);
        let _random: [u8; 32] = reader.array()?;
        let public_key = reader.array()?;
        let idle = Duration::from_secs(reader.u32()?.into());
        let absolute = Duration::from_secs(reader.u32()?.into());
        let max_in_flight = reader.u32()?;
        let max_message = reader.u32()?;
        let token_len = reader.u16()?;
        let token = reader.take(usize::from(token_len))?;
        let finished = reader.array()?;
        reader.end()?;
        let terms = Terms { suite, protection, window_bits, idle, absolute, max_in_flight, max_message };
        terms.check()?;
        Ok(Self { wire, session, public_key, terms, token, finished })
    }

    /// The session's name.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The server's X25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// What is granted.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The mechanism's token, a proof at its end included.
    pub fn token(&self) -> &'a [u8] {
        self.token
    }

    pub(super) fn finished(&self) -> &[u8; 32] {
        &self.finished
    }

    pub(super) fn th2(&self, hello: &[u8]) -> Th2 {
        Th2::of(hello, &self.wire[..self.wire.len() - FINISHED_LEN])
    }

    /// Up to a proof of this length at the end of the token, or `None` when the token is shorter.
    pub(super) fn proof_transcript(&self, hello: &[u8], proof_len: usize) -> Option<ProofTranscript> {
        let head = self.token.len().checked_sub(proof_len)?;
        Some(ProofTranscript::of(hello, &self.wire[..HELLO_REP_FIXED + head]))
    }
}

/// A HELLO_REP that still lacks a proof of known length at the end of its token, and Finished.
pub(super) struct ReplyDraft {
    bytes: Vec<u8>,
    proof_len: usize,
}

impl ReplyDraft {
    /// `None` when the token is too long.
    pub(super) fn new(
        terms: &Terms,
        session: SessionId,
        random: &[u8; 32],
        public_key: &[u8; 32],
        token_head: &[u8],
        proof_len: usize,
    ) -> Option<Self> {
        let token_len = token_head.len().checked_add(proof_len)?;
        let total = HELLO_REP_FIXED.checked_add(token_len)?.checked_add(FINISHED_LEN)?;
        if total > HELLO_REP_MAX {
            return None;
        }
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&[MAGIC, HELLO_REP]);
        bytes.extend_from_slice(&u16::try_from(total).ok()?.to_le_bytes());
        bytes.extend_from_slice(&[terms.suite as u8, terms.protection.hello_flags()]);
        bytes.extend_from_slice(&terms.window_bits.to_le_bytes());
        bytes.extend_from_slice(session.as_bytes());
        bytes.extend_from_slice(random);
        bytes.extend_from_slice(public_key);
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        for number in [seconds(terms.idle), seconds(terms.absolute), terms.max_in_flight, terms.max_message] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&u16::try_from(token_len).ok()?.to_le_bytes());
        bytes.extend_from_slice(token_head);
        Some(Self { bytes, proof_len })
    }

    pub(super) fn proof_len(&self) -> usize {
        self.proof_len
    }

    pub(super) fn proof_transcript(&self, hello: &[u8]) -> ProofTranscript {
        ProofTranscript::of(hello, &self.bytes)
    }

    /// Takes the proof, whose length was checked.
    pub(super) fn with_proof(mut self, proof: &[u8]) -> Vec<u8> {
        debug_assert_eq!(proof.len(), self.proof_len);
        self.bytes.extend_from_slice(proof);
        self.bytes
    }
}

#[cfg(test)]
#[path = "hello_reply_tests.rs"]
mod tests;

//! Hashes over the exact bytes of a handshake, never over something encoded again.

use ring::digest;

use super::kdf::LABEL_PREFIX;

/// The hash that a client's token is bound to: all of HELLO before the token, except the total length.
///
/// The total length (bytes 2 and 3) is left out because the token's length is not known before the token is made. TH2
/// covers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Th1([u8; 32]);

/// The hash that the server's Finished is over: HELLO and HELLO_REP without Finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Th2([u8; 32]);

/// The hash that a server's proof (a signature, a MIC) is over: HELLO and HELLO_REP up to that proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProofTranscript([u8; 32]);

/// The hash that traffic keys are bound to: TH2 and Finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Th3([u8; 32]);

fn hash(label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    if !label.is_empty() {
        context.update(LABEL_PREFIX);
        context.update(label.as_bytes());
    }
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// SHA-256 with the protocol's prefix and a label, for ids that are no part of a transcript.
pub(crate) fn labelled_hash(label: &str, bytes: &[u8]) -> [u8; 32] {
    hash(label, &[bytes])
}

impl Th1 {
    /// `prefix`: HELLO up to the token length field; at least its fixed part.
    pub(super) fn of(prefix: &[u8]) -> Self {
        Self(hash("hello", &[&prefix[..2], &prefix[4..]]))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Th2 {
    pub(super) fn of(hello: &[u8], reply: &[u8]) -> Self {
        Self(hash("th2", &[hello, reply]))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ProofTranscript {
    pub(super) fn of(hello: &[u8], reply: &[u8]) -> Self {
        Self(hash("th2 proof", &[hello, reply]))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Th3 {
    pub(super) fn of(th2: &Th2, finished: &[u8; 32]) -> Self {
        Self(hash("", &[&th2.0, finished]))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

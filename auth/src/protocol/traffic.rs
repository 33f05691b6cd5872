//! Keys of one direction: sealing with key updates, opening across them.
//!
//! The first message under epoch n+1 is the key update (as in QUIC, RFC 9001 section 6): there is no message to be lost
//! or overtaken. A receiver tries the next key only for a message that names the next epoch, and moves on only when its
//! tag was good.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use super::ids::{Protection, Suite, Tick};
use super::message::{ASSOCIATED_LEN, Draft, HEADER_LEN, Header, Incoming, OVERHEAD_MAX, TAG_LEN, Tag, Unused};
use super::schedule::Traffic;
use super::secret::Secret;
use crate::fork::Process;

/// When a sender moves to the next epoch, and when both ends stop.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Messages under one key after which the sender moves on.
    pub(crate) soft_messages: u64,
    /// Messages under one key that neither end passes.
    pub(crate) hard_messages: u64,
    /// Bytes under one key after which the sender moves on.
    pub(crate) soft_bytes: u64,
    /// Age of a key after which the sender moves on.
    pub(crate) age: Duration,
    /// How long a receiver keeps the epoch before.
    pub(crate) previous: Duration,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        soft_messages: 1 << 22,
        hard_messages: 1 << 23,
        soft_bytes: 64 << 30,
        age: Duration::from_secs(3600),
        previous: Duration::from_secs(30),
    };
}

/// Messages shorter than this are not counted by their bytes: as many as one key may seal have 4 GiB together.
const COUNTED_MIN: usize = 1024;

/// A receiver follows a sender at most this many epochs at once: so many messages in a row may be lost that were each
/// the only one of an epoch.
const EPOCHS_AHEAD_MAX: u8 = 4;

/// A key made ready for use: 550 bytes for AES. It is made when needed and dropped when the session is idle, since ring
/// does not wipe it and 100,000 of them would be large.
struct ReadyKey {
    key: LessSafeKey,
    iv: Secret<12>,
}

impl ReadyKey {
    fn new(suite: Suite, traffic: &Traffic) -> Box<Self> {
        let algorithm = match suite {
            Suite::Aes256Gcm => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, traffic.key().expose()).expect("both ciphers have 32-byte keys");
        Box::new(Self { key: LessSafeKey::new(key), iv: traffic.iv() })
    }

    /// iv XOR (part u32 || seq u64), both little-endian; the part is always 0.
    #[inline]
    fn nonce(&self, seq: u64) -> Nonce {
        let mut nonce = *self.iv.expose();
        let part: [u8; 8] = nonce[4..].try_into().expect("8 of 12 bytes");
        nonce[4..].copy_from_slice(&(u64::from_le_bytes(part) ^ seq).to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Writes the header, seals what is behind it, and appends the tag.
    ///
    /// Associated data of a sealed body: [what the header's fields are told by](Header::associated), request's tag. Of an
    /// integrity-only one: header, body, request's tag, with nothing encrypted, which is longer; so both may use one key.
    fn seal(&self, header: &Header, bind: Option<&Tag>, bytes: &mut Vec<u8>, start: usize) {
        let body = start + HEADER_LEN;
        header.write((&mut bytes[start..body]).try_into().expect("48 bytes"));
        let nonce = self.nonce(header.seq);
        let limits = "lengths were checked against 2^32";
        let tag = match header.protection {
            Protection::Sealed => {
                bytes.reserve(OVERHEAD_MAX - HEADER_LEN);
                bytes.resize(body + header.filled_len() as usize, 0);
                let (aad, len) = sealed_aad(header, bind);
                self.key.seal_in_place_separate_tag(nonce, Aad::from(&aad[..len]), &mut bytes[body..])
            }
            Protection::IntegrityOnly => {
                let len = bytes.len();
                bytes.extend_from_slice(bind.map_or(&[], |tag| tag.as_slice()));
                let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&bytes[start..]), &mut []);
                bytes.truncate(len);
                tag
            }
        };
        bytes.extend_from_slice(tag.expect(limits).as_ref());
    }

    /// Checks the tag and decrypts in place. After a failure the body is garbage.
    fn open(&self, header: &Header, bind: Option<&Tag>, wire: &mut [u8]) -> Result<(), OpenError> {
        let nonce = self.nonce(header.seq);
        let at = wire.len() - TAG_LEN;
        let good = match header.protection {
            Protection::Sealed => {
                let (aad, len) = sealed_aad(header, bind);
                self.key.open_in_place(nonce, Aad::from(&aad[..len]), &mut wire[HEADER_LEN..]).is_ok()
            }
            Protection::IntegrityOnly => {
                let mut tag: Tag = wire[at..].try_into().expect("16 bytes");
                let end = bind.map_or(at, |bind| {
                    wire[at..].copy_from_slice(bind);
                    at + TAG_LEN
                });
                self.key.open_in_place(nonce, Aad::from(&wire[..end]), &mut tag).is_ok()
            }
        };
        if good { Ok(()) } else { Err(OpenError::BadTag) }
    }
}

#[inline]
fn sealed_aad(header: &Header, bind: Option<&Tag>) -> ([u8; ASSOCIATED_LEN + TAG_LEN], usize) {
    let mut aad = [0; ASSOCIATED_LEN + TAG_LEN];
    aad[..ASSOCIATED_LEN].copy_from_slice(&header.associated());
    let Some(bind) = bind else {
        return (aad, ASSOCIATED_LEN);
    };
    aad[ASSOCIATED_LEN..].copy_from_slice(bind);
    (aad, ASSOCIATED_LEN + TAG_LEN)
}

/// A key's hard limit is reached, the epochs are used up, or this process is a fork of the one that has the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyExhausted;

/// Why a message was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The tag is wrong: altered, forged, of another session, another call or another direction.
    #[error("wrong tag")]
    BadTag,
    /// The key epoch is neither the current, the next few, nor the one just left.
    #[error("key epoch out of reach")]
    Epoch,
    /// More messages than one key may open.
    #[error("key used up")]
    KeyExhausted,
}

/// The sending half.
pub(crate) struct Sealing {
    suite: Suite,
    /// Whose numbers these are: a fork's copy of them is not to be used.
    process: Process,
    keys: RwLock<SealKeys>,
}

struct SealKeys {
    traffic: Traffic,
    ready: Option<Box<ReadyKey>>,
    epoch: u64,
    since: Tick,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl SealKeys {
    #[inline]
    fn is_due(&self, limits: &Limits, now: Tick) -> bool {
        self.messages.load(Ordering::Relaxed) >= limits.soft_messages
            || self.bytes.load(Ordering::Relaxed) >= limits.soft_bytes
            || now >= self.since.after(limits.age)
    }
}

impl Sealing {
    pub(crate) fn new(suite: Suite, secret: Secret<32>, now: Tick) -> Self {
        let keys = SealKeys {
            traffic: Traffic::new(secret),
            ready: None,
            epoch: 0,
            since: now,
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        Self { suite, process: Process::current(), keys: RwLock::new(keys) }
    }

    /// Seals a draft under a number that was never used. Moves to the next epoch by itself when that is due.
    ///
    /// `header.epoch`, `header.seq` and `header.body_len` are filled in here. In a forked child it refuses.
    #[inline]
    pub(crate) fn seal(
        &self,
        number: Unused,
        mut header: Header,
        bind: Option<&Tag>,
        draft: Draft,
        now: Tick,
        limits: &Limits,
    ) -> Result<Vec<u8>, KeyExhausted> {
        if self.process != Process::current() {
            return Err(KeyExhausted);
        }
        header.seq = number.seq();
        header.body_len = u32::try_from(draft.body_len()).expect("callers check the length");
        let mut keys = self.keys.read();
        if keys.ready.is_none() || keys.is_due(limits, now) {
            drop(keys);
            keys = self.renew(now, limits);
        }
        if keys.messages.fetch_add(1, Ordering::Relaxed) >= limits.hard_messages {
            return Err(KeyExhausted);
        }
        let (mut bytes, start) = draft.into_bytes();
        if bytes.len() >= COUNTED_MIN {
            keys.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        header.epoch = keys.epoch as u8;
        keys.ready.as_ref().ok_or(KeyExhausted)?.seal(&header, bind, &mut bytes, start);
        Ok(bytes)
    }

    fn renew(&self, now: Tick, limits: &Limits) -> RwLockReadGuard<'_, SealKeys> {
        let mut keys = self.keys.write();
        if keys.is_due(limits, now) {
            *keys = SealKeys {
                traffic: keys.traffic.next(),
                ready: None,
                epoch: keys.epoch + 1,
                since: now,
                messages: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
            };
        }
        if keys.ready.is_none() {
            keys.ready = Some(ReadyKey::new(self.suite, &keys.traffic));
        }
        RwLockWriteGuard::downgrade(keys)
    }

    /// Drops the key made ready; the next message makes it again.
    pub(crate) fn cool(&self) {
        self.keys.write().ready = None;
    }

    #[cfg(test)]
    pub(crate) fn is_ready(&self) -> bool {
        self.keys.read().ready.is_some()
    }

    #[cfg(test)]
    pub(crate) fn epoch(&self) -> u64 {
        self.keys.read().epoch
    }
}

/// The receiving half.
pub(crate) struct Opening {
    suite: Suite,
    keys: RwLock<OpenKeys>,
}

struct OpenKeys {
    traffic: Traffic,
    ready: Option<Box<ReadyKey>>,
    epoch: u64,
    opened: AtomicU64,
    previous: Option<Box<Previous>>,
}

struct Previous {
    ready: Box<ReadyKey>,
    until: Tick,
}

impl Opening {
    pub(crate) fn new(suite: Suite, secret: Secret<32>) -> Self {
        let keys = OpenKeys {
            traffic: Traffic::new(secret),
            ready: None,
            epoch: 0,
            opened: AtomicU64::new(0),
            previous: None,
        };
        Self { suite, keys: RwLock::new(keys) }
    }

    /// Checks the tag and decrypts in place.
    #[inline]
    pub(crate) fn open(
        &self,
        message: &mut Incoming<'_>,
        bind: Option<&Tag>,
        now: Tick,
        limits: &Limits,
    ) -> Result<(), OpenError> {
        let Incoming { header, wire } = message;
        let mut keys = self.keys.read();
        if keys.ready.is_none() {
            drop(keys);
            keys = self.make_ready();
        }
        match header.epoch.wrapping_sub(keys.epoch as u8) {
            0 => {
                if keys.opened.load(Ordering::Relaxed) >= limits.hard_messages {
                    return Err(OpenError::KeyExhausted);
                }
                keys.ready.as_ref().ok_or(OpenError::Epoch)?.open(header, bind, wire)?;
                keys.opened.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            u8::MAX => {
                let previous = keys.previous.as_ref().filter(|previous| now < previous.until);
                previous.ok_or(OpenError::Epoch)?.ready.open(header, bind, wire)
            }
            ahead @ 1..=EPOCHS_AHEAD_MAX => {
                let from = keys.epoch;
                let mut before = None;
                let mut next = keys.traffic.next();
                for _ in 1..ahead {
                    before = Some(std::mem::replace(&mut next, Traffic::new(Secret::new(|_| ()))));
                    next = before.as_ref().expect("just set").next();
                }
                drop(keys);
                let ready = ReadyKey::new(self.suite, &next);
                ready.open(header, bind, wire)?;
                self.advance(from, ahead, before, next, ready, now.after(limits.previous));
                Ok(())
            }
            _ => Err(OpenError::Epoch),
        }
    }

    fn make_ready(&self) -> RwLockReadGuard<'_, OpenKeys> {
        let mut keys = self.keys.write();
        if keys.ready.is_none() {
            keys.ready = Some(ReadyKey::new(self.suite, &keys.traffic));
        }
        RwLockWriteGuard::downgrade(keys)
    }

    /// A message of a later epoch was authentic: that one becomes the current.
    fn advance(&self, from: u64, ahead: u8, before: Option<Traffic>, next: Traffic, ready: Box<ReadyKey>, until: Tick) {
        let mut keys = self.keys.write();
        if keys.epoch != from {
            return; // another thread was first
        }
        let previous = match before {
            Some(before) => ReadyKey::new(self.suite, &before),
            None => keys.ready.take().unwrap_or_else(|| ReadyKey::new(self.suite, &keys.traffic)),
        };
        *keys = OpenKeys {
            traffic: next,
            ready: Some(ready),
            epoch: from + u64::from(ahead),
            opened: AtomicU64::new(1),
            previous: Some(Box::new(Previous { ready: previous, until })),
        };
    }

    /// Drops the key made ready, and the previous one when its time is over.
    pub(crate) fn cool(&self, now: Tick) {
        let mut keys = self.keys.write();
        keys.ready = None;
        if keys.previous.as_ref().is_some_and(|previous| now >= previous.until) {
            keys.previous = None;
        }
    }

    #[cfg(test)]
    pub(crate) fn epoch(&self) -> u64 {
        self.keys.read().epoch
    }
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;

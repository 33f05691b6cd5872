//! A ring of bytes from one process to another, and the bell by which a sleeping one is woken.
//!
//! Each side has a segment of words that it alone writes and the other can only read:
//!
//! ```text
//! word 0                  tail: bytes that the owner has put into its ring, ever
//! word 1                  bell: bit 0 the owner sleeps, bit 1 it waits for room, the rest grows with each time
//! word CONTROL_WORDS / 2  head: bytes that the owner has taken out of the other's ring, ever
//! from CONTROL_WORDS on   the data, a power of two of bytes, little-endian in each word
//! ```
//!
//! Everything read from the other's segment is written by another process, which may lie and may change it at any time.
//! A counter is loaded once and checked before it is used, data is copied out before anybody looks at it, and all loads
//! are atomic, so that there is no data race whatever the other does. Loads are relaxed with a fence behind them: only
//! those may be done on memory that is mapped read-only.
//!
//! Generic over where the words are: shared memory, the heap, or a model of either.

use super::memory::{AtomicU64, CONTROL_WORDS, Ordering, fence};
use std::sync::Arc;

const TAIL: usize = 0;
const BELL: usize = 1;
const HEAD: usize = CONTROL_WORDS / 2;
const WORD: usize = 8;

/// The counters are brought up to date at least this often while much is copied, in bytes: the two sides copy at the
/// same time.
const STEP: usize = 16 * 1024;

const ASLEEP: u64 = 1;
const WANTS_ROOM: u64 = 2;
/// One more in the part of the bell that grows.
const TURN: u64 = 4;

/// The peer's counters say what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// A segment: its control page and its data.
pub(super) trait Words {
    /// All of its words.
    fn words(&self) -> &[AtomicU64];
}

impl<W: Words> Words for Arc<W> {
    fn words(&self) -> &[AtomicU64] {
        (**self).words()
    }
}

/// Bytes that the ring of a segment holds; its words are a control page and a power of two more.
pub(super) fn capacity(words: &[AtomicU64]) -> usize {
    (words.len() - CONTROL_WORDS) * WORD
}

fn load(words: &[AtomicU64], at: usize) -> u64 {
    let value = words[at].load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    value
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Producer<M> {
    own: M,
    peer: M,
    /// Bytes written: `head <= tail <= head + capacity`.
    tail: u64,
    /// What the peer was last seen to have read.
    head: u64,
}

impl<M: Words> Producer<M> {
    /// The end of a ring in which nothing was written yet.
    pub(super) fn new(own: M, peer: M) -> Self {
        Self { own, peer, tail: 0, head: 0 }
    }

    /// Bytes that fit. Looks at what the peer has read only if fewer than `wanted` fit without that.
    pub(super) fn room(&mut self, wanted: usize) -> Result<usize, Broken> {
        let capacity = capacity(self.own.words()) as u64;
        let mut used = self.tail - self.head;
        if capacity - used < wanted as u64 {
            let head = load(self.peer.words(), HEAD);
            used = self.tail.wrapping_sub(head);
            if used > capacity {
                return Err(Broken("it has read what was never written"));
            }
            self.head = head;
        }
        Ok((capacity - used) as usize)
    }

    /// Writes what fits of `bytes` and shows it to the peer. Returns how many bytes that was.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut written = 0;
        while written < bytes.len() {
            let left = &bytes[written..];
            let room = self.room(left.len().min(STEP))?;
            let count = room.min(left.len()).min(STEP);
            if count == 0 {
                break;
            }
            self.put(&left[..count]);
            self.publish();
            written += count;
        }
        Ok(written)
    }

    /// Writes bytes that [`Producer::room`] has found room for, and shows them to nobody yet.
    pub(super) fn put(&mut self, mut bytes: &[u8]) {
        let data = &self.own.words()[CONTROL_WORDS..];
        let mask = data.len() * WORD - 1;
        debug_assert!(bytes.len() as u64 <= data.len() as u64 * WORD as u64 - (self.tail - self.head));
        let mut at = self.tail as usize & mask;
        self.tail += bytes.len() as u64;
        if at % WORD != 0 {
            let (part, rest) = bytes.split_at(bytes.len().min(WORD - at % WORD));
            merge(&data[at / WORD], at % WORD, part);
            at = (at + part.len()) & mask;
            bytes = rest;
        }
        while bytes.len() >= WORD {
            let words = &data[at / WORD..];
            let (whole, rest) = bytes.split_at((bytes.len() / WORD).min(words.len()) * WORD);
            for (word, bytes) in words.iter().zip(whole.chunks_exact(WORD)) {
                word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
            }
            at = (at + whole.len()) & mask;
            bytes = rest;
        }
        if !bytes.is_empty() {
            merge(&data[at / WORD], 0, bytes);
        }
    }

    /// Shows the peer everything written.
    pub(super) fn publish(&self) {
        self.own.words()[TAIL].store(self.tail, Ordering::Release);
    }
}

/// Puts some bytes into a word of our own, behind `offset` others that stay as they are.
fn merge(word: &AtomicU64, offset: usize, bytes: &[u8]) {
    let mut whole = word.load(Ordering::Relaxed).to_le_bytes();
    whole[offset..offset + bytes.len()].copy_from_slice(bytes);
    word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
}

/// The reading end.
#[derive(Debug)]
pub(super) struct Consumer<M> {
    own: M,
    peer: M,
    /// Bytes read.
    head: u64,
}

impl<M: Words> Consumer<M> {
    /// The end of a ring of which nothing was read yet.
    pub(super) fn new(own: M, peer: M) -> Self {
        Self { own, peer, head: 0 }
    }

    /// Bytes read, ever.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Bytes that can be read.
    pub(super) fn available(&self) -> Result<usize, Broken> {
        let count = load(self.peer.words(), TAIL).wrapping_sub(self.head);
        if count > capacity(self.peer.words()) as u64 {
            return Err(Broken("it has written more than the ring holds"));
        }
        Ok(count as usize)
    }

    /// Reads what is there, as far as it fits into `into`, and gives the room back. Returns how many bytes that was.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        let mut read = 0;
        loop {
            let count = self.available()?.min(into.len() - read);
            if count == 0 {
                return Ok(read);
            }
            for piece in into[read..read + count].chunks_mut(STEP) {
                self.take(piece);
                self.own.words()[HEAD].store(self.head, Ordering::Release);
            }
            read += count;
        }
    }

    /// Copies bytes that [`Consumer::available`] has seen.
    fn take(&mut self, mut into: &mut [u8]) {
        let data = &self.peer.words()[CONTROL_WORDS..];
        let mask = data.len() * WORD - 1;
        let mut at = self.head as usize & mask;
        self.head += into.len() as u64;
        if at % WORD != 0 {
            let count = into.len().min(WORD - at % WORD);
            let (part, rest) = into.split_at_mut(count);
            let word = data[at / WORD].load(Ordering::Relaxed).to_le_bytes();
            part.copy_from_slice(&word[at % WORD..at % WORD + count]);
            at = (at + count) & mask;
            into = rest;
        }
        while into.len() >= WORD {
            let words = &data[at / WORD..];
            let count = (into.len() / WORD).min(words.len()) * WORD;
            let (whole, rest) = into.split_at_mut(count);
            for (word, bytes) in words.iter().zip(whole.chunks_exact_mut(WORD)) {
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            at = (at + count) & mask;
            into = rest;
        }
        if !into.is_empty() {
            let word = data[at / WORD].load(Ordering::Relaxed).to_le_bytes();
            let count = into.len();
            into.copy_from_slice(&word[..count]);
        }
    }
}

/// Two bells: one that the peer is asked to ring when we sleep, and the peer's.
#[derive(Debug)]
pub(super) struct Bell<M> {
    own: M,
    peer: M,
    /// The peer's bell when it was rung last.
    rung: AtomicU64,
}

impl<M: Words> Bell<M> {
    /// Both bells of a link.
    pub(super) fn new(own: M, peer: M) -> Self {
        Self { own, peer, rung: AtomicU64::new(0) }
    }

    /// Asks the peer to ring once, when it has written something or, if `wants_room`, read something. Whoever calls this
    /// looks after the next fence whether there is something already.
    pub(super) fn arm(&self, wants_room: bool) {
        arm(self.own.words(), wants_room);
    }

    /// Asks the peer not to ring: somebody looks all the time.
    pub(super) fn disarm(&self) {
        let bell = self.own.words()[BELL].load(Ordering::Relaxed);
        self.own.words()[BELL].store(bell & !(ASLEEP | WANTS_ROOM), Ordering::Relaxed);
    }

    /// After something was written: whether the peer sleeps and is to be rung.
    pub(super) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.rings(ASLEEP)
    }

    /// After something was read: whether the peer waits for that and is to be rung. Without a fence of its own: it is
    /// asked again from time to time, and after one.
    pub(super) fn must_ring_for_room(&self) -> bool {
        self.rings(WANTS_ROOM)
    }

    fn rings(&self, reason: u64) -> bool {
        let bell = self.peer.words()[BELL].load(Ordering::Relaxed);
        bell & reason != 0 && self.rung.swap(bell, Ordering::Relaxed) != bell
    }
}

/// See [`Bell::arm`]; for a segment that nobody else knows yet too.
pub(super) fn arm(own: &[AtomicU64], wants_room: bool) {
    let bell = own[BELL].load(Ordering::Relaxed);
    let reasons = ASLEEP | if wants_room { WANTS_ROOM } else { 0 };
    own[BELL].store((bell & !(TURN - 1)).wrapping_add(TURN) | reasons, Ordering::Relaxed);
}

/// What was last seen of the peer's counters, for a cheap look at whether there is anything new.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    tail: u64,
    bell: u64,
    head: u64,
}

impl Seen {
    /// Whether the peer has written something, changed its bell, or, if that is asked for, read something.
    pub(super) fn take_news(&mut self, peer: &[AtomicU64], waits_for_room: bool) -> bool {
        let now = self.look(peer, waits_for_room);
        let news = now != *self;
        *self = now;
        news
    }

    /// As [`Seen::take_news`], and does not take note of it.
    pub(super) fn has_news(&self, peer: &[AtomicU64], waits_for_room: bool) -> bool {
        self.look(peer, waits_for_room) != *self
    }

    fn look(&self, peer: &[AtomicU64], waits_for_room: bool) -> Self {
        let tail = peer[TAIL].load(Ordering::Relaxed);
        let bell = peer[BELL].load(Ordering::Relaxed);
        let head = if waits_for_room { peer[HEAD].load(Ordering::Relaxed) } else { self.head };
        Self { tail, bell, head }
    }
}

/// What the peer has read, to see whether it goes on.
pub(super) fn read_by(peer: &[AtomicU64]) -> u64 {
    peer[HEAD].load(Ordering::Relaxed)
}

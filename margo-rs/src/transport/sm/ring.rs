//! A ring of records from one process to another, and the bell by which a sleeping one is woken.
//!
//! Each side has a segment of words that it alone writes and the other can only read:
//!
//! ```text
//! word 0                  bell: bit 0 the owner sleeps, bit 1 it waits for room, the rest grows with each time
//! word 1                  secret: a random number that nobody knows but the two
//! word CONTROL_WORDS / 2  head: bytes that the owner has taken out of the other's ring, ever
//! from CONTROL_WORDS on   the ring, a power of two of bytes
//! ```
//!
//! A record starts on a line of 64 bytes: a word with its length and a tag, then so many bytes, little-endian in each
//! word. So a reader looks at the very line that holds the message, and a short message costs the transfer of no other,
//! not even to mark the end. The tag is made of the writer's secret and the place of the record among all that are ever
//! written: what was in the ring before is no record, neither an old one nor bytes that look like one. Whoever has bytes
//! of his choice sent through the ring, and does not know the secret, has to guess 49 bits for each record.
//!
//! Everything read from the other's segment is written by another process, which may lie and may change it at any time.
//! A counter or length is loaded once and checked before it is used, data is copied out before anybody looks at it, and
//! all loads are atomic, so that there is no data race whatever the other does. Loads are relaxed with a fence behind
//! them: only those may be done on memory that is mapped read-only.
//!
//! Generic over where the words are: shared memory, the heap, or a model of either.

use super::memory::{AtomicU64, CONTROL_WORDS, Ordering, fence};
use std::mem::MaybeUninit;
use std::sync::Arc;

const BELL: usize = 0;
pub(super) const SECRET: usize = 1;
pub(super) const HEAD: usize = CONTROL_WORDS / 2;
pub(super) const WORD: usize = 8;
/// Records start at multiples of this, in bytes.
pub(super) const LINE: usize = 64;
/// Largest record with its first word, in bytes. Both sides copy at the same time when much is sent.
pub(super) const RECORD_MAX: usize = 16 * 1024;
/// Set in the first word of a record: memory that was never written holds none.
const PRESENT: u64 = 1 << 63;
/// Where the first word of a record has its length.
const LENGTH: u64 = RECORD_MAX as u64 - 1;

const ASLEEP: u64 = 1;
const WANTS_ROOM: u64 = 2;
/// One more in the part of the bell that grows.
const TURN: u64 = 4;

/// The peer's words say what cannot be.
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

/// The first word of a record at `position`, without its length.
pub(super) fn tag(secret: u64, position: u64) -> u64 {
    // Positions are multiples of a line, so that none of them differ in the length's bits alone.
    (secret ^ position << 8) & !LENGTH | PRESENT
}

/// What a record of so many bytes takes up.
fn footprint(length: usize) -> usize {
    (WORD + length).next_multiple_of(LINE)
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Producer<M> {
    own: M,
    peer: M,
    secret: u64,
    /// Bytes written: `head <= tail <= head + capacity`, a multiple of a line.
    tail: u64,
    /// What the peer was last seen to have read.
    head: u64,
}

impl<M: Words> Producer<M> {
    /// The end of a ring in which nothing was written yet.
    pub(super) fn new(own: M, peer: M) -> Self {
        let secret = own.words()[SECRET].load(Ordering::Relaxed);
        Self { own, peer, secret, tail: 0, head: 0 }
    }

    /// Longest record that fits, up to `wanted` bytes; 0 if none does. Looks at what the peer has read only if there is
    /// too little room without that.
    pub(super) fn room(&mut self, wanted: usize) -> Result<usize, Broken> {
        let capacity = capacity(self.own.words()) as u64;
        let wanted = wanted.min(RECORD_MAX - WORD);
        let needed = footprint(wanted) as u64;
        let mut used = self.tail - self.head;
        if capacity - used < needed {
            let head = load(self.peer.words(), HEAD);
            used = self.tail.wrapping_sub(head);
            if used > capacity || !head.is_multiple_of(LINE as u64) {
                return Err(Broken("it has read what was never written"));
            }
            self.head = head;
        }
        let free = (capacity - used) as usize;
        Ok(wanted.min(free.saturating_sub(WORD)))
    }

    /// Writes what fits of `bytes`. Returns how many bytes that was.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut written = 0;
        while written < bytes.len() {
            let count = self.room(bytes.len() - written)?;
            if count == 0 {
                break;
            }
            self.put([&bytes[written..written + count], &[]]);
            written += count;
        }
        Ok(written)
    }

    /// Writes a record of both parts, of which the first, if the second is not empty, has whole words. To be called with
    /// as many bytes as [`Producer::room`] has found room for, and at least one.
    pub(super) fn put(&mut self, parts: [&[u8]; 2]) {
        let ring = &self.own.words()[CONTROL_WORDS..];
        let mask = ring.len() - 1;
        let length = parts[0].len() + parts[1].len();
        let start = (self.tail as usize / WORD) & mask;
        debug_assert!(length > 0 && (parts[1].is_empty() || parts[0].len().is_multiple_of(WORD)));
        let mut at = start + 1;
        for part in parts {
            at = store(ring, at & mask, part);
        }
        ring[start].store(tag(self.secret, self.tail) | length as u64, Ordering::Release);
        self.tail += footprint(length) as u64;
    }
}

/// Stores bytes from word `at` on, around the end of the ring; returns the word behind them.
fn store(ring: &[AtomicU64], mut at: usize, mut bytes: &[u8]) -> usize {
    while bytes.len() >= WORD {
        let words = &ring[at..];
        let (whole, rest) = bytes.split_at((bytes.len() / WORD).min(words.len()) * WORD);
        for (word, bytes) in words.iter().zip(whole.chunks_exact(WORD)) {
            word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
        }
        at = (at + whole.len() / WORD) & (ring.len() - 1);
        bytes = rest;
    }
    if !bytes.is_empty() {
        let mut last = [0; WORD];
        last[..bytes.len()].copy_from_slice(bytes);
        ring[at].store(u64::from_le_bytes(last), Ordering::Relaxed);
        at += 1;
    }
    at
}

/// The reading end.
#[derive(Debug)]
pub(super) struct Consumer<M> {
    own: M,
    peer: M,
    secret: u64,
    /// Bytes read, a multiple of a line.
    head: u64,
}

impl<M: Words> Consumer<M> {
    /// The end of a ring of which nothing was read yet.
    pub(super) fn new(own: M, peer: M) -> Self {
        let secret = peer.words()[SECRET].load(Ordering::Relaxed);
        Self { own, peer, secret, head: 0 }
    }

    /// Bytes of the ring read, ever.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Length of the next record, if there is one.
    pub(super) fn next_length(&self) -> Result<Option<usize>, Broken> {
        let ring = &self.peer.words()[CONTROL_WORDS..];
        let first = load(ring, (self.head as usize / WORD) & (ring.len() - 1));
        if first & !LENGTH != tag(self.secret, self.head) {
            return Ok(None);
        }
        let length = (first & LENGTH) as usize;
        let possible = 1..=(RECORD_MAX - WORD).min(ring.len() * WORD - WORD);
        if !possible.contains(&length) {
            return Err(Broken("a record has an impossible length"));
        }
        Ok(Some(length))
    }

    /// Reads the next record, if there is one, into `into`, and gives its room back. Returns how many bytes it has; 0 if
    /// there is none. A place of [`RECORD_MAX`] bytes is large enough; where there are fewer, a longer record is a
    /// mistake of the peer's, who has said before that it is shorter.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        let Some(length) = self.next_length()? else { return Ok(0) };
        let Some(into) = into.get_mut(..length) else {
            return Err(Broken("a record has changed after it was shown"));
        };
        self.take(into);
        Ok(length)
    }

    /// Reads the next record, if there is one of at most so many bytes, to the end of `into`, and gives its room back.
    /// Returns how many bytes it has; 0 if there is none like that.
    #[allow(unsafe_code)]
    pub(super) fn append_to(&mut self, into: &mut Vec<u8>, most: usize) -> Result<usize, Broken> {
        let Some(length) = self.next_length()?.filter(|length| *length <= most) else { return Ok(0) };
        into.reserve(length);
        self.take(&mut into.spare_capacity_mut()[..length]);
        // SAFETY: there is capacity for `length` more bytes, and `take` has written each of them.
        unsafe { into.set_len(into.len() + length) };
        Ok(length)
    }

    /// Copies the next record, which has as many bytes as `into`, and gives its room back.
    fn take<B: Byte>(&mut self, into: &mut [B]) {
        let ring = &self.peer.words()[CONTROL_WORDS..];
        let start = (self.head as usize / WORD + 1) & (ring.len() - 1);
        take(ring, start, into);
        self.head += footprint(into.len()) as u64;
        self.own.words()[HEAD].store(self.head, Ordering::Release);
    }
}

/// A place for a byte.
trait Byte {
    fn put(&mut self, byte: u8);
}

impl Byte for u8 {
    fn put(&mut self, byte: u8) {
        *self = byte;
    }
}

impl Byte for MaybeUninit<u8> {
    fn put(&mut self, byte: u8) {
        self.write(byte);
    }
}

/// Copies bytes from word `at` on, around the end of the ring, to every place of `into`.
fn take<B: Byte>(ring: &[AtomicU64], mut at: usize, mut into: &mut [B]) {
    while into.len() >= WORD {
        let words = &ring[at..];
        let (whole, rest) = into.split_at_mut((into.len() / WORD).min(words.len()) * WORD);
        for (word, bytes) in words.iter().zip(whole.chunks_exact_mut(WORD)) {
            put(bytes, word.load(Ordering::Relaxed));
        }
        at = (at + whole.len() / WORD) & (ring.len() - 1);
        into = rest;
    }
    if !into.is_empty() {
        put(into, ring[at].load(Ordering::Relaxed));
    }
}

/// Writes as many of a word's bytes as there are places.
fn put<B: Byte>(into: &mut [B], word: u64) {
    for (place, byte) in into.iter_mut().zip(word.to_le_bytes()) {
        place.put(byte);
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

/// Gives a segment that nobody else knows yet its secret, and arms its bell.
pub(super) fn prepare(own: &[AtomicU64], secret: u64) {
    own[SECRET].store(secret, Ordering::Relaxed);
    arm(own, false);
}

/// See [`Bell::arm`].
fn arm(own: &[AtomicU64], wants_room: bool) {
    let bell = own[BELL].load(Ordering::Relaxed);
    let reasons = ASLEEP | if wants_room { WANTS_ROOM } else { 0 };
    own[BELL].store((bell & !(TURN - 1)).wrapping_add(TURN) | reasons, Ordering::Relaxed);
}

/// Where to look for something new, without what it takes to read it.
#[derive(Debug)]
pub(super) struct Lookout {
    /// What the first word of the next record has.
    tag: u64,
    secret: u64,
    /// The next record, as `head` of the reader.
    next: u64,
    /// It is there and was left there.
    left: bool,
    bell: u64,
    head: u64,
}

impl Lookout {
    /// Looks at a ring of which nothing was read yet.
    pub(super) fn new(peer: &[AtomicU64]) -> Self {
        let secret = peer[SECRET].load(Ordering::Relaxed);
        Self { tag: tag(secret, 0), secret, next: 0, left: false, bell: 0, head: 0 }
    }

    /// Whether the peer has written something, changed its bell, or, if that is asked for, read something. What was
    /// found once in the bell and what was read is not found again.
    pub(super) fn has_news(&mut self, peer: &[AtomicU64], waits_for_room: bool) -> bool {
        let bell = peer[BELL].load(Ordering::Relaxed);
        let head = if waits_for_room { peer[HEAD].load(Ordering::Relaxed) } else { self.head };
        let news = bell != self.bell || head != self.head;
        (self.bell, self.head) = (bell, head);
        news || self.has_record(peer)
    }

    /// Whether the peer has changed its bell since that was found.
    pub(super) fn has_changed_bell(&self, peer: &[AtomicU64]) -> bool {
        peer[BELL].load(Ordering::Relaxed) != self.bell
    }

    /// Whether there is a record that was not left there.
    pub(super) fn has_record(&self, peer: &[AtomicU64]) -> bool {
        let ring = &peer[CONTROL_WORDS..];
        let first = ring[(self.next as usize / WORD) & (ring.len() - 1)].load(Ordering::Relaxed);
        !self.left && first & !LENGTH == self.tag
    }

    /// Says how far was read, and that what comes next, if it is there, is not to be found again.
    pub(super) fn read_to(&mut self, head: u64, left: bool) {
        (self.next, self.left) = (head, left);
        self.tag = tag(self.secret, head);
    }
}

/// What the peer has read, to see whether it goes on.
pub(super) fn read_by(peer: &[AtomicU64]) -> u64 {
    peer[HEAD].load(Ordering::Relaxed)
}

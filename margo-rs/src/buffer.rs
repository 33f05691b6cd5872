//! Owned bytes that return to a small per-thread pool when dropped.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Buffers kept per thread.
const POOLED_BUFFERS_MAX: usize = 64;
/// A buffer that grew past this is freed instead of kept, in bytes.
const POOLED_CAPACITY_MAX: usize = 1024 * 1024;
/// Capacity of all buffers kept per thread, in bytes.
const POOLED_TOTAL_MAX: usize = 8 * 1024 * 1024;
/// How many kept buffers are looked at for one that is large enough.
const SEARCHED_MAX: usize = 8;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { buffers: Vec::new(), capacity: 0 }) };
}

/// Buffers for use again. Without it, large ones go back to the operating system each time, and come back page by page.
struct Pool {
    buffers: Vec<Vec<u8>>,
    /// Sum of their capacities.
    capacity: usize,
}

impl Pool {
    /// The buffer used last among those with room for `bytes`, or else simply the one used last.
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let recent = self.buffers.iter().enumerate().rev().take(SEARCHED_MAX);
        let fits = recent.filter(|(_, buffer)| buffer.capacity() >= bytes).map(|(at, _)| at).next();
        let last = self.buffers.len().checked_sub(1)?;
        let buffer = self.buffers.swap_remove(fits.unwrap_or(last));
        self.capacity -= buffer.capacity();
        Some(buffer)
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < POOLED_BUFFERS_MAX && self.capacity + buffer.capacity() <= POOLED_TOTAL_MAX {
            buffer.clear();
            self.capacity += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}

/// Owned bytes: the input of a raw handler, the output of a raw call.
///
/// Dereferences to the bytes. Small buffers are recycled within a thread, so that a small call allocates
/// nothing; [`Buffer::into_vec`] takes the bytes out of that cycle.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Bytes at the front that were skipped: `start <= bytes.len()`.
    start: usize,
}

impl Buffer {
    /// An empty buffer, recycled where one is at hand.
    pub fn new() -> Self {
        Self::with_room(0)
    }

    /// An empty buffer, with room for `bytes` if one like that is at hand. Allocates nothing.
    pub(crate) fn with_room(bytes: usize) -> Self {
        let recycled = POOL.try_with(|pool| pool.borrow_mut().take(bytes)).ok().flatten();
        Self { bytes: recycled.unwrap_or_default(), start: 0 }
    }

    /// A buffer holding a copy of `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_room(bytes.len());
        buffer.bytes.extend_from_slice(bytes);
        buffer
    }

    /// A vector, recycled where one is at hand, of `header` zeros and with room for so many more bytes.
    pub fn room_for(header: usize, room: usize) -> Vec<u8> {
        let mut bytes = Self::with_room(header + room).into_vec();
        bytes.resize(header, 0);
        bytes.reserve(room);
        bytes
    }

    /// The bytes as a plain vector.
    pub fn into_vec(mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.start > 0 {
            bytes.drain(..self.start);
        }
        bytes
    }

    /// The vector behind a buffer from which nothing was skipped, to append to.
    pub(crate) fn vec_mut(&mut self) -> &mut Vec<u8> {
        debug_assert_eq!(self.start, 0);
        &mut self.bytes
    }

    /// Hides the first `count` bytes, or all if there are fewer.
    pub(crate) fn skip(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let capacity = self.bytes.capacity();
        if capacity == 0 || capacity > POOLED_CAPACITY_MAX {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that is ending has no pool any more: the bytes are simply freed.
        let _ = POOL.try_with(|pool| pool.borrow_mut().give_back(bytes));
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl From<Vec<u8>> for Buffer {
    #[inline]
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

/// Bytes that arrived: borrowed from the receive buffer while they are small, owned when they were assembled.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Valid for the length of the callback that hands them over.
    Borrowed(&'a [u8]),
    /// Assembled from several reads.
    Owned(Buffer),
}

impl Payload<'_> {
    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Owned(buffer) => buffer,
        }
    }

    /// The bytes as an owned buffer; copies when they were borrowed.
    pub fn into_buffer(self) -> Buffer {
        match self {
            Payload::Borrowed(bytes) => Buffer::copy_from(bytes),
            Payload::Owned(buffer) => buffer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_small_buffer_is_used_again() {
        let mut first = Buffer::new();
        first.vec_mut().extend_from_slice(&[1; 100]);
        let place = first.as_ptr();
        drop(first);
        let second = Buffer::new();
        assert!(second.is_empty());
        assert_eq!(second.as_ptr(), place);
    }

    #[test]
    fn a_large_buffer_is_not_kept() {
        drop(Buffer::from(vec![0; POOLED_CAPACITY_MAX + 1]));
        assert!(Buffer::new().vec_mut().capacity() <= POOLED_CAPACITY_MAX);
    }

    #[test]
    fn a_buffer_that_is_large_enough_is_preferred() {
        let small = Buffer::from(Vec::with_capacity(10));
        let large = Buffer::from(Vec::with_capacity(10_000));
        drop(large);
        drop(small);
        assert!(Buffer::with_room(5000).vec_mut().capacity() >= 5000);
    }

    #[test]
    fn a_thread_keeps_a_bounded_number_of_bytes() {
        let many: Vec<_> = (0..POOLED_BUFFERS_MAX).map(|_| Buffer::from(vec![0; POOLED_CAPACITY_MAX])).collect();
        drop(many);
        POOL.with_borrow(|pool| {
            assert!(pool.capacity <= POOLED_TOTAL_MAX);
            assert_eq!(pool.capacity, pool.buffers.iter().map(Vec::capacity).sum::<usize>());
        });
    }

    #[test]
    fn skipped_bytes_are_gone_for_good() {
        let mut buffer = Buffer::from(vec![1, 2, 3]);
        buffer.skip(2);
        assert_eq!(*buffer, [3]);
        buffer.skip(9);
        assert!(buffer.is_empty());
        let mut buffer = Buffer::from(vec![1, 2, 3]);
        buffer.skip(1);
        assert_eq!(buffer.into_vec(), [2, 3]);
    }
}

//! Memory of the kind that an engine's transport moves with the fewest copies.

use super::memory::{Memory, Segment};
use crate::transport::Transport;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of the kind that an engine's transport moves with the fewest copies; from
/// [`Engine::allocate`](crate::Engine::allocate).
///
/// A slice of bytes until it is given to [`Engine::expose`](crate::Engine::expose) or
/// [`Engine::stage`](crate::Engine::stage), and again after [`Region::into_inner`](super::Region::into_inner). Given as a
/// whole: several of them in one region are ordinary memory. So is one whose region was lent to a peer (see
/// [`Region::lend`](super::Region::lend)) when it is given a second time; and then every page of it is copied when it is
/// first written again.
pub struct BulkMemory {
    /// What the bytes belong to.
    _memory: Box<dyn Memory>,
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the bytes belong to `_memory`, which may be sent, and the address is of nothing else.
unsafe impl Send for BulkMemory {}
// SAFETY: by a shared reference the bytes are only read, and `_memory` is not touched.
unsafe impl Sync for BulkMemory {}

impl BulkMemory {
    /// Memory of `length` bytes, all zero.
    pub(crate) fn new(transport: &dyn Transport, length: usize) -> Self {
        let special = transport.allocate(length).filter(|memory| !memory.is_shared() && memory.is_writable());
        special.and_then(|memory| Self::of(memory, length)).unwrap_or_else(|| {
            Self::of(Box::new(vec![0u8; length]), length).expect("a vector has one segment of its length")
        })
    }

    /// `None` if the memory is not so long, or has gaps.
    fn of(mut memory: Box<dyn Memory>, length: usize) -> Option<Self> {
        let segments = memory.segments();
        let [segment] = segments[..] else { return None };
        (segment.length == length).then_some(Self { _memory: memory, start: segment.start, length })
    }
}

impl Deref for BulkMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` and `length` are the one segment of `_memory`, which promises that it stays where it is,
        // initialised, and that nobody else writes it: it is not shared. No region has it while `self` is here to be used.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for BulkMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; it can be written, and `self` is borrowed for as long by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

// SAFETY: the promises of the memory within; while a region has it, nobody has `self` to use it as a slice.
unsafe impl Memory for BulkMemory {
    fn segments(&mut self) -> Vec<Segment> {
        vec![Segment { start: self.start, length: self.length }]
    }
}

impl fmt::Debug for BulkMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BulkMemory({} bytes)", self.length)
    }
}

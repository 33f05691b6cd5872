//! Memory that a region can own.

use std::any::Any;
use std::ptr::NonNull;

/// A piece of memory without gaps.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Its first byte.
    pub start: NonNull<u8>,
    /// Its length in bytes.
    pub length: usize,
}

impl Segment {
    /// The segment behind a slice. Nothing may use the slice's bytes by another way while the segment is in use.
    pub fn of(bytes: &mut [u8]) -> Self {
        Self { start: NonNull::from(&mut *bytes).cast(), length: bytes.len() }
    }
}

/// Memory that can be given to a region: vectors, boxed slices, several of them, mapped files, or a type of your own.
///
/// # Safety
/// From the call of [`Memory::segments`] on, and until the value is used or dropped again:
/// * every segment stays where it is, also when the value itself is moved;
/// * its bytes are initialised, may be read, and may be written if [`Memory::is_writable`] says so;
/// * segments do not overlap;
/// * nobody else reads or writes the bytes, unless [`Memory::is_shared`] says so.
///
/// The region calls nothing of the value between `segments` and the moment when it gives it back or drops it.
pub unsafe trait Memory: Any + Send {
    /// Where the bytes are, in the order in which they make up the region. Called once.
    fn segments(&mut self) -> Vec<Segment>;

    /// Whether the bytes may be written.
    fn is_writable(&self) -> bool {
        true
    }

    /// Whether another process may change the bytes at any time. Then no reference to them is ever made: they are copied
    /// in and out, and may be torn.
    fn is_shared(&self) -> bool {
        false
    }
}

// SAFETY: a vector's bytes are on the heap, initialised up to its length, and belong to it alone.
unsafe impl Memory for Vec<u8> {
    fn segments(&mut self) -> Vec<Segment> {
        vec![Segment::of(self)]
    }
}

// SAFETY: a boxed slice's bytes are on the heap, initialised, and belong to it alone.
unsafe impl Memory for Box<[u8]> {
    fn segments(&mut self) -> Vec<Segment> {
        vec![Segment::of(self)]
    }
}

/// Several pieces of memory, one after the other. All of them can be written, or the region cannot.
// SAFETY: what each element promises holds for all together; the vector's own buffer, which holds the elements, is not
// touched while they are in use, and distinct owned values do not share memory.
unsafe impl<M: Memory> Memory for Vec<M> {
    fn segments(&mut self) -> Vec<Segment> {
        self.iter_mut().flat_map(Memory::segments).collect()
    }

    fn is_writable(&self) -> bool {
        self.iter().all(Memory::is_writable)
    }

    fn is_shared(&self) -> bool {
        self.iter().any(Memory::is_shared)
    }
}

/// Bytes that live as long as the process, to be read only.
// SAFETY: static bytes neither move nor change.
unsafe impl Memory for &'static [u8] {
    fn segments(&mut self) -> Vec<Segment> {
        vec![Segment { start: NonNull::from(*self).cast(), length: self.len() }]
    }

    fn is_writable(&self) -> bool {
        false
    }
}

/// A file mapped for reading. Who mapped it has promised that nobody changes the file meanwhile.
// SAFETY: a mapping stays where it is until it is dropped.
unsafe impl Memory for memmap2::Mmap {
    fn segments(&mut self) -> Vec<Segment> {
        vec![Segment { start: NonNull::from(&**self).cast(), length: self.len() }]
    }

    fn is_writable(&self) -> bool {
        false
    }
}

/// A file mapped for writing, or anonymous memory. Who mapped a file has promised that nobody changes it meanwhile.
// SAFETY: a mapping stays where it is until it is dropped, and belongs to its value alone.
unsafe impl Memory for memmap2::MmapMut {
    fn segments(&mut self) -> Vec<Segment> {
        vec![Segment::of(self)]
    }
}

// SAFETY: the box's own promise is that of what it holds, which does not move when the box does.
unsafe impl Memory for Box<dyn Memory> {
    fn segments(&mut self) -> Vec<Segment> {
        (**self).segments()
    }

    fn is_writable(&self) -> bool {
        (**self).is_writable()
    }

    fn is_shared(&self) -> bool {
        (**self).is_shared()
    }
}

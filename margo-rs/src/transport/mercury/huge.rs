//! Memory in huge pages, for [`Engine::allocate`](crate::Engine::allocate).
//!
//! Whoever moves bulk data, a network card or the kernel, first finds each page of both ends and holds it: with pages of
//! 4 KiB that takes longer than half of the copying of `na+sm`. Huge pages are asked for and not insisted on; without them
//! this is memory like any other.

use crate::bulk::{Memory, Segment};
use memmap2::{Advice, MmapMut};
use std::ptr::NonNull;

/// Size of a huge page, and where one may start, in bytes. Where a processor's are larger, nothing is gained or lost.
const PAGE: usize = 2 * 1024 * 1024;

/// Bytes that start where a huge page may start, all zero until they are written.
pub(super) struct HugePages {
    mapped: MmapMut,
    /// Where they start in it: `start + length <= mapped.len()`.
    start: usize,
    length: usize,
}

impl HugePages {
    /// `None` if there are too few bytes for a huge page, or the system has no more.
    pub(super) fn new(length: usize) -> Option<Self> {
        if length < PAGE {
            return None;
        }
        // What is not touched takes no memory.
        let mapped = MmapMut::map_anon(length.checked_add(PAGE)?).ok()?;
        let start = mapped.as_ptr().align_offset(PAGE);
        if let Err(error) = mapped.advise_range(Advice::HugePage, start, length) {
            tracing::debug!(%error, "no huge pages for bulk data");
        }
        Some(Self { mapped, start, length })
    }
}

// SAFETY: a mapping stays where it is until it is dropped, and belongs to its value alone; its bytes are zero at first.
unsafe impl Memory for HugePages {
    fn segments(&mut self) -> Vec<Segment> {
        let bytes = &mut self.mapped[self.start..self.start + self.length];
        vec![Segment { start: NonNull::from(&mut *bytes).cast(), length: bytes.len() }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_start_where_they_may_and_have_the_length_asked_for() {
        for length in [PAGE, PAGE + 1, 3 * PAGE - 1] {
            let mut pages = HugePages::new(length).expect("memory is left");
            let [segment] = pages.segments()[..] else { panic!("more than one piece") };
            assert_eq!(segment.length, length);
            assert_eq!(segment.start.as_ptr() as usize % PAGE, 0);
            assert!(pages.mapped[pages.start..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn little_memory_is_of_the_usual_kind() {
        assert!(HugePages::new(PAGE - 1).is_none());
    }
}

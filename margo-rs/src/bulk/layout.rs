//! Arithmetic of ranges and segments: pure, and without overflow whatever the numbers are.

use std::ops::Range;

/// Whether `length` bytes from `offset` on lie within `size` bytes. An empty range may stand at the very end.
pub(crate) fn is_within(offset: u64, length: u64, size: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= size)
}

/// How the bytes of a region are spread over segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Where each segment ends in the region; grows strictly, because no segment is empty.
    ends: Box<[usize]>,
}

impl Layout {
    /// A layout of segments of these lengths, none of them 0. `None` if they add up to more than an address can tell.
    pub(crate) fn new(lengths: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut end = 0usize;
        let ends = lengths.into_iter().map(|length| {
            debug_assert_ne!(length, 0);
            end = end.checked_add(length)?;
            Some(end)
        });
        ends.collect::<Option<_>>().map(|ends| Self { ends })
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The parts of segments that make up a range of the region, in order: which segment, and what of it.
    ///
    /// # Panics
    /// The range does not lie within the region.
    pub(crate) fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        assert!(range.start <= range.end && range.end <= self.len(), "range within the region");
        let first = self.ends.partition_point(|end| *end <= range.start);
        let mut at = range.start;
        let ends = self.ends.iter().enumerate().skip(first);
        ends.map_while(move |(segment, &segment_end)| {
            if at >= range.end {
                return None;
            }
            let segment_start = if segment == 0 { 0 } else { self.ends[segment - 1] };
            let end = segment_end.min(range.end);
            let part = at - segment_start..end - segment_start;
            at = end;
            Some((segment, part))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_wrap_around_are_outside() {
        assert!(is_within(0, 0, 0) && is_within(5, 5, 10) && is_within(10, 0, 10));
        assert!(!is_within(11, 0, 10) && !is_within(5, 6, 10));
        assert!(!is_within(u64::MAX, 1, 10) && !is_within(1, u64::MAX, u64::MAX) && !is_within(u64::MAX, 2, u64::MAX));
    }

    #[test]
    fn segments_that_no_address_can_tell_are_refused() {
        assert_eq!(Layout::new([usize::MAX, 1]), None);
        assert_eq!(Layout::new([usize::MAX]).map(|layout| layout.len()), Some(usize::MAX));
        assert_eq!(Layout::new([]).map(|layout| layout.parts(0..0).count()), Some(0));
    }

    proptest! {
        #[test]
        fn parts_are_exactly_the_bytes_of_the_range(
            lengths in proptest::collection::vec(1usize..50, 0..12),
            a in 0usize..600,
            b in 0usize..600,
        ) {
            let layout = Layout::new(lengths.iter().copied()).unwrap();
            let (a, b) = (a.min(layout.len()), b.min(layout.len()));
            let range = a.min(b)..a.max(b);
            // Each byte of the region is named by its segment and its place there.
            let all: Vec<(usize, usize)> =
                lengths.iter().enumerate().flat_map(|(segment, &length)| (0..length).map(move |at| (segment, at))).collect();
            let mut found = Vec::new();
            for (segment, part) in layout.parts(range.clone()) {
                prop_assert!(!part.is_empty());
                found.extend(part.map(|at| (segment, at)));
            }
            prop_assert_eq!(&found, &all[range]);
        }
    }
}

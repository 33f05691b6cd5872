//! The sliding anti-replay window: a ring of 64-bit blocks that is moved block by block (RFC 6479).

/// Which sequence numbers were seen, from the highest back over a fixed number of bits.
///
/// [`peek`](Self::peek) first, before the cost of a cipher, and [`accept`](Self::accept) after the tag was found good:
/// only then may a message move the window.
pub struct Window {
    /// One more than the highest number accepted; 0 when none was.
    next: u64,
    /// Numbers older than this below `next - 1` are refused.
    bits: u64,
    /// One block more than `bits` needs, so that the block being moved into is never half old.
    blocks: Box<[u64]>,
}

/// No number from here on is used: 2^63.
pub const SEQ_END: u64 = 1 << 63;

/// Why a sequence number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// It was accepted before.
    #[error("sequence number seen before")]
    Replayed,
    /// It is older than the window reaches back.
    #[error("sequence number older than the window")]
    Old,
    /// It is 2^63 or more.
    #[error("sequence number past the end")]
    End,
}

impl Window {
    /// Bits of a window when nothing else is asked for.
    pub const BITS_DEFAULT: u16 = 2048;
    /// The largest window: 1 KiB of state.
    pub const BITS_MAX: u16 = 8128;

    /// Whether a window can have this many bits: a multiple of 64 up to [`BITS_MAX`](Self::BITS_MAX).
    pub fn is_size(bits: u16) -> bool {
        bits > 0 && bits <= Self::BITS_MAX && bits.is_multiple_of(64)
    }

    /// An empty window.
    ///
    /// # Panics
    /// Unless [`is_size`](Self::is_size).
    pub fn new(bits: u16) -> Self {
        assert!(Self::is_size(bits), "a window has a multiple of 64 bits");
        Self { next: 0, bits: bits.into(), blocks: vec![0; usize::from(bits / 64) + 1].into() }
    }

    /// Whether `seq` would be accepted. Changes nothing.
    ///
    /// # Errors
    /// When it was seen, is too old, or past the end.
    #[inline]
    pub fn peek(&self, seq: u64) -> Result<(), WindowError> {
        if seq >= SEQ_END {
            return Err(WindowError::End);
        }
        if seq >= self.next {
            return Ok(());
        }
        if self.next - seq > self.bits {
            return Err(WindowError::Old);
        }
        let (block, bit) = self.place(seq);
        if self.blocks[block] & bit == 0 { Ok(()) } else { Err(WindowError::Replayed) }
    }

    /// The number after the newest that was accepted.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes `seq`, once.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek), which is repeated: another thread may have accepted it in between.
    #[inline]
    pub fn accept(&mut self, seq: u64) -> Result<(), WindowError> {
        self.peek(seq)?;
        if seq >= self.next {
            // The block of `next - 1` stays; all from there to the block of `seq` are new.
            let blocks = self.blocks.len() as u64;
            let from = if self.next == 0 { 0 } else { (self.next - 1) / 64 + 1 };
            let to = seq / 64;
            for block in from.max((to + 1).saturating_sub(blocks))..=to {
                let at = self.index(block);
                self.blocks[at] = 0;
            }
            self.next = seq + 1;
        }
        let (block, bit) = self.place(seq);
        self.blocks[block] |= bit;
        Ok(())
    }

    #[inline]
    fn index(&self, block: u64) -> usize {
        (block % self.blocks.len() as u64) as usize
    }

    #[inline]
    fn place(&self, seq: u64) -> (usize, u64) {
        (self.index(seq / 64), 1 << (seq % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn each_number_is_accepted_once() {
        let mut window = Window::new(128);
        for seq in [0, 1, 5, 3, 127, 64, 200, 73] {
            assert_eq!(window.peek(seq), Ok(()), "{seq}");
            assert_eq!(window.accept(seq), Ok(()), "{seq}");
            assert_eq!(window.accept(seq), Err(WindowError::Replayed), "{seq}");
        }
        assert_eq!(window.accept(72), Err(WindowError::Old));
        assert_eq!(window.accept(74), Ok(()));
    }

    #[test]
    fn a_peek_changes_nothing() {
        let mut window = Window::new(64);
        window.accept(10).expect("new");
        window.peek(1 << 40).expect("far ahead");
        assert_eq!(window.accept(9), Ok(()));
    }

    #[test]
    fn a_full_windows_worth_may_come_in_reverse() {
        let mut window = Window::new(Window::BITS_DEFAULT);
        let bits = u64::from(Window::BITS_DEFAULT);
        for seq in (1000..1000 + bits).rev() {
            assert_eq!(window.accept(seq), Ok(()), "{seq}");
        }
        assert_eq!(window.accept(999), Err(WindowError::Old));
        for seq in 1000..1000 + bits {
            assert_eq!(window.accept(seq), Err(WindowError::Replayed), "{seq}");
        }
    }

    #[test]
    fn numbers_end_at_2_to_the_63() {
        let mut window = Window::new(64);
        assert_eq!(window.accept(SEQ_END), Err(WindowError::End));
        assert_eq!(window.accept(u64::MAX), Err(WindowError::End));
        assert_eq!(window.accept(SEQ_END - 1), Ok(()));
        assert_eq!(window.accept(SEQ_END - 1), Err(WindowError::Replayed));
        assert_eq!(window.accept(SEQ_END - 64), Ok(()));
        assert_eq!(window.accept(SEQ_END - 65), Err(WindowError::Old));
    }

    #[test]
    fn sizes_are_multiples_of_a_block() {
        for bits in [64, 2048, 8128] {
            assert!(Window::is_size(bits));
        }
        for bits in [0, 1, 63, 65, 8192, u16::MAX] {
            assert!(!Window::is_size(bits));
        }
    }

    /// Steps around the edges: small moves, jumps of about a window, jumps of many windows.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![4 => -200i64..200, 2 => -2200i64..2200, 1 => 0i64..100_000]
    }

    proptest! {
        #[test]
        fn it_does_what_a_set_would(blocks in 1u16..40, start in 0u64..10_000, steps in proptest::collection::vec(step(), 1..400)) {
            let mut window = Window::new(blocks * 64);
            let (mut seen, mut highest, mut at) = (HashSet::new(), None::<u64>, start);
            for step in steps {
                at = at.saturating_add_signed(step);
                let old = highest.is_some_and(|highest| at + u64::from(blocks) * 64 <= highest);
                let expected = if old {
                    Err(WindowError::Old)
                } else if seen.contains(&at) {
                    Err(WindowError::Replayed)
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.peek(at), expected);
                prop_assert_eq!(window.accept(at), expected);
                if expected.is_ok() {
                    seen.insert(at);
                    highest = highest.max(Some(at));
                }
            }
        }
    }
}

//! Copying out of memory that another process may be writing.

use std::ptr;

/// Transfers from this length on are written past the caches, in bytes: their beginning would have left the cache before
/// anybody looks at it, and a store that need not fetch its line first takes half the time.
pub(in super::super) const STREAMED_MIN: u64 = 4 << 20;

/// Copies `length` bytes. If `streamed`, past the caches where the processor can do that.
///
/// # Safety
/// Both places have so many bytes, which do not overlap. Those of `to` are nobody else's; those of `from` may be written by
/// other processes meanwhile: then the copy has some of the old and some of the new.
#[allow(unsafe_code)]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize, streamed: bool) {
    #[cfg(target_arch = "x86_64")]
    let done = if streamed {
        // SAFETY: what the caller has promised.
        unsafe { stream(from, to, length) }
    } else {
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = {
        let _ = streamed;
        0
    };
    // SAFETY: what is left of what the caller has promised. No reference to the bytes is made, and nothing is concluded
    // from them.
    unsafe { ptr::copy_nonoverlapping(from.wrapping_add(done), to.wrapping_add(done), length - done) };
}

/// Copies whole lines past the caches, and what is before the first one. Returns how many bytes that was.
///
/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
unsafe fn stream(from: *const u8, to: *mut u8, length: usize) -> usize {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    const UNIT: usize = 16;
    /// So far ahead is asked for what is read.
    const AHEAD: usize = 1024;

    let mut done = to.align_offset(LINE).min(length);
    // SAFETY: `done` is at most `length`.
    unsafe { ptr::copy_nonoverlapping(from, to, done) };
    while length - done >= LINE {
        let (source, target) = (from.wrapping_add(done), to.wrapping_add(done));
        // SAFETY: a hint; it does nothing for an address that is not there. Every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD).cast()) };
        let line: [_; LINE / UNIT] = std::array::from_fn(|unit| {
            // SAFETY: a whole line is left, and this unit lies in it; it need not be aligned.
            unsafe { _mm_loadu_si128(source.wrapping_add(unit * UNIT).cast()) }
        });
        for (unit, bytes) in line.into_iter().enumerate() {
            // SAFETY: as above, and `target` is the start of a line. Nothing looks at it before the fence below.
            unsafe { _mm_stream_si128(target.wrapping_add(unit * UNIT).cast(), bytes) };
        }
        done += LINE;
    }
    // SAFETY: it touches nothing; every x86-64 processor has it. The bytes are there before anybody is told so.
    unsafe { _mm_sfence() };
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_every_alignment_is_copied_and_nothing_else() {
        let source: Vec<u8> = (0..600).map(|at| (at * 7 % 251) as u8).collect();
        for streamed in [false, true] {
            for (from, to) in [(0, 0), (1, 0), (0, 1), (15, 16), (63, 5), (8, 64)] {
                for length in (0..200).chain([255, 256, 257, 511]) {
                    let mut target = vec![0xee; 700];
                    let (start, end) = (source[from..].as_ptr(), target[to..].as_mut_ptr());
                    // SAFETY: both vectors are longer than that, and distinct.
                    #[allow(unsafe_code)]
                    unsafe {
                        copy(start, end, length, streamed);
                    }
                    assert_eq!(target[to..to + length], source[from..from + length], "{from} {to} {length}");
                    assert!(target[..to].iter().chain(&target[to + length..]).all(|byte| *byte == 0xee));
                }
            }
        }
    }
}

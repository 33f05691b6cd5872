//! Memory that two processes share, as slots of a line for a number and of room for a payload.
//!
//! The two are copies of this program, one of them started by the other, and each slot is handed back and forth by its
//! number. So this needs none of the care that `native+sm` takes of peers that may write what they like.

#![allow(unsafe_code, reason = "memory that another process writes cannot be had as a reference without it")]

use std::fs::{File, OpenOptions};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Bytes of a cache line; of two, since processors fetch them in pairs.
const LINE: usize = 128;

/// So many slots, one after the other. The first line of each is its number's.
pub(super) struct Slots {
    memory: MmapRaw,
    payload: usize,
    stride: usize,
    count: usize,
}

impl Slots {
    /// Makes them, in a file without a name, and the path by which another process of this user can open it for as long
    /// as this one runs and holds the file.
    pub(super) fn create(count: usize, payload: usize) -> io::Result<(Self, File, String)> {
        let file = File::from(memfd_create("mochi-bench", MemfdFlags::CLOEXEC)?);
        let stride = LINE + payload.next_multiple_of(LINE);
        ftruncate(&file, (count * stride) as u64)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&file));
        Ok((Self::map(&file, count, payload)?, file, path))
    }

    /// Opens what another process made.
    pub(super) fn open(path: &str, count: usize, payload: usize) -> io::Result<Self> {
        Self::map(&OpenOptions::new().read(true).write(true).open(path)?, count, payload)
    }

    fn map(file: &File, count: usize, payload: usize) -> io::Result<Self> {
        let stride = LINE + payload.next_multiple_of(LINE);
        if file.metadata()?.len() != (count * stride) as u64 {
            return Err(io::Error::other("the shared memory of the floor has another size than was agreed"));
        }
        let memory = MmapOptions::new().len(count * stride).map_raw(file)?;
        Ok(Self { memory, payload, stride, count })
    }

    /// The number of a slot. Whoever reads it with `Acquire` sees the payload written before it was stored with `Release`.
    pub(super) fn number(&self, slot: usize) -> u64 {
        self.word(slot).load(Ordering::Acquire)
    }

    /// Hands a slot to the other side.
    pub(super) fn hand_over(&self, slot: usize, number: u64) {
        self.word(slot).store(number, Ordering::Release);
    }

    /// Writes the payload of a slot that is this side's.
    pub(super) fn write(&self, slot: usize, from: &[u8]) {
        assert_eq!(from.len(), self.payload);
        // SAFETY: `room` is valid for `payload` bytes, which `from` has; it is apart from `from`, which no caller can
        // have from a mapping. By the slot's number the other process leaves it alone until it is handed over.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.room(slot), self.payload) }
    }

    /// Reads the payload of a slot that is this side's.
    pub(super) fn read(&self, slot: usize, into: &mut [u8]) {
        assert_eq!(into.len(), self.payload);
        // SAFETY: as in `write`, in the other direction.
        unsafe { ptr::copy_nonoverlapping(self.room(slot), into.as_mut_ptr(), self.payload) }
    }

    fn word(&self, slot: usize) -> &AtomicU64 {
        let at = self.start(slot).cast();
        // SAFETY: `at` is within the mapping, which lives as long as `self`; it is aligned to a line, since mappings are to
        // a page. Both processes use these bytes as an atomic alone.
        unsafe { AtomicU64::from_ptr(at) }
    }

    /// Where the payload of a slot is.
    fn room(&self, slot: usize) -> *mut u8 {
        // SAFETY: each slot is `LINE` and `payload` bytes or more of the mapping, so this stays inside.
        unsafe { self.start(slot).add(LINE) }
    }

    fn start(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.count);
        // SAFETY: the mapping has `count` slots of `stride` bytes, and `slot` is one of them.
        unsafe { self.memory.as_mut_ptr().add(slot * self.stride) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads_and_slots_do_not_overlap() {
        let (here, _file, path) = Slots::create(3, 200).unwrap();
        let there = Slots::open(&path, 3, 200).unwrap();
        for slot in 0..3 {
            here.write(slot, &[slot as u8 + 1; 200]);
            here.hand_over(slot, slot as u64 + 7);
        }
        for slot in 0..3 {
            let mut payload = [0; 200];
            assert_eq!(there.number(slot), slot as u64 + 7);
            there.read(slot, &mut payload);
            assert_eq!(payload, [slot as u8 + 1; 200]);
        }
        assert!(Slots::open(&path, 4, 200).is_err());
    }
}

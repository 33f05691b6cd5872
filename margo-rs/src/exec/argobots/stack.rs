//! Stacks of user-level threads, with a guard.

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;
use std::io;
use std::ptr;

/// Size of a stack, in bytes: that of Rust's threads. Pages are taken from the system when they are used first.
pub(super) const STACK_SIZE: usize = 2 << 20;
/// What lies below it and must not be touched, in bytes: a whole number of pages, whatever their size.
const GUARD_SIZE: usize = 64 << 10;

/// A stack. Running over its end is a segmentation fault, as on any thread, and never a write to other memory; Argobots'
/// own stacks have no guard unless its environment asks for one.
pub(super) struct Stack {
    base: *mut c_void,
}

// SAFETY: the memory belongs to the stack alone, whichever thread holds it.
unsafe impl Send for Stack {}
// SAFETY: a shared stack gives its address and nothing else.
unsafe impl Sync for Stack {}

impl Stack {
    pub(super) fn new() -> io::Result<Self> {
        let size = GUARD_SIZE + STACK_SIZE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, where the kernel finds room.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let stack = Self { base };
        // SAFETY: the beginning of the mapping just made, that nobody uses yet.
        unsafe { mprotect(base, GUARD_SIZE, MprotectFlags::empty()) }?;
        Ok(stack)
    }

    /// Its lowest address.
    pub(super) fn start(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD_SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; whoever drops it has seen its user-level thread end.
        let _ = unsafe { munmap(self.base, GUARD_SIZE + STACK_SIZE) };
    }
}

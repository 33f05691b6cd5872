//! Whether this process is still the one that made a key: a child of `fork(2)` has a copy of every key and counter, and
//! would seal with numbers that the parent uses too.
//!
//! One page of memory is marked to be wiped in children (`MADV_WIPEONFORK`, madvise(2), Linux 4.14), so a look costs one load.
//! Where the kernel cannot do that, the process id is asked for instead.

#![allow(unsafe_code, reason = "a page that the kernel wipes in children")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use rustix::process::getpid;

const PAGE: usize = 4096;

/// Names a process among its ancestors and descendants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process(u64);

impl Process {
    /// This one.
    #[inline]
    pub(crate) fn current() -> Self {
        static WIPED: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
        /// Copied into children, so that no descendant takes a number of an ancestor's.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Some(number) = WIPED.get_or_init(wiped_in_children) else {
            return Self(getpid().as_raw_nonzero().get().unsigned_abs().into());
        };
        match number.load(Ordering::Relaxed) {
            0 => {
                let new = NEXT.fetch_add(1, Ordering::Relaxed);
                let set = number.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
                Self(set.map_or_else(|other| other, |_| new))
            }
            known => Self(known),
        }
    }
}

/// A number that is 0 in each new child.
fn wiped_in_children() -> Option<&'static AtomicU64> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping at a place of the kernel's choice touches no memory of anybody's.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), PAGE, protection, flags) }.ok()?;
    // SAFETY: the page was just mapped and nobody uses it yet; wiping it in children leaves zeros, a valid AtomicU64.
    unsafe { madvise(page, PAGE, Advice::LinuxWipeOnFork) }.ok()?;
    // SAFETY: the page is aligned, holds zeros, is never unmapped, and is used through this reference alone.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}

/// Runs `check` in a child of `fork(2)`. It must need no lock and no thread of the parent's.
#[cfg(test)]
pub(crate) fn holds_in_a_child(check: impl FnOnce() -> bool) -> bool {
    use rustix::process::{Pid, WaitOptions, waitpid};
    // SAFETY: the child runs `check`, which the caller answers for, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = if check() { 0 } else { 1 };
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    let (_, status) = waitpid(Pid::from_raw(child), WaitOptions::empty()).expect("a child").expect("it ended");
    status.exit_status() == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_process() {
        let parent = Process::current();
        assert_eq!(parent, Process::current());
        assert!(holds_in_a_child(|| Process::current() != parent && Process::current() == Process::current()));
        assert_eq!(parent, Process::current());
    }
}

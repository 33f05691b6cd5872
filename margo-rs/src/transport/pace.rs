//! How a peer keeps up: what goes one way on a link, and whether that goes on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What must go on in the time that a peer may be slow, in bytes: a byte now and then must not keep what others could
/// use.
const PROGRESS_MIN: u64 = 256 * 1024;

/// Bytes that went one way on a link, and whether somebody looks whether they grow.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes: AtomicU64,
    /// What they were when somebody looked last.
    seen: AtomicU64,
    watched: AtomicBool,
}

impl Pace {
    /// So many bytes more. To be called by one thread at a time.
    pub(super) fn add(&self, count: usize) {
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
    }

    /// Has somebody look from now on. `true` if nobody did: then a timer is needed.
    pub(super) fn watch(&self) -> bool {
        let begins = !self.watched.swap(true, Ordering::AcqRel);
        if begins {
            self.seen.store(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        begins
    }

    /// Nobody looks any more.
    pub(super) fn unwatch(&self) {
        self.watched.store(false, Ordering::Release);
    }

    /// Whether somebody looks.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Whether too little went on since this was asked, or since somebody began to look.
    pub(super) fn is_slow(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        bytes - self.seen.swap(bytes, Ordering::Relaxed) < PROGRESS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_after_the_last_look_counts() {
        let pace = Pace::default();
        pace.add(PROGRESS_MIN as usize);
        assert!(pace.watch());
        assert!(pace.is_slow(), "it came before");
        pace.add(PROGRESS_MIN as usize);
        assert!(!pace.is_slow());
        pace.add(PROGRESS_MIN as usize - 1);
        assert!(pace.is_slow());
    }

    #[test]
    fn whoever_looks_already_needs_no_second_timer() {
        let pace = Pace::default();
        assert!(pace.watch());
        assert!(!pace.watch());
        pace.unwatch();
        assert!(!pace.is_watched());
        assert!(pace.watch());
    }
}

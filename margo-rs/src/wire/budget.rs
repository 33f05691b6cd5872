//! Memory that all connections of an engine share out.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that all connections of an engine together may hold: of requests while they are still arriving, or of answers.
#[derive(Debug)]
pub struct Budget {
    claimed: AtomicU64,
    max: u64,
}

impl Budget {
    /// A budget of `max` bytes.
    pub fn new(max: u64) -> Self {
        Self { claimed: AtomicU64::new(0), max }
    }

    /// Takes `bytes` out of the budget, if they are there.
    pub fn claim(&self, bytes: u64) -> bool {
        if self.claimed.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes) <= self.max {
            return true;
        }
        self.release(bytes);
        false
    }

    /// Takes `bytes` whether they are there or not.
    pub fn take(&self, bytes: u64) {
        self.claimed.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Whether more is taken than there is.
    pub fn is_exhausted(&self) -> bool {
        self.claimed() > self.max
    }

    /// Gives back what was claimed.
    pub fn release(&self, bytes: u64) {
        self.claimed.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Bytes that are claimed.
    pub fn claimed(&self) -> u64 {
        self.claimed.load(Ordering::Acquire)
    }
}

//! What the ring is made of, as in the crate.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

pub(super) const CONTROL_WORDS: usize = 512;

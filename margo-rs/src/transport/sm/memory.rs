//! What the ring is made of in a running program. The models of `tests/ring_model.rs` put their own in its place.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Words of a segment before its data: one page.
pub(super) const CONTROL_WORDS: usize = 512;

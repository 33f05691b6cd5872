//! Warnings that peers can cause, kept from filling a log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Warnings let through in one second.
const PER_SECOND_MAX: u64 = 10;

/// Counts warnings per second.
#[derive(Debug)]
pub(crate) struct Warnings {
    since: Instant,
    /// The second after `since` in the upper half, the warnings in it in the lower.
    state: AtomicU64,
}

impl Warnings {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, state: AtomicU64::new(0) }
    }

    /// Whether one more may be written now. Says how many were not, with the first one of a later second.
    pub(crate) fn allow(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.since).as_secs() & 0xFFFF_FFFF;
        let count = |state: u64| if state >> 32 == second { state & 0xFFFF_FFFF } else { 0 };
        let next = |state: u64| Some(second << 32 | (count(state) + 1).min(0xFFFF_FFFF));
        let before = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_else(|state| state);
        let suppressed = (before & 0xFFFF_FFFF).saturating_sub(PER_SECOND_MAX);
        if before >> 32 != second && suppressed > 0 {
            tracing::warn!(suppressed, "more warnings of this kind were left out");
        }
        count(before) < PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_is_cut_and_the_next_second_starts_anew() {
        let start = Instant::now();
        let warnings = Warnings::new(start);
        let allowed = |at| (0..1000).filter(|_| warnings.allow(start + Duration::from_secs(at))).count() as u64;
        assert_eq!(allowed(0), PER_SECOND_MAX);
        assert_eq!(allowed(1), PER_SECOND_MAX);
        assert_eq!(allowed(1), 0);
    }
}

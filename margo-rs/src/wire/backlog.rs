//! What one connection's unread answers take of what all connections of an engine may hold of them.

use super::budget::Budget;
use std::sync::Arc;

/// Less than this is not counted, in bytes: most connections never have as much, and touch nothing that all share.
const COUNTED_MIN: usize = 16 * 1024;
/// What a connection may still have while all of them together have too much, in bytes.
const QUEUED_WHEN_SHORT: usize = 1024 * 1024;

/// The memory of answers that wait for the peer of one connection.
///
/// Unlike a request, an answer cannot be refused. So it is counted in any case, also beyond what the budget has; while
/// the budget is short, connections get fewer requests handled.
#[derive(Debug)]
pub struct Backlog {
    /// Shared with the other connections of the engine.
    budget: Arc<Budget>,
    counted: u64,
    max_queued: usize,
}

impl Backlog {
    /// Nothing waits. `max_queued`: how many bytes of answers may wait before requests do, as long as the budget lasts.
    pub fn new(budget: Arc<Budget>, max_queued: usize) -> Self {
        Self { budget, counted: 0, max_queued }
    }

    /// Takes down how much memory the answers take now, in bytes.
    pub fn update(&mut self, bytes: usize) {
        let now = if bytes < COUNTED_MIN { 0 } else { bytes as u64 };
        if now > self.counted {
            self.budget.take(now - self.counted);
        } else if now < self.counted {
            self.budget.release(self.counted - now);
        }
        self.counted = now;
    }

    /// Whether all connections together hold more than they may, and this one has a part in it.
    pub fn is_to_blame(&self) -> bool {
        self.counted > 0 && self.budget.is_exhausted()
    }

    /// How many bytes of answers may wait at the moment before requests do.
    pub fn max_queued(&self) -> usize {
        if self.budget.is_exhausted() { self.max_queued.min(QUEUED_WHEN_SHORT) } else { self.max_queued }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.budget.release(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_all_until_they_are_gone() {
        let budget = Arc::new(Budget::new(100_000));
        let mut first = Backlog::new(budget.clone(), 1 << 30);
        let mut second = Backlog::new(budget.clone(), 1 << 30);
        first.update(90_000);
        second.update(COUNTED_MIN - 1);
        assert_eq!((budget.claimed(), first.max_queued()), (90_000, 1 << 30));
        second.update(20_000);
        assert_eq!(budget.claimed(), 110_000);
        assert_eq!((first.max_queued(), second.max_queued()), (QUEUED_WHEN_SHORT, QUEUED_WHEN_SHORT));
        assert!(first.is_to_blame() && second.is_to_blame());
        assert!(!Backlog::new(budget.clone(), 5).is_to_blame());
        first.update(70_000);
        assert_eq!((budget.claimed(), first.max_queued(), second.is_to_blame()), (90_000, 1 << 30, false));
        drop(first);
        second.update(0);
        assert_eq!(budget.claimed(), 0);
    }

    #[test]
    fn a_lower_limit_stays_where_memory_is_short() {
        let budget = Arc::new(Budget::new(0));
        let mut backlog = Backlog::new(budget, 4096);
        backlog.update(COUNTED_MIN);
        assert_eq!(backlog.max_queued(), 4096);
    }
}

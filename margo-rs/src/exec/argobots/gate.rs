//! Counts what is in a pool, and says when the last of it has left a pool that was closed.

use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Set when nothing may enter any more; the rest is the count.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A count with an end.
#[derive(Default)]
pub(super) struct Gate {
    state: AtomicUsize,
    empty: Mutex<bool>,
    emptied: Condvar,
}

impl Gate {
    /// Counts one in, unless the gate is closed. Each that is counted in calls [`Gate::leave`] once.
    #[must_use]
    pub(super) fn enter(&self) -> bool {
        let enter = |state: usize| (state & CLOSED == 0).then_some(state + 1);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok()
    }

    pub(super) fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            *self.empty.lock() = true;
            self.emptied.notify_all();
        }
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        if self.state.fetch_or(CLOSED, Ordering::AcqRel) == 0 {
            *self.empty.lock() = true;
        }
    }

    /// Blocks the thread until all have left. The gate must be closed.
    pub(super) fn wait_until_empty(&self) {
        let mut empty = self.empty.lock();
        while !*empty {
            self.emptied.wait(&mut empty);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_closed_gate_waits_for_those_inside_and_takes_nobody() {
        let gate = Arc::new(Gate::default());
        assert!(gate.enter() && gate.enter());
        gate.close();
        assert!(!gate.enter());
        gate.leave();
        let inside = gate.clone();
        let last = thread::spawn(move || inside.leave());
        gate.wait_until_empty();
        last.join().unwrap();
        assert!(!gate.enter());
    }

    #[test]
    fn an_empty_gate_closes_at_once() {
        let gate = Gate::default();
        gate.close();
        gate.wait_until_empty();
    }
}

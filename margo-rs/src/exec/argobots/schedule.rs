//! When a task is polled: at most one work unit of it is in a pool at a time, and no wake-up is lost.
//!
//! The state machine alone, without Argobots, so that loom can look at every order of events (`tests/schedule_model.rs`).

use super::atomics::{AtomicU8, Ordering};

/// Waits to be woken.
const IDLE: u8 = 0;
/// A work unit that will poll it is in the pool.
const SCHEDULED: u8 = 1;
/// Being polled.
const RUNNING: u8 = 2;
/// Being polled, and woken meanwhile.
const WOKEN: u8 = 3;
/// Being polled for the last time.
const CLOSING: u8 = 4;
/// Its future is gone, or whoever ended it is dropping it.
const OVER: u8 = 5;

/// The state of one task.
pub(super) struct Schedule(AtomicU8);

/// What is next for a task whose poll gave `Pending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until it is woken.
    Rest,
    /// It was woken meanwhile: the caller pushes a work unit.
    Push,
    /// It was closed meanwhile: the caller drops the future.
    Drop,
}

impl Schedule {
    /// A task whose creator pushes its first work unit.
    pub(super) fn scheduled() -> Self {
        Self(AtomicU8::new(SCHEDULED))
    }

    /// The task is woken. `true`: the caller pushes a work unit.
    pub(super) fn wake(&self) -> bool {
        self.change(|state| match state {
            IDLE => Some((SCHEDULED, true)),
            // Written anew: so the poll that follows sees all that the waker did before. A look alone would not order
            // the two.
            SCHEDULED => Some((SCHEDULED, false)),
            RUNNING | WOKEN => Some((WOKEN, false)),
            _ => None,
        })
        .unwrap_or(false)
    }

    /// A work unit runs. `false`: there is nothing to poll any more.
    pub(super) fn begin(&self) -> bool {
        self.change(|state| (state == SCHEDULED).then_some((RUNNING, ()))).is_some()
    }

    /// The poll gave `Pending`.
    pub(super) fn pend(&self) -> Next {
        self.change(|state| match state {
            RUNNING => Some((IDLE, Next::Rest)),
            WOKEN => Some((SCHEDULED, Next::Push)),
            _ => Some((OVER, Next::Drop)),
        })
        .unwrap_or(Next::Drop)
    }

    /// The poll gave `Ready`, or a panic: the caller drops the future.
    pub(super) fn finish(&self) {
        self.0.store(OVER, Ordering::Release);
    }

    /// The task shall end. `true`: the caller drops the future; otherwise whoever polls it does, or it is gone already.
    pub(super) fn close(&self) -> bool {
        self.change(|state| match state {
            IDLE | SCHEDULED => Some((OVER, true)),
            RUNNING | WOKEN => Some((CLOSING, false)),
            _ => None,
        })
        .unwrap_or(false)
    }

    /// Goes where `step` says, unless it says nowhere.
    fn change<T>(&self, step: impl Fn(u8) -> Option<(u8, T)>) -> Option<T> {
        let mut state = self.0.load(Ordering::Acquire);
        loop {
            let (next, result) = step(state)?;
            match self.0.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(result),
                Err(now) => state = now,
            }
        }
    }
}

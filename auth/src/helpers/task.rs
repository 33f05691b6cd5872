use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::HelperError;
use super::pool::{Alarm, AlarmKey, HelperPool};

/// The result to come of a call that a helper makes; a future for any executor, or
/// [`wait`](Self::wait).
///
/// The call was handed over when the task was made and does not depend on polling. Dropping the
/// task abandons the result: a call that has not started will not, one that has runs on and its
/// result is dropped by the helper.
///
/// # Panics
/// When polled again after it was ready.
pub(crate) struct Task<T> {
    pool: Arc<HelperPool>,
    slot: Arc<Slot<T>>,
    key: AlarmKey,
    timeout: Duration,
    has_alarm: bool,
}

/// Where helper and caller meet.
pub(super) struct Slot<T> {
    state: Mutex<SlotState<T>>,
    filled: Condvar,
}

struct SlotState<T> {
    outcome: Outcome<T>,
    /// A helper has taken the call.
    started: bool,
    waker: Option<Waker>,
}

enum Outcome<T> {
    Pending,
    Returned(T),
    Panicked,
    /// Taken, timed out or dropped: nobody wants a result any more.
    Closed,
}

/// What a helper sees of a call.
pub(super) trait Work: Send {
    fn is_wanted(&self) -> bool;
    fn run(self: Box<Self>);
}

pub(super) struct Assignment<T, F> {
    slot: Arc<Slot<T>>,
    call: F,
}

impl<T> Task<T> {
    pub(super) fn new(pool: Arc<HelperPool>, slot: Arc<Slot<T>>, key: AlarmKey, timeout: Duration) -> Self {
        Self { pool, slot, key, timeout, has_alarm: false }
    }

    /// Blocks this thread until the result is there or the deadline passed.
    pub(crate) fn wait(self) -> Result<T, HelperError> {
        let mut state = self.slot.state.lock();
        loop {
            if let Some(result) = state.take() {
                return result;
            }
            let late = self.slot.filled.wait_until(&mut state, self.deadline()).timed_out();
            if late && matches!(state.outcome, Outcome::Pending) {
                state.outcome = Outcome::Closed;
                let started = state.started;
                drop(state);
                return Err(self.timed_out(started));
            }
        }
    }

    fn deadline(&self) -> Instant {
        self.key.0
    }

    fn timed_out(&self, started: bool) -> HelperError {
        HelperError::TimedOut { timeout: self.timeout, started, load: self.pool.load() }
    }
}

impl<T: Send + 'static> Future for Task<T> {
    type Output = Result<T, HelperError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let task = self.get_mut();
        let mut state = task.slot.state.lock();
        if let Some(result) = state.take() {
            return Poll::Ready(result);
        }
        assert!(matches!(state.outcome, Outcome::Pending), "polled after it was ready");
        let stale = if Instant::now() >= task.deadline() {
            state.outcome = Outcome::Closed;
            let (stale, started) = (state.waker.take(), state.started);
            drop(state);
            drop(stale);
            return Poll::Ready(Err(task.timed_out(started)));
        } else {
            match &mut state.waker {
                Some(waker) if waker.will_wake(context.waker()) => None,
                waker => waker.replace(context.waker().clone()),
            }
        };
        drop(state);
        drop(stale); // a waker's destructor is foreign code: not under our lock
        if !task.has_alarm {
            let alarm: Arc<dyn Alarm> = Arc::<Slot<T>>::clone(&task.slot);
            if let Err(error) = task.pool.set_alarm(task.key, alarm) {
                task.slot.close();
                return Poll::Ready(Err(error));
            }
            task.has_alarm = true;
        }
        Poll::Pending
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.has_alarm {
            self.pool.clear_alarm(self.key);
        }
        self.slot.close();
    }
}

impl<T> Slot<T> {
    pub(super) fn new() -> Arc<Self> {
        let state = SlotState { outcome: Outcome::Pending, started: false, waker: None };
        Arc::new(Self { state: Mutex::new(state), filled: Condvar::new() })
    }

    fn fill(&self, outcome: Outcome<T>) {
        let mut state = self.state.lock();
        if !matches!(state.outcome, Outcome::Pending) {
            drop(state);
            return; // too late, and `outcome` is dropped here, outside the lock
        }
        state.outcome = outcome;
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        let outcome = std::mem::replace(&mut state.outcome, Outcome::Closed);
        let waker = state.waker.take();
        drop(state);
        drop(outcome);
        drop(waker);
    }
}

impl<T> SlotState<T> {
    fn take(&mut self) -> Option<Result<T, HelperError>> {
        match std::mem::replace(&mut self.outcome, Outcome::Closed) {
            Outcome::Returned(value) => Some(Ok(value)),
            Outcome::Panicked => Some(Err(HelperError::Panicked)),
            other => {
                self.outcome = other;
                None
            }
        }
    }
}

impl<T: Send> Alarm for Slot<T> {
    fn ring(&self) {
        let waker = self.state.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T, F> Assignment<T, F> {
    pub(super) fn new(slot: Arc<Slot<T>>, call: F) -> Self {
        Self { slot, call }
    }
}

impl<T, F> Work for Assignment<T, F>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    fn is_wanted(&self) -> bool {
        matches!(self.slot.state.lock().outcome, Outcome::Pending)
    }

    fn run(self: Box<Self>) {
        let Self { slot, call } = *self;
        slot.state.lock().started = true;
        // The call owns all it touches, so nothing half-changed is left behind.
        let outcome = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(value) => Outcome::Returned(value),
            Err(_) => Outcome::Panicked,
        };
        slot.fill(outcome);
    }
}

//! Sleeping without an asynchronous runtime: Margo's `margo_thread_sleep`, as a future.

use super::Core;
use crate::limits::deadline_after;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Who sleeps until when.
#[derive(Default)]
pub(crate) struct Sleepers {
    wakers: Mutex<BTreeMap<(Instant, u64), Waker>>,
    next: AtomicU64,
}

impl Sleepers {
    /// Wakes those whose time has come; returns when the next one's comes.
    pub(crate) fn wake_due(&self, now: Instant) -> Option<Instant> {
        let mut wakers = self.wakers.lock();
        let later = wakers.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut *wakers, later);
        let next = wakers.first_key_value().map(|((at, _), _)| *at);
        drop(wakers);
        due.into_values().for_each(Waker::wake);
        next
    }

    pub(crate) fn wake_all(&self) {
        let all = std::mem::take(&mut *self.wakers.lock());
        all.into_values().for_each(Waker::wake);
    }
}

/// Makes futures that wait for a time, on the engine's progress thread: to the millisecond or so.
///
/// Cheap to clone. It does not keep the engine running; once that takes no more calls, at its end and before its finalize
/// callbacks run, all sleeps are over at once.
#[derive(Clone)]
pub struct Timer {
    core: Weak<Core>,
}

impl Timer {
    pub(crate) fn new(core: Weak<Core>) -> Self {
        Self { core }
    }

    /// Done after `time`.
    pub fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_until(deadline_after(Instant::now(), time))
    }

    /// Done at `at`.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { core: self.core.clone(), at, key: None }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

/// A wait for a time. Dropping it is harmless.
#[must_use = "nothing waits until it is awaited"]
pub struct Sleep {
    core: Weak<Core>,
    at: Instant,
    key: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(core) = self.core.upgrade() else { return Poll::Ready(()) };
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        let number = self.key.unwrap_or_else(|| core.sleepers.next.fetch_add(1, Ordering::Relaxed));
        let before = core.sleepers.wakers.lock().insert((self.at, number), cx.waker().clone());
        self.key = Some(number);
        if before.is_none() {
            core.driver.watch_deadline(self.at);
        }
        // An engine that ends wakes all sleepers once, and it may have done so just before.
        if core.driver.is_stopped() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(number), Some(core)) = (self.key, self.core.upgrade()) {
            core.sleepers.wakers.lock().remove(&(self.at, number));
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("at", &self.at).finish_non_exhaustive()
    }
}

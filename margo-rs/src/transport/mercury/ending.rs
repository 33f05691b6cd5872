//! How a transport ends: what is still being sent or given up goes out, and then Mercury ends.

use super::shared::Shared;
use parking_lot::MutexGuard;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long the end waits for what is still being sent or given up.
const DRAIN: Duration = Duration::from_secs(2);
/// For how long nothing may have come in before the end.
const CALM: Duration = Duration::from_millis(3);
/// For how long to wait for that where peers go on asking.
const CALM_MAX: Duration = Duration::from_millis(100);

impl Shared {
    /// Ends Mercury, and returns when it has ended. A thread that is inside of it cannot: then whoever polls does it on the
    /// way out.
    pub(super) fn tear_down(&self) {
        if !self.is_inside() {
            // If another thread is at it, this waits: the address must be free again when an engine has ended.
            let ending = self.ending.lock();
            self.end_mercury(&ending);
        }
    }

    /// What [`Shared::tear_down`] does, for a thread that must not wait for another.
    pub(super) fn tear_down_unless_ending(&self) {
        if !self.is_inside()
            && let Some(ending) = self.ending.try_lock()
        {
            self.end_mercury(&ending);
        }
    }

    fn end_mercury(&self, _ending: &MutexGuard<'_, ()>) {
        let Some(fabric) = self.fabric.write().take() else { return };
        self.wake();
        let registered = std::mem::take(&mut *self.registered.lock());
        registered.iter().filter_map(Weak::upgrade).for_each(|memory| memory.close());
        let begun = Instant::now();
        let mut last_event = begun;
        loop {
            let now = Instant::now();
            // What peers sent before they knew of the end comes in until now. Shared memory does not end while it holds
            // a message that nobody has taken; and TCP, closed with bytes that nobody has read, takes back what it was
            // given last, which is that we end.
            let held = Arc::strong_count(&fabric) > 1;
            let calm = now >= last_event + CALM || now >= begun + CALM_MAX;
            if !held && calm {
                break;
            }
            if now >= begun + DRAIN {
                if held {
                    tracing::warn!("Mercury still holds what it was asked to give up; it is left behind");
                    fabric.remove_files();
                }
                break;
            }
            if let Some(_polling) = self.polling.try_lock() {
                let _inside = self.enter();
                let _ = fabric.progress();
                if fabric.trigger() > 0 {
                    last_event = now;
                }
            }
            thread::yield_now();
        }
        drop(fabric);
        self.grants.clear();
    }
}

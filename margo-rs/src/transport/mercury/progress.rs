//! Progress: what has arrived is taken in, and waited for.

use super::fabric::{Fabric, explain};
use super::shared::Shared;
use crate::transport::Polled;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest wait where a plugin has no descriptor to wait for.
const BLIND_WAIT: Duration = Duration::from_millis(1);
/// Longest wait elsewhere. Not everything that a plugin has to do shows at its descriptor: libfabric's connections are
/// made inside of its progress. Margo looks as often.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// For how long one poll takes in messages that come one by one, in nanoseconds. Whom they are for waits as long.
const LOOK_NS: u64 = 50_000;
/// Looks for a message before there is none, where the processor is not wanted by others.
const LOOKS: u32 = 4;
/// Who gets the processor back within this time, in nanoseconds, gave it to nobody.
const ALONE_NS: u64 = 3000;
/// A look that finds no more found a call alone: a request and the end of sending its answer.
const LONE_MAX: u32 = 2;
/// For how long both ends look on after a piece was begun, in milliseconds: as Margo does after anything.
const STIRRED_MS: u64 = 10;

thread_local! {
    /// The transport that this thread is inside of (its address), or 0.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

impl Shared {
    pub(super) fn poll(&self, fabric: &Fabric) -> Polled {
        let some = self.look(fabric);
        let deferred = std::mem::take(&mut *self.deferred.lock());
        let some = some || !deferred.is_empty();
        for (link, call, code) in deferred {
            link.fail_call(call, code);
        }
        self.run_timers();
        match some {
            true => Polled::Progress,
            false if self.is_moving(fabric) => Polled::Moving,
            false => Polled::Idle,
        }
    }

    /// Takes in what has arrived. `true` if there was something.
    pub(super) fn look(&self, fabric: &Fabric) -> bool {
        if !self.is_shared_memory() {
            return self.look_once(fabric);
        }
        // It gives out one message at a time.
        let begun = self.now_ns();
        let mut looks = self.looks(begun);
        let mut now = begun;
        let mut found = 0;
        while looks > 0 && now.saturating_sub(begun) < LOOK_NS {
            if self.look_once(fabric) {
                found += 1;
                // Beyond the last answer a client looks for nothing.
                looks = u32::from(self.listening || fabric.is_awaiting());
            } else {
                looks -= 1;
            }
            now = self.now_ns();
        }
        self.looked.store(now, Ordering::Relaxed);
        if found > 0 {
            self.crowded.store(found > LONE_MAX, Ordering::Relaxed);
        }
        found > 0
    }

    pub(super) fn look_once(&self, fabric: &Fabric) -> bool {
        if let Err(code) = fabric.progress()
            && self.warnings.allow(Instant::now())
        {
            tracing::warn!(reason = explain(code), "Mercury makes no progress");
        }
        fabric.trigger() > 0
    }

    /// How often to look for a message before there is none. Whoever polls gives the processor to others after that, which
    /// costs more than to look: for a call alone, where nobody else wanted the processor, that is seldom enough. With many
    /// in flight it is no loss, because more of them come together.
    pub(super) fn looks(&self, now: u64) -> u32 {
        let since = now.saturating_sub(self.looked.load(Ordering::Relaxed));
        if since < ALONE_NS && !self.crowded.load(Ordering::Relaxed) { LOOKS } else { 1 }
    }

    /// Whether data was begun to be moved a short time ago, in or out, and may need this end: where software moves it, it
    /// does so inside of progress, and pieces follow each other.
    pub(super) fn is_moving(&self, fabric: &Fabric) -> bool {
        (fabric.is_moving() || !self.grants.is_empty())
            && self.now_ms().saturating_sub(self.stirred.load(Ordering::Relaxed)) <= STIRRED_MS
    }

    /// A piece is about to be moved.
    pub(super) fn stir(&self) {
        self.stirred.store(self.now_ms(), Ordering::Relaxed);
    }

    /// One poll, if no other thread is inside. `None` if one is, or if all is over.
    pub(super) fn poll_once(&self) -> Option<Polled> {
        let fabric = self.fabric()?;
        let _polling = self.polling.try_lock()?;
        let _inside = self.enter();
        Some(self.poll(&fabric))
    }

    /// Waits until something may have arrived, or until then. May end earlier.
    pub(super) fn park(&self, until: Option<Instant>) {
        let fabric = self.fabric();
        let asleep = fabric.as_ref().and_then(|fabric| fabric.fall_asleep());
        // What was sent before that was not shown by anything.
        let polled = if asleep.is_some() { self.poll_once() } else { Some(Polled::Idle) };
        let is_ready = || fabric.as_ref().is_some_and(|fabric| fabric.is_ready());
        if matches!(polled, Some(Polled::Progress)) || !self.deferred.lock().is_empty() || is_ready() {
            return;
        }
        let mut wait = until.map_or(WAIT_MAX, |until| until.saturating_duration_since(Instant::now()).min(WAIT_MAX));
        let is_moving = fabric.as_ref().is_some_and(|fabric| fabric.is_moving());
        if is_moving || !self.grants.is_empty() || polled.is_none() {
            // Where software moves the bytes, it does so in small steps inside of progress, on both sides.
            wait = wait.min(BLIND_WAIT);
        }
        let mut descriptors = vec![PollFd::new(&self.wake, PollFlags::IN)];
        if let Some(fabric) = &fabric {
            match fabric.descriptor() {
                Some(descriptor) => descriptors.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN)),
                None => wait = wait.min(BLIND_WAIT),
            }
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        // A signal ends the wait early, as any event does.
        let _ = poll(&mut descriptors, Some(&wait));
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
    }

    /// Whether this thread is inside of this transport.
    pub(super) fn is_inside(&self) -> bool {
        INSIDE.get() == self.key()
    }

    /// Marks this thread as inside of this transport, until what is returned is dropped.
    pub(super) fn enter(&self) -> Inside {
        Inside { before: INSIDE.replace(self.key()) }
    }
}

/// See [`Shared::enter`].
pub(super) struct Inside {
    before: usize,
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

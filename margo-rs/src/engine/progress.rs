//! Who drives the transport, and how waiting is done.
//!
//! Waking a parked thread costs more than a whole round trip, so whoever waits for an answer drives the transport
//! himself (he *leads*) for a bounded time, and parks only after it. Each engine also has one progress thread, which
//! leads when nobody else does: it serves requests, runs deadlines, and sleeps in the transport's `park`, without a
//! single wake-up while nothing happens.
//!
//! In an engine that only makes calls, the thread stays out of the way while callers lead: it looks only every
//! [`LEASE`] whether they still do. That bounds what a caller can delay others by when its task is not polled although
//! it leads. Where the thread sleeps, whoever leaves its sending to a leader wakes it, once for each sleep: the leader may
//! never be polled again.

use crate::transport::{Polled, Transport};
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the progress thread looks whether callers still lead.
const LEASE: Duration = Duration::from_millis(4);
/// After this many waits in a row that outlasted the budget, callers park at once...
const MISSES_MAX: u32 = 8;
/// ...except that every so many calls one tries again.
const RETRY_EVERY: u32 = 16;

/// A task leads at most this long at a time, so that others of its executor run.
const TASK_BUDGET: Duration = Duration::from_micros(50);
/// Fewer calls than this are not worth a system call while others are about to follow.
const BATCH_MIN: usize = 16;

/// How long a thread that waits keeps looking before it parks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Look for the given time, giving the processor to others in between, then park. The default, with 50 µs.
    Adaptive(Duration),
    /// Never park while a call is in flight, and never in a listening engine: lowest latency, one full core.
    Busy,
    /// Park at once: lowest processor time, highest latency.
    Park,
}

impl Default for Progress {
    fn default() -> Self {
        Progress::Adaptive(Duration::from_micros(50))
    }
}

impl Progress {
    /// `None` means without end.
    fn budget(self) -> Option<Duration> {
        match self {
            Progress::Adaptive(budget) => Some(budget),
            Progress::Busy => None,
            Progress::Park => Some(Duration::ZERO),
        }
    }
}

thread_local! {
    /// The engine whose transport this thread is inside of (the driver's address), or 0.
    static POLLING: Cell<usize> = const { Cell::new(0) };
    /// When the last poll on this thread began.
    static POLL_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The engine whose progress thread this is, or 0.
    static PROGRESS_THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is inside the transport of any engine: whoever waits here waits for himself.
pub(crate) fn is_polling_anywhere() -> bool {
    POLLING.get() != 0
}

/// The right to drive the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lead(u64);

/// Tells drivers apart without holding on to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DriverKey(usize);

impl DriverKey {
    /// Whether this thread is inside that driver's transport right now.
    pub(crate) fn is_polling_here(self) -> bool {
        POLLING.get() == self.0
    }
}

/// The state that leaders and the progress thread share.
pub(crate) struct Driver {
    transport: Arc<dyn Transport>,
    progress: Progress,
    listening: bool,
    /// Calls of ours in flight, on all links.
    outstanding: AtomicUsize,
    /// Calls queued since the transport was last polled.
    unflushed: AtomicUsize,
    /// The [`Lead`] of the caller that leads, or has been woken to lead; 0 if none does.
    led: AtomicU64,
    next_lead: AtomicU64,
    /// Grows with each time a caller led.
    leads: AtomicU64,
    /// The leader gave up: the progress thread must not wait for the lease.
    handed_over: AtomicBool,
    misses: AtomicU32,
    lonely_calls: AtomicU32,
    epoch: Instant,
    /// The earliest deadline known, in nanoseconds after `epoch`; may be too early, never too late.
    next_deadline: AtomicU64,
    stopped: AtomicBool,
    /// The progress thread sleeps in the transport, or is about to, and nobody has woken it yet.
    parked: AtomicBool,
    lease: Mutex<()>,
    lease_ends: Condvar,
}

/// What the progress thread saw of the callers that lead, and when it saw that first.
#[derive(Default)]
struct Look {
    leads: u64,
    led: u64,
    since: Option<Instant>,
}

impl Look {
    /// Whether nothing has changed for a lease: the same caller is to lead, and does not.
    fn shows_for_a_lease(&mut self, leads: u64, led: u64) -> bool {
        match self.since {
            Some(since) if self.leads == leads && self.led == led => since.elapsed() >= LEASE,
            _ => {
                *self = Self { leads, led, since: Some(Instant::now()) };
                false
            }
        }
    }
}

/// What came of leading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Led {
    /// What was waited for is there.
    Done,
    /// Others' answers came in, or their turn has come: lead on after them.
    Others,
    /// Nothing came within the budget, or leading is not possible here.
    GaveUp,
}

impl Driver {
    pub(crate) fn new(transport: Arc<dyn Transport>, progress: Progress, listening: bool) -> Self {
        Self {
            transport,
            progress,
            listening,
            outstanding: AtomicUsize::new(0),
            unflushed: AtomicUsize::new(0),
            led: AtomicU64::new(0),
            next_lead: AtomicU64::new(1),
            leads: AtomicU64::new(0),
            handed_over: AtomicBool::new(false),
            misses: AtomicU32::new(0),
            lonely_calls: AtomicU32::new(0),
            epoch: Instant::now(),
            next_deadline: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            lease: Mutex::new(()),
            lease_ends: Condvar::new(),
        }
    }

    /// Whether this thread is inside this engine's transport right now.
    pub(crate) fn is_polling_here(&self) -> bool {
        self.key().is_polling_here()
    }

    /// The time, as of the beginning of the poll if this is inside of one.
    pub(crate) fn now(&self) -> Instant {
        if self.is_polling_here()
            && let Some(now) = POLL_BEGAN.get()
        {
            now
        } else {
            Instant::now()
        }
    }

    /// Whether this is the engine's own thread.
    pub(crate) fn is_progress_thread(&self) -> bool {
        PROGRESS_THREAD.get() == self.key().0
    }

    /// Tells this driver from others.
    pub(crate) fn key(&self) -> DriverKey {
        DriverKey(std::ptr::from_ref(self).addr())
    }

    fn poll(&self, now: Instant) -> Polled {
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                POLLING.set(self.0);
            }
        }
        let _restore = Restore(POLLING.replace(self.key().0));
        POLL_BEGAN.set(Some(now));
        let unflushed = self.unflushed.swap(0, Ordering::SeqCst);
        let polled = self.transport.poll();
        if polled == Polled::Busy && unflushed > 0 {
            // Another thread is inside, and may have looked at what is queued before this was.
            self.unflushed.fetch_add(unflushed, Ordering::SeqCst);
        }
        polled
    }

    /// A call starts. Says how many are in flight before it.
    pub(crate) fn call_starts(&self, deadline: Instant) -> usize {
        self.watch_deadline(deadline);
        self.outstanding.fetch_add(1, Ordering::SeqCst)
    }

    /// Whether a call that is one of `outstanding` should go out at once with all that are queued. Once half of them
    /// are, the server can work on that half while the other is being prepared.
    pub(crate) fn should_flush(&self, outstanding: usize) -> bool {
        let unflushed = self.unflushed.load(Ordering::Relaxed) + 1;
        let now = unflushed >= BATCH_MIN && unflushed * 2 >= outstanding;
        if now {
            self.unflushed.store(0, Ordering::Relaxed);
        }
        now
    }

    /// A call was queued for the next poll, which comes even if no leader is polled any more.
    pub(crate) fn call_queued(&self) {
        self.unflushed.fetch_add(1, Ordering::SeqCst);
        // The thread looks in the other order: it says that it sleeps, and then whether something is queued.
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.transport.unpark();
        }
    }

    /// Makes sure that `expire` is called at the deadline. What expires must be findable before this.
    pub(crate) fn watch_deadline(&self, deadline: Instant) {
        let at = deadline.saturating_duration_since(self.epoch).as_nanos() as u64;
        if self.next_deadline.fetch_min(at, Ordering::AcqRel) > at {
            self.transport.unpark();
        }
    }

    /// A call has ended.
    pub(crate) fn call_ends(&self) {
        self.outstanding.fetch_sub(1, Ordering::SeqCst);
    }

    /// Calls of ours in flight.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::SeqCst)
    }

    /// Whether a call that is alone in flight should let other tasks of its executor run once before it leads, to find
    /// out whether they have calls to make.
    pub(crate) fn should_probe(&self) -> bool {
        self.lonely_calls.fetch_add(1, Ordering::Relaxed) % RETRY_EVERY == RETRY_EVERY - 1
    }

    /// Makes the caller the leader, if nobody is and leading is possible here.
    pub(crate) fn elect(&self) -> Option<Lead> {
        if is_polling_anywhere() || self.led.load(Ordering::SeqCst) != 0 {
            return None;
        }
        let lead = self.next_lead.fetch_add(1, Ordering::Relaxed);
        self.led.compare_exchange(0, lead, Ordering::SeqCst, Ordering::SeqCst).ok().map(|_| Lead(lead))
    }

    /// Whether the lead was not taken away because its holder did nothing with it.
    pub(crate) fn is_led_by(&self, lead: Lead) -> bool {
        self.led.load(Ordering::SeqCst) == lead.0
    }

    /// The leader steps back because its own wait is over.
    pub(crate) fn step_back(&self, lead: Lead) {
        let _ = self.led.compare_exchange(lead.0, 0, Ordering::SeqCst, Ordering::SeqCst);
        // A call may have been queued after the last poll, by a caller that left its sending to this leader.
        if self.unflushed.load(Ordering::SeqCst) > 0 {
            self.transport.unpark();
        }
    }

    /// The leader steps back and the progress thread takes over now.
    pub(crate) fn hand_over(&self, lead: Lead) {
        self.handed_over.store(true, Ordering::SeqCst);
        self.step_back(lead);
        // The thread may be about to wait: with the lock it either has seen the change or gets the signal.
        drop(self.lease.lock());
        self.lease_ends.notify_one();
        if self.progress == Progress::Busy {
            self.transport.unpark();
        }
    }

    /// Drives the transport as its leader until `done`, the deadline, or the end of the budget. A caller that may not
    /// `block` its thread is let go after a short time whatever the budget is.
    pub(crate) fn lead(&self, deadline: Instant, block: bool, mut done: impl FnMut() -> bool) -> Led {
        if is_polling_anywhere() {
            return Led::GaveUp;
        }
        let misses = self.misses.load(Ordering::Relaxed);
        let mut budget = self.progress.budget();
        if misses >= MISSES_MAX && budget.is_some() {
            let next = if misses >= MISSES_MAX + RETRY_EVERY { MISSES_MAX - 1 } else { misses + 1 };
            self.misses.store(next, Ordering::Relaxed);
            budget = Some(Duration::ZERO);
        }
        self.leads.fetch_add(1, Ordering::Release);
        let start = Instant::now();
        let mut now = start;
        // While data streams in, looking on is no waste: the budget is for silence.
        let mut quiet_since = start;
        loop {
            let polled = self.poll(now);
            if done() {
                self.misses.store(0, Ordering::Relaxed);
                return Led::Done;
            }
            if polled == Polled::Progress && self.outstanding() > 1 {
                return Led::Others;
            }
            now = Instant::now();
            if self.is_worth_looking_on(polled) {
                quiet_since = now;
            }
            if now >= deadline || budget.is_some_and(|budget| now - quiet_since >= budget) {
                if misses < MISSES_MAX {
                    self.misses.store(misses + 1, Ordering::Relaxed);
                }
                return Led::GaveUp;
            }
            if !block && now - start >= TASK_BUDGET {
                return Led::Others;
            }
            thread::yield_now();
        }
    }

    /// Whether the progress thread has ended or is about to: nothing expires any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Ends the progress thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(self.lease.lock());
        self.lease_ends.notify_one();
        self.transport.unpark();
    }

    /// Makes the progress thread look at its deadlines.
    pub(crate) fn kick(&self) {
        drop(self.lease.lock());
        self.lease_ends.notify_one();
        self.transport.unpark();
    }

    /// The progress thread. `expire` ends what is due and returns the next time it must be called.
    pub(crate) fn run(&self, expire: impl Fn(Instant) -> Option<Instant>) {
        PROGRESS_THREAD.set(self.key().0);
        let mut seen = self.leads.load(Ordering::Acquire);
        let mut last_look = Look::default();
        while !self.stopped.load(Ordering::SeqCst) {
            let handed_over = self.handed_over.swap(false, Ordering::SeqCst);
            let leads = self.leads.load(Ordering::Acquire);
            let led = self.led.load(Ordering::SeqCst);
            let is_idle = led != 0 && last_look.shows_for_a_lease(leads, led);
            if is_idle {
                // Somebody is to lead and has not been polled for a whole lease: others must not wait for that.
                let _ = self.led.compare_exchange(led, 0, Ordering::SeqCst, Ordering::SeqCst);
            }
            if !self.listening && !handed_over && !is_idle && (leads != seen || led != 0) {
                seen = leads;
                let mut lease = self.lease.lock();
                if !self.handed_over.load(Ordering::SeqCst) && !self.stopped.load(Ordering::SeqCst) {
                    self.lease_ends.wait_for(&mut lease, LEASE);
                }
                drop(lease);
                self.expire_if_due(&expire);
                continue;
            }
            seen = leads;
            // A panic of user code in a callback (a waker, a drop) must not end the service of all others.
            if catch_unwind(AssertUnwindSafe(|| self.serve(seen))).is_err() {
                tracing::error!("a callback panicked on the progress thread");
            }
            self.expire_if_due(&expire);
            if self.stopped.load(Ordering::SeqCst) || (!self.listening && self.led.load(Ordering::SeqCst) != 0) {
                continue;
            }
            if self.progress == Progress::Busy && (self.listening || self.outstanding() > 0) {
                continue;
            }
            self.parked.store(true, Ordering::SeqCst);
            if self.unflushed.load(Ordering::SeqCst) == 0 {
                self.transport.park(self.wake_at());
            }
            self.parked.store(false, Ordering::SeqCst);
        }
    }

    /// Handles what there is until nothing has come for the budget, or callers lead.
    fn serve(&self, seen: u64) {
        let budget = match self.progress.budget() {
            Some(budget) if self.listening || self.outstanding() > 0 => budget,
            Some(_) => Duration::ZERO,
            None => LEASE,
        };
        let mut quiet_since: Option<Instant> = None;
        let mut now = Instant::now();
        loop {
            if self.stopped.load(Ordering::SeqCst)
                || (!self.listening
                    && (self.led.load(Ordering::SeqCst) != 0 || self.leads.load(Ordering::Acquire) != seen))
            {
                return;
            }
            let polled = self.poll(now);
            now = Instant::now();
            match polled {
                Polled::Progress => quiet_since = None,
                Polled::Moving if self.is_worth_looking_on(polled) => {
                    quiet_since = None;
                    thread::yield_now();
                }
                Polled::Moving | Polled::Idle | Polled::Busy => {
                    if now - *quiet_since.get_or_insert(now) >= budget {
                        return;
                    }
                    thread::yield_now();
                }
            }
        }
    }

    /// Whether the time that one looks on before one parks begins anew after this.
    fn is_worth_looking_on(&self, polled: Polled) -> bool {
        match polled {
            Polled::Progress => true,
            Polled::Moving => self.progress != Progress::Park,
            Polled::Idle | Polled::Busy => false,
        }
    }

    fn expire_if_due(&self, expire: &impl Fn(Instant) -> Option<Instant>) {
        let now = Instant::now();
        let due = self.next_deadline.load(Ordering::Acquire);
        if due == u64::MAX || now < self.epoch + Duration::from_nanos(due) {
            return;
        }
        // From here on, calls that start state their deadline anew.
        self.next_deadline.store(u64::MAX, Ordering::SeqCst);
        if let Some(next) = expire(now) {
            let at = next.saturating_duration_since(self.epoch).as_nanos() as u64;
            self.next_deadline.fetch_min(at, Ordering::AcqRel);
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let deadline = match self.next_deadline.load(Ordering::Acquire) {
            u64::MAX => None,
            at => Some(self.epoch + Duration::from_nanos(at)),
        };
        match (deadline, self.transport.next_timer()) {
            (Some(deadline), Some(timer)) => Some(deadline.min(timer)),
            (one, other) => one.or(other),
        }
    }

    /// Asks for a run of the deadlines at `at`.
    pub(crate) fn remind(&self, at: Instant) {
        let at = at.saturating_duration_since(self.epoch).as_nanos() as u64;
        self.next_deadline.fetch_min(at, Ordering::AcqRel);
        self.kick();
    }
}

#[cfg(test)]
mod tests;

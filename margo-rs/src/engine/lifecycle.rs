//! How an engine ends: who asked, what runs when, who waits for it.

use super::Core;
use crate::limits::{Limits, deadline_after};
use crate::server::Request;
use crate::wire::Budget;
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

type Callback = Box<dyn FnOnce() + Send>;
type Guard = Box<dyn Fn(&Request) -> bool + Send + Sync>;

const RUNNING: u8 = 0;
/// Prefinalize callbacks run; requests are still served, so that the callbacks may call and be called.
const PREFINALIZING: u8 = 1;
/// Requests are refused; running handlers may end.
const DRAINING: u8 = 2;
const ENDED: u8 = 3;

/// The state of an engine's life.
#[derive(Default)]
pub(crate) struct Lifecycle {
    state: AtomicU8,
    inner: Mutex<Inner>,
    remote_shutdown: Mutex<Option<Arc<Guard>>>,
}

#[derive(Default)]
struct Inner {
    prefinalize: Vec<Callback>,
    finalize: Vec<Callback>,
    /// Who waits for the end.
    waiting: Vec<Waker>,
    /// Until when handlers may end.
    grace_until: Option<Instant>,
}

/// Counts the requests that an engine serves, and the bytes of their payloads.
pub(crate) struct Serving {
    count: AtomicUsize,
    count_max: usize,
    bytes: Budget,
    /// Who waits for the count to reach zero, at shutdown.
    drained: Mutex<Option<Waker>>,
    draining: AtomicBool,
}

impl Serving {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            count: AtomicUsize::new(0),
            count_max: limits.max_in_flight_total,
            bytes: Budget::new(limits.max_bytes_total),
            drained: Mutex::new(None),
            draining: AtomicBool::new(false),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Counts a request in, unless there are too many already.
    pub(crate) fn begin(&self, bytes: u64) -> bool {
        if !self.bytes.claim(bytes) {
            return false;
        }
        if self.count.fetch_add(1, Ordering::SeqCst) < self.count_max {
            return true;
        }
        self.end(bytes);
        false
    }

    pub(crate) fn end(&self, bytes: u64) {
        self.bytes.release(bytes);
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 && self.draining.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn watch(&self, waker: &Waker) {
        *self.drained.lock() = Some(waker.clone());
        self.draining.store(true, Ordering::SeqCst);
    }

    fn wake(&self) {
        let waker = self.drained.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Lifecycle {
    pub(crate) fn is_running(&self) -> bool {
        self.state.load(Ordering::Acquire) <= PREFINALIZING
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state.load(Ordering::Acquire) == ENDED
    }

    pub(crate) fn push_prefinalize(&self, callback: Callback) {
        let mut inner = self.inner.lock();
        // Later nobody would run it, and what it holds would never go.
        if self.is_running() {
            inner.prefinalize.push(callback);
        }
    }

    pub(crate) fn push_finalize(&self, callback: Callback) {
        let mut inner = self.inner.lock();
        if !self.has_ended() {
            inner.finalize.push(callback);
        }
    }

    pub(crate) fn allow_remote_shutdown(&self, guard: Guard) {
        *self.remote_shutdown.lock() = Some(Arc::new(guard));
    }

    /// Whether this request may end the engine.
    pub(crate) fn may_shut_down(&self, request: &Request) -> bool {
        let guard = self.remote_shutdown.lock().clone();
        guard.is_some_and(|guard| guard(request))
    }

    fn poll_ended(&self, waker: &Waker) -> Poll<()> {
        if self.has_ended() {
            return Poll::Ready(());
        }
        let mut inner = self.inner.lock();
        // The state changes to `ENDED` under this lock.
        if self.has_ended() {
            return Poll::Ready(());
        }
        if !inner.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            inner.waiting.push(waker.clone());
        }
        Poll::Pending
    }

    /// Runs callbacks, the ones that they push as well, and then is in the next state: whatever is pushed later is refused.
    fn run_until(&self, next: u8, take: impl Fn(&mut Inner) -> Option<Callback>) {
        loop {
            let callback = {
                let mut inner = self.inner.lock();
                let Some(callback) = take(&mut inner) else {
                    self.state.fetch_max(next, Ordering::AcqRel);
                    return;
                };
                callback
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback)).is_err() {
                tracing::error!("a finalize callback panicked");
            }
        }
    }
}

impl Core {
    /// Ends the grace period when its time has come; returns when that will be.
    pub(crate) fn expire_grace(&self, now: Instant) -> Option<Instant> {
        let until = self.lifecycle.inner.lock().grace_until?;
        if until > now {
            return Some(until);
        }
        self.serving.wake();
        None
    }

    /// Starts the orderly end, once. It runs on a thread of its own, because callbacks may block and make calls.
    pub(crate) fn begin_shutdown(self: &Arc<Self>) {
        let state = &self.lifecycle.state;
        if state.compare_exchange(RUNNING, PREFINALIZING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        let core = self.clone();
        let spawned = thread::Builder::new().name("margo-shutdown".to_owned()).spawn(move || core.shut_down());
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for an orderly shutdown: ending at once");
            self.end();
        }
    }

    fn shut_down(self: &Arc<Self>) {
        self.lifecycle.run_until(DRAINING, |inner| inner.prefinalize.pop());
        self.transport.stop_accepting();
        let until = deadline_after(Instant::now(), self.limits.shutdown_grace);
        super::block_on(|cx| {
            self.serving.watch(cx.waker());
            self.lifecycle.inner.lock().grace_until = Some(until);
            let left = self.serving.count();
            if left == 0 || Instant::now() >= until {
                if left > 0 {
                    tracing::warn!(requests = left, "handlers did not end within the grace period");
                }
                return Poll::Ready(());
            }
            self.driver.remind(until);
            Poll::Pending
        });
        self.lifecycle.inner.lock().grace_until = None;
        // Answers of the last handlers that a full socket held back. Nothing says when a socket has room again but the
        // transport's own poll, so this looks from time to time.
        let unsent = || self.links().iter().filter_map(|link| Some(link.link()?.queued())).sum::<usize>();
        self.transport.poll();
        while unsent() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
            self.transport.poll();
        }
        self.end();
    }

    /// Ends without waiting, when nobody holds the engine any more.
    pub(crate) fn abandon(self: &Arc<Self>) {
        let state = &self.lifecycle.state;
        if state.compare_exchange(RUNNING, PREFINALIZING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        self.lifecycle.run_until(DRAINING, |inner| inner.prefinalize.pop());
        self.end();
    }

    fn end(self: &Arc<Self>) {
        // Empty but where no thread could be had for an orderly end.
        self.lifecycle.run_until(DRAINING, |inner| inner.prefinalize.pop());
        for link in self.links() {
            link.calls.lose(crate::error::CallError::ShutDown);
            link.running.cancel_all();
        }
        // Registered memory must be let go of before the transport is.
        self.regions.close();
        self.transport.close();
        self.driver.stop();
        // Nothing tells the time any more, and callbacks may wait for it.
        self.sleepers.wake_all();
        self.registry.clear();
        // What the guard and callbacks hold may hold the engine.
        self.lifecycle.remote_shutdown.lock().take();
        self.lifecycle.run_until(ENDED, |inner| inner.finalize.pop());
        let waiting = std::mem::take(&mut self.lifecycle.inner.lock().waiting);
        for waker in waiting {
            waker.wake();
        }
    }
}

/// Waits for the end of an engine; see [`Engine::shutdown`](crate::Engine::shutdown).
#[must_use = "the engine's end is waited for by `.await` or `.wait()`"]
pub struct Shutdown {
    core: Arc<Core>,
}

impl Shutdown {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.core.lifecycle.poll_ended(cx.waker())
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").field("ended", &self.core.lifecycle.has_ended()).finish()
    }
}

//! Blocking on a future without a runtime.

use super::is_polling_anywhere;
use crate::exec::is_in_task;
use parking_lot::Mutex;
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Blocks the calling thread until a future is done, for programs without an asynchronous runtime.
///
/// Not for use inside an asynchronous handler: there it would stop the thread that makes progress. A blocking handler in
/// an Argobots pool is suspended; see [`Pool`](crate::Pool).
pub trait Wait: Future + Sized {
    /// The future's result.
    ///
    /// # Panics
    /// On a thread that is making progress for an engine or polls a future in an Argobots pool, as in an asynchronous
    /// handler: it would wait for itself.
    fn wait(self) -> Self::Output {
        assert!(may_block(), "blocking wait inside an asynchronous handler: await, or register it as blocking");
        let mut future = pin!(self);
        block_on(|cx| future.as_mut().poll(cx))
    }
}

impl<F: Future> Wait for F {}

/// Whether this thread may block for a call: not while it makes progress for an engine or polls a future in an Argobots
/// pool, as in an asynchronous handler, where [`Wait::wait`] panics and calls fail with [`CallError::WouldDeadlock`](crate::CallError::WouldDeadlock).
pub fn may_block() -> bool {
    !is_polling_anywhere() && !is_in_task()
}

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

/// Runs blocking work on a thread of its own and waits for it without blocking.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    struct Shared<T> {
        result: Option<thread::Result<T>>,
        waker: Option<Waker>,
    }
    let shared = Arc::new(Mutex::new(Shared { result: None, waker: None }));
    let theirs = shared.clone();
    thread::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let mut shared = theirs.lock();
        shared.result = Some(result);
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
    });
    let result = std::future::poll_fn(|cx| {
        let mut shared = shared.lock();
        match shared.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                shared.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    });
    match result.await {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Polls until ready, parking in between, or suspending the user-level thread.
pub(crate) fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    #[cfg(argobots)]
    if let Some(suspension) = crate::exec::Suspension::here() {
        return suspension.block_on(poll);
    }
    thread_local! {
        /// Taken while in use: a wait inside a wait gets one of its own, so that no wake-up goes to the wrong one.
        static UNPARK: Cell<Option<(Arc<Unpark>, Waker)>> = const { Cell::new(None) };
    }
    let (unpark, waker) = UNPARK.take().unwrap_or_else(|| {
        let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) });
        (unpark.clone(), unpark.into())
    });
    let mut cx = Context::from_waker(&waker);
    loop {
        unpark.woken.store(false, Ordering::Release);
        if let Poll::Ready(value) = poll(&mut cx) {
            UNPARK.set(Some((unpark, waker)));
            return value;
        }
        while !unpark.woken.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

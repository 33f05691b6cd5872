//! Whoever waits until nothing runs in a session that has ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Requests that wait for all others of their session to end: clients may have sent two that close it.
#[derive(Default)]
pub(super) struct Draining(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    requests: u32,
    wakers: Vec<Waker>,
}

impl Draining {
    /// Ready when no more requests run than wait for that. To be called by one of them.
    pub(super) fn wait<'a>(&'a self, running: &'a AtomicU32) -> impl Future<Output = ()> + Send + 'a {
        self.0.lock().requests += 1;
        Drained { draining: self, running }
    }

    /// A request has ended, in a session that has.
    pub(super) fn wake(&self) {
        let wakers = std::mem::take(&mut self.0.lock().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }
}

struct Drained<'a> {
    draining: &'a Draining,
    running: &'a AtomicU32,
}

impl Future for Drained<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.draining.0.lock();
        if !waiting.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.wakers.push(cx.waker().clone());
        }
        // Looked at after that, and after the session was closed: a request that ends looks in the other order.
        if self.running.load(Ordering::SeqCst) > waiting.requests { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        self.draining.0.lock().requests -= 1;
    }
}

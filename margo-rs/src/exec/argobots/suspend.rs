//! Blocking waits in a user-level thread: it is suspended, and its execution stream goes on with other work units.
//!
//! Rust code survives a suspension only if it goes on on the same operating system thread: it may hold values that are
//! not `Send`, and the compiler takes the addresses of thread-locals for constant. So a wait suspends only where one
//! execution stream takes from the pool; elsewhere it blocks the thread. Other work units see the thread-locals of this
//! one while it is suspended, which crates that lend out references by them, or guards that must go in order, do not
//! expect: a wait inside a runtime of tokio's, or during a panic, blocks the thread, too.

use super::{AbtEventual, call};
use crate::rpc::NO_PARENT;
use crate::server::replace_current_rpc;
use mochi_sys::argobots as abt;
use parking_lot::Mutex;
use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

thread_local! {
    /// The work unit that runs here is a user-level thread that this execution stream alone resumes.
    static PINNED: Cell<bool> = const { Cell::new(false) };
    /// A future is polled here.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Runs a poll of a future.
pub(super) fn as_task<T>(poll: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IN_TASK.set(self.0);
        }
    }
    let _restore = Restore(IN_TASK.replace(true));
    poll()
}

/// Whether this is inside the poll of a future, which would stop its execution stream by a wait.
pub(crate) fn is_in_task() -> bool {
    IN_TASK.get()
}

/// Runs `work` as a part of a user-level thread; `pinned` says that one execution stream alone resumes it.
pub(super) fn as_ult<T>(pinned: bool, work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            PINNED.set(self.0);
        }
    }
    let _restore = Restore(PINNED.replace(pinned));
    work()
}

/// Whether a wait that begins here suspends a user-level thread instead of blocking.
pub(crate) fn may_suspend() -> bool {
    PINNED.get() && !std::thread::panicking() && tokio::runtime::Handle::try_current().is_err()
}

/// Whether the caller is a user-level thread, of anybody's.
pub(super) fn is_ult() -> bool {
    let mut kind = abt::ABT_UNIT_TYPE_EXT;
    // SAFETY: may be called at any time; `kind` can be written.
    let code = unsafe { abt::ABT_self_get_type(&mut kind) };
    code as u32 == abt::ABT_SUCCESS && kind == abt::ABT_UNIT_TYPE_THREAD
}

/// Lets other work units of this execution stream run, in a pinned user-level thread.
pub(super) fn yield_now() {
    // SAFETY: the caller is a user-level thread.
    away(|| unsafe { abt::ABT_thread_yield() });
}

/// Runs `switch`, in which other work units may run on this thread. They are to see nothing of this one.
#[inline(never)]
fn away(switch: impl FnOnce() -> i32) {
    let rpc = replace_current_rpc(NO_PARENT);
    PINNED.set(false);
    switch();
    PINNED.set(true);
    replace_current_rpc(rpc);
}

/// One blocking wait of a user-level thread.
pub(crate) struct Suspension(Arc<Signal>);

impl Suspension {
    /// `None`: a wait here must block the thread.
    pub(crate) fn here() -> Option<Self> {
        if !may_suspend() {
            return None;
        }
        let mut eventual = ptr::null_mut();
        // SAFETY: Argobots is initialised, for this is one of its work units; `eventual` can be written.
        let code = unsafe { abt::ABT_eventual_create(0, &mut eventual) };
        call("create an eventual", code).ok()?;
        Some(Self(Arc::new(Signal(Mutex::new(State { eventual: Some(AbtEventual(eventual)), woken: false })))))
    }

    /// Polls until ready, suspended in between.
    pub(crate) fn block_on<T>(self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        let waker = Waker::from(self.0.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            let eventual = self.0.reset();
            if let Poll::Ready(value) = poll(&mut cx) {
                return value;
            }
            if self.0.0.lock().woken {
                // It wants another poll at once; others get their turn before.
                yield_now();
            } else {
                // SAFETY: the eventual lives as long as `self`; the caller is a user-level thread, as `here` has seen.
                away(|| unsafe { abt::ABT_eventual_wait(eventual, ptr::null_mut()) });
            }
        }
    }
}

impl Drop for Suspension {
    fn drop(&mut self) {
        // Late wakers find nothing to set, so that they may outlive Argobots.
        let Some(AbtEventual(mut eventual)) = self.0.0.lock().eventual.take() else { return };
        // SAFETY: made in `here`, out of reach of wakers since just now, and nobody waits for it.
        unsafe { abt::ABT_eventual_free(&mut eventual) };
    }
}

/// Wakes a suspended user-level thread, from any thread.
struct Signal(Mutex<State>);

struct State {
    /// `None`: the wait is over.
    eventual: Option<AbtEventual>,
    /// Since the last poll began.
    woken: bool,
}

impl Signal {
    /// Forgets wake-ups, before a poll.
    fn reset(&self) -> abt::ABT_eventual {
        let mut state = self.0.lock();
        let eventual = state.eventual.as_ref().map_or(ptr::null_mut(), |eventual| eventual.0);
        if std::mem::take(&mut state.woken) {
            // SAFETY: the eventual is there, and its only waiter is here.
            unsafe { abt::ABT_eventual_reset(eventual) };
        }
        eventual
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.0.lock();
        if state.woken {
            return;
        }
        if let Some(AbtEventual(eventual)) = state.eventual {
            state.woken = true;
            // SAFETY: it is freed only after it was taken out under this lock. Setting one never switches.
            unsafe { abt::ABT_eventual_set(eventual, ptr::null_mut(), 0) };
        }
    }
}

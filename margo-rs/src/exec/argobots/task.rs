//! Futures as work units: each poll is one, and runs to its end on whichever execution stream takes it.

use super::bottom::at_bottom;
use super::schedule::{Next, Schedule};
use super::suspend::as_task;
use super::{Core, log_panic};
use parking_lot::Mutex;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

/// A future in a pool.
pub(super) struct Task {
    schedule: Schedule,
    /// Touched only by whom the schedule lets: the lock is never waited for. `None` when it is over.
    future: Mutex<Option<crate::exec::Task>>,
    core: Arc<Core>,
    /// Where its work unit is.
    lane: AtomicUsize,
}

impl Task {
    /// Starts to run a future. Its end, or that of the pool, drops it.
    pub(super) fn spawn(core: &Arc<Core>, future: crate::exec::Task) {
        let task = Arc::new(Self {
            schedule: Schedule::scheduled(),
            future: Mutex::new(Some(future)),
            core: core.clone(),
            lane: AtomicUsize::new(0),
        });
        if core.tasks.insert(&task) {
            task.push();
        }
    }

    /// Puts a work unit into the pool that polls it; the caller is whom the schedule told to.
    fn push(self: Arc<Self>) {
        let core = self.core.clone();
        let Some((_pushing, lane)) = core.enter() else {
            // The pool ends, and closes all of its tasks.
            return;
        };
        self.lane.store(lane, Ordering::Relaxed);
        let arg = Arc::into_raw(self);
        if let Err(error) = core.create_tasklet(lane, run, arg.cast_mut().cast()) {
            tracing::error!(pool = core.name, %error, "a task cannot be scheduled, and is dropped");
            // SAFETY: made by `into_raw` just now, and not given to a work unit.
            unsafe { Arc::from_raw(arg) }.close();
            core.leave(lane);
        }
    }

    /// Ends it early: the future is dropped here, or by whoever polls it right now.
    pub(super) fn close(&self) {
        if self.schedule.close() {
            self.discard();
        }
    }

    fn poll(self: &Arc<Self>) {
        if !self.schedule.begin() {
            return;
        }
        let waker = Waker::from(self.clone());
        let poll = || match &mut *self.future.lock() {
            Some(future) => future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready(),
            None => true,
        };
        let poll = || {
            let _entered = self.core.runtime.as_ref().map(tokio::runtime::Handle::enter);
            as_task(poll)
        };
        let ready = catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|panic| {
            log_panic(&self.core.name, &*panic);
            true
        });
        if ready {
            self.schedule.finish();
            return self.discard();
        }
        match self.schedule.pend() {
            Next::Rest => {}
            Next::Push => self.clone().push(),
            Next::Drop => self.discard(),
        }
    }

    /// Drops the future; the schedule is over.
    fn discard(&self) {
        self.core.tasks.remove(self);
        let future = self.future.lock().take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
            log_panic(&self.core.name, &*panic);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if self.schedule.wake() {
            self.push();
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.schedule.wake() {
            self.clone().push();
        }
    }
}

/// The work unit.
///
/// # Safety
/// `arg` comes from [`Arc::into_raw`] of a task and is given to one work unit.
unsafe extern "C" fn run(arg: *mut c_void) {
    // SAFETY: the caller's promise.
    let task = unsafe { Arc::from_raw(arg.cast_const().cast::<Task>()) };
    let (core, lane) = (task.core.clone(), task.lane.load(Ordering::Relaxed));
    // What panics in user code is caught further in: this keeps anything else from C's frames.
    if let Err(panic) = at_bottom(|| task.poll()) {
        log_panic(&core.name, &*panic);
    }
    drop(task);
    core.leave(lane);
}

/// The tasks of a pool that are not over: whoever ends the pool finds them, also those that nobody would wake again.
#[derive(Default)]
pub(super) struct Tasks(Mutex<Live>);

#[derive(Default)]
struct Live {
    by_address: std::collections::HashMap<usize, Arc<Task>>,
    closed: bool,
}

impl Tasks {
    /// `false`: the pool ends, and the task goes with the caller's.
    fn insert(&self, task: &Arc<Task>) -> bool {
        let mut live = self.0.lock();
        if !live.closed {
            live.by_address.insert(Arc::as_ptr(task).addr(), task.clone());
        }
        !live.closed
    }

    fn remove(&self, task: &Task) {
        let removed = self.0.lock().by_address.remove(&std::ptr::from_ref(task).addr());
        drop(removed);
    }

    /// Closes all there are. Later ones are not taken.
    pub(super) fn close(&self) {
        let all = {
            let mut live = self.0.lock();
            live.closed = true;
            std::mem::take(&mut live.by_address)
        };
        for task in all.into_values() {
            task.close();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().by_address.len()
    }
}

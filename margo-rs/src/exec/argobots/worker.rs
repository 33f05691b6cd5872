//! Blocking work: closures that run in user-level threads of their own.

use super::bottom::at_bottom;
use super::stack::{STACK_SIZE, Stack};
use super::suspend::{as_ult, yield_now};
use super::{Core, call, log_panic};
use crate::error::PoolError;
use mochi_sys::argobots as abt;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// User-level threads of one pool at a time; further work waits for one of them. Each has a stack of 2 MiB of address
/// space. As many as tokio has threads for the same purpose.
const WORKERS_MAX: usize = 512;
/// Ended ones kept for use again.
const SPARE_MAX: usize = 32;

type Work = Box<dyn FnOnce() + Send>;

/// The blocking work of a pool.
#[derive(Default)]
pub(super) struct Blocking(Mutex<Workers>);

#[derive(Default)]
struct Workers {
    waiting: VecDeque<Work>,
    running: usize,
    /// Ended, or about to.
    spare: Vec<Arc<Worker>>,
}

/// A user-level thread with its stack. It is dropped only when it was freed: see [`Worker::free`].
struct Worker {
    /// Null until its creator knows it.
    thread: AtomicPtr<abt::ABT_thread_opaque>,
    /// Where it runs.
    _stack: Stack,
    lane: AtomicUsize,
    job: Mutex<Option<(Arc<Core>, Work)>>,
}

/// Runs `work` in a user-level thread, or drops it if the pool ends.
pub(super) fn spawn(core: &Arc<Core>, work: Work) {
    let Some((_pushing, lane)) = core.enter() else { return };
    let spare = {
        let mut workers = core.blocking.0.lock();
        if workers.running == WORKERS_MAX {
            workers.waiting.push_back(work);
            // It counts as in the pool, but on no lane.
            core.unload(lane);
            return;
        }
        workers.running += 1;
        workers.take_ended()
    };
    if let Err(error) = start(core, lane, spare, work) {
        tracing::error!(pool = core.name, %error, "a blocking handler cannot be started, and is dropped");
        core.blocking.0.lock().running -= 1;
        core.leave(lane);
    }
}

fn start(core: &Arc<Core>, lane: usize, spare: Option<Arc<Worker>>, work: Work) -> Result<(), PoolError> {
    let pool = core.pool(lane);
    if let Some(worker) = spare {
        worker.lane.store(lane, Ordering::Relaxed);
        *worker.job.lock() = Some((core.clone(), work));
        let mut thread = worker.thread.load(Ordering::Acquire);
        let arg = Arc::into_raw(worker);
        // SAFETY: a user-level thread that has ended and that nobody else holds; the pool is open, for we are counted in.
        let code = unsafe { abt::ABT_thread_revive(pool, Some(run), arg.cast_mut().cast(), &mut thread) };
        return call("revive a user-level thread", code).inspect_err(|_| {
            // SAFETY: made by `into_raw` just now, and not given away.
            let worker = unsafe { Arc::from_raw(arg) };
            worker.job.lock().take();
            worker.free();
        });
    }
    let stack =
        Stack::new().map_err(|error| PoolError::Refused { what: "allocate a stack", reason: error.to_string() })?;
    let attributes = Attributes::of(&stack)?;
    let worker = Arc::new(Worker {
        thread: AtomicPtr::new(ptr::null_mut()),
        _stack: stack,
        lane: AtomicUsize::new(lane),
        job: Mutex::new(Some((core.clone(), work))),
    });
    let mut thread = ptr::null_mut();
    let arg = Arc::into_raw(worker.clone());
    // SAFETY: as above; the stack in the attributes belongs to the worker, which outlives the thread.
    let code = unsafe { abt::ABT_thread_create(pool, Some(run), arg.cast_mut().cast(), attributes.0, &mut thread) };
    if let Err(error) = call("create a user-level thread", code) {
        // SAFETY: made by `into_raw` just now, and not given away.
        drop(unsafe { Arc::from_raw(arg) });
        worker.job.lock().take();
        return Err(error);
    }
    worker.thread.store(thread, Ordering::Release);
    Ok(())
}

impl Workers {
    /// One that can run again; frees one if there are too many.
    fn take_ended(&mut self) -> Option<Arc<Worker>> {
        let ended = self.spare.iter().rposition(|worker| worker.has_ended())?;
        let worker = self.spare.swap_remove(ended);
        if self.spare.len() > SPARE_MAX
            && let Some(ended) = self.spare.iter().position(|worker| worker.has_ended())
        {
            self.spare.swap_remove(ended).free();
        }
        Some(worker)
    }
}

impl Blocking {
    /// Drops the work that waits. Returns how much.
    pub(super) fn close(&self) -> usize {
        let waiting = std::mem::take(&mut self.0.lock().waiting);
        let count = waiting.len();
        for work in waiting {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(work))) {
                log_panic("", &*panic);
            }
        }
        count
    }

    /// Frees all threads, waiting for them if they are about to end. None may be running.
    pub(super) fn free(&self) {
        let spare = std::mem::take(&mut self.0.lock().spare);
        spare.into_iter().for_each(|worker| worker.free());
    }
}

impl Worker {
    fn has_ended(&self) -> bool {
        let thread = self.thread.load(Ordering::Acquire);
        let mut state = abt::ABT_THREAD_STATE_RUNNING;
        if thread.is_null() {
            return false;
        }
        // SAFETY: a thread that was created with a handle and is not freed, because the worker is there.
        let code = unsafe { abt::ABT_thread_get_state(thread, &mut state) };
        code as u32 == abt::ABT_SUCCESS && state == abt::ABT_THREAD_STATE_TERMINATED
    }

    /// Gives the thread back, and then the stack. Blocks until the thread has ended.
    fn free(self: Arc<Self>) {
        let mut thread = self.thread.load(Ordering::Acquire);
        // SAFETY: as for `has_ended`; the caller has the only worker that is not about to end.
        let code = unsafe { abt::ABT_thread_free(&mut thread) };
        if let Err(error) = call("free a user-level thread", code) {
            // Its stack may be in use.
            tracing::error!(%error, "a stack is leaked");
            std::mem::forget(self);
        }
    }

    /// Does what it was given, and what waits.
    fn work(self: &Arc<Self>) {
        let Some((core, mut work)) = self.job.lock().take() else { return };
        loop {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| as_ult(core.is_pinned(), work))) {
                log_panic(&core.name, &*panic);
            }
            let next = {
                let mut workers = core.blocking.0.lock();
                let next = workers.waiting.pop_front();
                if next.is_none() {
                    workers.running -= 1;
                    workers.spare.push(self.clone());
                }
                next
            };
            let Some(next) = next else { break };
            core.leave_unloaded();
            work = next;
            if core.is_pinned() {
                as_ult(true, yield_now);
            }
        }
        core.leave(self.lane.load(Ordering::Relaxed));
    }
}

/// The user-level thread.
///
/// # Safety
/// `arg` comes from [`Arc::into_raw`] of a worker and is given to one thread.
unsafe extern "C" fn run(arg: *mut c_void) {
    // SAFETY: the caller's promise.
    let worker = unsafe { Arc::from_raw(arg.cast_const().cast::<Worker>()) };
    if let Err(panic) = at_bottom(|| worker.work()) {
        log_panic("", &*panic);
    }
}

/// Attributes of a thread to be created.
struct Attributes(abt::ABT_thread_attr);

impl Attributes {
    fn of(stack: &Stack) -> Result<Self, PoolError> {
        let mut attributes = ptr::null_mut();
        // SAFETY: Argobots is initialised while the pool is; `attributes` can be written.
        let code = unsafe { abt::ABT_thread_attr_create(&mut attributes) };
        call("create attributes of a thread", code)?;
        let this = Self(attributes);
        // SAFETY: `start` is the lowest of `STACK_SIZE` bytes, aligned to a page.
        let code = unsafe { abt::ABT_thread_attr_set_stack(this.0, stack.start(), STACK_SIZE) };
        call("set a stack", code)?;
        // SAFETY: valid attributes.
        let code = unsafe { abt::ABT_thread_attr_set_migratable(this.0, abt::ABT_FALSE as i32) };
        call("pin a thread", code)?;
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: made by `ABT_thread_attr_create`, and copied by whom it was given to.
        unsafe { abt::ABT_thread_attr_free(&mut self.0) };
    }
}

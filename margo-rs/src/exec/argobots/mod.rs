//! Argobots pools: on execution streams of their own, or handed in by a service that embeds this crate.
//!
//! A pool of our own has one Argobots pool for each of its execution streams, and each new work unit goes where the
//! fewest are. So a user-level thread that waits goes on on the operating system thread on which it began, which Rust
//! code needs; see [`suspend`]. An idle stream sleeps, and looks around ten times a second, as Argobots' waiting
//! scheduler does.
//!
//! All that a pool holds is counted by its [`Gate`]: work units from before they are pushed until they have run, and
//! whoever is inside of a push. A pool that ends closes the gate, drops its tasks, waits until the count is zero, and
//! only then gives anything back to Argobots. What still holds a waker then finds nothing to push.

mod bottom;
mod gate;
mod runtime;
mod schedule;
mod stack;
mod suspend;
mod task;
mod worker;

/// What `schedule` is made of; loom's in its models.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};
}

pub(crate) use self::suspend::{Suspension, is_in_task, may_suspend};

use self::gate::Gate;
use self::runtime::Session;
use self::task::{Task, Tasks};
use self::worker::Blocking;
use crate::config::{PoolKind, SchedulerKind};
use crate::error::PoolError;
use mochi_sys::argobots as abt;
use parking_lot::Mutex;
use std::any::Any;
use std::ffi::{c_char, c_int, c_void};
use std::panic::resume_unwind;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::thread;
use tokio::runtime::Handle;

/// A pool; it ends with its last owner, or before that by [`ArgobotsPool::begin_end`].
pub(crate) struct ArgobotsPool(Arc<Core>);

/// What tasks and wakers hold of a pool. After its end nothing in it belongs to Argobots.
pub(crate) struct Core {
    name: String,
    /// The tokio runtime in which the pool was made: futures find it.
    runtime: Option<Handle>,
    lanes: Vec<Lane>,
    /// Where the search for the emptiest lane begins.
    turn: AtomicUsize,
    /// Execution streams that take from the pool.
    xstreams: usize,
    /// What is ours to free; `None` for a pool that was handed in.
    own: Mutex<Option<Own>>,
    gate: Gate,
    tasks: Tasks,
    blocking: Blocking,
    ending: AtomicBool,
    ended: Mutex<Ended>,
}

/// An execution stream to be made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stream {
    pub(crate) scheduler: SchedulerKind,
    /// The processor to stay on.
    pub(crate) processor: Option<u16>,
}

/// One of Argobots' pools.
struct Lane {
    pool: AbtPool,
    /// Work units in it that have not run to their end.
    load: AtomicUsize,
}

struct Own {
    xstreams: Vec<AbtXstream>,
    session: Session,
}

#[derive(Default)]
struct Ended {
    over: bool,
    waiting: Vec<Waker>,
}

/// Handles are plain addresses, and Argobots lets any thread use them.
macro_rules! handles {
    ($($name:ident($handle:ident)),*) => {$(
        #[derive(Clone, Copy)]
        struct $name(abt::$handle);
        // SAFETY: an address that is only passed to functions which may be called from any thread.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    )*};
}
handles!(AbtPool(ABT_pool), AbtXstream(ABT_xstream), AbtEventual(ABT_eventual));

/// Argobots' answer as a result.
fn call(what: &'static str, code: c_int) -> Result<(), PoolError> {
    if code as u32 == abt::ABT_SUCCESS { Ok(()) } else { Err(PoolError::Refused { what, reason: name_of(code) }) }
}

/// The name of an error code, such as `ABT_ERR_MEM`.
fn name_of(code: c_int) -> String {
    let mut length = 0;
    // SAFETY: without a buffer, only the length is written.
    let known = unsafe { abt::ABT_error_get_str(code, ptr::null_mut(), &mut length) };
    if known as u32 != abt::ABT_SUCCESS {
        return format!("error {code}");
    }
    let mut text = vec![0; length + 1];
    // SAFETY: the buffer has room for the text and the zero byte after it.
    unsafe { abt::ABT_error_get_str(code, text.as_mut_ptr().cast::<c_char>(), ptr::null_mut()) };
    text.truncate(length);
    String::from_utf8_lossy(&text).into_owned()
}

fn log_panic(pool: &str, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(pool, panic = text, "a task panicked");
}

impl ArgobotsPool {
    /// A pool with execution streams of its own; at least one.
    pub(crate) fn start(name: &str, xstreams: usize) -> Result<Self, PoolError> {
        Self::start_as(name, PoolKind::default(), &vec![Stream::default(); xstreams.max(1)])
    }

    /// A pool of that kind with these execution streams, of which there is one.
    pub(crate) fn start_as(name: &str, kind: PoolKind, streams: &[Stream]) -> Result<Self, PoolError> {
        let session = Session::begin()?;
        let mut own = Own { xstreams: Vec::new(), session };
        let mut lanes = Vec::new();
        for stream in streams {
            if let Err(error) = add_lane(&mut lanes, &mut own.xstreams, kind, *stream) {
                own.free(lanes.iter().map(|lane| lane.pool));
                return Err(error);
            }
        }
        tracing::debug!(pool = name, xstreams = lanes.len(), "Argobots pool started");
        // Each lane is one stream's, whatever their number.
        Ok(Self::with(name, lanes, 1, Some(own)))
    }

    /// A pool of somebody else's, from which `xstreams` execution streams take.
    ///
    /// # Safety
    /// See [`Pool::from_raw`](crate::Pool::from_raw).
    pub(crate) unsafe fn adopt(name: &str, pool: *mut c_void, xstreams: usize) -> Result<Self, PoolError> {
        let pool = pool.cast();
        if ptr::eq(pool, ptr::null()) || !runtime::is_initialized() {
            return Err(PoolError::NoPool { name: name.to_owned() });
        }
        let mut access = abt::ABT_POOL_ACCESS_PRIV;
        // SAFETY: the caller promises a pool; `access` can be written.
        let code = unsafe { abt::ABT_pool_get_access(pool, &mut access) };
        call("look at a pool", code)?;
        if access != abt::ABT_POOL_ACCESS_MPMC && access != abt::ABT_POOL_ACCESS_MPSC {
            return Err(PoolError::Access { name: name.to_owned() });
        }
        let lane = Lane { pool: AbtPool(pool), load: AtomicUsize::new(0) };
        Ok(Self::with(name, vec![lane], xstreams, None))
    }

    fn with(name: &str, lanes: Vec<Lane>, xstreams: usize, own: Option<Own>) -> Self {
        Self(Arc::new(Core {
            name: name.to_owned(),
            runtime: Handle::try_current().ok(),
            lanes,
            turn: AtomicUsize::new(0),
            xstreams,
            own: Mutex::new(own),
            gate: Gate::default(),
            tasks: Tasks::default(),
            blocking: Blocking::default(),
            ending: AtomicBool::new(false),
            ended: Mutex::new(Ended::default()),
        }))
    }

    /// Runs a future to its end, or drops it with the pool.
    pub(crate) fn spawn(&self, future: super::Task) {
        Task::spawn(&self.0, future);
    }

    /// Runs a closure in a user-level thread.
    pub(crate) fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        worker::spawn(&self.0, work);
    }

    /// Futures that are not done.
    pub(crate) fn tasks(&self) -> usize {
        self.0.tasks.count()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }
}

impl Drop for ArgobotsPool {
    fn drop(&mut self) {
        self.0.begin_end();
    }
}

/// Runs `work` as a part of the user-level thread that the caller is, if it is one.
///
/// # Safety
/// See [`in_ult`](crate::in_ult).
pub(crate) unsafe fn in_ult<T>(work: impl FnOnce() -> T) -> T {
    if !suspend::is_ult() {
        return work();
    }
    bottom::at_bottom(|| suspend::as_ult(true, work)).unwrap_or_else(|panic| resume_unwind(panic))
}

/// One more execution stream with its pool.
fn add_lane(
    lanes: &mut Vec<Lane>,
    xstreams: &mut Vec<AbtXstream>,
    kind: PoolKind,
    stream: Stream,
) -> Result<(), PoolError> {
    let mut pool = ptr::null_mut();
    let access = abt::ABT_POOL_ACCESS_MPMC;
    let kind = match kind {
        PoolKind::Fifo => abt::ABT_POOL_FIFO,
        PoolKind::FifoWait => abt::ABT_POOL_FIFO_WAIT,
    };
    let scheduler = match stream.scheduler {
        SchedulerKind::Default => abt::ABT_SCHED_DEFAULT,
        SchedulerKind::Basic => abt::ABT_SCHED_BASIC,
        SchedulerKind::Prio => abt::ABT_SCHED_PRIO,
        SchedulerKind::Randws => abt::ABT_SCHED_RANDWS,
        SchedulerKind::BasicWait => abt::ABT_SCHED_BASIC_WAIT,
    };
    // SAFETY: Argobots is initialised, by the session; `pool` can be written.
    let code = unsafe { abt::ABT_pool_create_basic(kind, access, abt::ABT_FALSE as abt::ABT_bool, &mut pool) };
    call("create a pool", code)?;
    // Listed before the stream is made, so that it is freed whatever happens.
    lanes.push(Lane { pool: AbtPool(pool), load: AtomicUsize::new(0) });
    let mut xstream = ptr::null_mut();
    // SAFETY: as above; one pool is given, and its number with it.
    let code = unsafe { abt::ABT_xstream_create_basic(scheduler, 1, &mut pool, ptr::null_mut(), &mut xstream) };
    call("create an execution stream", code)?;
    xstreams.push(AbtXstream(xstream));
    match stream.processor {
        // SAFETY: the stream is alive.
        Some(processor) => call("bind an execution stream to a processor", unsafe {
            abt::ABT_xstream_set_cpubind(xstream, processor.into())
        }),
        None => Ok(()),
    }
}

impl Own {
    /// Ends the streams, waiting for what they run, and frees everything. Not on one of these streams.
    fn free(self, pools: impl Iterator<Item = AbtPool>) {
        for AbtXstream(mut xstream) in self.xstreams {
            // SAFETY: made by `add_lane`, and freed once. It is joined first.
            let code = unsafe { abt::ABT_xstream_free(&mut xstream) };
            if let Err(error) = call("end an execution stream", code) {
                // What it uses must stay, too.
                tracing::error!(%error, "an Argobots pool is leaked");
                return;
            }
        }
        for AbtPool(mut pool) in pools {
            // SAFETY: made by `add_lane`, and no stream takes from it any more.
            unsafe { abt::ABT_pool_free(&mut pool) };
        }
        self.session.end();
    }
}

/// Whoever pushes is counted as long as this lives, so that the pool is there until the push has returned.
struct Pushing<'a>(&'a Gate);

impl Drop for Pushing<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Core {
    /// Counts one work unit in and chooses its lane. Whoever gets one sees to it that [`Core::leave`] is called once.
    /// `None`: the pool ends.
    fn enter(&self) -> Option<(Pushing<'_>, usize)> {
        if !self.gate.enter() {
            return None;
        }
        let pushing = Pushing(&self.gate);
        if !self.gate.enter() {
            return None;
        }
        let lane = self.emptiest();
        self.lanes[lane].load.fetch_add(1, Ordering::Relaxed);
        Some((pushing, lane))
    }

    fn emptiest(&self) -> usize {
        let count = self.lanes.len();
        if count == 1 {
            return 0;
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let load = |lane: &usize| self.lanes[*lane].load.load(Ordering::Relaxed);
        (0..count).map(|step| first.wrapping_add(step) % count).min_by_key(load).unwrap_or(0)
    }

    /// A work unit on a lane has run to its end, or was never pushed.
    fn leave(&self, lane: usize) {
        self.unload(lane);
        self.gate.leave();
    }

    /// As [`Core::leave`], for one that was on no lane.
    fn leave_unloaded(&self) {
        self.gate.leave();
    }

    /// A work unit waits elsewhere than on the lane that was chosen for it.
    fn unload(&self, lane: usize) {
        self.lanes[lane].load.fetch_sub(1, Ordering::Relaxed);
    }

    fn pool(&self, lane: usize) -> abt::ABT_pool {
        self.lanes[lane].pool.0
    }

    /// Whether a user-level thread of this pool always runs on the same operating system thread.
    fn is_pinned(&self) -> bool {
        self.xstreams == 1
    }

    /// Pushes a work unit that runs without a stack of its own. The caller is counted in.
    fn create_tasklet(
        &self,
        lane: usize,
        run: unsafe extern "C" fn(*mut c_void),
        arg: *mut c_void,
    ) -> Result<(), PoolError> {
        // SAFETY: the pool is there as long as somebody is counted in, and takes work from any thread.
        let code = unsafe { abt::ABT_task_create(self.pool(lane), Some(run), arg, ptr::null_mut()) };
        call("create a tasklet", code)
    }

    /// Starts the end of the pool, once. It runs on a thread of its own: it waits for what runs in the pool, and it may
    /// be asked for from there.
    pub(crate) fn begin_end(self: &Arc<Self>) {
        if self.ending.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = self.clone();
        let spawned = thread::Builder::new().name("margo-pool-end".to_owned()).spawn(move || core.end());
        if let Err(error) = spawned {
            tracing::error!(pool = self.name, %error, "no thread to end an Argobots pool: it stays");
        }
    }

    fn end(&self) {
        self.gate.close();
        self.tasks.close();
        for _ in 0..self.blocking.close() {
            self.leave_unloaded();
        }
        self.gate.wait_until_empty();
        self.blocking.free();
        let own = self.own.lock().take();
        if let Some(own) = own {
            own.free(self.lanes.iter().map(|lane| lane.pool));
        }
        tracing::debug!(pool = self.name, "Argobots pool ended");
        let waiting = {
            let mut ended = self.ended.lock();
            ended.over = true;
            std::mem::take(&mut ended.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn poll_ended(&self, waker: &Waker) -> Poll<()> {
        let mut ended = self.ended.lock();
        if ended.over {
            return Poll::Ready(());
        }
        if !ended.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            ended.waiting.push(waker.clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;

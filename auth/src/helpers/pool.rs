use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::task::{Assignment, Slot, Task, Work};
use super::{HelperError, Load};

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most threads.
    pub(crate) helpers: usize,
    /// The most calls that wait while all helpers are busy.
    pub(crate) waiting: usize,
}

/// A bounded pool of helper threads.
///
/// Threads start with the calls that need them, and end by themselves once the pool is dropped:
/// dropping does not wait for them. Without calls no thread wakes up. Each [`Task`] keeps the pool
/// alive, so a result is never lost to an early drop.
pub(crate) struct HelperPool {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    name: &'static str,
    limits: Limits,
    owner: u32,
    state: Mutex<State>,
    /// Signalled for a new job, and at the end.
    work: Condvar,
    /// Signalled when the earliest alarm changes, and at the end.
    alarm: Condvar,
}

/// `idle + busy <= started <= limits.helpers`, and
/// `queue.len() + busy <= limits.waiting + limits.helpers`.
#[derive(Default)]
struct State {
    closed: bool,
    queue: VecDeque<Job>,
    started: usize,
    idle: usize,
    /// Per helper, the deadline of the job it is in.
    running: Vec<Option<Instant>>,
    alarms: BTreeMap<AlarmKey, Arc<dyn Alarm>>,
    timer_started: bool,
    last_id: u64,
}

pub(super) type AlarmKey = (Instant, u64);

/// Something to be woken at its deadline.
pub(super) trait Alarm: Send + Sync {
    fn ring(&self);
}

struct Job {
    deadline: Instant,
    work: Box<dyn Work>,
}

impl Job {
    fn is_wanted(&self, now: Instant) -> bool {
        now < self.deadline && self.work.is_wanted()
    }
}

impl HelperPool {
    /// A pool whose threads carry `name`, a word of at most eight bytes. No thread is started yet.
    pub(crate) fn new(name: &'static str, limits: Limits) -> Arc<Self> {
        Self::of_process(std::process::id(), name, limits)
    }

    #[cfg(test)]
    pub(super) fn as_in_a_forked_child() -> Arc<Self> {
        let limits = Limits { helpers: 1, waiting: 1 };
        Self::of_process(0, "test", limits)
    }

    fn of_process(owner: u32, name: &'static str, limits: Limits) -> Arc<Self> {
        let state = State { running: vec![None; limits.helpers], ..State::default() };
        Arc::new(Self {
            shared: Arc::new(Shared {
                name,
                limits,
                owner,
                state: Mutex::new(state),
                work: Condvar::new(),
                alarm: Condvar::new(),
            }),
        })
    }

    /// Has a helper run `call`, and never waits itself. `timeout` covers the time in the queue as
    /// well.
    ///
    /// A call whose task is dropped, or whose deadline passes, before a helper takes it does not
    /// run.
    pub(crate) fn submit<T, F>(self: &Arc<Self>, timeout: Duration, call: F) -> Result<Task<T>, HelperError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let shared = &self.shared;
        if shared.owner != std::process::id() {
            return Err(HelperError::Forked); // the lock below may be held by a thread that is not here
        }
        let now = Instant::now();
        let deadline = now + timeout;
        let slot = Slot::new();
        let job = Job { deadline, work: Box::new(Assignment::new(Arc::clone(&slot), call)) };

        let mut unwanted = Vec::new(); // dropped after the lock: their destructors are not ours
        let mut state = shared.state.lock();
        if !shared.has_room(&state) {
            unwanted = state.take_unwanted(now);
        }
        if !shared.has_room(&state) {
            let load = shared.load(&state, now);
            drop(state);
            return Err(HelperError::Overloaded(load));
        }
        state.queue.push_back(job);
        if state.queue.len() > state.idle && state.started < shared.limits.helpers {
            let index = state.started;
            match Shared::spawn(shared, "", index, move |shared| shared.help(index)) {
                Ok(()) => state.started += 1,
                Err(error) if state.started == 0 => {
                    let job = state.queue.pop_back();
                    drop(state);
                    drop(job);
                    return Err(HelperError::NoThread(error));
                }
                Err(_) => {} // the helpers there are will come to it
            }
        }
        state.last_id += 1;
        let key = (deadline, state.last_id);
        drop(state);
        shared.work.notify_one();
        drop(unwanted);
        Ok(Task::new(Arc::clone(self), slot, key, timeout))
    }

    /// How the pool stands now.
    pub(super) fn load(&self) -> Load {
        let state = self.shared.state.lock();
        self.shared.load(&state, Instant::now())
    }

    /// Has `alarm` rung at the deadline in `key`, by the one timer thread of the pool.
    pub(super) fn set_alarm(&self, key: AlarmKey, alarm: Arc<dyn Alarm>) -> Result<(), HelperError> {
        let mut state = self.shared.state.lock();
        if !state.timer_started {
            Shared::spawn(&self.shared, "-timer", 0, |shared| shared.keep_time()).map_err(HelperError::NoThread)?;
            state.timer_started = true;
        }
        state.alarms.insert(key, alarm);
        let is_first = state.alarms.keys().next() == Some(&key);
        drop(state);
        if is_first {
            self.shared.alarm.notify_one();
        }
        Ok(())
    }

    pub(super) fn clear_alarm(&self, key: AlarmKey) {
        if self.shared.owner != std::process::id() {
            return;
        }
        // The timer may wake once for a deadline that is gone, and then sleeps on.
        let alarm = self.shared.state.lock().alarms.remove(&key);
        drop(alarm);
    }

    #[cfg(test)]
    pub(super) fn watch(&self) -> std::sync::Weak<Shared> {
        Arc::downgrade(&self.shared)
    }
}

impl Drop for HelperPool {
    fn drop(&mut self) {
        if self.shared.owner != std::process::id() {
            return;
        }
        let mut state = self.shared.state.lock();
        state.closed = true;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        self.shared.work.notify_all();
        self.shared.alarm.notify_all();
        drop(queue);
    }
}

impl Shared {
    fn spawn<F>(shared: &Arc<Self>, role: &str, index: usize, body: F) -> io::Result<()>
    where
        F: FnOnce(&Shared) + Send + 'static,
    {
        let own = Arc::clone(shared);
        let name = format!("{}{role}-{index}", shared.name);
        thread::Builder::new().name(name).spawn(move || body(&own)).map(drop)
    }

    fn has_room(&self, state: &State) -> bool {
        state.queue.len() + state.busy() < self.limits.waiting + self.limits.helpers
    }

    fn load(&self, state: &State, now: Instant) -> Load {
        let stuck = state.running.iter().flatten().filter(|deadline| **deadline <= now).count();
        Load { waiting: state.queue.len(), helpers: self.limits.helpers, stuck }
    }

    /// The life of a helper thread.
    fn help(&self, index: usize) {
        let mut state = self.state.lock();
        while let Some(job) = self.next_job(&mut state) {
            let wanted = job.is_wanted(Instant::now());
            if wanted {
                state.running[index] = Some(job.deadline);
            }
            MutexGuard::unlocked(&mut state, || {
                // The call has its own guard; this one is for wakers and destructors of the caller.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    if wanted {
                        job.work.run();
                    } else {
                        drop(job);
                    }
                }));
            });
            state.running[index] = None;
        }
    }

    fn next_job(&self, state: &mut MutexGuard<'_, State>) -> Option<Job> {
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            self.work.wait(state);
            state.idle -= 1;
        }
    }

    /// The life of the timer thread.
    fn keep_time(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            match state.alarms.first_entry() {
                None => self.alarm.wait(&mut state),
                Some(first) if first.key().0 <= Instant::now() => {
                    let alarm = first.remove();
                    MutexGuard::unlocked(&mut state, || drop(catch_unwind(AssertUnwindSafe(|| alarm.ring()))));
                }
                Some(first) => {
                    let deadline = first.key().0;
                    self.alarm.wait_until(&mut state, deadline);
                }
            }
        }
    }
}

impl State {
    fn busy(&self) -> usize {
        self.running.iter().flatten().count()
    }

    fn take_unwanted(&mut self, now: Instant) -> Vec<Job> {
        let (wanted, unwanted) = self.queue.drain(..).partition(|job| job.is_wanted(now));
        self.queue = wanted;
        Vec::from_iter::<VecDeque<Job>>(unwanted)
    }
}

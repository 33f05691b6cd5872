//! Models of an Argobots pool's scheduling: loom runs each of them under every order of wake-ups, polls and the end, as
//! far as it knows them. They need no Argobots: the state machine is all there is to it.

mod atomics {
    pub(super) use loom::sync::atomic::{AtomicU8, Ordering};
}

#[path = "../src/exec/argobots/schedule.rs"]
mod schedule;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use schedule::{Next, Schedule};

/// A task whose future is ready once `events` have come, with a pool that counts work units instead of running them.
struct Task {
    schedule: Schedule,
    /// Relaxed throughout: only the schedule orders what the waker wrote before what the poll reads.
    events: AtomicUsize,
    /// Work units pushed and not taken. Ordered, as a pool's lock does it.
    units: AtomicUsize,
    /// Threads inside the future, which only one may be.
    inside: AtomicUsize,
    polls: AtomicUsize,
    drops: AtomicUsize,
    ready_at: usize,
}

impl Task {
    fn new(ready_at: usize) -> Arc<Self> {
        let count = AtomicUsize::new;
        Arc::new(Self {
            schedule: Schedule::scheduled(),
            events: count(0),
            units: count(1),
            inside: count(0),
            polls: count(0),
            drops: count(0),
            ready_at,
        })
    }

    fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
        if self.schedule.wake() {
            self.push();
        }
    }

    fn push(&self) {
        assert_eq!(self.units.fetch_add(1, Ordering::AcqRel), 0, "two work units of one task");
    }

    fn touch<T>(&self, work: impl FnOnce() -> T) -> T {
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "two are inside the future");
        let result = work();
        self.inside.fetch_sub(1, Ordering::Relaxed);
        result
    }

    fn drop_future(&self) {
        self.touch(|| assert_eq!(self.drops.fetch_add(1, Ordering::Relaxed), 0, "dropped twice"));
    }

    /// What an execution stream does: takes a work unit if there is one.
    fn run_one(&self) {
        if self.units.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() || !self.schedule.begin() {
            return;
        }
        let ready = self.touch(|| {
            assert_eq!(self.drops.load(Ordering::Relaxed), 0, "polled after its end");
            self.polls.fetch_add(1, Ordering::Relaxed);
            self.events.load(Ordering::Relaxed) >= self.ready_at
        });
        if ready {
            self.schedule.finish();
            return self.drop_future();
        }
        match self.schedule.pend() {
            Next::Rest => {}
            Next::Push => self.push(),
            Next::Drop => self.drop_future(),
        }
    }

    fn close(&self) {
        if self.schedule.close() {
            self.drop_future();
        }
    }
}

/// Bounded: three threads with several steps each have too many orders for all of them.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn no_wake_up_is_lost_and_only_one_thread_polls() {
    model(|| {
        let task = Task::new(2);
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let task = task.clone();
                thread::spawn(move || task.event())
            })
            .collect();
        // Two execution streams: this thread, and what is left for it when all have woken it.
        task.run_one();
        task.run_one();
        wakers.into_iter().for_each(|waker| waker.join().expect("no panic"));
        for _ in 0..2 {
            task.run_one();
        }
        assert_eq!(task.drops.load(Ordering::Relaxed), 1, "woken twice, and not polled to its end");
        assert_eq!(task.units.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn two_streams_never_poll_a_task_at_once() {
    model(|| {
        let task = Task::new(1);
        let streams: Vec<_> = (0..2)
            .map(|_| {
                let task = task.clone();
                thread::spawn(move || task.run_one())
            })
            .collect();
        task.event();
        streams.into_iter().for_each(|stream| stream.join().expect("no panic"));
        task.run_one();
        assert_eq!(task.drops.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_closed_task_is_dropped_once_whatever_happens_to_it_then() {
    model(|| {
        let task = Task::new(usize::MAX);
        let (stream, waker) = (task.clone(), task.clone());
        let stream = thread::spawn(move || stream.run_one());
        let waker = thread::spawn(move || waker.event());
        task.close();
        task.close();
        stream.join().expect("no panic");
        waker.join().expect("no panic");
        task.run_one();
        assert_eq!(task.drops.load(Ordering::Relaxed), 1);
        assert!(task.polls.load(Ordering::Relaxed) <= 1);
    });
}

#[test]
fn a_wake_up_after_the_end_does_nothing() {
    model(|| {
        let task = Task::new(0);
        task.run_one();
        task.event();
        task.close();
        assert_eq!(task.units.load(Ordering::Relaxed), 0);
        assert_eq!(task.drops.load(Ordering::Relaxed), 1);
    });
}

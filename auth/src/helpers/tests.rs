use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::{HelperError, HelperPool, Limits, Task};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn pool(helpers: usize, waiting: usize) -> Arc<HelperPool> {
    HelperPool::new("test", Limits { helpers, waiting })
}

/// A call that reports its start and ends when the sender is dropped.
fn block(pool: &Arc<HelperPool>, timeout: Duration) -> (Task<u32>, Sender<()>) {
    let (started, has_started) = mpsc::channel();
    let (release, released): (_, Receiver<()>) = mpsc::channel();
    let task = pool.submit(timeout, move || {
        started.send(()).expect("the test listens");
        let _ = released.recv();
        7
    });
    let task = task.expect("room");
    has_started.recv().expect("a helper takes it");
    (task, release)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor with no timer at all.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match std::pin::Pin::new(&mut future).poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => {
                let begin = Instant::now();
                thread::park_timeout(LONG);
                assert!(begin.elapsed() < LONG, "nobody woke the task");
            }
        }
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn results_come_by_wait_and_by_await() {
    let pool = pool(2, 8);
    let waited = pool.submit(LONG, || 1).expect("room").wait();
    assert!(matches!(waited, Ok(1)));
    let awaited = block_on(pool.submit(LONG, || 2).expect("room"));
    assert!(matches!(awaited, Ok(2)));
}

#[test]
fn many_callers_each_get_their_own_result() {
    let pool = pool(3, 10_000);
    thread::scope(|scope| {
        for caller in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                for call in 0..200 {
                    let task = pool.submit(LONG, move || caller * 1000 + call).expect("room");
                    let result = if call % 2 == 0 { task.wait() } else { block_on(task) };
                    assert_eq!(result.expect("a result"), caller * 1000 + call);
                }
            });
        }
    });
}

#[test]
fn a_waiter_gets_its_error_at_the_deadline_while_the_helper_stays_busy() {
    let pool = pool(1, 8);
    let (task, release) = block(&pool, SHORT);
    let error = task.wait().expect_err("the deadline");
    let HelperError::TimedOut { started: true, load, timeout } = error else { panic!("{error:?}") };
    assert_eq!((load.stuck, load.helpers, timeout), (1, 1, SHORT));
    drop(release);
    eventually("the helper is free again", || pool.load().stuck == 0);
    assert!(matches!(pool.submit(LONG, || 3).expect("room").wait(), Ok(3)));
}

#[test]
fn a_future_gets_its_error_at_the_deadline_without_a_timer_of_the_executor() {
    let pool = pool(1, 8);
    let (task, _release) = block(&pool, SHORT);
    assert!(matches!(block_on(task), Err(HelperError::TimedOut { started: true, .. })));
}

#[test]
fn a_call_that_never_left_the_queue_says_so_and_never_runs() {
    let pool = pool(1, 8);
    let (_held, release) = block(&pool, LONG);
    let ran = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ran);
    let late = pool.submit(SHORT, move || counter.fetch_add(1, Ordering::SeqCst)).expect("room");
    assert!(matches!(late.wait(), Err(HelperError::TimedOut { started: false, .. })));
    drop(release);
    assert!(matches!(pool.submit(LONG, || 1).expect("room").wait(), Ok(1))); // the queue is in order
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[test]
fn a_dropped_call_that_waits_never_runs_and_its_memory_goes() {
    let pool = pool(1, 8);
    let (_held, release) = block(&pool, LONG);
    let argument = Arc::new(());
    let inside = Arc::clone(&argument);
    drop(pool.submit(LONG, move || drop(inside)).expect("room"));
    drop(release);
    assert!(matches!(pool.submit(LONG, || 1).expect("room").wait(), Ok(1)));
    assert_eq!(Arc::strong_count(&argument), 1);
}

#[test]
fn the_result_of_a_dropped_call_is_dropped() {
    let pool = pool(1, 8);
    let result = Arc::new(());
    let inside = Arc::clone(&result);
    let (go, gone) = mpsc::channel::<()>();
    let task = pool.submit(LONG, move || {
        let _ = gone.recv();
        inside
    });
    drop(task.expect("room"));
    drop(go);
    eventually("the result is dropped", || Arc::strong_count(&result) == 1);
}

#[test]
fn past_its_bounds_the_pool_refuses_at_once() {
    let pool = pool(2, 3);
    let _held = [block(&pool, SHORT), block(&pool, LONG)];
    let _waiting: Vec<_> = (0..3).map(|_| pool.submit(LONG, || ()).expect("room")).collect();
    eventually("one helper is overdue", || pool.load().stuck == 1);
    let Err(HelperError::Overloaded(load)) = pool.submit(LONG, || ()) else { panic!("there was room") };
    assert_eq!((load.waiting, load.helpers, load.stuck), (3, 2, 1));
}

#[test]
fn overdue_and_dropped_calls_make_room() {
    let pool = pool(1, 2);
    let (_held, _release) = block(&pool, LONG);
    let dropped = pool.submit(LONG, || ()).expect("room");
    let overdue = pool.submit(SHORT, || ()).expect("room");
    assert!(pool.submit(LONG, || ()).is_err());
    drop(dropped);
    let _first = pool.submit(LONG, || ()).expect("room of the dropped call");
    assert!(overdue.wait().is_err());
    let _second = pool.submit(LONG, || ()).expect("room of the overdue call");
}

#[test]
fn a_panic_is_an_error_and_the_helper_lives() {
    let pool = pool(1, 2);
    let task = pool.submit(LONG, || -> u32 { std::panic::resume_unwind(Box::new("quietly")) });
    assert!(matches!(task.expect("room").wait(), Err(HelperError::Panicked)));
    assert!(matches!(pool.submit(LONG, || 1).expect("room").wait(), Ok(1)));
}

#[test]
fn a_panicking_waker_costs_nobody_else_anything() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("quietly"));
        }
    }
    let pool = pool(1, 2);
    let (mut task, release) = block(&pool, LONG);
    let waker = Waker::from(Arc::new(Bomb));
    assert!(std::pin::Pin::new(&mut task).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(release);
    assert!(matches!(pool.submit(LONG, || 1).expect("room").wait(), Ok(1)));
}

#[test]
fn dropping_the_pool_does_not_wait_and_its_threads_end() {
    let pool = pool(2, 2);
    let shared = pool.watch();
    assert!(matches!(block_on(pool.submit(LONG, || 1).expect("room")), Ok(1)));
    let (task, release) = block(&pool, LONG);
    drop((task, pool));
    assert!(shared.upgrade().is_some(), "a helper is still in a call");
    drop(release);
    eventually("the threads are gone", || shared.upgrade().is_none());
}

#[test]
fn after_a_fork_the_pool_says_so_instead_of_hanging() {
    let pool = HelperPool::as_in_a_forked_child();
    assert!(matches!(pool.submit(LONG, || ()), Err(HelperError::Forked)));
}

#[test]
fn a_task_outlives_the_last_handle() {
    let pool = pool(1, 2);
    let (task, release) = block(&pool, LONG);
    let waiting = pool.submit(LONG, || 8).expect("room");
    drop(pool);
    drop(release);
    assert!(matches!(task.wait(), Ok(7)));
    assert!(matches!(waiting.wait(), Ok(8)));
}

/// A name of its own, for the threads are looked up by it.
#[test]
fn an_idle_pool_does_not_wake_up() {
    let pool = HelperPool::new("sleeper", Limits { helpers: 2, waiting: 2 });
    assert!(matches!(block_on(pool.submit(SHORT, || 1).expect("room")), Ok(1)));
    let (task, release) = block(&pool, SHORT);
    assert!(block_on(task).is_err()); // so that the timer thread exists
    drop(release);

    let switches = || {
        let mut threads = 0;
        let mut sum = 0;
        for task in std::fs::read_dir("/proc/self/task").expect("procfs").flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            if !status.starts_with("Name:\tsleeper") {
                continue;
            }
            threads += 1;
            let count = |line: &str| line.rsplit('\t').next().and_then(|count| count.parse::<u64>().ok());
            sum += status.lines().filter(|line| line.contains("ctxt_switches")).filter_map(count).sum::<u64>();
        }
        (threads, sum)
    };
    let mut before = switches();
    assert!(before.0 >= 2, "{before:?}");
    eventually("two equal counts in a row", || {
        thread::sleep(Duration::from_millis(300));
        let now = switches();
        std::mem::replace(&mut before, now) == now
    });
}

use super::ArgobotsPool;
use crate::engine::{Wait, block_on};
use parking_lot::Mutex;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Waker};
use std::thread;

/// Waits for the end of a pool.
fn end(pool: &ArgobotsPool) {
    pool.core().begin_end();
    poll_fn(|cx| pool.core().poll_ended(cx.waker())).wait();
}

/// Counts its drops.
#[derive(Clone, Default)]
struct Drops(Arc<AtomicUsize>);

impl Drop for Drops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A place where a task leaves its waker, for any thread to use.
#[derive(Default)]
struct Mailbox {
    events: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Mailbox {
    fn post(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Takes events until there were as many as it wants, then sends its number.
struct Reader {
    mailbox: Arc<Mailbox>,
    wanted: usize,
    inside: AtomicUsize,
    done: Sender<usize>,
    number: usize,
}

impl Future for Reader {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "polled by two at once");
        *self.mailbox.waker.lock() = Some(cx.waker().clone());
        let ready = self.mailbox.events.load(Ordering::SeqCst) >= self.wanted;
        if ready {
            self.done.send(self.number).expect("the test listens");
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[test]
fn no_wake_up_from_a_foreign_thread_is_lost_among_many() {
    const TASKS: usize = 64;
    const WAKERS: usize = 8;
    const EVENTS: usize = 50;
    let pool = ArgobotsPool::start("stress", 3).unwrap();
    for _ in 0..10 {
        let (done, results) = channel();
        let mailboxes: Vec<_> = (0..TASKS).map(|_| Arc::new(Mailbox::default())).collect();
        for (number, mailbox) in mailboxes.iter().cloned().enumerate() {
            let (wanted, inside) = (WAKERS * EVENTS, AtomicUsize::new(0));
            pool.spawn(Box::pin(Reader { mailbox, wanted, inside, done: done.clone(), number }));
        }
        thread::scope(|scope| {
            for waker in 0..WAKERS {
                let mailboxes = &mailboxes;
                scope.spawn(move || {
                    for event in 0..TASKS * EVENTS {
                        mailboxes[(event + waker * 7) % TASKS].post();
                    }
                });
            }
        });
        let mut numbers: Vec<_> = results.iter().take(TASKS).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..TASKS));
    }
    end(&pool);
    assert_eq!(pool.tasks(), 0);
}

#[test]
fn a_pool_that_ends_drops_each_pending_task_once_and_late_wakers_do_nothing() {
    let pool = ArgobotsPool::start("ending", 2).unwrap();
    let (polled, started) = channel();
    let drops = Drops::default();
    let mut wakers = Vec::new();
    for _ in 0..100 {
        let (held, polled) = (Drops(drops.0.clone()), polled.clone());
        pool.spawn(Box::pin(async move {
            let _held = held;
            poll_fn(|cx| {
                let _ = polled.send(cx.waker().clone());
                Poll::<()>::Pending
            })
            .await;
        }));
        wakers.push(started.recv().unwrap());
    }
    assert_eq!(pool.tasks(), 100);
    // Woken all the time while the pool ends.
    thread::scope(|scope| {
        for part in wakers.chunks(25) {
            scope.spawn(move || (0..200).for_each(|_| part.iter().for_each(Waker::wake_by_ref)));
        }
        end(&pool);
        assert_eq!(drops.0.load(Ordering::SeqCst), 100);
    });
    wakers.iter().for_each(Waker::wake_by_ref);
    // And nothing can be started any more.
    let late = Drops(drops.0.clone());
    pool.spawn(Box::pin(async move {
        let _late = late;
        pending::<()>().await;
    }));
    let late = Drops(drops.0.clone());
    pool.spawn_blocking(Box::new(move || drop(late)));
    assert_eq!(drops.0.load(Ordering::SeqCst), 102);
    drop(pool);
    drop(wakers);
}

#[test]
fn panics_of_polls_drops_and_closures_stay_inside_the_pool() {
    struct PanicsInDrop;
    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            panic!("as a test wants, in drop");
        }
    }
    let pool = ArgobotsPool::start("panics", 1).unwrap();
    pool.spawn(Box::pin(async { panic!("as a test wants, in poll") }));
    pool.spawn(Box::pin(async {
        let _guard = PanicsInDrop;
    }));
    let guard = PanicsInDrop;
    pool.spawn(Box::pin(async move {
        let _guard = guard;
        pending::<()>().await;
    }));
    pool.spawn_blocking(Box::new(|| panic!("as a test wants, in a closure")));
    let (done, result) = channel();
    pool.spawn(Box::pin(async move { done.send(7).unwrap() }));
    assert_eq!(result.recv(), Ok(7));
    end(&pool);
}

#[test]
fn waiting_threads_of_one_stream_take_turns_with_tasks() {
    let pool = Arc::new(ArgobotsPool::start("turns", 1).unwrap());
    let (done, results) = channel();
    // Each waits for the next, and only a task wakes the last: with one stream, all of them must have let go of it.
    let mailboxes: Vec<_> = (0..20).map(|_| Arc::new(Mailbox::default())).collect();
    for (number, mailbox) in mailboxes.iter().cloned().enumerate() {
        let next = mailboxes.get(number + 1).cloned();
        let (done, here) = (done.clone(), thread::current().id());
        pool.spawn_blocking(Box::new(move || {
            let began_on = thread::current().id();
            assert_ne!(began_on, here);
            block_on(|cx| {
                *mailbox.waker.lock() = Some(cx.waker().clone());
                if mailbox.events.load(Ordering::SeqCst) > 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            assert_eq!(thread::current().id(), began_on);
            if let Some(next) = next {
                next.post();
            }
            done.send(number).unwrap();
        }));
    }
    let first = mailboxes[0].clone();
    pool.spawn(Box::pin(async move { first.post() }));
    assert!(results.iter().take(20).eq(0..20));
    end(&pool);
}

#[test]
fn a_wait_that_wants_another_poll_at_once_lets_others_run() {
    let pool = ArgobotsPool::start("yields", 1).unwrap();
    let (go, gone) = (Arc::new(AtomicUsize::new(0)), channel());
    let seen = go.clone();
    pool.spawn_blocking(Box::new(move || {
        block_on(|cx| {
            cx.waker().wake_by_ref();
            if seen.load(Ordering::SeqCst) > 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        gone.0.send(()).unwrap();
    }));
    pool.spawn(Box::pin(async move {
        go.fetch_add(1, Ordering::SeqCst);
    }));
    gone.1.recv().unwrap();
    end(&pool);
}

#[test]
fn more_blocking_work_than_threads_waits_for_them() {
    let pool = ArgobotsPool::start("many", 2).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Mailbox::default());
    let wakers = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..1500 {
        let (count, gate, wakers) = (count.clone(), gate.clone(), wakers.clone());
        pool.spawn_blocking(Box::new(move || {
            block_on(|cx| {
                wakers.lock().push(cx.waker().clone());
                if gate.events.load(Ordering::SeqCst) > 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            count.fetch_add(1, Ordering::SeqCst);
        }));
    }
    gate.post();
    while count.load(Ordering::SeqCst) < 1500 {
        let woken = std::mem::take(&mut *wakers.lock());
        woken.into_iter().for_each(Waker::wake);
        thread::yield_now();
    }
    end(&pool);
}

#[test]
fn a_pool_that_ends_waits_for_blocking_work_and_drops_what_waits_for_a_thread() {
    let pool = ArgobotsPool::start("draining", 1).unwrap();
    let drops = Drops::default();
    let (began, begun) = channel();
    let gate = Arc::new(Mailbox::default());
    for _ in 0..600 {
        let (held, began, gate) = (Drops(drops.0.clone()), began.clone(), gate.clone());
        pool.spawn_blocking(Box::new(move || {
            let _held = held;
            let mut said = false;
            block_on(|cx| {
                if !std::mem::replace(&mut said, true) {
                    began.send(cx.waker().clone()).unwrap();
                }
                if gate.events.load(Ordering::SeqCst) > 0 { Poll::Ready(()) } else { Poll::Pending }
            });
        }));
    }
    let wakers: Vec<_> = begun.iter().take(512).collect();
    pool.core().begin_end();
    // The rest has no thread and never gets one.
    while drops.0.load(Ordering::SeqCst) < 88 {
        thread::yield_now();
    }
    gate.post();
    wakers.into_iter().for_each(Waker::wake);
    end(&pool);
    assert_eq!(drops.0.load(Ordering::SeqCst), 600);
}

#[test]
fn whoever_walks_the_stack_sees_no_frames_below_ours() {
    let pool = ArgobotsPool::start("walks", 1).unwrap();
    let (done, walks) = channel();
    let walk = move || {
        let text = std::backtrace::Backtrace::force_capture().to_string();
        done.send(text).unwrap();
    };
    for _ in 0..20 {
        let (in_task, in_thread) = (walk.clone(), walk.clone());
        pool.spawn(Box::pin(async move { in_task() }));
        pool.spawn_blocking(Box::new(in_thread));
    }
    for text in walks.iter().take(40) {
        assert!(text.contains("margo_rs::exec::argobots"), "{text}");
        assert!(!text.contains("ABTD_"), "{text}");
    }
    end(&pool);
}

#[test]
fn futures_find_the_tokio_runtime_in_which_their_pool_was_made() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let pool = {
        let _entered = runtime.enter();
        ArgobotsPool::start("tokio", 1).unwrap()
    };
    let (done, result) = channel();
    pool.spawn(Box::pin(async move {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        done.send(tokio::spawn(async { 5 }).await.unwrap()).unwrap();
    }));
    assert_eq!(result.recv(), Ok(5));
    end(&pool);
}

//! Values of all kinds and sizes, alone and many at a time.

use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::{CallError, Endpoint, HgString, Rpc, Wait};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::Duration;

conformance! {
    values_of_every_kind_return_unchanged,
    payloads_around_every_boundary_return_unchanged,
    the_largest_message_passes_both_ways_and_one_byte_more_does_not,
    many_calls_are_in_flight_at_once,
    many_threads_wait_on_one_endpoint,
    many_tasks_share_one_endpoint,
    a_started_call_runs_before_it_is_awaited,
    small_calls_pass_while_large_ones_are_under_way,
    large_calls_both_ways_do_not_stop_each_other,
    calls_to_self_work_as_others_do,
    fire_and_forget_requests_arrive,
    raw_bytes_pass_unchanged,
    an_engine_needs_no_particular_executor,
    a_call_that_stops_looking_is_woken_by_its_answer,
    different_results_find_their_callers,
    a_call_that_is_polled_no_more_is_sent_and_holds_up_no_other,
    a_task_whose_answers_come_at_once_lets_others_run,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    numbers: (u8, i16, u32, i64, u128, f32, f64),
    flag: bool,
    letter: char,
    text: String,
    c_text: HgString,
    list: Vec<Option<i32>>,
    map: BTreeMap<String, Vec<u8>>,
    variant: Variant,
    array: [u16; 5],
    nothing: (),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Variant {
    Unit,
    One(String),
    Named { x: i8, y: Box<Variant> },
}

const ALL: Rpc<Everything, Everything> = Rpc::new("everything");

fn values_of_every_kind_return_unchanged(setup: Setup) {
    let pair = setup.pair();
    pair.server.register(ALL, |_, value| async move { Ok(value) }).unwrap();
    let value = Everything {
        numbers: (255, -1, u32::MAX, i64::MIN, u128::MAX, 1.5, f64::MIN_POSITIVE),
        flag: true,
        letter: '餅',
        text: "もち".to_owned(),
        c_text: HgString::new("c"),
        list: vec![None, Some(i32::MAX)],
        map: BTreeMap::from([("key".to_owned(), vec![1, 2, 3]), (String::new(), vec![])]),
        variant: Variant::Named { x: -128, y: Box::new(Variant::One("inner".to_owned())) },
        array: [1, 2, 3, 4, 5],
        nothing: (),
    };
    assert_eq!(pair.to.call(ALL, &value).wait().unwrap(), value);
    let plain = Everything { variant: Variant::Unit, c_text: HgString::NULL, ..value };
    assert_eq!(pair.to.call(ALL, &plain).wait().unwrap(), plain);
}

fn echo(to: &Endpoint, size: usize) {
    let sent = pattern(size);
    let came = to.call(ECHO, &Blob(sent.clone())).wait().unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    assert!(came.0 == sent, "{size} bytes came back changed");
}

fn payloads_around_every_boundary_return_unchanged(setup: Setup) {
    let pair = setup.pair();
    // The headers before the value are 4, 8, 16, 24 and 32 bytes long in all combinations.
    for boundary in [16 * 1024, 32 * 1024, 256 * 1024, 512 * 1024] {
        for header in [0, 1, 4, 8, 12, 16, 20, 24, 32, 40, 48] {
            for off in [0, 1] {
                echo(&pair.to, boundary - header + off);
                echo(&pair.to, boundary - header - off);
            }
        }
    }
    for size in [0, 1, 2, 7, 8, 9, 4095, 4096, 8192, 1 << 20, (3 << 20) + 1, 9 << 20] {
        echo(&pair.to, size);
    }
    pair.assert_healthy();
}

fn the_largest_message_passes_both_ways_and_one_byte_more_does_not(setup: Setup) {
    const MAX: usize = 300_000;
    let small = |limits: &mut margo_rs::Limits| limits.max_message = MAX as u64;
    // A request is the 8 bytes of Margo's header, the 8 of the length, and the bytes.
    let pair = setup.pair_of(setup.server().limits(small), setup.client());
    let fits = MAX - 16;
    let count: Rpc<Blob, u64> = Rpc::new("count");
    pair.server.register(count, |_, blob| async move { Ok(blob.0.len() as u64) }).unwrap();
    assert_eq!(pair.to.call(count, &Blob(pattern(fits))).wait().unwrap(), fits as u64);
    match pair.to.call(count, &Blob(pattern(fits + 1))).wait() {
        Err(CallError::TooLarge { size, max }) => assert_eq!((size, max), (MAX as u64 + 1, MAX as u64)),
        other => panic!("{other:?}"),
    }
    pair.assert_healthy();
    // A response is the 4 bytes of the status, the 8 of the length, and the bytes.
    let pair = setup.pair_of(setup.server(), setup.client().limits(small));
    let fits = MAX - 12;
    assert_eq!(pair.to.call(FETCH, &(fits as u64)).wait().unwrap().0, pattern(fits));
    match pair.to.call(FETCH, &(fits as u64 + 1)).wait() {
        Err(CallError::TooLarge { size, max }) => assert_eq!((size, max), (MAX as u64 + 1, MAX as u64)),
        other => panic!("{other:?}"),
    }
    pair.assert_healthy();
}

fn many_calls_are_in_flight_at_once(setup: Setup) {
    let pair = setup.pair();
    let gate = Arc::new(tokio::sync::Barrier::new(64));
    let meet: Rpc<u64, u64> = Rpc::new("meet");
    // No one is answered before all have come.
    pair.server
        .register(meet, move |_, n| {
            let gate = gate.clone();
            async move {
                gate.wait().await;
                Ok(n * n)
            }
        })
        .unwrap();
    let calls: Vec<_> = (0..64u64).map(|n| pair.to.call(meet, &n).start()).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().unwrap(), (n * n) as u64);
    }
    pair.assert_healthy();
}

fn many_threads_wait_on_one_endpoint(setup: Setup) {
    let pair = setup.pair();
    thread::scope(|scope| {
        for thread in 0..16i64 {
            let to = &pair.to;
            scope.spawn(move || {
                for n in 0..50 {
                    assert_eq!(to.call(SUM, &(thread, n)).wait().unwrap(), thread + n);
                }
            });
        }
    });
    pair.assert_healthy();
}

fn many_tasks_share_one_endpoint(setup: Setup) {
    let pair = setup.pair();
    in_tokio(async {
        let tasks: Vec<_> = (0..64i64)
            .map(|task| {
                let to = pair.to.clone();
                tokio::spawn(async move {
                    for n in 0..20 {
                        assert_eq!(to.call(SUM, &(task, n)).await.unwrap(), task + n);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        // All in one task, polled by turns.
        let mut calls: Vec<_> = (0..64i64).map(|n| Box::pin(pair.to.call(SUM, &(n, 1)))).collect();
        let mut sums = Vec::new();
        std::future::poll_fn(|cx| {
            calls.retain_mut(|call| match call.as_mut().poll(cx) {
                std::task::Poll::Ready(sum) => {
                    sums.push(sum.unwrap());
                    false
                }
                std::task::Poll::Pending => true,
            });
            if calls.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        sums.sort_unstable();
        assert_eq!(sums, (1..65).collect::<Vec<_>>());
    });
    pair.assert_healthy();
}

fn a_started_call_runs_before_it_is_awaited(setup: Setup) {
    let pair = setup.pair();
    let (came, arrived) = std::sync::mpsc::channel();
    let tell: Rpc<u32, u32> = Rpc::new("tell");
    pair.server
        .register(tell, move |_, n| {
            came.send(n).unwrap();
            async move { Ok(n) }
        })
        .unwrap();
    let call = pair.to.call(tell, &5).start();
    assert_eq!(arrived.recv().unwrap(), 5);
    assert_eq!(call.wait().unwrap(), 5);
    let call = pair.to.call(tell, &6).start();
    assert_eq!(arrived.recv().unwrap(), 6);
    assert_eq!(in_tokio(call).unwrap(), 6);
    pair.assert_healthy();
}

fn small_calls_pass_while_large_ones_are_under_way(setup: Setup) {
    let pair = setup.pair();
    let large: Vec<_> = (0..4).map(|_| pair.to.call(ECHO, &Blob(pattern(8 << 20))).start()).collect();
    for n in 0..50 {
        assert_eq!(pair.to.call(SUM, &(n, 1)).wait().unwrap(), n + 1);
    }
    for call in large {
        assert!(call.wait().unwrap().0 == pattern(8 << 20));
    }
    pair.assert_healthy();
}

/// More is on its way in both directions than either side queues for a slow peer.
fn large_calls_both_ways_do_not_stop_each_other(setup: Setup) {
    let small = |limits: &mut margo_rs::Limits| limits.max_queued = 1 << 20;
    let pair = setup.pair_of(setup.server().limits(small), setup.client().limits(small));
    let large = Blob(pattern(12 << 20));
    let calls: Vec<_> = (0..8).map(|_| pair.to.call(ECHO, &large).start()).collect();
    for call in calls {
        assert!(call.wait().unwrap() == large);
    }
    pair.assert_healthy();
}

fn calls_to_self_work_as_others_do(setup: Setup) {
    let engine = setup.serve();
    let me = engine.lookup(engine.address()).wait().unwrap();
    assert_eq!(me.call(SUM, &(1, 2)).wait().unwrap(), 3);
    for size in [0, 16 * 1024 + 1, 300_000, 4 << 20] {
        echo(&me, size);
    }
    in_tokio(async { assert_eq!(me.call(SUM, &(3, 4)).await.unwrap(), 7) });
    let calls: Vec<_> = (0..64).map(|n| me.call(SUM, &(n, n)).start()).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().unwrap(), 2 * n as i64);
    }
    let unknown: Rpc<(), ()> = Rpc::new("unknown");
    assert!(matches!(me.call(unknown, &()).wait(), Err(CallError::NoSuchRpc { .. })));
    assert_idle(&engine);
}

fn fire_and_forget_requests_arrive(setup: Setup) {
    const LOG: Rpc<u64, ()> = Rpc::new("log").disable_response();
    let pair = setup.pair();
    let total = Arc::new(AtomicU64::new(0));
    let seen = total.clone();
    pair.server
        .register(LOG, move |_, n| {
            seen.fetch_add(n, Ordering::Relaxed);
            async { Ok(()) }
        })
        .unwrap();
    for n in 0..100 {
        pair.to.call(LOG, &n).wait().unwrap();
    }
    in_tokio(async {
        for n in 0..100 {
            pair.to.call(LOG, &n).await.unwrap();
        }
    });
    comes_to("all calls have come", || total.load(Ordering::Relaxed), |total| *total == 2 * 4950);
    // Even to an RPC that nobody has: nobody says so.
    let unknown: Rpc<u64, ()> = Rpc::new("unknown log").disable_response();
    pair.to.call(unknown, &1).wait().unwrap();
    // To oneself.
    let me = pair.server.lookup(pair.server.address()).wait().unwrap();
    me.call(LOG, &50).wait().unwrap();
    comes_to("all calls have come", || total.load(Ordering::Relaxed), |total| *total == 2 * 4950 + 50);
    pair.assert_healthy();
}

fn raw_bytes_pass_unchanged(setup: Setup) {
    let pair = setup.pair();
    pair.server
        .register_raw("reverse", 42.into(), |request, input, responder| async move {
            assert_eq!(request.provider_id().as_u16(), 42);
            let mut bytes = input.into_vec();
            bytes.reverse();
            responder.respond(&bytes);
        })
        .unwrap();
    let id = margo_rs::RpcId::new("reverse", 42.into());
    for size in [0, 1, 20_000, 300_000] {
        let mut expected = pattern(size);
        let came = pair.to.call_raw(id, &expected).wait().unwrap();
        expected.reverse();
        assert!(*came == *expected, "{size}");
    }
    pair.to.send_raw(id, b"nobody listens").wait().unwrap();
    // A raw caller of a typed handler encodes by itself.
    let input = margo_rs::codec::to_vec(&(5i64, 6i64)).unwrap();
    let output = pair.to.call_raw(plain_id("sum"), &input).wait().unwrap();
    assert_eq!(margo_rs::codec::from_slice::<i64>(&output).unwrap(), 11);
    pair.assert_healthy();
}

fn an_engine_needs_no_particular_executor(setup: Setup) {
    /// The smallest executor there is.
    fn block_on<F: Future>(future: F) -> F::Output {
        struct Unpark(thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut cx = std::task::Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut cx) {
                return value;
            }
            thread::park();
        }
    }
    assert!(tokio::runtime::Handle::try_current().is_err());
    let server = with_handlers(block_on(setup.server().listen()).unwrap());
    let client = setup.client().connect().unwrap();
    let to = block_on(client.lookup(server.address())).unwrap();
    let slow: Rpc<u64, u64> = Rpc::new("slow");
    // Handlers have tokio's timers whatever the program uses.
    server
        .register(slow, |_, ms| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(ms)
        })
        .unwrap();
    for n in 0..20 {
        assert_eq!(block_on(to.call(SUM, &(n, n))).unwrap(), 2 * n);
    }
    assert_eq!(block_on(to.call(slow, &5)).unwrap(), 5);
    block_on(server.shutdown());
}

fn a_call_that_stops_looking_is_woken_by_its_answer(setup: Setup) {
    #[derive(Default)]
    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let pair = setup.pair();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held: Rpc<(), u32> = Rpc::new("held");
    let opens = gate.clone();
    pair.server
        .register(held, move |_, ()| {
            let opens = opens.clone();
            async move { opens.acquire_owned().await.map(|_| 7).map_err(Into::into) }
        })
        .unwrap();
    let mut call = std::pin::pin!(pair.to.call(held, &()));
    let mut poll = |flag: &Arc<Flag>| {
        flag.0.store(false, Ordering::SeqCst);
        call.as_mut().poll(&mut Context::from_waker(&flag.clone().into()))
    };
    // Two tasks, one after the other: the second one waits, and is to be woken.
    let (first, second) = (Arc::default(), Arc::default());
    for flag in [&first, &second] {
        // Until it does not ask to be polled again by itself, which busy engines never cease to do.
        for _ in 0..200 {
            assert!(poll(flag).is_pending());
            if !flag.0.load(Ordering::SeqCst) {
                break;
            }
        }
    }
    gate.add_permits(1);
    let answer = loop {
        eventually("the second waker is woken", || second.0.load(Ordering::SeqCst));
        if let Poll::Ready(answer) = poll(&second) {
            break answer;
        }
    };
    assert_eq!(answer.unwrap(), 7);
}

fn different_results_find_their_callers(setup: Setup) {
    let pair = setup.pair();
    // Answered in the reverse order of asking, sizes mixed.
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep: Rpc<u64, Blob> = Rpc::new("keep");
    let store = held.clone();
    pair.server
        .register_deferred(keep, move |_, size, responder| {
            store.lock().unwrap().push((size, responder));
            async {}
        })
        .unwrap();
    let sizes: Vec<u64> = (0..40).map(|n| n * 3_001 % 70_000).collect();
    let calls: Vec<_> = sizes.iter().map(|size| pair.to.call(keep, size).start()).collect();
    comes_to("forty are held", || held.lock().unwrap().len(), |held| *held == 40);
    for (size, responder) in held.lock().unwrap().drain(..).rev() {
        responder.respond(&Blob(pattern(size as usize)));
    }
    for (size, call) in sizes.into_iter().zip(calls) {
        assert!(call.wait().unwrap().0 == pattern(size as usize));
    }
    pair.assert_healthy();
}

/// A branch of a `select!` that another one wins is polled once and kept. It may be the one to drive the transport for all.
fn a_call_that_is_polled_no_more_is_sent_and_holds_up_no_other(setup: Setup) {
    const COUNTED: Rpc<(), ()> = Rpc::new("counted");
    /// Shorter than what holds up others without end.
    const SOON: Duration = Duration::from_secs(20);
    let pair = setup.pair();
    let came = Arc::new(AtomicU64::new(0));
    let count = came.clone();
    let counted = move |_, ()| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    };
    pair.server.register(COUNTED, counted).unwrap();
    for (engine, before) in [(pair.client.clone(), 0), (setup.serve(), 1)] {
        let to = engine.lookup(pair.server.address()).wait().unwrap();
        to.call(SUM, &(1, 1)).wait().unwrap();
        in_tokio(async {
            let outstanding = to.call(HANG, &()).timeout(LONG).start();
            // Until nobody looks at the transport any more.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut kept = pin!(to.call(COUNTED, &()).timeout(LONG));
            let first = poll_fn(|cx| Poll::Ready(kept.as_mut().poll(cx))).await;
            assert!(first.is_pending());
            tokio::time::timeout(SOON, async {
                while came.load(Ordering::SeqCst) == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await
            .expect("what was polled is sent");
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert_eq!(to.call(SUM, &(1, 2)).timeout(SOON).await.unwrap(), 3);
            }
            drop(outstanding);
            kept.await.unwrap();
        });
    }
}

fn a_task_whose_answers_come_at_once_lets_others_run(setup: Setup) {
    /// Calls in a row after which others have had a turn, if not before.
    const CALLS_BEFORE_OTHERS: usize = 16;
    const TURNS: usize = 10;
    let pair = setup.pair();
    let mut calls = pin!(async {
        for number in 0..(TURNS * CALLS_BEFORE_OTHERS) as i64 {
            assert_eq!(pair.to.call(SUM, &(number, 1)).await.unwrap(), number + 1);
        }
    });
    let mut turns = 0;
    // Each time that it is pending, an executor has all its other tasks go on.
    while calls.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending() {
        turns += 1;
        thread::yield_now();
    }
    assert!(turns >= TURNS, "others had {turns} turns");
}

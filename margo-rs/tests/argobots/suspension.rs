//! Blocking handlers that wait.

use crate::support::{LONG, ULT, client, protocols, server, unit, watchdog};
use margo_rs::{Engine, HandlerError, Pool, Progress, Rpc, Wait};
use std::process::Command;
use std::thread;

const DOWN: Rpc<u32, u32> = Rpc::new("down");

fn failed(error: impl ToString) -> HandlerError {
    HandlerError::from(error.to_string())
}

/// A handler that calls itself, with one less, and waits.
fn register_down(server: &Engine) {
    let to_self = server.lookup(server.address()).wait().unwrap();
    server
        .register_blocking(DOWN, move |_, n| {
            let here = thread::current().id();
            let below = if n == 0 { 0 } else { to_self.call(DOWN, &(n - 1)).wait().map_err(failed)? };
            assert_eq!((thread::current().id(), unit()), (here, ULT));
            Ok(below + 1)
        })
        .unwrap();
}

#[test]
fn handlers_of_one_stream_that_wait_for_each_other_all_end() {
    let _watchdog = watchdog("nested");
    let pool = Pool::argobots("nested", 1).unwrap();
    let server = server("native+tcp://127.0.0.1", &pool);
    register_down(&server);
    let (_client, endpoint) = client("native+tcp://127.0.0.1", &server);
    let calls: Vec<_> = (0..8).map(|_| endpoint.call(DOWN, &40).start()).collect();
    for call in calls {
        assert_eq!(call.wait().unwrap(), 41);
    }
    server.shutdown().wait();
    pool.shutdown().wait();
}

#[test]
fn two_engines_whose_handlers_call_each_other_from_one_stream_do_not_stop_it() {
    let _watchdog = watchdog("ping-pong");
    for protocol in protocols() {
        for progress in [Progress::default(), Progress::Park, Progress::Busy] {
            let pool = Pool::argobots("ping-pong", 1).unwrap();
            let engine = || {
                let builder = Engine::builder(protocol).default_timeout(LONG).progress(progress);
                builder.rpc_pool(pool.clone()).listen().wait().unwrap()
            };
            let engines = [engine(), engine()];
            for (mine, theirs) in [(0, 1), (1, 0)] {
                let other = engines[mine].lookup(engines[theirs].address()).wait().unwrap();
                engines[mine]
                    .register_blocking(DOWN, move |_, n| match n {
                        0 => Ok(0),
                        _ => Ok(other.call(DOWN, &(n - 1)).wait().map_err(failed)? + 1),
                    })
                    .unwrap();
            }
            let (_client, endpoint) = client(protocol, &engines[0]);
            let calls: Vec<_> = (0..4).map(|_| endpoint.call(DOWN, &12).start()).collect();
            for call in calls {
                assert_eq!(call.wait().unwrap(), 12, "{protocol} {progress:?}");
            }
            for engine in engines {
                engine.shutdown().wait();
            }
            pool.shutdown().wait();
        }
    }
}

#[test]
fn a_wait_during_a_panic_or_inside_of_tokio_blocks_and_is_right_all_the_same() {
    struct WaitsInDrop(margo_rs::Endpoint);
    impl Drop for WaitsInDrop {
        fn drop(&mut self) {
            assert_eq!(self.0.call(DOWN, &0).wait().unwrap(), 1);
        }
    }
    let _watchdog = watchdog("blocks");
    let (pool, other) = (Pool::argobots("blocks", 1).unwrap(), Pool::argobots("other", 1).unwrap());
    let (server_one, server_two) = (server("native+tcp://127.0.0.1", &pool), server("native+tcp://127.0.0.1", &other));
    register_down(&server_two);
    let to_two = server_one.lookup(server_two.address()).wait().unwrap();
    let panics: Rpc<(), ()> = Rpc::new("panics");
    let target = to_two.clone();
    server_one
        .register_blocking(panics, move |_, ()| {
            let _guard = WaitsInDrop(target.clone());
            panic!("as a test wants")
        })
        .unwrap();
    let in_tokio: Rpc<(), u32> = Rpc::new("in_tokio");
    server_one
        .register_blocking(in_tokio, move |_, ()| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
            runtime.block_on(async { to_two.call(DOWN, &3).wait() }).map_err(failed)
        })
        .unwrap();
    let (_client, endpoint) = client("native+tcp://127.0.0.1", &server_one);
    let calls: Vec<_> = (0..4).map(|_| endpoint.call(in_tokio, &()).start()).collect();
    for call in calls {
        assert_eq!(call.wait().unwrap(), 4);
        assert!(endpoint.call(panics, &()).wait().is_err());
    }
    for (server, pool) in [(server_one, pool), (server_two, other)] {
        server.shutdown().wait();
        pool.shutdown().wait();
    }
}

/// Goes as deep as it is told.
#[inline(never)]
fn deep(levels: u64) -> u64 {
    let room = std::hint::black_box([levels; 64]);
    if levels == 0 { 0 } else { std::hint::black_box(deep(levels - 1) + room[7] - levels + 1) }
}

#[test]
fn a_blocking_handler_has_the_stack_of_a_thread_and_its_end_is_guarded() {
    let _watchdog = watchdog("deep");
    const NAME: &str = "suspension::a_blocking_handler_has_the_stack_of_a_thread_and_its_end_is_guarded";
    const CHILD: &str = "MARGO_TEST_OVERFLOW";
    let pool = Pool::argobots("deep", 1).unwrap();
    let server = server("native+tcp://127.0.0.1", &pool);
    let rpc: Rpc<u64, u64> = Rpc::new("deep");
    server.register_blocking(rpc, |_, levels| Ok(deep(levels))).unwrap();
    let (_client, endpoint) = client("native+tcp://127.0.0.1", &server);
    if std::env::var_os(CHILD).is_some() {
        // Without a guard this would write far outside of the stack, and may go on for long.
        let result = endpoint.call(rpc, &1_000_000).wait();
        println!("survived with {result:?}");
        return;
    }
    // About 0.6 KiB a level.
    assert_eq!(endpoint.call(rpc, &1000).wait().unwrap(), 1000);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    let signal = child.status.signal();
    assert!(matches!(signal, Some(11 | 6 | 7)), "{child:?}");
    assert!(!String::from_utf8_lossy(&child.stdout).contains("survived"));
    server.shutdown().wait();
    pool.shutdown().wait();
}

//! Whole processes that are killed, stopped and left alone.
//!
//! The test binary starts itself again, with what to be in an environment variable.

use margo_rs::codec::Blob;
use margo_rs::{Blame, CallError, Endpoint, Engine, Rpc, Wait};
use mochi_test_support::{Process, Watchdog, comes_to, descriptors, say, tasks};
use std::thread;
use std::time::{Duration, Instant};

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
const HANG: Rpc<(), ()> = Rpc::new("hang");
const ECHO: Rpc<Blob, Blob> = Rpc::new("echo");
const LONG: Duration = Duration::from_secs(100);

/// Ends the process when a test hangs.
fn watchdog(name: &'static str) -> Watchdog {
    Watchdog::start(name, LONG + Duration::from_secs(20))
}

/// What servers listen on, by transport.
const TCP: &str = "native+tcp://127.0.0.1";
const SM: &str = "native+sm";

/// Makes a test of each function for each transport.
macro_rules! on_each_transport {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            #[test]
            fn tcp() {
                let _watchdog = super::watchdog(concat!(stringify!($test), "::tcp"));
                super::$test(super::TCP);
            }

            #[test]
            fn sm() {
                let _watchdog = super::watchdog(concat!(stringify!($test), "::sm"));
                super::$test(super::SM);
            }
        })*
    };
}

on_each_transport! {
    a_killed_server_fails_every_outstanding_call_at_once,
    requests_of_a_killed_client_are_cancelled,
    calls_to_a_stopped_server_end_at_their_deadlines,
    idle_processes_never_wake_up,
    servers_killed_in_mid_call_leave_nothing_behind,
}

fn serve(address: &str) -> Engine {
    let server = Engine::listen(address).wait().unwrap();
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    server.register(ECHO, |_, blob| async move { Ok(blob) }).unwrap();
    server.register(HANG, |_, ()| std::future::pending()).unwrap();
    server
}

/// Not a test of its own: what a process that a test starts does.
#[test]
fn role() {
    let Some(role) = mochi_test_support::role() else { return };
    // Whatever becomes of the test, its processes end.
    let _watchdog = watchdog("role");
    let role: Vec<&str> = role.split(' ').collect();
    match role[..] {
        ["serve", address] => {
            let server = serve(address);
            say(server.address().as_str());
            server.wait().wait();
        }
        ["hang", address, count] => {
            let client = Engine::connect(address).unwrap();
            let to = client.lookup(address).wait().unwrap();
            let calls: Vec<_> = (0..count.parse().unwrap()).map(|_| to.call(HANG, &()).timeout(LONG).start()).collect();
            say("started");
            calls.into_iter().for_each(|call| drop(call.wait()));
        }
        ["idle", address] => {
            let client = Engine::connect(address).unwrap();
            let to = client.lookup(address).wait().unwrap();
            for n in 0..100 {
                // Deadlines that will have passed when it is watched, and then must not be in anybody's way.
                assert_eq!(to.call(SUM, &(n, 1)).timeout(Duration::from_millis(200)).wait().unwrap(), n + 1);
            }
            say("idle");
            thread::sleep(LONG);
        }
        _ => panic!("no such role"),
    }
    std::process::exit(0);
}

/// The sum over all threads of how often they slept of their own accord, and the processor time in ticks.
fn activity(process: &Process) -> (u64, u64) {
    tasks(&process.id()).iter().fold((0, 0), |(sleeps, ticks), task| (sleeps + task.sleeps, ticks + task.ticks))
}

fn reach(process: &Process) -> (Engine, Endpoint) {
    let client = Engine::connect(&process.says).unwrap();
    let to = client.lookup(&process.says).wait().unwrap();
    (client, to)
}

fn a_killed_server_fails_every_outstanding_call_at_once(address: &str) {
    let mut server = Process::start(&format!("serve {address}"));
    let (client, to) = reach(&server);
    let calls: Vec<_> = (0..200).map(|_| to.call(HANG, &()).timeout(LONG).start()).collect();
    // Some threads are blocked in the middle of it.
    let blocked: Vec<_> = (0..8)
        .map(|_| {
            let to = to.clone();
            thread::spawn(move || to.call(HANG, &()).timeout(LONG).wait())
        })
        .collect();
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    comes_to("there are 208 calls", || client.load(), |load| load.calls == 208);
    server.kill();
    let outcomes = calls.into_iter().map(|call| call.wait()).chain(blocked.into_iter().map(|it| it.join().unwrap()));
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, CallError::ConnectionLost { .. }), "{error:?}");
        assert_eq!(error.blame(), Blame::Network);
    }
    assert!(matches!(to.call(SUM, &(1, 2)).wait(), Err(CallError::Unreachable(_))));
    assert_eq!(client.load().calls, 0);
}

fn requests_of_a_killed_client_are_cancelled(address: &str) {
    let server = serve(address);
    let mut client = Process::start(&format!("hang {} 100", server.address()));
    comes_to("there are 100 requests", || server.load(), |load| load.requests == 100);
    client.kill();
    comes_to("no request is left", || server.load(), |load| load.requests == 0);
    comes_to("no connection is left", || server.load(), |load| load.links == 0);
}

fn calls_to_a_stopped_server_end_at_their_deadlines(address: &str) {
    let server = Process::start(&format!("serve {address}"));
    let (client, to) = reach(&server);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    server.stop();
    let after = Duration::from_millis(50);
    let calls: Vec<_> = (0..50).map(|n| to.call(SUM, &(n, 1)).timeout(after).start()).collect();
    for call in calls {
        let error = call.wait().unwrap_err();
        assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");
    }
    assert_eq!(client.load().calls, 0);
    // It goes on as if nothing had been; answers that come late reach nobody.
    server.go_on();
    for n in 0..20 {
        assert_eq!(to.call(SUM, &(n, 5)).wait().unwrap(), n + 5);
    }
}

fn idle_processes_never_wake_up(address: &str) {
    let server = Process::start(&format!("serve {address}"));
    let client = Process::start(&format!("idle {}", server.says));
    for (name, process) in [("client", &client), ("server", &server)] {
        // Settled: a second without a change. A machine that is busy may take a while.
        let begun = Instant::now();
        let mut before = activity(process);
        loop {
            thread::sleep(Duration::from_secs(1));
            let now = activity(process);
            if now == before {
                break;
            }
            assert!(begun.elapsed() < LONG / 4, "the {name} does not settle: {before:?} {now:?}");
            before = now;
        }
        thread::sleep(Duration::from_secs(2));
        assert_eq!(activity(process), before, "the idle {name} woke up");
    }
}

/// Kills at moments that differ from round to round, with large and small calls under way both ways.
fn servers_killed_in_mid_call_leave_nothing_behind(address: &str) {
    let before = descriptors("self").len();
    for round in 0..25u64 {
        let mut server = Process::start(&format!("serve {address}"));
        let (client, to) = reach(&server);
        let threads: Vec<_> = [0, 100, 1 << 20, 5 << 20]
            .map(|size| {
                let to = to.clone();
                thread::spawn(move || {
                    let blob = Blob(vec![7; size]);
                    loop {
                        match to.call(ECHO, &blob).timeout(LONG).wait() {
                            Ok(came) => assert!(came == blob),
                            Err(error) => return error,
                        }
                    }
                })
            })
            .into();
        thread::sleep(Duration::from_micros(round * 731 % 9000));
        server.kill();
        for thread in threads {
            let error = thread.join().unwrap();
            assert_eq!(error.blame(), Blame::Network, "{error:?}");
        }
        assert_eq!(client.load().calls, 0);
        comes_to("no connection is left", || client.load(), |load| load.links == 0);
    }
    // Others of these tests run at the same time, and hold some.
    comes_to("few descriptors are left", || descriptors("self"), |now| now.len() < before + 20);
}

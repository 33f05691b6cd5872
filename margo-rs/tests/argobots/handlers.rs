//! Handlers of all kinds.

use crate::support::{LONG, TASKLET, ULT, client, protocols, server, unit, watchdog};
use margo_rs::{CallError, Engine, HandlerError, Pool, PoolError, ProviderId, Rpc, RpcId, Wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const WHERE: Rpc<(), u8> = Rpc::new("where");
const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");

#[test]
fn asynchronous_handlers_are_tasklets_and_blocking_ones_user_level_threads() {
    let _watchdog = watchdog("kinds");
    for protocol in protocols() {
        let pool = Pool::argobots("units", 2).unwrap();
        let server = server(protocol, &pool);
        server.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
        let blocking: Rpc<(), u8> = Rpc::new("where_blocking");
        server.register_blocking(blocking, |_, ()| Ok(unit())).unwrap();
        let deferred: Rpc<(), u8> = Rpc::new("where_deferred");
        server
            .register_deferred(deferred, |_, (), responder| async move {
                let kind = unit();
                // Answered from a thread that Argobots does not know.
                thread::spawn(move || responder.respond(&kind));
            })
            .unwrap();
        let (_client, endpoint) = client(protocol, &server);
        assert_eq!(endpoint.call(WHERE, &()).wait().unwrap(), TASKLET);
        assert_eq!(endpoint.call(blocking, &()).wait().unwrap(), ULT);
        assert_eq!(endpoint.call(deferred, &()).wait().unwrap(), TASKLET);
        // Also a call to oneself, which takes no network.
        let own = server.lookup(server.address()).wait().unwrap();
        assert_eq!(own.call(WHERE, &()).wait().unwrap(), TASKLET);
        server.shutdown().wait();
        pool.shutdown().wait();
    }
}

#[test]
fn a_provider_is_given_an_argobots_pool_by_name_and_others_keep_theirs() {
    let _watchdog = watchdog("named");
    for protocol in protocols() {
        let pool = Pool::argobots("heavy", 1).unwrap();
        let server = Engine::builder(protocol).rpc_threads(1).add_pool(pool.clone()).listen().wait().unwrap();
        server.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
        let provider = server.provider(ProviderId::new(3)).pool("heavy").unwrap();
        provider.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
        let (_client, endpoint) = client(protocol, &server);
        assert_ne!(endpoint.call(WHERE, &()).wait().unwrap(), TASKLET);
        assert_eq!(endpoint.provider(ProviderId::new(3)).call(WHERE, &()).wait().unwrap(), TASKLET);
        server.shutdown().wait();
        drop(provider);
    }
    let twice = Pool::argobots("twice", 1).unwrap();
    let builder = Engine::builder("native+tcp://127.0.0.1").add_pool(twice.clone()).add_pool(twice);
    let error = builder.listen().wait().unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn a_handler_is_woken_by_timers_by_answers_and_by_foreign_threads() {
    let _watchdog = watchdog("woken");
    for protocol in protocols() {
        let pool = Pool::argobots("woken", 2).unwrap();
        let server = server(protocol, &pool);
        server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
        let busy: Rpc<i64, i64> = Rpc::new("busy");
        let (timer, to_self) = (server.timer(), server.lookup(server.address()).wait().unwrap());
        server
            .register(busy, move |_, n| {
                let (timer, to_self) = (timer.clone(), to_self.clone());
                async move {
                    timer.sleep(Duration::from_millis(1)).await;
                    let sum =
                        to_self.call(SUM, &(n, 1)).await.map_err(|error| HandlerError::from(error.to_string()))?;
                    let (sender, receiver) = tokio::sync::oneshot::channel();
                    thread::spawn(move || sender.send(sum));
                    receiver.await.map_err(|_| HandlerError::from("nothing came"))
                }
            })
            .unwrap();
        let (_client, endpoint) = client(protocol, &server);
        let calls: Vec<_> = (0..200).map(|n| endpoint.call(busy, &n).start()).collect();
        for (n, call) in (0..200).zip(calls) {
            assert_eq!(call.wait().unwrap(), n + 1);
        }
        server.shutdown().wait();
        pool.shutdown().wait();
    }
}

#[test]
fn many_clients_get_their_own_answers_from_all_kinds_of_handlers() {
    let _watchdog = watchdog("many");
    for protocol in protocols() {
        let pool = Pool::argobots("many", 2).unwrap();
        let server = server(protocol, &pool);
        server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
        let slow: Rpc<(i64, i64), i64> = Rpc::new("sum_blocking");
        server.register_blocking(slow, |_, (a, b)| Ok(a + b)).unwrap();
        let clients: Vec<_> = (0..3).map(|_| client(protocol, &server)).collect();
        thread::scope(|scope| {
            for (number, (_, endpoint)) in (0..).zip(&clients) {
                scope.spawn(move || {
                    for round in 0..20 {
                        let calls: Vec<_> = (0..50)
                            .map(|n| endpoint.call(if n % 2 == 0 { SUM } else { slow }, &(n, number + round)).start())
                            .collect();
                        for (n, call) in (0..50).zip(calls) {
                            assert_eq!(call.wait().unwrap(), n + number + round);
                        }
                    }
                });
            }
        });
        assert_eq!(server.load().requests, 0);
        server.shutdown().wait();
        pool.shutdown().wait();
    }
}

#[test]
fn a_handler_that_panics_answers_and_its_pool_lives() {
    let _watchdog = watchdog("panics");
    for protocol in protocols() {
        let pool = Pool::argobots("panics", 1).unwrap();
        let server = server(protocol, &pool);
        let (now, later, blocking) = (Rpc::new("now"), Rpc::new("later"), Rpc::new("blocking"));
        server.register(now, |_, ()| async { panic!("as a test wants") as Result<(), _> }).unwrap();
        let timer = server.timer();
        server
            .register(later, move |_, ()| {
                let timer = timer.clone();
                async move {
                    timer.sleep(Duration::from_millis(1)).await;
                    panic!("as a test wants, later") as Result<(), _>
                }
            })
            .unwrap();
        server.register_blocking(blocking, |_, ()| panic!("as a test wants, blocking") as Result<(), _>).unwrap();
        server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
        let (_client, endpoint) = client(protocol, &server);
        for rpc in [now, later, blocking] {
            let rpc: Rpc<(), ()> = rpc;
            match endpoint.call(rpc, &()).wait() {
                Err(CallError::Handler { .. }) => {}
                other => panic!("{other:?}"),
            }
            assert_eq!(endpoint.call(SUM, &(1, 2)).wait().unwrap(), 3);
        }
        server.shutdown().wait();
        pool.shutdown().wait();
    }
}

#[test]
fn a_cancelled_call_drops_its_handler() {
    let _watchdog = watchdog("cancelled");
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for protocol in protocols() {
        let pool = Pool::argobots("cancelled", 1).unwrap();
        let server = server(protocol, &pool);
        let (began, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let hang: Rpc<(), ()> = Rpc::new("hang");
        let (begin, drops) = (began.clone(), dropped.clone());
        server
            .register(hang, move |_, ()| {
                let count = Count(drops.clone());
                begin.fetch_add(1, Ordering::SeqCst);
                async move {
                    let _count = count;
                    std::future::pending().await
                }
            })
            .unwrap();
        let (_client, endpoint) = client(protocol, &server);
        let call = endpoint.call(hang, &()).start();
        while began.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        drop(call);
        while dropped.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        server.shutdown().wait();
        pool.shutdown().wait();
    }
}

#[test]
fn a_pool_that_ends_answers_the_requests_it_holds_and_those_that_come_later() {
    let _watchdog = watchdog("ends");
    for protocol in protocols() {
        let pool = Pool::argobots("ends", 2).unwrap();
        let server = server(protocol, &pool);
        let hang: Rpc<(), ()> = Rpc::new("hang");
        let began = Arc::new(AtomicUsize::new(0));
        let begin = began.clone();
        server
            .register(hang, move |_, ()| {
                begin.fetch_add(1, Ordering::SeqCst);
                std::future::pending()
            })
            .unwrap();
        let (_client, endpoint) = client(protocol, &server);
        let calls: Vec<_> = (0..30).map(|_| endpoint.call(hang, &()).start()).collect();
        while began.load(Ordering::SeqCst) < 30 {
            thread::yield_now();
        }
        pool.shutdown().wait();
        for call in calls.into_iter().chain([endpoint.call(hang, &())]) {
            match call.wait() {
                Err(CallError::Handler { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        server.shutdown().wait();
    }
}

#[test]
fn a_pool_may_end_in_one_of_its_own_handlers() {
    let _watchdog = watchdog("own end");
    let pool = Pool::argobots("own", 1).unwrap();
    let shut: Rpc<(), ()> = Rpc::new("shut");
    let ended = {
        let server = server("native+tcp://127.0.0.1", &pool);
        let engine = server.clone();
        let owner = std::sync::Mutex::new(Some(pool));
        let (says, ended) = std::sync::mpsc::channel();
        server
            .register(shut, move |_, ()| {
                // The last owner but the engine goes here, and then the engine.
                let pool = owner.lock().unwrap().take().expect("called once");
                says.send(pool.shutdown()).unwrap();
                let engine = engine.clone();
                async move {
                    drop((pool, engine.shutdown()));
                    Ok(())
                }
            })
            .unwrap();
        let (_client, endpoint) = client("native+tcp://127.0.0.1", &server);
        let _ = endpoint.call(shut, &()).wait();
        server.wait().wait();
        ended.recv().unwrap()
    };
    ended.wait();
}

#[test]
fn one_pool_serves_several_engines() {
    let _watchdog = watchdog("several");
    let pool = Pool::argobots("shared", 2).unwrap();
    for protocol in protocols() {
        let servers: Vec<_> = (0..3).map(|_| server(protocol, &pool)).collect();
        for server in &servers {
            server.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
            let (_client, endpoint) = client(protocol, server);
            assert_eq!(endpoint.call(WHERE, &()).wait().unwrap(), TASKLET);
        }
        for server in servers {
            server.shutdown().wait();
        }
    }
    pool.shutdown().wait();
    pool.shutdown().wait();
}

#[test]
fn pools_come_and_go_while_others_stay() {
    let _watchdog = watchdog("come and go");
    let stays = Pool::argobots("stays", 1).unwrap();
    for round in 0..30 {
        let pool = Pool::argobots(format!("round {round}"), 2).unwrap();
        assert_eq!(pool.name(), format!("round {round}"));
        if round % 2 == 0 {
            pool.shutdown().wait();
        }
    }
    stays.shutdown().wait();
    // What is left of the others ends by itself.
    let again: Result<Pool, PoolError> = Pool::argobots("again", 0);
    again.unwrap().shutdown().wait();
}

#[test]
fn the_parent_of_nested_calls_is_right_in_handlers_that_take_turns() {
    let _watchdog = watchdog("parents");
    let protocol = "native+tcp://127.0.0.1";
    let pool = Pool::argobots("parents", 1).unwrap();
    let server = server(protocol, &pool);
    let parent: Rpc<(), u64> = Rpc::new("parent");
    let timer = server.timer();
    server
        .register(parent, move |request, ()| {
            let (timer, id) = (timer.clone(), request.parent_rpc_id().map_or(0, RpcId::as_u64));
            async move {
                timer.sleep(Duration::from_millis(1)).await;
                Ok(id)
            }
        })
        .unwrap();
    let outer: Vec<Rpc<(), bool>> = vec![Rpc::new("one"), Rpc::new("two"), Rpc::new("three")];
    let to_self = server.lookup(server.address()).wait().unwrap();
    for rpc in outer.iter().copied() {
        let (to_self, own) = (to_self.clone(), rpc.id(ProviderId::DEFAULT).as_u64());
        server
            .register_blocking(rpc, move |_, ()| {
                // Each wait suspends this one, and the others go on.
                Ok((0..5).all(|_| to_self.call(parent, &()).timeout(LONG).wait().is_ok_and(|id| id == own)))
            })
            .unwrap();
    }
    let (_client, endpoint) = client(protocol, &server);
    let calls: Vec<_> = (0..30).map(|n| endpoint.call(outer[n % 3], &()).start()).collect();
    for call in calls {
        assert!(call.wait().unwrap());
    }
    server.shutdown().wait();
    pool.shutdown().wait();
}

//! Handlers of all kinds: what they may do, and what becomes of callers when they fail.

use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::{Blame, CallError, HandlerError, NO_PARENT, ProviderId, Rpc, RpcId, Wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

conformance! {
    a_blocking_handler_may_block,
    a_responder_answers_later_from_another_thread,
    a_dropped_responder_answers_with_an_error,
    a_failed_responder_carries_its_words,
    an_error_reaches_the_caller_as_text,
    a_long_error_text_is_cut_at_a_character,
    a_panic_reaches_the_caller_and_the_server_lives,
    undecodable_arguments_cost_only_their_sender,
    a_result_of_another_type_is_an_error,
    the_parent_rpc_is_carried_on,
    handlers_call_other_servers,
    a_client_that_does_not_listen_is_called_back,
    what_follows_an_answer_reaches_a_client_that_waits_for_nothing,
    waiting_in_an_asynchronous_handler_is_refused,
    a_stuck_provider_pool_stalls_nobody_else,
    a_deregistered_rpc_is_gone,
    an_unknown_rpc_is_named,
}

fn a_blocking_handler_may_block(setup: Setup) {
    let pair = setup.pair();
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let block: Rpc<u32, u32> = Rpc::new("block");
    pair.server
        .register_blocking(block, move |_, n| {
            gate.lock().unwrap().recv().unwrap();
            Ok(n + 1)
        })
        .unwrap();
    let blocked: Vec<_> = (0..4).map(|n| pair.to.call(block, &n).start()).collect();
    for n in 0..20 {
        assert_eq!(pair.to.call(SUM, &(n, 1)).wait().unwrap(), n + 1);
    }
    (0..4).for_each(|_| go.send(()).unwrap());
    for (n, call) in (0..4).zip(blocked) {
        assert_eq!(call.wait().unwrap(), n + 1);
    }
    pair.assert_healthy();
}

const LATER: Rpc<u32, u32> = Rpc::new("later");

fn a_responder_answers_later_from_another_thread(setup: Setup) {
    let pair = setup.pair();
    pair.server
        .register_deferred(LATER, |_, n, responder| async move {
            if n % 2 == 0 {
                thread::spawn(move || responder.respond(&(n + 1)));
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    responder.respond(&(n + 1));
                });
            }
        })
        .unwrap();
    let calls: Vec<_> = (0..20).map(|n| pair.to.call(LATER, &n).start()).collect();
    for (n, call) in (0..20).zip(calls) {
        assert_eq!(call.wait().unwrap(), n + 1);
    }
    pair.assert_healthy();
}

fn a_dropped_responder_answers_with_an_error(setup: Setup) {
    let pair = setup.pair();
    pair.server
        .register_deferred(LATER, |_, n, responder| async move {
            match n {
                0 => drop(responder),
                1 => drop(thread::spawn(move || drop(responder))),
                _ => {
                    tokio::task::yield_now().await;
                    drop(responder);
                }
            }
        })
        .unwrap();
    for n in 0..3 {
        match pair.to.call(LATER, &n).wait() {
            Err(CallError::Handler { message }) => assert_eq!(message, "handler gave no answer"),
            other => panic!("{other:?}"),
        }
    }
    pair.assert_healthy();
}

fn a_failed_responder_carries_its_words(setup: Setup) {
    let pair = setup.pair();
    pair.server.register_deferred(LATER, |_, _, responder| async move { responder.fail("not today") }).unwrap();
    assert!(matches!(pair.to.call(LATER, &1).wait(), Err(CallError::Handler { message }) if message == "not today"));
    pair.server
        .register_raw("raw", ProviderId::DEFAULT, |_, _, responder| async move { responder.fail("raw failure") })
        .unwrap();
    let failed = pair.to.call_raw(plain_id("raw"), &[]).wait();
    assert!(matches!(failed, Err(CallError::Handler { message }) if message == "raw failure"));
    pair.assert_healthy();
}

const FAIL: Rpc<String, ()> = Rpc::new("fail");

fn an_error_reaches_the_caller_as_text(setup: Setup) {
    let pair = setup.pair();
    pair.server.register(FAIL, |_, text| async move { Err(HandlerError::from(text)) }).unwrap();
    let parse: Rpc<String, i32> = Rpc::new("parse");
    pair.server.register_blocking(parse, |_, text| Ok(text.parse::<i32>()?)).unwrap();
    let error = pair.to.call(FAIL, &"no space: ディスク".to_owned()).wait().unwrap_err();
    assert_eq!(error.blame(), Blame::Server);
    assert!(matches!(error, CallError::Handler { message } if message == "no space: ディスク"));
    let error = pair.to.call(parse, &"x".to_owned()).wait().unwrap_err();
    assert!(matches!(error, CallError::Handler { message } if message == "invalid digit found in string"));
    assert_eq!(pair.to.call(parse, &"-5".to_owned()).wait().unwrap(), -5);
    pair.assert_healthy();
}

fn a_long_error_text_is_cut_at_a_character(setup: Setup) {
    let pair = setup.pair();
    pair.server.register(FAIL, |_, text| async move { Err(HandlerError::from(text)) }).unwrap();
    // 1024 is no multiple of 3, the length of one of these.
    let text = "餅".repeat(5000);
    let error = pair.to.call(FAIL, &text).wait().unwrap_err();
    assert!(matches!(error, CallError::Handler { message } if message == "餅".repeat(341)));
    pair.assert_healthy();
}

fn a_panic_reaches_the_caller_and_the_server_lives(setup: Setup) {
    let pair = setup.pair();
    let explode: Rpc<u32, ()> = Rpc::new("explode");
    pair.server
        .register(explode, |_, when| {
            assert!(when != 0, "before the first await");
            async move {
                assert!(when != 1, "in the first poll");
                tokio::task::yield_now().await;
                assert!(when != 2, "after an await");
                Ok(())
            }
        })
        .unwrap();
    let blocking: Rpc<(), ()> = Rpc::new("explode blocking");
    pair.server.register_blocking(blocking, |_, ()| panic!("on a blocking thread")).unwrap();
    let deferred: Rpc<(), ()> = Rpc::new("explode deferred");
    pair.server
        .register_deferred(deferred, |_, (), responder| async move {
            let _held = responder;
            panic!("with a responder")
        })
        .unwrap();
    pair.server
        .register_raw("explode raw", ProviderId::DEFAULT, |_, _, responder| async move {
            let _held = responder;
            panic!("raw")
        })
        .unwrap();
    let me = pair.server.lookup(pair.server.address()).wait().unwrap();
    for to in [&pair.to, &me] {
        let mut outcomes: Vec<_> = (0..3).map(|when| to.call(explode, &when).wait()).collect();
        outcomes.push(to.call(blocking, &()).wait());
        outcomes.push(to.call(deferred, &()).wait());
        outcomes.push(to.call_raw(plain_id("explode raw"), &[]).wait().map(|_| ()));
        for (at, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Err(CallError::Handler { message }) => assert_eq!(message, "handler panicked", "{at}"),
                other => panic!("{at}: {other:?}"),
            }
        }
        to.call(explode, &9).wait().unwrap();
    }
    pair.assert_healthy();
}

/// What kills a Thallium server: arguments that the handler's type cannot be made of.
fn undecodable_arguments_cost_only_their_sender(setup: Setup) {
    let pair = setup.pair();
    let text: Rpc<(String, Vec<Vec<String>>), u64> = Rpc::new("text");
    pair.server.register(text, |_, (text, _)| async move { Ok(text.len() as u64) }).unwrap();
    let huge = u64::MAX.to_le_bytes();
    let inputs: [&[u8]; 6] = [&[], &[1], &huge, &[0; 7], &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff], &[0; 4096]];
    for input in inputs {
        let error = pair.to.call_raw(plain_id("text"), input).wait().unwrap_err();
        assert_eq!(error.blame(), Blame::Server);
        assert!(matches!(&error, CallError::InvalidArguments { message } if !message.is_empty()), "{error:?}");
    }
    let wrong: Rpc<(u8, u8), u64> = Rpc::new("text");
    assert!(matches!(pair.to.call(wrong, &(1, 2)).wait(), Err(CallError::InvalidArguments { .. })));
    assert_eq!(pair.to.call(text, &("abc".to_owned(), vec![])).wait().unwrap(), 3);
    pair.assert_healthy();
}

fn a_result_of_another_type_is_an_error(setup: Setup) {
    let pair = setup.pair();
    let wrong: Rpc<(i64, i64), String> = Rpc::new("sum");
    let error = pair.to.call(wrong, &(1, 2)).wait().unwrap_err();
    assert!(matches!(error, CallError::Decode { .. }), "{error:?}");
    assert_eq!(error.blame(), Blame::Server);
    pair.assert_healthy();
}

fn the_parent_rpc_is_carried_on(setup: Setup) {
    let pair = setup.pair();
    let parent: Rpc<(), u64> = Rpc::new("parent");
    pair.server
        .register(parent, |request, ()| async move { Ok(request.parent_rpc_id().unwrap_or(NO_PARENT).as_u64()) })
        .unwrap();
    assert_eq!(pair.to.call(parent, &()).wait().unwrap(), NO_PARENT.as_u64());
    // Through every kind of handler, before and after an await.
    let (middle, back) = (setup.serve(), setup.client().connect().unwrap());
    let to = back.lookup(pair.server.address()).wait().unwrap();
    let direct: Rpc<(), u64> = Rpc::new("direct");
    let later: Rpc<(), u64> = Rpc::new("after an await");
    let blocking: Rpc<(), u64> = Rpc::new("blocking");
    let on = to.clone();
    middle
        .register(direct, move |_, ()| {
            let call = on.call(parent, &());
            async move { Ok(call.await?) }
        })
        .unwrap();
    let on = to.clone();
    middle
        .register(later, move |_, ()| {
            let on = on.clone();
            async move {
                tokio::task::yield_now().await;
                Ok(on.call(parent, &()).await?)
            }
        })
        .unwrap();
    let provider = middle.provider(7.into());
    let on = to.clone();
    provider.register_blocking(blocking, move |_, ()| Ok(on.call(parent, &()).wait()?)).unwrap();
    let middle_endpoint = pair.client.lookup(middle.address()).wait().unwrap();
    for rpc in [direct, later] {
        assert_eq!(middle_endpoint.call(rpc, &()).wait().unwrap(), rpc.id(ProviderId::DEFAULT).as_u64());
    }
    let through = middle_endpoint.provider(7.into()).call(blocking, &()).wait().unwrap();
    assert_eq!(RpcId::from_raw(through), blocking.id(7.into()));
    // And it ends with the handler.
    assert_eq!(pair.to.call(parent, &()).wait().unwrap(), NO_PARENT.as_u64());
    middle.shutdown().wait();
}

fn handlers_call_other_servers(setup: Setup) {
    let pair = setup.pair();
    let twice: Rpc<i64, i64> = Rpc::new("twice");
    let front = setup.serve();
    let to = front.lookup(pair.server.address()).wait().unwrap();
    // With the very engine that serves the request.
    front
        .register(twice, move |_, n| {
            let to = to.clone();
            async move { Ok(to.call(SUM, &(n, n)).await?) }
        })
        .unwrap();
    let blocking: Rpc<i64, i64> = Rpc::new("twice, blocking");
    let to = front.lookup(pair.server.address()).wait().unwrap();
    front.register_blocking(blocking, move |_, n| Ok(to.call(SUM, &(n, n)).wait()?)).unwrap();
    // And itself.
    let own: Rpc<i64, i64> = Rpc::new("twice, by itself");
    let me = front.lookup(front.address()).wait().unwrap();
    front
        .register(own, move |_, n| {
            let me = me.clone();
            async move { Ok(me.call(SUM, &(n, n)).await?) }
        })
        .unwrap();
    let front_endpoint = pair.client.lookup(front.address()).wait().unwrap();
    for rpc in [twice, blocking, own] {
        for n in 0..20 {
            assert_eq!(front_endpoint.call(rpc, &n).wait().unwrap(), 2 * n, "{}", rpc.name());
        }
        let calls: Vec<_> = (0..32).map(|n| front_endpoint.call(rpc, &n).start()).collect();
        for (n, call) in (0..32).zip(calls) {
            assert_eq!(call.wait().unwrap(), 2 * n, "{}", rpc.name());
        }
    }
    front.shutdown().wait();
    pair.assert_healthy();
}

fn a_client_that_does_not_listen_is_called_back(setup: Setup) {
    let pair = setup.pair();
    let ask: Rpc<String, String> = Rpc::new("ask");
    let name: Rpc<(), String> = Rpc::new("name");
    pair.client.register(name, |_, ()| async { Ok("the client".to_owned()) }).unwrap();
    pair.client.register(ECHO, |_, blob| async move { Ok(blob) }).unwrap();
    pair.server
        .register(ask, move |request, greeting| {
            let back = request.endpoint();
            async move {
                let back = back.ok_or("no way back")?;
                let large = Blob(pattern(300_000));
                if back.call(ECHO, &large).await? != large {
                    return Err("changed".into());
                }
                Ok(format!("{greeting}, {}", back.call(name, &()).await?))
            }
        })
        .unwrap();
    let asked = pair.to.call(ask, &"hello".to_owned());
    assert_eq!(asked.wait().unwrap(), "hello, the client");
    let calls: Vec<_> = (0..16).map(|n| pair.to.call(ask, &n.to_string()).start()).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().unwrap(), format!("{n}, the client"));
    }
    assert_idle(&pair.client);
    pair.assert_healthy();
}

fn what_follows_an_answer_reaches_a_client_that_waits_for_nothing(setup: Setup) {
    const NOTE: Rpc<(), ()> = Rpc::<(), ()>::new("note").disable_response();
    let pair = setup.pair();
    let (told, hears) = mpsc::channel();
    pair.client
        .register(NOTE, move |_, ()| {
            let told = told.clone();
            async move { Ok(told.send(())?) }
        })
        .unwrap();
    let ask: Rpc<(), ()> = Rpc::new("ask");
    pair.server
        .register_deferred(ask, |request, (), responder| async move {
            let back = request.endpoint();
            responder.respond(&());
            if let Some(back) = back {
                let _ = back.call(NOTE, &()).await;
            }
        })
        .unwrap();
    for _ in 0..60 {
        // Long enough for the client's thread to go to sleep: whoever waits for the answer takes in what there is.
        std::thread::sleep(Duration::from_millis(10));
        pair.to.call(ask, &()).wait().unwrap();
        assert_eq!(hears.recv_timeout(LONG), Ok(()));
    }
    pair.assert_healthy();
}

fn waiting_in_an_asynchronous_handler_is_refused(setup: Setup) {
    let pair = setup.pair();
    let me = pair.server.lookup(pair.server.address()).wait().unwrap();
    let wait: Rpc<bool, String> = Rpc::new("wait");
    pair.server
        .register(wait, move |_, at_once| {
            let me = me.clone();
            let text = |outcome: Result<i64, CallError>| format!("{outcome:?}");
            let early = at_once.then(|| text(me.call(SUM, &(1, 2)).wait()));
            async move {
                Ok(match early {
                    Some(early) => early,
                    None => text(me.call(SUM, &(1, 2)).wait()),
                })
            }
        })
        .unwrap();
    for at_once in [true, false] {
        assert_eq!(pair.to.call(wait, &at_once).wait().unwrap(), "Err(WouldDeadlock)");
    }
    assert_eq!(CallError::WouldDeadlock.blame(), Blame::Caller);
    pair.assert_healthy();
}

fn a_stuck_provider_pool_stalls_nobody_else(setup: Setup) {
    let pair = setup.pair_of(setup.server().pool("heavy", 1), setup.client());
    let (go, gate) = mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let stuck: Rpc<(), String> = Rpc::new("stuck");
    let provider = pair.server.provider(1.into()).pool("heavy").unwrap();
    // An ill-behaved handler: it blocks the thread it is polled on.
    provider
        .register(stuck, move |_, ()| {
            let gate = gate.clone();
            async move {
                gate.lock().unwrap().recv()?;
                Ok(thread::current().name().unwrap_or_default().to_owned())
            }
        })
        .unwrap();
    let handle = pair.to.provider(1.into());
    let calls: Vec<_> = (0..3).map(|_| handle.call(stuck, &()).start()).collect();
    for n in 0..50 {
        assert_eq!(pair.to.call(SUM, &(n, 1)).wait().unwrap(), n + 1);
    }
    (0..3).for_each(|_| go.send(()).unwrap());
    for call in calls {
        assert!(call.wait().unwrap().contains("heavy"));
    }
    assert!(pair.server.provider(2.into()).pool("no such pool").is_err());
    pair.assert_healthy();
}

fn a_deregistered_rpc_is_gone(setup: Setup) {
    let pair = setup.pair();
    let count = Arc::new(AtomicUsize::new(0));
    let held = count.clone();
    let once: Rpc<(), ()> = Rpc::new("once");
    let register = || {
        let held = held.clone();
        pair.server.register(once, move |_, ()| {
            held.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        })
    };
    register().unwrap();
    assert!(register().is_err());
    pair.to.call(once, &()).wait().unwrap();
    assert!(pair.server.deregister(once));
    assert!(!pair.server.deregister(once));
    assert!(matches!(pair.to.call(once, &()).wait(), Err(CallError::NoSuchRpc { .. })));
    register().unwrap();
    pair.to.call(once, &()).wait().unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 2);
    pair.assert_healthy();
}

fn an_unknown_rpc_is_named(setup: Setup) {
    let pair = setup.pair();
    let unknown: Rpc<(), ()> = Rpc::new("unknown");
    for provider in [ProviderId::DEFAULT, ProviderId::new(0), ProviderId::new(42)] {
        match pair.to.provider(provider).call(unknown, &()).wait() {
            Err(error @ CallError::NoSuchRpc { .. }) => {
                let text = error.to_string();
                assert!(text.starts_with(&format!("{} has no RPC \"unknown\"", pair.server.address())), "{text}");
                let CallError::NoSuchRpc { rpc, name, provider: at, peer } = error else {
                    unreachable!("just matched")
                };
                assert_eq!((rpc, name), (unknown.id(provider), Some("unknown")));
                assert_eq!((at, &peer), (provider, pair.server.address()));
            }
            other => panic!("{other:?}"),
        }
    }
    pair.assert_healthy();
}

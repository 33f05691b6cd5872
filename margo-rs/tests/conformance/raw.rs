//! What protocols on top of raw bytes need: connections with names, silence, sleeping.

use crate::support::*;
use margo_rs::{Buffer, CallError, Engine, ProviderId, REQUEST_HEADER, RESPONSE_HEADER, Rpc, RpcId, Wait};
use std::sync::mpsc;
use std::time::{Duration, Instant};

conformance! {
    an_abandoned_request_gets_no_answer_and_holds_nothing,
    raw_one_way_handlers_outlive_their_caller,
    a_raw_blocking_handler_may_block,
    a_request_written_in_place_arrives,
    a_connection_made_anew_has_another_name,
    a_call_says_whether_it_was_sent,
    a_sleep_ends_after_its_time_and_not_before,
    sleeps_end_with_their_engine,
}

fn an_abandoned_request_gets_no_answer_and_holds_nothing(setup: Setup) {
    let pair = setup.pair();
    let id = pair.server.register_raw("silent", ProviderId::DEFAULT, |_, _, responder| async { responder.abandon() });
    let call = pair.to.call_raw(id.unwrap(), b"hello").timeout(Duration::from_millis(100));
    assert!(matches!(call.wait(), Err(CallError::DeadlineExceeded { .. })));
    pair.assert_healthy();
}

fn raw_one_way_handlers_outlive_their_caller(setup: Setup) {
    const NOTE: Rpc<(), ()> = Rpc::<(), ()>::new("note").disable_response();
    let pair = setup.pair();
    let (told, hears) = mpsc::channel();
    let (go, gate) = tokio::sync::oneshot::channel::<()>();
    let gate = std::sync::Mutex::new(Some(gate));
    let handler = move |_, input: margo_rs::Buffer, responder| {
        let (told, gate) = (told.clone(), gate.lock().unwrap().take().expect("one call"));
        async move {
            let _held = responder;
            told.send("begun").unwrap();
            gate.await.unwrap();
            assert_eq!(*input, *b"remember");
            told.send("done").unwrap();
        }
    };
    let id = pair.server.register_raw(NOTE, ProviderId::DEFAULT, handler).unwrap();
    pair.to.send_raw_headed(id, headed(REQUEST_HEADER, b"remember")).wait().unwrap();
    assert_eq!(hears.recv_timeout(LONG), Ok("begun"));
    let Pair { server, client, to } = pair;
    drop(to);
    client.shutdown().wait();
    go.send(()).unwrap();
    assert_eq!(hears.recv_timeout(LONG), Ok("done"));
    assert_idle(&server);
}

fn a_raw_blocking_handler_may_block(setup: Setup) {
    let pair = setup.pair();
    let provider = pair.server.provider(ProviderId::new(3));
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let id = provider.register_raw_blocking("block", move |_, input, responder| {
        gate.lock().unwrap().recv().unwrap();
        responder.respond(&input);
    });
    let call = pair.to.call_raw(id.unwrap(), b"slow").start();
    assert_eq!(pair.to.call(SUM, &(1, 1)).wait().unwrap(), 2);
    go.send(()).unwrap();
    assert_eq!(*call.wait().unwrap(), *b"slow");
    pair.assert_healthy();
}

fn a_request_written_in_place_arrives(setup: Setup) {
    let pair = setup.pair();
    let id = pair.server.register_raw("echo raw", ProviderId::DEFAULT, |_, mut input, responder| async move {
        input.reverse();
        responder.respond_headed(headed(RESPONSE_HEADER, &input));
    });
    let call = pair.to.call_raw_headed(id.unwrap(), headed(REQUEST_HEADER, b"abc"));
    assert_eq!(*call.wait().unwrap(), *b"cba");
}

fn headed(header: usize, bytes: &[u8]) -> Vec<u8> {
    let mut headed = Buffer::room_for(header, bytes.len());
    headed.extend_from_slice(bytes);
    headed
}

fn a_connection_made_anew_has_another_name(setup: Setup) {
    if setup.address == NA_SM.address {
        // No second server can be at an address there.
        return;
    }
    let pair = setup.pair();
    let first = pair.to.connection().expect("it was looked up");
    let standing = pair.to.standing().expect("it was looked up");
    assert!(standing.id() == first && standing.holds());
    assert_eq!(pair.to.call(SUM, &(1, 1)).wait().unwrap(), 2);
    assert_eq!(pair.to.connection(), Some(first));
    let address = pair.server.address().clone();
    pair.server.shutdown().wait();
    eventually("the connection is gone", || pair.to.connection().is_none());
    let again =
        with_handlers(Engine::builder(&address).progress(setup.progress).rpc_threads(1).listen().wait().unwrap());
    assert_eq!(pair.to.call(SUM, &(1, 1)).wait().unwrap(), 2);
    assert!(pair.to.connection().is_some_and(|now| now != first));
    assert!(!standing.holds(), "another connection");
    drop(again);
}

fn a_call_says_whether_it_was_sent(setup: Setup) {
    let pair = setup.pair();
    let call = pair.to.call_raw(RpcId::new("hang", ProviderId::DEFAULT), b"");
    assert!(!call.is_sent());
    let call = call.start();
    assert!(call.is_sent());
    drop(call);
    pair.assert_healthy();
}

fn a_sleep_ends_after_its_time_and_not_before(setup: Setup) {
    let pair = setup.pair();
    let begun = Instant::now();
    pair.client.timer().sleep(Duration::from_millis(30)).wait();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    drop(pair.client.timer().sleep(LONG));
    pair.assert_healthy();
}

fn sleeps_end_with_their_engine(setup: Setup) {
    let pair = setup.pair();
    let timer = pair.client.timer();
    let sleeper = std::thread::spawn(move || timer.sleep(LONG * 60).wait());
    pair.client.shutdown().wait();
    sleeper.join().unwrap();
}

//! How sessions begin, are replaced, and end.

use std::time::Duration;

use margo_rs::{Engine, Rpc, Wait};
use mochi_auth::mechanism::ServerIdentity;
use mochi_auth::mechanism::key_file::Key;
use mochi_auth::protocol::{Protection, Secret};
use mochi_auth::{CallError, Connection, OpenError};
use mochi_test_support::comes_to;

use crate::support::*;

fn refused(options: mochi_auth::ConnectionBuilder, auth: &mochi_auth::AuthServer) -> bool {
    let engine = client();
    match options.open(&engine, auth.engine().address()).wait() {
        Err(OpenError::Refused(_)) => true,
        Err(other) => panic!("{other}"),
        Ok(_) => false,
    }
}

#[test]
fn whoever_is_not_known_is_refused() {
    let auth = serve(builder());
    let stranger = || Key::new(Secret::new(|bytes: &mut [u8; 32]| bytes.fill(99)));
    assert!(refused(Connection::builder().key(stranger()), &auth));
    assert!(refused(by_key(ALICE).protection(Protection::IntegrityOnly), &auth));
    assert!(refused(by_key(ALICE).service("another service"), &auth));
    assert!(!refused(by_key(ALICE), &auth));
    assert!(auth.counts().sessions <= 1);
}

#[test]
fn a_client_learns_which_key_the_server_proved_to_hold() {
    let auth = serve(builder());
    for user in [ALICE, BOB] {
        let (_engine, server) = connect(&auth, user);
        let proven = server.server_identity().expect("a key");
        assert_eq!(proven, ServerIdentity::Key(key_of(user).id()));
        assert_eq!(proven.to_string(), format!("key {}", key_of(user).id()));
    }
}

#[test]
fn a_service_has_the_name_it_was_given_and_its_address() {
    let auth = serve(builder().service("store"));
    assert!(!refused(by_key(ALICE).service("store"), &auth));
    assert!(!refused(by_key(ALICE), &auth));
    assert!(refused(by_key(ALICE).service("stor"), &auth));
}

#[test]
fn a_server_without_authentication_is_recognised() {
    let plain = listen();
    let engine = client();
    let error = by_key(ALICE).open(&engine, plain.address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::NotAuthenticating(_)), "{error}");
    let error = Connection::builder().open(&engine, plain.address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::Option { option: "mechanism", .. }), "{error}");
}

#[test]
fn a_plain_call_of_a_wrapped_handler_reaches_nothing() {
    let auth = serve(builder());
    let engine = client();
    let endpoint = engine.lookup(auth.engine().address()).wait().unwrap();
    let error = endpoint.call(WHO, &()).wait().unwrap_err();
    assert!(error.to_string().contains("authenticated"), "{error}");
    assert_eq!(auth.counts().sessions, 0);
}

/// What handlers of all kinds capture, and what they are registered through, keeps no engine alive.
#[test]
fn an_engine_ends_with_those_who_own_it_whatever_its_handlers_hold() {
    const LIST: Rpc<(), u64> = Rpc::new("list");
    const DROP: Rpc<(), u64> = Rpc::new("drop");
    let engine = listen();
    let (ended, hears) = std::sync::mpsc::channel();
    engine.push_finalize_callback(move || ended.send(()).unwrap());
    let auth = serve_on(&engine, builder());
    let (admin, other) = (auth.admin(), auth.admin());
    auth.register(LIST, move |_, ()| {
        let sessions = admin.sessions().len() as u64;
        async move { Ok(sessions) }
    })
    .unwrap();
    auth.register_blocking(DROP, move |_, ()| Ok(other.revoke_uid(BOB.uid) as u64)).unwrap();
    let (_alice, server) = connect(&auth, ALICE);
    let (_bob, bob) = connect(&auth, BOB);
    bob.call(WHO, &()).wait().unwrap();
    assert_eq!(server.call(LIST, &()).wait().unwrap(), 2);
    assert_eq!(server.call(DROP, &()).wait().unwrap(), 1);
    assert_eq!(server.call(LIST, &()).wait().unwrap(), 1);
    drop((auth, engine));
    hears.recv_timeout(LONG).expect("it has ended");
}

#[test]
fn a_revoked_session_is_replaced_by_the_next_call_but_one() {
    let auth = serve(builder());
    let (_engine, server) = connect(&auth, ALICE);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    for revoke in 0..3 {
        let session = auth.sessions().pop().expect("one");
        assert_eq!(session.principal.identity, ALICE);
        match revoke {
            0 => assert!(auth.revoke(&session.id)),
            1 => assert_eq!(auth.revoke_uid(ALICE.uid), 1),
            _ => assert_eq!(auth.revoke_all(), 1),
        }
        assert_eq!(auth.counts().sessions, 0);
        let error = server.call(WHO, &()).wait().unwrap_err();
        assert!(matches!(error, CallError::SessionLost(_)) && !error.had_no_effect(), "{error}");
        assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    }
}

#[test]
fn a_restarted_server_is_talked_to_again_without_a_failed_call() {
    if transport() == "na+sm" {
        // Its addresses name a process, and its plugin remembers the memory of each that it has reached, for good.
        return;
    }
    let auth = serve(builder());
    let address = auth.engine().address().clone();
    let (engine, server) = connect(&auth, ALICE);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    auth.engine().shutdown().wait();
    drop(auth);
    let again = Engine::builder(&address).rpc_threads(1).listen().wait().unwrap();
    let again = serve_on(&again, builder());
    comes_to("no connection is left", || engine.load(), |load| load.links == 0);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    assert_eq!(again.counts().sessions, 1);
}

#[test]
fn an_idle_session_is_replaced_before_it_is_used() {
    let auth = serve(builder().idle(Duration::from_secs(1)));
    let (_engine, server) = connect(&auth, ALICE);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    comes_to("no session is left", || auth.counts(), |counts| counts.sessions == 0);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
}

#[test]
fn a_session_at_its_end_is_replaced_while_calls_go_on() {
    let auth = serve(builder().lifetime(Duration::from_secs(2)));
    let (_engine, server) = connect(&auth, ALICE);
    let first = auth.sessions()[0].id;
    while auth.sessions().iter().any(|session| session.id == first) {
        assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    }
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
}

#[test]
fn a_session_that_was_never_used_ends_soon_and_is_replaced() {
    let auth = serve(builder());
    let (_engine, server) = connect(&auth, ALICE);
    assert_eq!(auth.counts().half_open, 1);
    comes_to("no session is left", || auth.counts(), |counts| counts.sessions == 0);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
}

#[test]
fn many_clients_may_start_at_once_and_slower_ones_wait() {
    let auth = serve(builder().handshakes(mochi_auth::session::Rate { per_second: 100, burst: 5 }));
    let engine = client();
    let address = auth.engine().address();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let open = || by_key(ALICE).open(&engine, address).wait().expect("a session");
        let threads: Vec<_> = (0..40).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for server in &opened {
        assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    }
    assert_eq!(auth.counts().sessions, 40);
}

#[test]
fn an_unreachable_server_is_named() {
    let auth = serve(builder());
    let address = auth.engine().address().clone();
    auth.engine().shutdown().wait();
    let engine = client();
    let error = by_key(ALICE).open(&engine, &address).wait().unwrap_err();
    assert!(matches!(error, OpenError::Connect(_)) && error.to_string().contains(address.as_str()), "{error}");
}

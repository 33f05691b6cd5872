//! Users proven by the kernel, over shared memory.

use margo_rs::{Engine, ProviderId, RpcId, Wait};
use mochi_auth::mechanism::ServerIdentity;
use mochi_auth::protocol::MechanismId;
use mochi_auth::{AuthServer, CallError, Connection, Identity, OpenError, Rule};
use mochi_test_support::comes_to;

use crate::support::*;

fn serve_here() -> AuthServer {
    let engine =
        Engine::builder("native+sm").rpc_threads(2).default_timeout(LONG).listen().wait().expect("listening works");
    serve_on(&engine, AuthServer::builder().peer_credentials().rule(Rule::anyone()))
}

fn client_here() -> Engine {
    Engine::builder("native+sm").default_timeout(LONG).connect().expect("a client starts")
}

#[test]
fn the_kernel_says_who_calls_over_shared_memory() {
    let auth = serve_here();
    let engine = client_here();
    let server = Connection::builder().peer_credentials().open(&engine, auth.engine().address()).wait().unwrap();
    let own = Identity::own();
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (own.uid, own.gid));
    assert_eq!(auth.sessions()[0].principal.mechanism, MechanismId::PeerCredentials);
    assert_eq!(server.server_identity(), Some(ServerIdentity::User(own.uid)));
    for n in 0..200 {
        assert_eq!(server.call(ECHO, &n.to_string()).wait().unwrap(), n.to_string());
    }
}

#[test]
fn nothing_is_sent_to_a_server_of_another_user() {
    let auth = serve_here();
    let engine = client_here();
    let wanted = Identity::own().uid + 1;
    let options = Connection::builder().peer_credentials().server_uid(wanted);
    let error = options.open(&engine, auth.engine().address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::Mechanism(_)) && error.to_string().contains(&wanted.to_string()), "{error}");
    assert_eq!(auth.counts().sessions, 0);
}

/// Also where shared memory carries it, whose ends the kernel knows: a server could have handed out another's way in.
#[test]
fn a_network_has_no_peer_credentials_whatever_carries_it() {
    for same_node in [false, true] {
        let listen = Engine::builder("native+tcp://127.0.0.1").same_node(same_node).rpc_threads(2);
        let listen = listen.default_timeout(LONG).listen().wait().expect("listening works");
        let auth = serve_on(&listen, AuthServer::builder().peer_credentials().rule(Rule::anyone()));
        let (engine, server) = loop {
            let engine = Engine::builder("native+tcp").same_node(same_node).default_timeout(LONG).connect().unwrap();
            let server = engine.lookup(auth.engine().address()).wait().unwrap();
            // A server that is busy may let a client wait too long, which then goes on over TCP.
            if server.is_through_memory() == same_node {
                break (engine, server);
            }
        };
        let error = Connection::builder().peer_credentials().open(&engine, auth.engine().address()).wait().unwrap_err();
        assert!(matches!(error, OpenError::Mechanism(_)), "{error}");
        assert_eq!(server.is_through_memory(), same_node);
        assert_eq!(auth.counts().sessions, 0);
    }
}

/// The kernel's word is about a connection: a session that began with it is good for nothing on another one, also for
/// somebody who has recorded its messages.
#[test]
fn a_session_of_peer_credentials_stays_on_its_connection() {
    let auth = serve_here();
    let engine = client_here();
    let server = Connection::builder().peer_credentials().open(&engine, auth.engine().address()).wait().unwrap();
    assert_eq!(server.call(WHO, &()).wait().unwrap().0, Identity::own().uid);
    let id = auth.sessions()[0].id;
    // A message of that session from elsewhere, well-formed as far as one can be without its key.
    let mut message = vec![0xA1, 1, 1, 0, 0, 0, 0, 0];
    message.extend_from_slice(id.as_bytes());
    message.extend_from_slice(&1u64.to_le_bytes());
    let rpc = RpcId::new("who", ProviderId::DEFAULT);
    message.extend_from_slice(&rpc.as_u64().to_le_bytes());
    message.extend_from_slice(&ProviderId::DEFAULT.as_u16().to_le_bytes());
    message.extend_from_slice(&[0; 6]);
    message.extend_from_slice(&[0; 16]);
    let other = client_here();
    let endpoint = other.lookup(auth.engine().address()).wait().unwrap();
    let call = endpoint.call_raw(rpc, &message).timeout(std::time::Duration::from_millis(200));
    assert!(matches!(call.wait(), Err(margo_rs::CallError::DeadlineExceeded { .. })), "dropped in silence");
    assert_eq!(server.call(WHO, &()).wait().unwrap().0, Identity::own().uid);
}

#[test]
fn a_lost_connection_is_followed_by_a_session_on_the_new_one() {
    let auth = serve_here();
    let address = auth.engine().address().clone();
    let engine = client_here();
    let server = Connection::builder().peer_credentials().open(&engine, &address).wait().unwrap();
    assert_eq!(server.call(WHO, &()).wait().unwrap().0, Identity::own().uid);
    auth.engine().shutdown().wait();
    drop(auth);
    comes_to("no connection is left", || engine.load(), |load| load.links == 0);
    let again = Engine::builder(&address).rpc_threads(1).listen().wait().unwrap();
    let _again = serve_on(&again, AuthServer::builder().peer_credentials().rule(Rule::anyone()));
    assert_eq!(server.call(WHO, &()).wait().unwrap().0, Identity::own().uid);
}

#[test]
fn keys_work_over_shared_memory_too() {
    let engine = Engine::builder("native+sm").rpc_threads(2).default_timeout(LONG).listen().wait().unwrap();
    let auth = serve_on(&engine, builder());
    let engine = client_here();
    let server = by_key(BOB).open(&engine, auth.engine().address()).wait().unwrap();
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (BOB.uid, BOB.gid));
    assert_eq!(server.call(ECHO, &"x".repeat(200_000)).wait().unwrap().len(), 200_000);
    let denied = server.provider(PROVIDER).call(WHO, &()).wait();
    assert!(matches!(denied, Err(CallError::Transport(_))), "{denied:?}");
}

//! Connections: shared, lost, made again, never made.

use crate::stranger::Stranger;
use crate::support::*;
use margo_rs::{Blame, CallError, ConnectError, Engine, ListenError, Wait};
use std::thread;
use std::time::Duration;

conformance! {
    lookups_of_one_address_share_a_connection,
    a_connection_closes_with_its_last_user,
    a_restarted_server_is_reached_again,
    a_dying_server_fails_every_outstanding_call,
    nobody_at_an_address_is_unreachable,
    somebody_else_at_an_address_is_told_apart,
    a_taken_port_is_named,
    another_protocol_is_told_apart,
    a_host_name_is_resolved,
    an_abandoned_lookup_leaves_nothing,
}

fn lookups_of_one_address_share_a_connection(setup: Setup) {
    let pair = setup.pair();
    let more: Vec<_> = (0..10).map(|_| pair.client.lookup(pair.server.address()).wait().unwrap()).collect();
    thread::scope(|scope| {
        for to in &more {
            scope.spawn(|| assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3));
        }
    });
    assert_eq!((pair.client.load().links, pair.server.load().links), (1, 1));
    pair.assert_healthy();
}

fn a_connection_closes_with_its_last_user(setup: Setup) {
    let Pair { server, client, to } = setup.pair();
    let clone = to.provider(5.into());
    let call = to.call(SUM, &(1, 2));
    drop(to);
    drop(clone);
    comes_to("one connection at each end", || (client.load().links, server.load().links), |links| *links == (1, 1));
    assert_eq!(call.wait().unwrap(), 3);
    comes_to("no connection at either end", || (client.load().links, server.load().links), |links| *links == (0, 0));
    // And a new one is made.
    let to = client.lookup(server.address()).wait().unwrap();
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
}

fn a_restarted_server_is_reached_again(setup: Setup) {
    if setup.address == NA_SM.address {
        // Its addresses name a process, and its plugin remembers the memory of each that it has reached, for good.
        return;
    }
    let pair = setup.pair();
    let address = pair.server.address().clone();
    for round in 0..3 {
        pair.server.shutdown().wait();
        let again = with_handlers(
            Engine::builder(&address)
                .progress(setup.progress)
                .rpc_threads(1)
                .listen()
                .wait()
                .expect("the port is free"),
        );
        assert_eq!(again.address(), &address);
        // A call that is made before the client knows that its connection is gone fails with it.
        comes_to("no connection is left", || pair.client.load(), |load| load.links == 0);
        assert_eq!(pair.to.call(SUM, &(round, 2)).wait().unwrap(), round + 2);
        again.shutdown().wait();
    }
}

fn a_dying_server_fails_every_outstanding_call(setup: Setup) {
    let pair = setup.pair();
    let calls: Vec<_> = (0..100).map(|_| pair.to.call(HANG, &()).start()).collect();
    comes_to("there are 100 requests", || pair.server.load(), |load| load.requests == 100);
    // Without a farewell, as a killed process.
    drop(pair.server);
    for call in calls {
        let error = call.wait().unwrap_err();
        assert!(matches!(error, CallError::ConnectionLost { .. }), "{error:?}");
        assert_eq!(error.blame(), Blame::Network);
    }
    assert_idle(&pair.client);
    comes_to("no connection is left", || pair.client.load(), |load| load.links == 0);
}

fn nobody_at_an_address_is_unreachable(setup: Setup) {
    if setup.is_mercury() {
        return nobody_behind_mercury_is_unreachable(setup);
    }
    let client = setup.client().connect().unwrap();
    let address = Stranger::new(setup).address.clone();
    let error = client.lookup(&address).wait().unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");
    comes_to("no connection is left", || client.load(), |load| load.links == 0);
}

/// Mercury's plugins do not tell that nobody is there: it shows when nobody answers.
fn nobody_behind_mercury_is_unreachable(setup: Setup) {
    let gone = setup.serve();
    let address = gone.address().clone();
    gone.shutdown().wait();
    let client = setup.client().limits(|limits| limits.connect_timeout = Duration::from_millis(300)).connect().unwrap();
    let error = client.lookup(&address).wait().unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. } | ConnectError::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains(address.as_str()), "{error}");
    comes_to("no connection is left", || client.load(), |load| load.links == 0);
}

fn somebody_else_at_an_address_is_told_apart(setup: Setup) {
    if setup.is_mercury() {
        // libfabric and Mercury speak first there.
        return;
    }
    let stranger = Stranger::new(setup);
    let address = stranger.address.clone();
    let greetings: [&[u8]; 3] = [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"mochi-rs\x07\0\x06\0"];
    let server = thread::spawn(move || greetings.into_iter().for_each(|greeting| stranger.greet(greeting)));
    let client = setup.client().connect().unwrap();
    for _ in greetings {
        let error = client.lookup(&address).wait().unwrap_err();
        let told = matches!(error, ConnectError::Handshake { .. } | ConnectError::Unreachable { .. });
        assert!(told, "{error:?}");
    }
    server.join().unwrap();
    comes_to("no connection is left", || client.load(), |load| load.links == 0);
}

fn a_taken_port_is_named(setup: Setup) {
    if setup.address == NA_SM.address {
        return;
    }
    let server = setup.serve();
    let error = Engine::listen(server.address()).wait().unwrap_err();
    assert!(matches!(error, ListenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(server.address().as_str()));
}

fn another_protocol_is_told_apart(setup: Setup) {
    let client = setup.client().connect().unwrap();
    for address in ["http://x", "native+nothing://1/2"] {
        let error = client.lookup(address).wait().unwrap_err();
        assert!(matches!(error, ConnectError::Unsupported(_)), "{error:?}");
    }
    for other in ["native+sm://1/2", "native+tcp://127.0.0.1:5", "ofi+tcp://127.0.0.1:5", "na+sm://1-0"] {
        if other.starts_with(setup.protocol()) {
            continue;
        }
        let error = client.lookup(other).wait().unwrap_err();
        match error {
            ConnectError::OtherProtocol { .. } => {
                assert_eq!(margo_rs::protocol_help(other.split("://").next().unwrap()), None)
            }
            ConnectError::Unsupported(_) => assert!(!other.starts_with("native"), "{other} is always there"),
            other => panic!("{other:?}"),
        }
    }
    if setup.address == SM.address {
        for address in
            ["native+sm://", "native+sm", "native+sm://1/", "native+sm://x/y", "native+sm://1/../x", "sm://a b"]
        {
            let error = client.lookup(address).wait().unwrap_err();
            assert!(matches!(error, ConnectError::Address(_)), "{address}: {error:?}");
        }
        return;
    }
    if setup.address == NA_SM.address {
        return;
    }
    let protocol = setup.protocol();
    for location in ["", "127.0.0.1", "[::1", "a b:5"] {
        let error = client.lookup(format!("{protocol}://{location}")).wait().unwrap_err();
        assert!(matches!(error, ConnectError::Address(_)), "{location}: {error:?}");
    }
    let error = client.lookup("127.0.0.1:5").wait().unwrap_err();
    assert!(matches!(error, ConnectError::Address(_)), "{error:?}");
    let error = client.lookup(format!("{protocol}://no-such-host.invalid:5")).wait().unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error:?}");
}

fn a_host_name_is_resolved(setup: Setup) {
    if !setup.is_tcp() {
        return;
    }
    let server = setup.serve();
    let client = setup.client().connect().unwrap();
    let port = server.address().location().rsplit(':').next().unwrap().to_owned();
    if setup.address == TCP6.address || setup.address == NA_SM.address {
        return;
    }
    let to = client.lookup(format!("{}://localhost:{port}", setup.protocol())).wait().unwrap();
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
}

fn an_abandoned_lookup_leaves_nothing(setup: Setup) {
    if setup.address == NA_SM.address {
        // Mercury's shared memory knows at once that nobody is there.
        return;
    }
    let stranger = Stranger::new(setup);
    let address = stranger.address.clone();
    let client = setup.client().limits(|limits| limits.connect_timeout = LONG).connect().unwrap();
    drop(client.lookup(&address));
    in_tokio(async {
        for _ in 0..5 {
            let lookup = tokio::time::timeout(Duration::from_millis(5), client.lookup(&address)).await;
            assert!(lookup.is_err());
        }
    });
    comes_to("no connection is left", || client.load(), |load| load.links == 0);
}

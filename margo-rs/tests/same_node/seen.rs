//! What a user sees is the same whichever way the bytes go.

use super::*;
use margo_rs::codec::Blob;
use margo_rs::{CallError, Limits};

/// Everything that tells a user of the link, with the ports taken out.
fn told(same_node: bool) -> Vec<String> {
    let few = |limits: &mut Limits| limits.max_message = 1 << 20;
    let server = Engine::builder("native+tcp://127.0.0.1").limits(few).same_node(same_node).rpc_threads(2);
    let server = server.listen().wait().unwrap();
    server.register(HANG, |_, ()| std::future::pending()).unwrap();
    let known = |request: margo_rs::Request, ()| async move {
        Ok((request.peer_credentials().is_some(), request.peer().to_string()))
    };
    server.register(KNOWN, known).unwrap();
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    let (client, to) = if same_node {
        reach_through_memory(server.address().as_str())
    } else {
        reach(server.address().as_str(), false)
    };
    let (known, from) = to.call(KNOWN, &()).wait().unwrap();
    let (ip, port) = from.rsplit_once(':').unwrap();
    assert!(port.parse::<u16>().is_ok_and(|port| port > 0), "a client comes from a port: {from}");
    let mut told = vec![
        format!("server at {}, reached at {}", server.address(), to.address()),
        format!("client from {ip}, known {known}"),
        format!("server known {:?}", to.peer_credentials()),
    ];
    let failed = |error: CallError| format!("{:?}: {error}", error.blame());
    const MISSING: Rpc<(), ()> = Rpc::new("missing");
    const ECHO: Rpc<Blob, ()> = Rpc::new("missing too");
    told.push(failed(to.call(MISSING, &()).wait().unwrap_err()));
    told.push(failed(to.call(ECHO, &Blob(vec![0; 2 << 20])).wait().unwrap_err()));
    told.push(failed(to.call(HANG, &()).timeout(Duration::from_millis(20)).wait().unwrap_err()));
    // The one before is cancelled, and soon gone.
    comes_to("no request is left", || server.load(), |load| load.requests == 0);
    let call = to.call(HANG, &()).timeout(LONG).start();
    comes_to("there is one request", || server.load(), |load| load.requests == 1);
    // Without a farewell, as a killed process.
    let port = port_of(server.address().as_str());
    drop(server);
    told.push(failed(call.wait().unwrap_err()));
    comes_to("no connection is left", || client.load(), |load| load.links == 0);
    told.push(failed(to.call(KNOWN, &()).wait().unwrap_err()));
    told.push(failed(client.lookup(to.address()).wait().map(drop).unwrap_err().into()));
    told.into_iter().map(|line| line.replace(&port.to_string(), "PORT")).collect()
}

#[test]
fn addresses_errors_and_what_is_known_of_the_peer_are_those_of_tcp() {
    let _watchdog = watchdog("addresses_errors_and_what_is_known_of_the_peer_are_those_of_tcp");
    let (memory, tcp) = (told(true), told(false));
    assert_eq!(memory, tcp);
    assert!(tcp[0].starts_with("server at native+tcp://127.0.0.1:PORT, reached at native+tcp://127.0.0.1:PORT"));
    assert_eq!(tcp[1..3], ["client from native+tcp://127.0.0.1, known false", "server known None"]);
}

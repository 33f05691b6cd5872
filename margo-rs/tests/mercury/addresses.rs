//! What addresses over `ofi+tcp` look like and what is accepted: IPv6, host names, interfaces, absent plugins.

use crate::support::*;
use margo_rs::{ConnectError, ListenError, Wait};

/// A server at `listen` prints an address that starts with `host`, and is reached there by a client of its kind.
fn serves_at(listen: &str, host: &str) {
    let server = serve(listen);
    let location = server.address().location().to_owned();
    assert!(location.starts_with(host), "{location} for {listen}");
    let client = client(server.address().as_str());
    assert_eq!(lookup(&client, &server).call(SUM, &(1, 2)).wait().expect("it is reached"), 3, "{listen}");
    // And without what Mercury added to the protocol.
    let to = client.lookup(format!("ofi+tcp://{location}")).wait().expect("the short name is one, too");
    assert_eq!(to.call(SUM, &(1, 2)).wait().expect("it is reached"), 3, "{listen}");
}

#[test]
fn addresses_name_the_host_by_its_ip() {
    with_mercury("addresses", || {
        for listen in ["ofi+tcp://127.0.0.1", "ofi+tcp://127.0.0.1:0", "ofi+tcp://localhost", "ofi+tcp://lo"] {
            serves_at(listen, "127.0.0.1:");
        }
    });
}

#[test]
fn ipv6_is_refused_with_a_way_out() {
    with_mercury("IPv6", || {
        let told = engine("ofi+tcp://[::1]").listen().wait().expect_err("requests would not arrive").to_string();
        assert!(told.contains("native+tcp"), "{told}");
        let error = client(OFI_TCP).lookup("ofi+tcp://[2001:db8::1]:1").wait().expect_err("nor here");
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("native+tcp"), "{error}");
    });
}

#[test]
fn addresses_of_no_interface_are_refused_with_the_reason() {
    with_mercury("foreign addresses", || {
        for (listen, reason) in [
            ("ofi+tcp://203.0.113.7", "203.0.113.7"),
            ("ofi+tcp://no-such-interface0", "interfaces here"),
            ("ofi+tcp://127.0.0.1:99999", "port"),
            ("ofi+tcp://[::1", "["),
        ] {
            let error = engine(listen).listen().wait().expect_err(listen);
            assert!(error.to_string().contains(reason), "{listen}: {error}");
        }
    });
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    with_mercury("absent plugins", || {
        for listen in ["ucx+tcp://127.0.0.1", "ofi+psm2", "bmi+tcp", "na+nothing", "ofi+nothing", "psm2"] {
            let error = engine(listen).listen().wait().expect_err(listen);
            assert!(matches!(error, ListenError::Location { .. }), "{listen}: {error:?}");
            assert!(error.to_string().contains(listen.split("://").next().expect("never empty")), "{error}");
            assert!(engine(listen).connect().is_err(), "{listen}");
        }
    });
}

#[test]
fn addresses_where_nobody_is_get_a_reason_in_words() {
    with_mercury("addresses of nobody", || {
        let sm = client(NA_SM);
        for (address, reason) in [
            ("na+sm", "the address that the server printed"),
            ("na+sm://1-0", "no server of this name"),
            ("na+sm://../../etc/passwd", "no server of this name"),
        ] {
            let error = sm.lookup(address).wait().expect_err(address).to_string();
            assert!(error.contains(address) && error.contains(reason), "{error}");
        }
    });
}

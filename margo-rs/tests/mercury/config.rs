//! The `mercury` section of the configuration, tried on Mercury itself.

use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::{Config, Engine, ListenError, Progress, Wait};

/// A server and a client with that section, and what is in effect at the server after calls between them.
fn call_with(address: &str, section: &str) -> Config {
    let text = format!(r#"{{"mercury": {section}}}"#);
    let options = || engine(address).config_json(&text).unwrap_or_else(|error| panic!("{section}: {error}"));
    let server = with_handlers(options().listen().wait().unwrap_or_else(|error| panic!("{section}: {error}")));
    let client = options().connect().unwrap_or_else(|error| panic!("{section}: {error}"));
    let to = lookup(&client, &server);
    assert_eq!(to.call(SUM, &(40, 2)).wait().expect(section), 42, "{section}");
    let calls: Vec<_> = (0..300).map(|n| to.call(SUM, &(n, n)).start()).collect();
    for (n, call) in (0..300).zip(calls) {
        assert_eq!(call.wait().expect(section), 2 * n, "{section}");
    }
    server.config().clone()
}

fn refused(address: &str, section: &str) -> String {
    let text = format!(r#"{{"mercury": {section}}}"#);
    let options = engine(address).config_json(&text).expect("the text is right");
    let error = options.listen().wait().expect_err(section);
    assert!(matches!(error, ListenError::Option(_)), "{error:?}");
    error.to_string()
}

#[test]
fn options_take_effect_one_by_one() {
    with_mercury("options one by one", || {
        for (section, minor) in [
            (r#"{"request_post_init": 16, "request_post_incr": 16}"#, 2),
            (r#"{"request_post_incr": -1}"#, 2),
            (r#"{"no_bulk_eager": true, "no_loopback": true}"#, 2),
            (r#"{"na_no_block": true}"#, 2),
            (r#"{"max_contexts": 1}"#, 2),
            (r#"{"no_multi_recv": true}"#, 3),
            (r#"{"release_input_early": true}"#, 3),
            (r#"{"traffic_class": "low_latency"}"#, 4),
            (r#"{"multi_recv_op_max": 8, "multi_recv_copy_threshold": 4}"#, 4),
            (r#"{"auto_sm": true}"#, 2),
            (r#"{"na_addr_format": "ipv4"}"#, 2),
            (r#"{"ip_subnet": "127.0.0.0/8"}"#, 2),
        ] {
            if !is_at_least(2, minor) {
                println!("{section}: not tested: Mercury has it from 2.{minor} on");
                continue;
            }
            let given: serde_json::Value = serde_json::from_str(section).expect("JSON");
            let config: serde_json::Value =
                serde_json::from_str(&call_with(OFI_TCP, section).to_string()).expect("JSON");
            for (key, value) in given.as_object().expect("an object") {
                assert_eq!(config["mercury"][key], *value, "{section}");
            }
        }
    });
}

/// libfabric's waiting is each process's own affair; shared memory's is not, and a busy server has clients that park.
#[test]
fn a_busy_engine_has_a_network_that_wakes_nobody() {
    with_mercury("busy", || {
        for (address, expected) in [(OFI_TCP, true), (NA_SM, false)] {
            let server =
                with_handlers(engine(address).progress(Progress::Busy).listen().wait().expect("listening works"));
            let config: serde_json::Value = serde_json::from_str(&server.config().to_string()).expect("JSON");
            assert_eq!(config["mercury"]["na_no_block"], expected, "{address}");
            let client = engine(address).progress(Progress::Park).connect().expect("a client starts");
            assert_eq!(lookup(&client, &server).call(SUM, &(40, 2)).wait().expect("they reach each other"), 42);
        }
        let said = engine(OFI_TCP).progress(Progress::Busy).config_json(r#"{"mercury": {"na_no_block": false}}"#);
        let server = said.expect("right").listen().wait().expect("listening works");
        let config: serde_json::Value = serde_json::from_str(&server.config().to_string()).expect("JSON");
        assert_eq!(config["mercury"]["na_no_block"], false, "what is said counts");
    });
}

#[test]
fn message_sizes_change_what_goes_with_a_message() {
    with_mercury("message sizes", || {
        let sizes = |config: Config| {
            let mercury = config.mercury.expect("it is Mercury");
            (mercury.input_eager_size.expect("told"), mercury.output_eager_size.expect("told"))
        };
        for address in [OFI_TCP, NA_SM] {
            let (input, output) = sizes(call_with(address, "{}"));
            assert!((3800..=4096).contains(&input) && (3800..=4096).contains(&output), "{input} {output}");
        }
        let larger = call_with(OFI_TCP, r#"{"na_max_unexpected_size": 16384, "na_max_expected_size": 8192}"#);
        let (input, output) = sizes(larger);
        assert!((16_000..=16_384).contains(&input) && (7_900..=8_192).contains(&output), "{input} {output}");
        let (input, output) =
            sizes(call_with(OFI_TCP, r#"{"na_max_unexpected_size": 512, "na_max_expected_size": 512}"#));
        assert!(input < 512 && output < 512, "{input} {output}");
    });
}

#[test]
fn a_payload_that_does_not_fit_is_refused_where_overflow_is_off() {
    with_mercury("no_overflow", || {
        if !is_at_least(2, 4) {
            return println!("no_overflow: not tested: Mercury has it from 2.4 on");
        }
        let options =
            |address: &str| engine(address).config_json(r#"{"mercury": {"no_overflow": true}}"#).expect("right");
        let server = with_handlers(options(OFI_TCP).listen().wait().expect("listening works"));
        let client = options(OFI_TCP).connect().expect("a client starts");
        let to = lookup(&client, &server);
        let small = Blob(vec![7; 1000]);
        assert!(to.call(ECHO, &small).wait().expect("it fits") == small);
        let error = to.call(ECHO, &Blob(vec![7; 100_000])).wait().expect_err("it does not fit");
        assert!(!error.to_string().is_empty(), "{error}");
        assert!(to.call(ECHO, &small).wait().expect("the link lives on") == small);
    });
}

#[test]
fn the_configuration_of_an_engine_tells_all_of_mercurys_options() {
    with_mercury("told options", || {
        let options = engine(NA_SM).config_json(r#"{"mercury": {"auth_key": "1:4242"}, "rpc_thread_count": 3}"#);
        let server = options.expect("right").listen().wait().expect("listening works");
        let shown = server.config().to_string();
        assert!(!shown.contains("4242") && shown.contains("(redacted)"), "{shown}");
        assert!(!format!("{:?}", server.config()).contains("4242"));
        let json: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        let mercury = json["mercury"].as_object().expect("an object");
        assert_eq!(mercury["address"], server.address().as_str());
        assert_eq!((&mercury["listening"], &json["rpc_thread_count"]), (&true.into(), &3.into()));
        assert_eq!((&mercury["request_post_init"], &mercury["request_post_incr"]), (&256.into(), &256.into()));
        assert!(mercury["version"].as_str().is_some_and(|version| version.starts_with("2.")));
        for key in ["auto_sm", "no_bulk_eager", "no_loopback", "stats", "na_no_block", "na_no_retry"] {
            assert_eq!(mercury[key], false, "{key}");
        }
        for key in ["max_contexts", "na_max_unexpected_size", "na_addr_format", "checksum_level", "input_eager_size"] {
            assert!(mercury.contains_key(key), "{key}");
        }
        assert!(!mercury.contains_key("ip_subnet"), "it was not given");
        for (key, [major, minor]) in [("release_input_early", [2, 3]), ("multi_recv_op_max", [2, 4])] {
            assert_eq!(mercury.contains_key(key), is_at_least(major, minor), "{key}");
        }
    });
}

#[test]
fn what_this_mercury_cannot_do_is_named() {
    with_mercury("impossible options", || {
        // The one that tests run with has no checksums, for Margo's sake; where it has, the option works.
        let text = r#"{"mercury": {"checksum_level": "rpc_payload"}}"#;
        match engine(NA_SM).config_json(text).expect("right").listen().wait() {
            Ok(_) => println!("this Mercury has checksums"),
            Err(error) => assert!(error.to_string().contains("mercury.checksum_level"), "{error}"),
        }
        let error = refused(NA_SM, r#"{"multi_recv_copy_threshold": 1000}"#);
        assert!(error.contains("mercury.multi_recv_copy_threshold"), "{error}");
        for (option, key, [major, minor]) in [
            (r#"{"no_multi_recv": true}"#, "no_multi_recv", [2, 3]),
            (r#"{"traffic_class": "low_latency"}"#, "traffic_class", [2, 4]),
            (r#"{"no_overflow": false}"#, "no_overflow", [2, 4]),
        ] {
            if !is_at_least(major, minor) {
                let error = refused(NA_SM, option);
                assert!(error.contains(key) && error.contains(&format!("from {major}.{minor} on")), "{error}");
            }
        }
        // No host has an address that is for documentation; Mercury alone would use another interface.
        let error = refused(OFI_TCP, r#"{"ip_subnet": "203.0.113.0/24"}"#);
        assert!(error.contains("mercury.ip_subnet"), "{error}");
        // libfabric's tcp has no more than one.
        let options = engine(OFI_TCP).config_json(r#"{"mercury": {"max_contexts": 9}}"#).expect("right");
        let error = options.listen().wait().expect_err("the plugin cannot");
        assert!(error.to_string().contains("Mercury's plugin ofi+tcp does not start"), "{error}");
    });
}

#[test]
fn options_of_mercury_are_errors_elsewhere() {
    let options = |text| Engine::builder("native+tcp://127.0.0.1").config_json(text).expect("the text is right");
    let error = options(r#"{"mercury": {"auth_key": "7"}}"#).listen().wait().expect_err("it is not Mercury");
    assert!(error.to_string().contains("mercury.auth_key") && error.to_string().contains("native+tcp"), "{error}");
    let engine = options(r#"{"mercury": {}}"#).listen().wait().expect("nothing is asked of Mercury");
    assert_eq!(engine.config().mercury, None);
    let error = Engine::builder("native+tcp").mercury(|mercury| mercury.auto_sm = Some(true)).connect();
    assert!(error.is_err_and(|error| error.to_string().contains("mercury.auto_sm")));
}

#[test]
fn options_given_in_code_are_checked_as_those_in_json() {
    let options = Engine::builder("native+tcp").mercury(|mercury| mercury.max_contexts = Some(0));
    let error = options.connect().expect_err("none would be left");
    assert!(error.to_string().contains("mercury.max_contexts"), "{error}");
    let mut config = Config::default();
    config.use_progress_thread = Some(false);
    let error = Engine::builder("native+tcp").config(config).connect().expect_err("there always is one");
    assert!(error.to_string().contains("use_progress_thread"), "{error}");
}

use super::*;

fn refused(text: &str) -> (String, String) {
    let error = text.parse::<Config>().expect_err(text);
    (error.key().unwrap_or("").to_owned(), error.to_string())
}

/// Every key of the `mercury` section that can be set, with a value that is not its default.
const EVERYTHING: &str = r#"{
    "auto_sm": true, "sm_info_string": "mine", "request_post_init": 128, "request_post_incr": 64, "no_bulk_eager": true,
    "no_loopback": true, "stats": true, "na_no_block": true, "na_no_retry": true, "max_contexts": 2,
    "ip_subnet": "10.0.0.0/8", "auth_key": "5:1000", "na_max_unexpected_size": 8192, "na_max_expected_size": 16384,
    "na_request_mem_device": true, "na_addr_format": "ipv4", "checksum_level": "rpc_headers", "no_multi_recv": true,
    "release_input_early": true, "traffic_class": "low_latency", "no_overflow": true, "multi_recv_op_max": 8,
    "multi_recv_copy_threshold": 2, "log_level": "warning", "log_subsys": "hg,na"
}"#;

#[test]
fn every_key_of_margos_section_is_read_and_shown_again() {
    let config: Config = format!(r#"{{"mercury": {EVERYTHING}}}"#).parse().expect("it is right");
    let mercury = config.mercury.clone().expect("there is a section");
    assert_eq!((mercury.request_post_init, mercury.request_post_incr), (Some(128), Some(64)));
    assert_eq!(mercury.checksum_level, Some(ChecksumLevel::RpcHeaders));
    assert_eq!(mercury.traffic_class, Some(TrafficClass::LowLatency));
    let mut given: serde_json::Value = serde_json::from_str(EVERYTHING).expect("JSON");
    given["auth_key"] = "(redacted)".into();
    let shown: serde_json::Value = serde_json::from_str(&config.to_string()).expect("JSON");
    assert_eq!(shown["mercury"], given);
    assert_eq!(shown.as_object().expect("an object").len(), 1, "nothing else was given");
}

#[test]
fn an_auth_key_is_never_shown() {
    let secret = "17:424242";
    let config: Config = format!(r#"{{"mercury": {{"auth_key": "{secret}"}}}}"#).parse().expect("it is right");
    for shown in [config.to_string(), format!("{config:?}"), format!("{config:#?}")] {
        assert!(!shown.contains("4242") && shown.contains("redacted"), "{shown}");
    }
    let number = refused(r#"{"mercury": {"auth_key": 424242}}"#);
    assert_eq!(number.0, "mercury.auth_key");
    assert!(!number.1.contains("4242"), "{}", number.1);
    let nul = refused(r#"{"mercury": {"auth_key": "42\u000042"}}"#);
    assert!(nul.0 == "mercury.auth_key" && !nul.1.contains("42"), "{}", nul.1);
    // A dump that is used again must not become the key.
    assert_eq!(refused(&config.to_string()).0, "mercury.auth_key");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, key) in [
        (r#"{"mercuri": {}}"#, "mercuri"),
        (r#"{"mercury": {"request_post": 1}}"#, "mercury.request_post"),
        (r#"{"mercury": {"request_post_init": "256"}}"#, "mercury.request_post_init"),
        (r#"{"mercury": {"request_post_init": -1}}"#, "mercury.request_post_init"),
        (r#"{"mercury": {"request_post_init": 4294967296}}"#, "mercury.request_post_init"),
        (r#"{"mercury": {"request_post_init": 65537}}"#, "mercury.request_post_init"),
        (r#"{"mercury": {"request_post_incr": 65537}}"#, "mercury.request_post_incr"),
        (r#"{"mercury": {"request_post_incr": -2}}"#, "mercury.request_post_incr"),
        (r#"{"mercury": {"auto_sm": 1}}"#, "mercury.auto_sm"),
        (r#"{"mercury": {"max_contexts": 0}}"#, "mercury.max_contexts"),
        (r#"{"mercury": {"max_contexts": 256}}"#, "mercury.max_contexts"),
        (r#"{"mercury": {"ip_subnet": 10}}"#, "mercury.ip_subnet"),
        (r#"{"mercury": {"ip_subnet": "10\u0000"}}"#, "mercury.ip_subnet"),
        (r#"{"mercury": {"na_max_expected_size": 511}}"#, "mercury.na_max_expected_size"),
        (r#"{"mercury": {"na_max_unexpected_size": 16777217}}"#, "mercury.na_max_unexpected_size"),
        (r#"{"mercury": {"na_addr_format": "ipv5"}}"#, "mercury.na_addr_format"),
        (r#"{"mercury": {"checksum_level": "all"}}"#, "mercury.checksum_level"),
        (r#"{"mercury": {"traffic_class": 3}}"#, "mercury.traffic_class"),
        (r#"{"mercury": {"multi_recv_op_max": 0}}"#, "mercury.multi_recv_op_max"),
        (
            r#"{"mercury": {"multi_recv_op_max": 2, "multi_recv_copy_threshold": 3}}"#,
            "mercury.multi_recv_copy_threshold",
        ),
        (r#"{"mercury": {"log_level": "loud"}}"#, "mercury.log_level"),
        (r#"{"mercury": {"version": "2.4.1"}}"#, "mercury.version"),
        (r#"{"mercury": {"input_eager_size": 4080}}"#, "mercury.input_eager_size"),
        (r#"{"mercury": {"stats": true, "stats": true}}"#, "mercury"),
        (r#"{"mercury": []}"#, "mercury"),
        (r#"{"argobots": []}"#, "argobots"),
        (r#"{"argobots": {"abt_thread_stacksize": 65536}}"#, "argobots.abt_thread_stacksize"),
        (r#"{"argobots": {"pools": [["p", "fifo", "mpmc"]]}}"#, "argobots.pools[0]"),
        (r#"{"argobots": {"pools": [{"name": "p", "kind": "prio_wait"}]}}"#, "argobots.pools[0].kind"),
        (r#"{"argobots": {"pools": [{"name": "p", "access": "spsc"}]}}"#, "argobots.pools[0].access"),
        (r#"{"argobots": {"pools": [{"name": "p"}]}}"#, "argobots.pools[0].name"),
        (r#"{"argobots": {"pools": [{"name": "__primary__"}]}}"#, "argobots.pools[0].name"),
        (
            r#"{"argobots": {"pools": [{"name": "p"}, {"name": "p"}], "xstreams": [{"scheduler": {"pools": ["p"]}}]}}"#,
            "argobots.pools[1].name",
        ),
        (r#"{"argobots": {"xstreams": [{"scheduler": {"pools": ["q"]}}]}}"#, "argobots.xstreams[0].scheduler.pools"),
        (r#"{"argobots": {"xstreams": [{"scheduler": {"pools": []}}]}}"#, "argobots.xstreams[0].scheduler.pools"),
        (r#"{"argobots": {"xstreams": [{"scheduler": ["basic", []]}]}}"#, "argobots.xstreams[0].scheduler"),
        (
            r#"{"argobots": {"xstreams": [{"scheduler": {"type": "own", "pools": [0]}}]}}"#,
            "argobots.xstreams[0].scheduler.type",
        ),
        (
            r#"{"argobots": {"xstreams": [{"affinity": [0], "scheduler": {"pools": [0]}}]}}"#,
            "argobots.xstreams[0].affinity",
        ),
        (r#"{"rpc_pool": 0}"#, "rpc_pool"),
        (r#"{"rpc_pool": {}}"#, "rpc_pool"),
        (r#"{"rpc_thread_count": -1}"#, "rpc_thread_count"),
        (r#"{"rpc_thread_count": 1025}"#, "rpc_thread_count"),
        (r#"{"use_progress_thread": false}"#, "use_progress_thread"),
        (r#"{"progress": "fast"}"#, "progress"),
        (r#"{"progress_spindown_msec": -1}"#, "progress_spindown_msec"),
        (r#"{"progress_spindown_msec": 60001}"#, "progress_spindown_msec"),
        (r#"{"progress": "busy", "progress_spindown_msec": 10}"#, "progress_spindown_msec"),
        (r#"{"pools": [{"name": "a", "threads": 1}, {"name": "b", "threads": 0}]}"#, "pools[1].threads"),
        (r#"{"pools": [{"name": "a", "threads": 18446744073709551615}]}"#, "pools[0].threads"),
        (r#"{"pools": [{"name": "a"}]}"#, "pools[0]"),
        (r#"{"limits": {"max_mesage": 1}}"#, "limits.max_mesage"),
        (r#"{"limits": {"keepalive_msec": 0.5}}"#, "limits.keepalive_msec"),
    ] {
        let (named, message) = refused(text);
        assert_eq!(named, key, "{text}: {message}");
        assert!(message.contains(key), "{message}");
    }
    for text in ["", "{", "[]", "7", r#"{"same_node": true"#, r#"{"same_node": true} {}"#] {
        let error = text.parse::<Config>().expect_err(text);
        assert_eq!(error.key(), None, "{text}: {error}");
    }
}

/// Pools of Argobots by Margo's keys, in the form in which they are shown.
const POOLS: &str = r#"{
    "pools": [
        {"name": "heavy", "kind": "fifo_wait", "access": "mpmc"}, {"name": "busy", "kind": "fifo", "access": "mpmc"}
    ],
    "xstreams": [
        {"name": "x0", "cpubind": 1, "scheduler": {"type": "basic_wait", "pools": ["heavy"]}},
        {"name": "x1", "scheduler": {"type": "basic", "pools": [1]}},
        {"scheduler": {"type": "default", "pools": ["heavy"]}}
    ]
}"#;

#[test]
fn pools_of_argobots_are_read_by_margos_keys_and_shown_again() {
    let config: Config = format!(r#"{{"argobots": {POOLS}, "rpc_pool": "heavy"}}"#).parse().expect("it is right");
    let argobots = config.argobots.as_ref().expect("there is a section");
    let kinds = |pool| argobots.xstreams_of(pool).map(|xstream| xstream.scheduler.kind).collect::<Vec<_>>();
    assert_eq!(kinds(0), [SchedulerKind::BasicWait, SchedulerKind::Default]);
    assert_eq!(kinds(1), [SchedulerKind::Basic]);
    let shown: serde_json::Value = serde_json::from_str(&config.to_string()).expect("JSON");
    assert_eq!(shown["argobots"], serde_json::from_str::<serde_json::Value>(POOLS).expect("JSON"));
    assert_eq!(shown["rpc_pool"], "heavy");
}

#[test]
fn what_is_left_out_of_an_argobots_pool_is_as_margo_has_it() {
    let text = r#"{"argobots": {"pools": [{"name": "p"}], "xstreams": [{"scheduler": {"pools": ["p"]}}]}}"#;
    let config: Config = text.parse().expect("it is right");
    let argobots = config.argobots.expect("there is a section");
    assert_eq!((argobots.pools[0].kind, argobots.pools[0].access), (PoolKind::FifoWait, PoolAccess::Mpmc));
    assert_eq!(argobots.xstreams[0].scheduler.kind, SchedulerKind::BasicWait);
}

#[test]
fn ways_of_waiting_have_their_keys() {
    let told = |text: &str| text.parse::<Config>().expect(text).progress();
    assert_eq!(told("{}"), None);
    assert_eq!(told(r#"{"progress": "busy"}"#), Some(Progress::Busy));
    assert_eq!(told(r#"{"progress": "park"}"#), Some(Progress::Park));
    assert_eq!(told(r#"{"progress": "adaptive"}"#), Some(Progress::default()));
    let spin = Progress::Adaptive(Duration::from_micros(2500));
    assert_eq!(told(r#"{"progress_spindown_msec": 2.5}"#), Some(spin));
    let mut config = Config::default();
    config.set_progress(spin);
    assert_eq!(config.progress(), Some(spin));
}

#[test]
fn limits_go_both_ways() {
    let mut limits = crate::limits::Limits::default();
    let text = r#"{"limits": {"max_message": 1024, "keepalive_msec": 250, "max_connections": 3}}"#;
    let config: Config = text.parse().expect("it is right");
    config.limits.expect("given").apply(&mut limits);
    assert_eq!((limits.max_message, limits.keepalive, limits.max_connections), (1024, Duration::from_millis(250), 3));
    assert_eq!(limits.max_in_flight, crate::limits::Limits::default().max_in_flight);
    let all = LimitsConfig::from(&limits);
    let mut again = crate::limits::Limits::default();
    all.apply(&mut again);
    assert_eq!(again, limits);
}

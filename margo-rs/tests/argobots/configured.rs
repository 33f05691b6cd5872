//! Pools of Argobots by a configuration's words.

use crate::support::{LONG, TASKLET, client, protocols, unit, watchdog};
use margo_rs::{Config, Engine, ListenError, ProviderId, Rpc, Wait};

const WHERE: Rpc<(), u8> = Rpc::new("where");

/// Two pools, of either kind, with three execution streams.
const POOLS: &str = r#"{
    "pools": [{"name": "heavy"}, {"name": "busy", "kind": "fifo", "access": "mpmc"}],
    "xstreams": [
        {"name": "x0", "scheduler": {"type": "basic_wait", "pools": ["heavy"]}},
        {"name": "x1", "scheduler": {"type": "default", "pools": [0]}},
        {"name": "x2", "scheduler": {"type": "basic", "pools": ["busy"]}}
    ]
}"#;

fn configured(protocol: &str, text: &str) -> Result<Engine, ListenError> {
    let config: Config = text.parse().expect("it is right");
    Engine::builder(protocol).default_timeout(LONG).rpc_threads(1).config(config).listen().wait()
}

#[test]
fn providers_name_pools_that_the_configuration_has() {
    watchdog("configured");
    for protocol in protocols() {
        let server = configured(protocol, &format!(r#"{{"argobots": {POOLS}}}"#)).unwrap();
        server.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
        let providers = [(3, "heavy"), (4, "busy")].map(|(id, pool)| {
            let provider = server.provider(ProviderId::new(id)).pool(pool).unwrap();
            provider.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
            (ProviderId::new(id), provider)
        });
        let (_client, endpoint) = client(protocol, &server);
        assert_ne!(endpoint.call(WHERE, &()).wait().unwrap(), TASKLET);
        for (id, _) in &providers {
            assert_eq!(endpoint.provider(*id).call(WHERE, &()).wait().unwrap(), TASKLET);
        }
        server.shutdown().wait();
    }
}

#[test]
fn the_default_pool_is_named_or_counted_as_in_margo() {
    watchdog("default");
    let protocol = "native+tcp://127.0.0.1";
    for wanted in [r#""busy""#, "0"] {
        let text = format!(r#"{{"argobots": {POOLS}, "rpc_pool": {wanted}}}"#);
        let server = configured(protocol, &text).unwrap();
        server.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
        let (_client, endpoint) = client(protocol, &server);
        assert_eq!(endpoint.call(WHERE, &()).wait().unwrap(), TASKLET, "{wanted}");
        let shown: Config = server.config().to_string().parse().expect("what is shown can be used again");
        assert_eq!((&shown.argobots, &shown.rpc_pool), (&server.config().argobots, &server.config().rpc_pool));
        server.shutdown().wait();
    }
    let primary = configured(protocol, &format!(r#"{{"argobots": {POOLS}, "rpc_pool": "__primary__"}}"#)).unwrap();
    primary.register(WHERE, |_, ()| async { Ok(unit()) }).unwrap();
    let (_client, endpoint) = client(protocol, &primary);
    assert_ne!(endpoint.call(WHERE, &()).wait().unwrap(), TASKLET);
    primary.shutdown().wait();
}

#[test]
fn pools_that_cannot_be_had_are_named() {
    let protocol = "native+tcp://127.0.0.1";
    let unknown = configured(protocol, r#"{"rpc_pool": "nowhere"}"#).unwrap_err().to_string();
    assert!(unknown.contains("rpc_pool") && unknown.contains("nowhere"), "{unknown}");
    let pool = r#"{"pools": [{"name": "both"}], "xstreams": [{"scheduler": {"pools": ["both"]}}]}"#;
    let twice = format!(r#"{{"argobots": {pool}, "pools": [{{"name": "both", "threads": 1}}]}}"#);
    let twice = configured(protocol, &twice).unwrap_err().to_string();
    assert!(twice.contains("both"), "{twice}");
    let nowhere = r#"{"argobots": {"pools": [{"name": "far"}],
        "xstreams": [{"cpubind": 65535, "scheduler": {"pools": ["far"]}}]}}"#;
    let nowhere = configured(protocol, nowhere).unwrap_err().to_string();
    assert!(nowhere.contains("processor"), "{nowhere}");
}

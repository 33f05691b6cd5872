//! Handlers in Argobots pools, over the built-in TCP and over Mercury's.
//!
//! Without Argobots one test is left: that asking for such a pool says what to install. Without Mercury they run over
//! `native+tcp` alone.

// Only to make pools as a C service does, and to ask Argobots where code runs.
#![allow(unsafe_code)]

#[cfg(argobots)]
mod configured;
#[cfg(argobots)]
mod embedding;
#[cfg(argobots)]
mod handlers;
#[cfg(argobots)]
mod suspension;

#[cfg(not(argobots))]
#[test]
fn without_argobots_a_pool_is_refused_with_what_to_install() {
    let error = margo_rs::Pool::argobots("heavy", 1).unwrap_err().to_string();
    assert!(error.contains("heavy") && error.contains("argobots.pc"), "{error}");
    // SAFETY: without Argobots the pointer is not looked at.
    let error = unsafe { margo_rs::Pool::from_raw("theirs", std::ptr::null_mut(), 1) }.unwrap_err().to_string();
    assert!(error.contains("theirs") && error.contains("argobots.pc"), "{error}");
    let wanted = r#"{"argobots": {"pools": [{"name": "site"}], "xstreams": [{"scheduler": {"pools": ["site"]}}]}}"#;
    let builder = margo_rs::Engine::builder("native+tcp://127.0.0.1").config_json(wanted).expect("it is right");
    let error = margo_rs::Wait::wait(builder.listen()).unwrap_err().to_string();
    assert!(error.contains("site") && error.contains("argobots.pc"), "{error}");
}

#[cfg(argobots)]
mod support {
    use margo_rs::{Endpoint, Engine, Pool, Wait, protocol_help};
    use mochi_sys::argobots as abt;
    use mochi_test_support::Watchdog;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    pub(crate) const LONG: Duration = Duration::from_secs(60);

    /// The protocols of this build to try.
    pub(crate) fn protocols() -> Vec<&'static str> {
        let mut protocols = vec!["native+tcp://127.0.0.1"];
        if protocol_help("ofi+tcp").is_none() {
            protocols.push("ofi+tcp://127.0.0.1");
        } else {
            static SAID: AtomicBool = AtomicBool::new(false);
            if !SAID.swap(true, Ordering::Relaxed) {
                println!("not tested over ofi+tcp: Mercury is not linked");
            }
        }
        protocols
    }

    /// Ends the process when a test hangs.
    pub(crate) fn watchdog(name: &'static str) -> Watchdog {
        Watchdog::start(name, LONG * 4)
    }

    /// A server whose default pool is the given one.
    pub(crate) fn server(protocol: &str, pool: &Pool) -> Engine {
        let builder = Engine::builder(protocol).default_timeout(LONG).rpc_pool(pool.clone());
        builder.listen().wait().expect("listening works")
    }

    /// A client with an endpoint for the server.
    pub(crate) fn client(protocol: &str, server: &Engine) -> (Engine, Endpoint) {
        let client = Engine::builder(protocol).default_timeout(LONG).connect().expect("a client starts");
        let endpoint = client.lookup(server.address()).wait().expect("the server is there");
        (client, endpoint)
    }

    pub(crate) const EXTERNAL: u8 = 0;
    pub(crate) const TASKLET: u8 = 1;
    pub(crate) const ULT: u8 = 2;

    /// What runs here, for Argobots.
    pub(crate) fn unit() -> u8 {
        let mut kind = abt::ABT_UNIT_TYPE_EXT;
        // SAFETY: may be called anywhere; `kind` can be written.
        unsafe { abt::ABT_self_get_type(&mut kind) };
        match kind {
            abt::ABT_UNIT_TYPE_THREAD => ULT,
            abt::ABT_UNIT_TYPE_TASK => TASKLET,
            _ => EXTERNAL,
        }
    }
}

//! What all tests of this suite use.

use margo_rs::codec::Blob;
use margo_rs::{Builder, Endpoint, Engine, Rpc, Wait, protocol_help};
use mochi_test_support::Watchdog;
pub(crate) use mochi_test_support::comes_to;
use std::time::Duration;

pub(crate) const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
pub(crate) const ECHO: Rpc<Blob, Blob> = Rpc::new("echo");
/// Never answers.
pub(crate) const HANG: Rpc<(), ()> = Rpc::new("hang");

/// Long enough that no test waits for it unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const OFI_TCP: &str = "ofi+tcp://127.0.0.1";
pub(crate) const NA_SM: &str = "na+sm";

/// Runs a test if Mercury is linked, and ends the process if it hangs.
pub(crate) fn with_mercury(name: &'static str, test: impl FnOnce()) {
    if protocol_help("na+sm").is_some() {
        println!("{name}: not tested: Mercury is not linked");
        return;
    }
    let _watchdog = Watchdog::start(name, LONG * 4);
    test();
}

/// Whether Mercury, which is linked, is of that release or a later one.
pub(crate) fn is_at_least(major: u32, minor: u32) -> bool {
    let version = mochi_sys::MERCURY_VERSION.expect("it is linked");
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().expect("a number"));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// An engine's builder. Clients of Mercury listen, too, so they get the address as well: on the loopback.
pub(crate) fn engine(address: &str) -> Builder {
    Engine::builder(address).default_timeout(LONG).rpc_threads(1)
}

pub(crate) fn serve(address: &str) -> Engine {
    with_handlers(engine(address).listen().wait().expect("listening works"))
}

pub(crate) fn with_handlers(engine: Engine) -> Engine {
    engine.register(SUM, |_, (a, b)| async move { Ok(a + b) }).expect("free");
    engine.register(ECHO, |_, blob| async move { Ok(blob) }).expect("free");
    engine.register(HANG, |_, ()| std::future::pending()).expect("free");
    engine
}

pub(crate) fn client(address: &str) -> Engine {
    engine(address).connect().expect("a client starts")
}

pub(crate) fn lookup(client: &Engine, server: &Engine) -> Endpoint {
    client.lookup(server.address()).wait().expect("the server is found")
}

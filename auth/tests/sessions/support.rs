//! Servers and clients with keys, which need no daemon.

use std::time::Duration;

use margo_rs::{Engine, ProviderId, Rpc, Wait};
use mochi_auth::mechanism::key_file::{Key, KeyRing};
use mochi_auth::protocol::Secret;
use mochi_auth::{AuthServer, AuthServerBuilder, Connection, ConnectionBuilder, Identity, Rule};

pub(crate) const WHO: Rpc<(), (u32, u32)> = Rpc::new("who");
pub(crate) const ECHO: Rpc<String, String> = Rpc::new("echo");
/// Never answers.
pub(crate) const HANG: Rpc<(), ()> = Rpc::new("hang");
pub(crate) const PROVIDER: ProviderId = ProviderId::new(7);

pub(crate) const ALICE: Identity = Identity { uid: 1501, gid: 150 };
pub(crate) const BOB: Identity = Identity { uid: 1502, gid: 160 };

/// Long enough that no test waits for it unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn key_of(user: Identity) -> Key {
    Key::new(Secret::new(|bytes: &mut [u8; 32]| bytes.fill(user.uid as u8)))
}

/// A server of Alice and Bob.
pub(crate) fn builder() -> AuthServerBuilder {
    let mut keys = KeyRing::new();
    for user in [ALICE, BOB] {
        keys.add(key_of(user), user).expect("two keys");
    }
    AuthServer::builder().key_ring(keys).rule(Rule::anyone())
}

/// What sessions go over: `native+tcp`, or the address in `MOCHI_TEST_TRANSPORT`, which has to stay on this host. Nothing
/// here depends on which it is.
pub(crate) fn transport() -> String {
    std::env::var("MOCHI_TEST_TRANSPORT").unwrap_or_else(|_| "native+tcp://127.0.0.1".to_owned())
}

pub(crate) fn listen() -> Engine {
    Engine::builder(transport()).rpc_threads(2).default_timeout(LONG).listen().wait().expect("listening works")
}

pub(crate) fn serve(builder: AuthServerBuilder) -> AuthServer {
    serve_on(&listen(), builder)
}

pub(crate) fn serve_on(engine: &Engine, builder: AuthServerBuilder) -> AuthServer {
    let auth = builder.install(engine).wait().expect("installed");
    auth.register(WHO, |caller, ()| async move { Ok((caller.uid(), caller.gid())) }).expect("free");
    auth.register(ECHO, |_, text| async move { Ok(text) }).expect("free");
    auth.register(HANG, |_, ()| std::future::pending()).expect("free");
    auth
}

/// A client process, as it were.
pub(crate) fn client() -> Engine {
    // Mercury's clients listen, too: where the server does.
    Engine::builder(transport()).default_timeout(LONG).connect().expect("a client starts")
}

pub(crate) fn by_key(user: Identity) -> ConnectionBuilder {
    Connection::builder().key(key_of(user))
}

pub(crate) fn connect(auth: &AuthServer, user: Identity) -> (Engine, Connection) {
    let engine = client();
    let connection = by_key(user).open(&engine, auth.engine().address()).wait().expect("a session");
    (engine, connection)
}

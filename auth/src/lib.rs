//! Authentication for margo-rs services.
//!
//! * [`AuthServer`] puts authentication in front of handlers, which get the verified [`Caller`]; [`Rule`]s say who may call.
//! * [`Connection`] is a client's session with a server; calls in it look like plain ones.
//!
//! * [`bulk`]: large data of authenticated callers, pushed and pulled outside of messages.
//!
//! What these are made of:
//!
//! * [`munge`]: MUNGE credentials with a payload, a lifetime and restrictions (feature `munge`, on
//!   by default).
//! * [`protocol`]: the protocol "hgrpc1" as pure state machines: handshake, key schedule, sealed messages.
//! * [`session`]: open sessions of both ends, the server's table of them, quotas, cookies.
//! * [`mechanism`]: how a client proves who it is: MUNGE, key files, peer credentials.
//! * [`Identity`]: who a peer was proven to be; [`users`] turns ids into names for people to read.
//! * `testing`: private MUNGE realms for tests and demos (feature `testing`).

pub mod bulk;
mod cipher;
mod clock;
mod connection;
#[cfg(test)]
mod fixtures;
mod fork;
#[cfg(feature = "munge")]
mod helpers;
mod identity;
pub mod mechanism;
#[cfg(feature = "munge")]
pub mod munge;
pub mod protocol;
mod server;
mod service;
pub mod session;
#[cfg(feature = "testing")]
pub mod testing;
pub mod users;
mod wipe;

pub use clock::NoRandom;
pub use connection::{Call, CallError, ConnectedProvider, Connection, ConnectionBuilder, OpenError, RpcName};
pub use identity::Identity;
pub use server::{
    AuthProvider, AuthServer, AuthServerBuilder, Caller, InstallError, Registrar, Responder, Rule, SessionAdmin,
    SessionInfo, UnknownGroup,
};

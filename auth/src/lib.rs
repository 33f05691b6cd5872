//! Authentication for margo-rs services.
//!
//! * [`munge`]: MUNGE credentials with a payload, a lifetime and restrictions (feature `munge`, on
//!   by default).
//! * [`Identity`]: who a peer was proven to be; [`users`] turns ids into names for people to read.
//! * [`testing`]: private MUNGE realms for tests and demos (feature `testing`).

#[cfg(feature = "munge")]
mod helpers;
mod identity;
#[cfg(feature = "munge")]
pub mod munge;
#[cfg(feature = "testing")]
pub mod testing;
pub mod users;

pub use identity::Identity;

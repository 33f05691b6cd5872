//! MUNGE: credentials that prove a uid and gid to any host of the same realm, by the local
//! `munged`.
//!
//! ```no_run
//! use mochi_auth::munge::{EncodeOptions, Munge};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), mochi_auth::munge::MungeError> {
//! let munge = Munge::builder().build()?;
//! let options = EncodeOptions::new().payload(b"hello").ttl(Duration::from_secs(30)).restrict_uid(2003);
//! let credential = munge.encode(options).await?; // `.wait()?` off the async world
//!
//! // ... and on a host of the same realm, in a process of uid 2003:
//! let decoded = munge.decode(&credential).await?;
//! println!("{} sent {} bytes", decoded.identity(), decoded.payload().len());
//! # Ok(())
//! # }
//! ```
//!
//! What a credential does and does not do:
//! * It proves who made it, within its lifetime, once per `munged`. Another host of the realm has
//!   its own memory of credentials it has seen, and a restarted `munged` has none; libmunge's own
//!   retries to a slow `munged` may pass a replay, too. A protocol must be harmless under replay.
//! * Only a credential with a uid or gid restriction hides its payload from the other users of the
//!   realm.
//!
//! Sources: munge(3), munge_ctx(3), munge(7), munged(8).

mod builder;
mod client;
mod credential;
mod decoded;
mod encode;
mod error;
mod ffi;
mod payload;
mod pending;
mod socket;

pub use builder::MungeBuilder;
pub use client::Munge;
pub use credential::{Credential, CredentialError};
pub use decoded::{Cipher, Compression, Decoded, Mac, Metadata};
pub use encode::EncodeOptions;
pub use error::{MungeError, NoDaemonReason, TimeoutStage};
pub use payload::Payload;
pub use pending::Pending;

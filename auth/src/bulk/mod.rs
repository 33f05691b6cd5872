//! Bulk data of authenticated callers: what peers write is checked, or unreadable on the way, before anybody sees it.
//!
//! The network's own transfers ([`margo_rs::bulk`]) know no users: whoever has a descriptor's key can use it, and the data
//! travels as it is. So descriptors travel only inside sealed bodies, and what the data is worth is agreed there too:
//!
//! | [`Level`] | the network may | cost |
//! |---|---|---|
//! | `None` | read and change the data | none; has to be chosen by name |
//! | `Integrity` | read it | a BLAKE3 hash of each MiB, in the sealed body |
//! | `Private` | do neither | AES-256-GCM of each MiB, under a key that is used for this alone |
//!
//! Data goes either way. A client that has it makes an [`Offer`], sends its [`BulkTicket`] as an argument, and the handler
//! [pulls](crate::Caller::pull) it. A client that wants it makes a [`Sink`], the handler [pushes](crate::Caller::push) and
//! returns the [`Receipt`], and [`Sink::finish`] gives the data that was checked. The receiver checks a copy of its own, which
//! nobody else can write to any more.
//!
//! ```no_run
//! # use margo_rs::Rpc;
//! # use mochi_auth::bulk::{BulkTicket, Level, Receipt};
//! # use mochi_auth::{AuthServer, Caller, Connection};
//! const STORE: Rpc<BulkTicket, u64> = Rpc::new("store");
//! const FETCH: Rpc<BulkTicket, Receipt> = Rpc::new("fetch");
//!
//! # async fn both(auth: &AuthServer, server: &Connection) -> Result<(), Box<dyn std::error::Error>> {
//! auth.register(STORE, |caller: Caller, ticket| async move { Ok(caller.pull(&ticket).await?.len() as u64) })?;
//! auth.register(FETCH, |caller: Caller, ticket| async move { Ok(caller.push(&ticket, vec![7; 1 << 20]).await?) })?;
//!
//! let offer = server.offer(vec![7; 1 << 20], Level::Private)?;
//! let stored = server.call(STORE, offer.ticket()).await?;
//!
//! let sink = server.sink(1 << 20, Level::Private)?;       // room for 1 MiB
//! let receipt = server.call(FETCH, sink.ticket()).await?;
//! let data = sink.finish(&receipt).await?;
//! # Ok(())
//! # }
//! ```

mod chunks;
pub(crate) mod context;
mod offer;
mod sink;
mod ticket;

pub use chunks::CHUNK;
pub use offer::Offer;
pub use sink::{Receipt, Sink};
pub use ticket::BulkTicket;

pub(crate) use offer::pull;
pub(crate) use sink::push;

/// What protects bulk data on its way. Ordered: a higher level promises all that a lower one does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Level {
    /// Nothing (B0).
    None = 0,
    /// Nobody can change it unnoticed (B1).
    Integrity = 1,
    /// Nobody can read or change it (B2).
    Private = 2,
}

/// Why bulk data did not arrive, or not as it was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectedBulkError {
    /// The transfer failed.
    #[error(transparent)]
    Bulk(#[from] margo_rs::bulk::BulkError),
    /// The data is not what was sent: somebody changed it on its way, or the sender afterwards.
    #[error("chunk {chunk} of the bulk data was changed on its way")]
    Changed {
        /// The first one that is wrong, counted from 0, of [`CHUNK`] bytes each.
        chunk: usize,
    },
    /// The other side protects less than is asked for here.
    #[error("bulk data of level {found:?} is not taken here, at least {least:?} is asked for")]
    Level {
        /// What it is.
        found: Level,
        /// What is asked for.
        least: Level,
    },
    /// The data is longer than the receiver takes.
    #[error("{len} bytes of bulk data are more than the {max} taken here")]
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The ticket or receipt contradicts itself.
    #[error("malformed bulk ticket or receipt: {0}")]
    Malformed(&'static str),
    /// The peer that made the ticket is gone.
    #[error("whoever sent the bulk ticket is gone")]
    PeerGone,
    /// The system gave no random bytes.
    #[error(transparent)]
    Random(#[from] crate::NoRandom),
}

#[cfg(test)]
mod tests;

//! One-sided transfers of large data: regions, descriptors, push and pull.
//!
//! The owner of some memory gives it to its engine with [`Engine::expose`](crate::Engine::expose) and sends the region's
//! [`BulkDescriptor`] in an argument or a result. Whoever has the descriptor moves data from or to the region without any
//! handler of the owner's taking part: the owner's engine checks key, permission and bounds of each transfer.
//!
//! ```
//! use margo_rs::bulk::{BulkDescriptor, Permission};
//! use margo_rs::{Engine, Rpc, Wait};
//!
//! const STORE: Rpc<BulkDescriptor, u64> = Rpc::new("store");
//!
//! let server = Engine::listen("tcp://127.0.0.1").wait()?;
//! let engine = server.clone();
//! server.register(STORE, move |request, data| {
//!     let engine = engine.clone();
//!     async move {
//!         // What a descriptor says is its sender's word: nothing is allocated for it without a limit.
//!         if data.len() > 1 << 30 {
//!             return Err("too large".into());
//!         }
//!         let region = engine.stage(vec![0; data.len() as usize])?;
//!         let caller = request.endpoint().ok_or("the caller is gone")?;
//!         caller.pull(&data, &region).await?;
//!         Ok(region.into_inner().await.iter().map(|byte| u64::from(*byte)).sum())
//!     }
//! })?;
//!
//! let client = Engine::connect("tcp")?;
//! let to = client.lookup(server.address()).wait()?;
//! let region = client.expose(vec![1; 100_000], Permission::ReadOnly)?;
//! assert_eq!(to.call(STORE, region.descriptor()).wait()?, 100_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which memory
//!
//! Any memory that a region can own will do ([`Memory`]). Over shared memory (`native+sm`, and
//! [`Builder::same_node`](crate::Builder::same_node)) its bytes are copied twice, through a small buffer that stays in the
//! cache. What is moved from one place again and again is better kept in memory of the engine's, from
//! [`Engine::allocate`](crate::Engine::allocate) or a [`BulkPool`]: after the first few times the receiver copies it from
//! there by itself, once. That goes by itself where peers pull. In a push it must be allowed, because the peer sees the
//! region's memory from then on: `to.push(region.lend(), &descriptor)`, see [`Region::lend`]. Where the received bytes are
//! put makes no difference. Over Mercury that memory is in huge pages from 2 MiB on, if the system has some, and best at both
//! ends. Other transports treat it like any other.
//!
//! # With programs in C and C++
//!
//! Over Mercury a [`BulkDescriptor`] in arguments and results is an `hg_bulk_t` of Margo's and a `bulk` of Thallium's, both
//! ways; nothing has to be converted. `HG_BULK_NULL` is none. Of one that comes from them the owner is not known: use the
//! endpoint of whom it was exposed by. One of ours needs the owner's address as an argument of its own, where a third
//! program is to use it (`origin_addr`); an address that was bound to a handle (`HG_Bulk_bind`) is not looked at. They ask
//! nobody before they move data: see `transport::mercury` for what that means for taking memory back.

#[allow(unsafe_code)]
mod allocated;
mod descriptor;
mod error;
mod foreign;
mod layout;
#[allow(unsafe_code)]
mod memory;
mod pool;
mod region;
#[allow(unsafe_code)]
mod store;
mod table;
mod transfer;

pub use self::allocated::BulkMemory;
pub use self::descriptor::{BulkDescriptor, DESCRIPTOR_MAX, DescriptorError, Permission};
pub use self::error::{BulkError, Refusal, TransferError};
pub use self::memory::{Memory, Segment};
pub use self::pool::{BulkPool, PooledRegion, Take};
pub use self::region::{IntoInner, Region};
pub use self::store::{Access, Pinned, Window, Withdrawn};
pub use self::table::{Direction, RegionKey};
pub use self::transfer::{BulkTransfer, LocalRange, RemoteRange, Transfer};

#[cfg(mercury)]
pub(crate) use self::foreign::{Foreign, Plugin};
#[cfg(test)]
pub(crate) use self::store::Store;
pub(crate) use self::table::Regions;

#[cfg(test)]
mod tests;

//! Mochi-style remote procedure calls for HPC services, in Rust.
//!
//! An [`Engine`] listens, makes calls, or both. A service registers handlers for [`Rpc`] descriptors, alone or grouped
//! in a [`Provider`]; a client looks up an [`Address`] and calls:
//!
//! ```
//! use margo_rs::{Engine, Rpc};
//! use std::time::Duration;
//!
//! const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::listen("tcp://127.0.0.1").await?;
//! engine.register(SUM, |_request, (a, b)| async move { Ok(a + b) })?;
//! println!("Server running at address {}", engine.address());
//!
//! let client = Engine::connect("tcp")?;
//! let server = client.lookup(engine.address()).await?;
//! let total = server.call(SUM, &(1, 2)).timeout(Duration::from_secs(2)).await?;
//! assert_eq!(total, 3);
//! engine.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Values are laid out as Margo's `hg_proc` and Thallium do ([`codec`]), and RPC ids, headers and built-in RPCs are
//! Margo's. Futures need no particular executor; outside of any, [`Wait::wait`] blocks. See [`transport`] for what each
//! transport guarantees, [`Limits`] for what peers may make an engine hold, [`Progress`] for how waiting is done,
//! [`Builder::same_node`] for shared memory underneath `native+tcp`, [`Config`] for all of it as JSON.

mod address;
mod buffer;
pub mod bulk;
mod client;
pub mod codec;
mod config;
mod engine;
mod error;
mod exec;
mod failure;
mod limits;
mod rpc;
mod server;
pub mod transport;
mod warnings;
#[doc(hidden)]
pub mod wire;

pub use address::{ADDRESS_MAX, Address, AddressError};
pub use buffer::{Buffer, Payload};
pub use client::{Call, ConnectionId, Endpoint, Lookup, ProviderHandle, RawCall, Standing};
pub use codec::HgString;
pub use config::{
    AddressFormat, ArgobotsConfig, ArgobotsPoolConfig, AuthKey, ChecksumLevel, Config, ConfigError, LimitsConfig,
    MercuryConfig, PoolAccess, PoolConfig, PoolKind, PoolName, ProgressMode, SchedulerConfig, SchedulerKind,
    TrafficClass, XstreamConfig,
};
pub use engine::{
    Builder, Engine, Load, Progress, REQUEST_HEADER, RESPONSE_HEADER, Shutdown, Sleep, Timer, Wait, may_block,
};
pub use error::{
    Blame, CallError, ConnectError, HandlerError, ListenError, PoolError, RegisterError, UnsupportedProtocol,
};
pub use exec::{Pool, PoolShutdown, in_ult};
pub use failure::Failure;
pub use limits::Limits;
pub use rpc::{NO_PARENT, ProviderId, RawRpc, Rpc, RpcId, legacy_mux_id};
pub use server::{Provider, RawResponder, Request, Responder};
pub use transport::{PeerCredentials, protocol_help};

//! Errors, one type per operation, each variant showing whose fault it was.

use crate::address::{Address, AddressError};
use crate::bulk::TransferError;
use crate::codec::{DecodeError, EncodeError};
use crate::rpc::{ProviderId, RpcId};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why an engine could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address text is not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The location means nothing to the protocol.
    #[error("cannot listen on {address}: {reason}")]
    Location {
        /// The address asked for.
        address: Address,
        /// What is wrong.
        reason: String,
    },
    /// The protocol is not part of this build.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedProtocol),
    /// No interface or host has that name.
    #[error("cannot listen on {address}: no interface or host named {name:?} (interfaces here: {known})")]
    UnknownInterface {
        /// The address asked for.
        address: Address,
        /// The name in it.
        name: String,
        /// The interfaces of this host, separated by commas.
        known: String,
    },
    /// Another process listens there.
    #[error("cannot listen on {address}: the port or name is taken; choose another or leave it out to get a free one")]
    InUse {
        /// The address asked for.
        address: Address,
    },
    /// An option contradicts another or names something that does not exist.
    #[error("invalid engine option: {0}")]
    Option(String),
    /// The operating system refused.
    #[error("cannot start an engine on {address}: {source}{}", listen_hint(address, source))]
    Io {
        /// The address asked for.
        address: Address,
        /// The reason.
        source: io::Error,
    },
}

/// What to do where the system's words do not say it.
fn listen_hint(address: &Address, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        io::ErrorKind::PermissionDenied if address.protocol() == "native+tcp" => {
            "; ports below 1024 are for privileged processes"
        }
        _ => "",
    }
}

/// As [`listen_hint`].
fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "; no server listens there now",
        _ => "",
    }
}

/// A protocol that this build does not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("protocol {protocol:?} is not available: {help}")]
pub struct UnsupportedProtocol {
    /// The protocol asked for.
    pub protocol: String,
    /// What to do.
    pub help: String,
}

/// Why a server could not be reached.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address text is not an address, or names no host and port.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The protocol is not part of this build.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedProtocol),
    /// The engine speaks another protocol.
    #[error("cannot reach {address}: this engine speaks {ours}; start one with the address's protocol")]
    OtherProtocol {
        /// The address asked for.
        address: Address,
        /// The engine's protocol.
        ours: String,
    },
    /// The host name is not known.
    #[error("cannot reach {address}: its host name cannot be resolved: {source}")]
    Resolve {
        /// The address asked for.
        address: Address,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// Nobody answers there.
    #[error("cannot reach {address}: {source}{}", connect_hint(source))]
    Unreachable {
        /// The address asked for.
        address: Address,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// Somebody answers who is not a compatible engine.
    #[error("{address} does not answer as an engine: {reason}")]
    Handshake {
        /// The address asked for.
        address: Address,
        /// What went wrong.
        reason: String,
    },
    /// No connection in time.
    #[error("cannot reach {address}: no connection within {after:?}")]
    Timeout {
        /// The address asked for.
        address: Address,
        /// The time waited.
        after: Duration,
    },
    /// The engine was shut down.
    #[error("the engine was shut down")]
    ShutDown,
}

/// Whose fault a failed call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blame {
    /// The caller misused the API.
    Caller,
    /// The network or the peer process is gone.
    Network,
    /// Time ran out; the request may or may not have had its effect.
    Time,
    /// The server is there and refused, failed or answered nonsense.
    Server,
}

/// Why a call did not return a result.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The arguments could not be encoded.
    #[error("arguments of {} cannot be encoded: {source}", RpcName(*name, *rpc))]
    Encode {
        /// The RPC.
        rpc: RpcId,
        /// Its name, if it was called by that.
        name: Option<&'static str>,
        /// The reason.
        source: EncodeError,
    },
    /// The arguments or the result are larger than a side accepts.
    #[error("message of {size} bytes exceeds the limit of {max} bytes")]
    TooLarge {
        /// Size in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A blocking wait on a thread that must make progress.
    #[error("blocking wait inside an asynchronous handler: await the call, or register the handler as blocking")]
    WouldDeadlock,
    /// The engine was shut down before the answer came.
    #[error("the engine was shut down while the call was in flight")]
    ShutDown,
    /// The call was cancelled by the server side.
    #[error("the call was cancelled")]
    Cancelled,
    /// No connection could be made.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// The connection ended while the call was in flight: it may or may not have had its effect.
    #[error("connection to {peer} lost: {reason}")]
    ConnectionLost {
        /// The peer.
        peer: Address,
        /// What happened.
        reason: String,
    },
    /// The deadline passed: the call may or may not have had its effect.
    #[error("no answer to {} from {peer} within {after:?}", RpcName(*name, *rpc))]
    DeadlineExceeded {
        /// The RPC.
        rpc: RpcId,
        /// Its name, if it was called by that.
        name: Option<&'static str>,
        /// The server.
        peer: Address,
        /// The time given.
        after: Duration,
    },
    /// The server has no such RPC at this provider.
    #[error("{peer} has no RPC {}{}", RpcName(*name, *rpc), At(*provider))]
    NoSuchRpc {
        /// The RPC.
        rpc: RpcId,
        /// Its name, if it was called by that.
        name: Option<&'static str>,
        /// The provider asked.
        provider: ProviderId,
        /// The server.
        peer: Address,
    },
    /// The server takes no more requests for now; trying later may help.
    #[error("{peer} is overloaded")]
    Overloaded {
        /// The server.
        peer: Address,
    },
    /// The server is going away.
    #[error("{peer} takes no new requests: it is shutting down")]
    PeerShuttingDown {
        /// The server.
        peer: Address,
    },
    /// The server could not decode the arguments.
    #[error("the server could not decode the arguments: {message}")]
    InvalidArguments {
        /// The server's words, or empty.
        message: String,
    },
    /// The server understood the request and refused it.
    #[error("the server refused the request: {message}")]
    Rejected {
        /// The server's words, or empty.
        message: String,
    },
    /// The handler returned an error or panicked.
    #[error("handler failed: {message}")]
    Handler {
        /// The handler's words, or empty.
        message: String,
    },
    /// A bulk transfer failed: seen as [`BulkError`](crate::bulk::BulkError), never by a call.
    #[error(transparent)]
    #[doc(hidden)]
    Transfer(TransferError),
    /// A status that this side does not know.
    #[error("the server answered with status {0}")]
    Status(i32),
    /// The result could not be decoded.
    #[error("result of {} cannot be decoded: {source}", RpcName(*name, *rpc))]
    Decode {
        /// The RPC.
        rpc: RpcId,
        /// Its name, if it was called by that.
        name: Option<&'static str>,
        /// The reason.
        source: DecodeError,
    },
    /// The response was too short for its status.
    #[error("response of {} is malformed", RpcName(*name, *rpc))]
    MalformedResponse {
        /// The RPC.
        rpc: RpcId,
        /// Its name, if it was called by that.
        name: Option<&'static str>,
    },
}

/// An RPC as people know it, or by its number where nobody gave a name.
struct RpcName(Option<&'static str>, RpcId);

impl fmt::Display for RpcName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "{name:?}"),
            None => self.1.fmt(f),
        }
    }
}

/// Where an RPC was looked for.
struct At(ProviderId);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ProviderId::DEFAULT => Ok(()),
            provider => write!(f, " at provider {provider}"),
        }
    }
}

impl CallError {
    /// The same of an RPC that was called by its name.
    pub(crate) fn named(mut self, rpc: &'static str) -> Self {
        if let CallError::Encode { name, .. }
        | CallError::DeadlineExceeded { name, .. }
        | CallError::NoSuchRpc { name, .. }
        | CallError::Decode { name, .. }
        | CallError::MalformedResponse { name, .. } = &mut self
        {
            *name = Some(rpc);
        }
        self
    }

    /// Whose fault it was.
    pub fn blame(&self) -> Blame {
        match self {
            CallError::Encode { .. }
            | CallError::TooLarge { .. }
            | CallError::WouldDeadlock
            | CallError::ShutDown
            | CallError::Cancelled => Blame::Caller,
            CallError::Unreachable(_) | CallError::ConnectionLost { .. } => Blame::Network,
            CallError::DeadlineExceeded { .. } => Blame::Time,
            _ => Blame::Server,
        }
    }
}

/// Why there is no such pool.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// This build has no Argobots.
    #[error("no Argobots pool {name:?}: Argobots is not linked; {}", mochi_sys::HOW_TO_INSTALL_ARGOBOTS)]
    NotLinked {
        /// The pool's name.
        name: String,
    },
    /// What was handed in is no pool.
    #[error("no Argobots pool {name:?}: the pool handed in is null, or nobody has called ABT_init")]
    NoPool {
        /// The pool's name.
        name: String,
    },
    /// Only one thread may push into the pool that was handed in.
    #[error("work is pushed into pool {name:?} from any thread: create it with ABT_POOL_ACCESS_MPMC")]
    Access {
        /// The pool's name.
        name: String,
    },
    /// Argobots or the system refused.
    #[error("cannot {what} for Argobots: {reason}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        reason: String,
    },
}

/// Why an RPC could not be registered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The same RPC is registered at this provider already.
    #[error("RPC {name:?} is already registered at provider {provider}")]
    Exists {
        /// The name.
        name: String,
        /// The provider.
        provider: ProviderId,
    },
    /// Another name has the same 32-bit hash, so that callers could not tell them apart.
    #[error("RPC {name:?} has the same id as {other:?}, which is registered at provider {provider}: rename one")]
    Collision {
        /// The new name.
        name: String,
        /// The name registered before.
        other: String,
        /// The provider.
        provider: ProviderId,
    },
    /// There is no pool of that name.
    #[error("no pool named {0:?}")]
    NoSuchPool(String),
    /// The engine was shut down.
    #[error("the engine was shut down")]
    ShutDown,
}

/// Why a handler failed: sent to the caller as text.
///
/// Made from any error or message by `?` or `into()`; like `anyhow::Error` it does not implement
/// [`std::error::Error`] itself.
pub struct HandlerError(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The status that starts every response: Margo's `hg_return_t`, of which only numbers that mean the same in all
/// Mercury releases are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) i32);

impl Status {
    pub(crate) const SUCCESS: Status = Status(0);
    /// Shutting down, as Margo answers while it finalizes.
    pub(crate) const PERMISSION: Status = Status(1);
    /// No such RPC or provider.
    pub(crate) const NOENTRY: Status = Status(2);
    /// The handler failed.
    pub(crate) const FAULT: Status = Status(7);
    /// Overloaded.
    pub(crate) const BUSY: Status = Status(8);
    /// The arguments could not be decoded.
    pub(crate) const INVALID_ARG: Status = Status(11);
    /// The message is too large.
    pub(crate) const MSGSIZE: Status = Status(14);
}

/// Longest error text sent with a status, in bytes.
pub(crate) const MESSAGE_MAX: usize = 1024;

//! Why a transfer moved nothing, or not everything.

use crate::address::Address;
use crate::error::{Blame, CallError, ConnectError};
use std::time::Duration;
use thiserror::Error;

/// Why the owner of a region refuses a transfer. Nothing was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
#[repr(u32)]
pub enum Refusal {
    /// The key was never given out.
    #[error("the owner never gave out this descriptor")]
    Forged = 1,
    /// The descriptor is one of another engine: of one that was here before and has ended, or of one elsewhere.
    #[error(
        "another engine gave out this descriptor: ask for a new one if it has ended, or use an endpoint of that engine"
    )]
    Stale = 2,
    /// The region was taken back, before the transfer or while it ran.
    #[error("the owner has taken the region back")]
    Revoked = 3,
    /// The range lies outside of the region.
    #[error("the range lies outside of the region")]
    OutOfBounds = 4,
    /// The region may not be used in this direction.
    #[error("the region is not exposed for this direction")]
    WrongDirection = 5,
    /// The owner serves too many transfers.
    #[error("the owner serves too many transfers; trying later may help")]
    Overloaded = 6,
    /// The owner is going away.
    #[error("the owner is shutting down")]
    ShuttingDown = 7,
}

impl Refusal {
    /// The number that stands for it on the wire; 0 stands for success.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The refusal behind a number of the wire.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Refusal::Forged,
            2 => Refusal::Stale,
            3 => Refusal::Revoked,
            4 => Refusal::OutOfBounds,
            5 => Refusal::WrongDirection,
            6 => Refusal::Overloaded,
            7 => Refusal::ShuttingDown,
            _ => return None,
        })
    }
}

/// How a transfer failed whose link lives on, in the words of a transport.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The owner of the remote region refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The local region was taken back while the transfer ran.
    #[error("the local region was taken back while the transfer ran")]
    LocalRevoked,
    /// The descriptor is one of another transport.
    #[error("the descriptor is one of another transport")]
    OtherTransport,
    /// The transport moves no bulk data.
    #[error("this transport has no bulk transfers")]
    Unsupported,
    /// What the transport itself reports.
    #[error("{0}")]
    Failed(String),
}

/// Why a region was not exposed, or a transfer not completed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum BulkError {
    /// Memory that cannot be written was to be exposed or used for writing.
    #[error("this memory cannot be written: expose it as read-only, or give memory of your own")]
    ReadOnlyMemory,
    /// The memory is larger than addresses can tell.
    #[error("the segments are larger in sum than memory can be")]
    TooLarge,
    /// The pool was made for no buffers.
    #[error("the pool has no buffers: make it with at least one")]
    EmptyPool,
    /// The range lies outside of the local region.
    #[error("range of {length} bytes from {offset} lies outside of the local region of {size} bytes")]
    LocalOutOfBounds {
        /// Where the range starts.
        offset: u64,
        /// Its length in bytes.
        length: u64,
        /// Size of the region in bytes.
        size: u64,
    },
    /// The two ends of a transfer differ in length.
    #[error("remote range of {remote} bytes and local range of {local} bytes differ: choose parts of the same length")]
    LengthMismatch {
        /// Length of the remote range in bytes.
        remote: u64,
        /// Length of the local range in bytes.
        local: u64,
    },
    /// The descriptor does not say where its owner is: the owner does not listen.
    #[error(
        "the descriptor names no address of its owner: use an endpoint of the owner, as `Request::endpoint` gives one"
    )]
    OwnerUnknown,
    /// The descriptor is one of another transport.
    #[error("the descriptor was made for another transport than that of {peer}")]
    OtherTransport {
        /// The peer asked.
        peer: Address,
    },
    /// The transport has no bulk transfers.
    #[error("the transport to {peer} has no bulk transfers: send the data as an argument")]
    Unsupported {
        /// The peer asked.
        peer: Address,
    },
    /// The owner of the remote region refused; nothing was moved, except by a transfer that was under way when the
    /// region was taken back.
    #[error("{peer} refused the transfer: {refusal}")]
    Refused {
        /// The owner.
        peer: Address,
        /// Its reason.
        refusal: Refusal,
    },
    /// The local region was taken back while the transfer ran.
    #[error("the local region was taken back while the transfer ran")]
    LocalRevoked,
    /// The deadline passed. Some of the data may have been moved.
    #[error("transfer not complete within {after:?}")]
    DeadlineExceeded {
        /// The time given.
        after: Duration,
    },
    /// No connection could be made.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// The connection ended while the transfer ran. Some of the data may have been moved.
    #[error("connection to {peer} lost during a transfer: {reason}")]
    ConnectionLost {
        /// The peer.
        peer: Address,
        /// What happened.
        reason: String,
    },
    /// A blocking wait on a thread that must make progress.
    #[error("blocking wait inside an asynchronous handler: await the transfer, or register the handler as blocking")]
    WouldDeadlock,
    /// The engine was shut down.
    #[error("the engine was shut down")]
    ShutDown,
    /// The transport failed.
    #[error("transfer with {peer} failed: {reason}")]
    Transport {
        /// The peer, or this engine for memory that could not be registered.
        peer: Address,
        /// What the transport reports.
        reason: String,
    },
}

impl BulkError {
    /// Why the owner refused, if it did.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            BulkError::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }

    /// Whose fault it was.
    pub fn blame(&self) -> Blame {
        match self {
            BulkError::Refused { .. } | BulkError::Transport { .. } | BulkError::Unsupported { .. } => Blame::Server,
            BulkError::Unreachable(_) | BulkError::ConnectionLost { .. } => Blame::Network,
            BulkError::DeadlineExceeded { .. } => Blame::Time,
            _ => Blame::Caller,
        }
    }

    pub(crate) fn from_transfer(error: TransferError, peer: &Address) -> Self {
        let peer = peer.clone();
        match error {
            TransferError::Refused(refusal) => BulkError::Refused { peer, refusal },
            TransferError::LocalRevoked => BulkError::LocalRevoked,
            TransferError::OtherTransport => BulkError::OtherTransport { peer },
            TransferError::Unsupported => BulkError::Unsupported { peer },
            TransferError::Failed(reason) => BulkError::Transport { peer, reason },
        }
    }

    /// What ended the call that a transfer is to the link.
    pub(crate) fn from_call(error: CallError, peer: &Address) -> Self {
        match error {
            CallError::Transfer(error) => Self::from_transfer(error, peer),
            CallError::DeadlineExceeded { after, .. } => BulkError::DeadlineExceeded { after },
            CallError::Unreachable(error) => BulkError::Unreachable(error),
            CallError::ConnectionLost { peer, reason } => BulkError::ConnectionLost { peer, reason },
            CallError::WouldDeadlock => BulkError::WouldDeadlock,
            CallError::ShutDown => BulkError::ShutDown,
            CallError::PeerShuttingDown { peer } => BulkError::Refused { peer, refusal: Refusal::ShuttingDown },
            CallError::Overloaded { peer } => BulkError::Refused { peer, refusal: Refusal::Overloaded },
            other => BulkError::Transport { peer: peer.clone(), reason: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_wire_stand_for_one_refusal_each() {
        assert_eq!(Refusal::from_code(0), None);
        for code in 1..=7 {
            assert_eq!(Refusal::from_code(code).map(Refusal::code), Some(code));
        }
        assert_eq!(Refusal::from_code(8), None);
    }
}

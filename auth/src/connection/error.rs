//! What a client learns when something fails.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use margo_rs::{Blame, ConnectError, ProviderId};

use crate::clock::NoRandom;
use crate::mechanism::MechanismError;
use crate::mechanism::peer_credentials::PeerRefused;
use crate::protocol::client::HandshakeError;
use crate::session;

/// An RPC as its caller names it: `greet`, or `greet@7` of provider 7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RpcName {
    /// Its name.
    pub name: &'static str,
    /// Its provider.
    pub provider: ProviderId,
}

impl fmt::Display for RpcName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if self.provider == ProviderId::DEFAULT { Ok(()) } else { write!(f, "@{}", self.provider) }
    }
}

/// Why there is no session. Nothing that was to be called in it was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The handshake's own call failed. What its words say is not proven.
    #[error("handshake with {peer} failed: {source}")]
    Call {
        /// The server.
        peer: margo_rs::Address,
        /// The reason.
        source: Box<margo_rs::CallError>,
    },
    /// The server does not take part in this protocol.
    #[error("{0} does not authenticate callers; call it without a session, or check the address")]
    NotAuthenticating(margo_rs::Address),
    /// The server said NO. It tells nobody why; its audit log does.
    #[error(
        "{0} refused the handshake: it does not accept this user or mechanism, or is another server than was meant \
             (check the expected server uid and the service name; its audit log has the reason)"
    )]
    Refused(margo_rs::Address),
    /// The server knows only another version of the protocol.
    #[error("{0} speaks another version of the protocol")]
    Version(margo_rs::Address),
    /// No session in time.
    #[error("no session with {peer} within {after:?}")]
    Timeout {
        /// The server.
        peer: margo_rs::Address,
        /// The time given.
        after: Duration,
    },
    /// The mechanism gave no proof of this user: a daemon that is not there, for one.
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    /// The server is not the one that was meant, or somebody changed a message.
    #[error("{peer} did not prove who it is: {source}")]
    Server {
        /// Who answered.
        peer: margo_rs::Address,
        /// The reason.
        source: HandshakeError,
    },
    /// An option cannot be.
    #[error("invalid option {option}: {reason}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// The system gave no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The connection was closed by this program.
    #[error("the connection was closed")]
    Closed,
}

impl OpenError {
    /// Whose fault it was, as [`margo_rs::CallError::blame`] says it. This side's own daemon, key file or option is the
    /// caller's.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Connect(_) => Blame::Network,
            Self::Call { source, .. } => source.blame(),
            Self::NotAuthenticating(_) | Self::Refused(_) | Self::Version(_) | Self::Server { .. } => Blame::Server,
            Self::Timeout { .. } => Blame::Time,
            // The kernel says that somebody else serves there.
            Self::Mechanism(MechanismError::PeerCredentials(PeerRefused::OtherServer { .. })) => Blame::Server,
            Self::Mechanism(MechanismError::External(error)) if error.is::<ConnectError>() => Blame::Network,
            Self::Mechanism(_) | Self::Option { .. } | Self::Random(_) | Self::Closed => Blame::Caller,
        }
    }
}

/// Why an authenticated call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no session to call in, and none could be made. The call was not sent.
    #[error(transparent)]
    NoSession(Arc<OpenError>),
    /// The layer below failed: a deadline, a lost connection. Nothing of what it says about the server is proven.
    #[error(transparent)]
    Transport(#[from] margo_rs::CallError),
    /// The server no longer knows the session, or somebody says so in its place. The call may or may not have had its
    /// effect; it is not sent again. The next call makes a new session.
    #[error("the session with {0} is gone; the call may or may not have been served")]
    SessionLost(margo_rs::Address),
    /// The answer is not the server's answer to this call. The call may or may not have had its effect.
    #[error("the answer to {rpc} was tampered with: {source}")]
    Tampered {
        /// The RPC.
        rpc: RpcName,
        /// What is wrong with it.
        source: session::ReplyRefused,
    },
    /// This user may not call this.
    #[error("not allowed to call {0}")]
    Denied(RpcName),
    /// Too many calls are in flight in this session; the call was not served.
    #[error("the server is busy; try again after {retry_after:?}")]
    Busy {
        /// The server's advice.
        retry_after: Duration,
    },
    /// The arguments or the result are longer than the session's limit.
    #[error("arguments or result of {rpc} are longer than the {max} bytes of this session")]
    TooLarge {
        /// The RPC.
        rpc: RpcName,
        /// The limit.
        max: u32,
    },
    /// The server has no such RPC.
    #[error("no RPC {0} here")]
    NoSuchRpc(RpcName),
    /// The session ended before the call was sent; the next call makes a new one.
    #[error("the session ended before the call was sent; call again")]
    SessionEnded,
    /// The arguments could not be encoded.
    #[error("arguments of {rpc} cannot be encoded: {source}")]
    Encode {
        /// The RPC.
        rpc: RpcName,
        /// The reason.
        source: margo_rs::codec::EncodeError,
    },
    /// The server could not decode the arguments.
    #[error("the server could not decode the arguments: {0}")]
    InvalidArguments(String),
    /// The handler failed; these are its own words.
    #[error("handler failed: {0}")]
    Handler(String),
    /// The handler panicked or gave no answer.
    #[error("{0}")]
    NoAnswer(String),
    /// The result could not be decoded.
    #[error("result of {rpc} cannot be decoded: {source}")]
    Decode {
        /// The RPC.
        rpc: RpcName,
        /// The reason.
        source: margo_rs::codec::DecodeError,
    },
    /// The connection was closed by this program.
    #[error("the connection was closed")]
    Closed,
}

impl CallError {
    /// Whose fault it was, as [`margo_rs::CallError::blame`] says it. An answer that is not the server's is the network's.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NoSession(error) => error.blame(),
            Self::Transport(error) => error.blame(),
            Self::TooLarge { .. } | Self::Encode { .. } | Self::Closed => Blame::Caller,
            Self::Tampered { .. } => Blame::Network,
            Self::SessionLost(_)
            | Self::Denied(_)
            | Self::Busy { .. }
            | Self::NoSuchRpc(_)
            | Self::SessionEnded
            | Self::InvalidArguments(_)
            | Self::Handler(_)
            | Self::NoAnswer(_)
            | Self::Decode { .. } => Blame::Server,
        }
    }

    /// Whether the call has certainly had no effect, so that making it again repeats nothing.
    pub fn had_no_effect(&self) -> bool {
        match self {
            Self::NoSession(_)
            | Self::Denied(_)
            | Self::Busy { .. }
            | Self::NoSuchRpc(_)
            | Self::SessionEnded
            | Self::Encode { .. }
            | Self::InvalidArguments(_)
            | Self::Closed => true,
            Self::Transport(error) => matches!(error, margo_rs::CallError::Unreachable(_)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// As the plain call's error of the same meaning.
    #[test]
    fn blame_means_what_it_means_in_a_plain_call() {
        let address = || "native+tcp://127.0.0.1:1".parse::<margo_rs::Address>().expect("an address");
        let rpc = RpcName { name: "greet", provider: ProviderId::DEFAULT };
        let unreachable =
            || ConnectError::Unreachable { address: address(), source: Arc::new(io::ErrorKind::NotFound.into()) };
        let opening = [
            (OpenError::Connect(unreachable()), Blame::Network),
            (OpenError::Refused(address()), Blame::Server),
            (OpenError::NotAuthenticating(address()), Blame::Server),
            (OpenError::Timeout { peer: address(), after: Duration::ZERO }, Blame::Time),
            (OpenError::Mechanism(MechanismError::Random), Blame::Caller),
            (OpenError::Mechanism(MechanismError::External(Box::new(unreachable()))), Blame::Network),
            (OpenError::Mechanism(PeerRefused::OtherServer { found: 1, expected: 2 }.into()), Blame::Server),
            (OpenError::Option { option: "suites", reason: "name at least one" }, Blame::Caller),
            (
                OpenError::Call { peer: address(), source: Box::new(margo_rs::CallError::ShutDown) },
                margo_rs::CallError::ShutDown.blame(),
            ),
        ];
        for (error, blame) in opening {
            assert_eq!(error.blame(), blame, "{error}");
            assert_eq!(CallError::NoSession(Arc::new(error)).blame(), blame);
        }
        let late = margo_rs::CallError::DeadlineExceeded {
            rpc: margo_rs::RpcId::new("greet", ProviderId::DEFAULT),
            name: Some("greet"),
            peer: address(),
            after: Duration::ZERO,
        };
        let calling = [
            (CallError::Transport(late), Blame::Time),
            (CallError::Transport(unreachable().into()), Blame::Network),
            (CallError::SessionLost(address()), Blame::Server),
            (CallError::Tampered { rpc, source: session::ReplyRefused::OtherCall }, Blame::Network),
            (CallError::Denied(rpc), Blame::Server),
            (CallError::Busy { retry_after: Duration::ZERO }, Blame::Server),
            (CallError::TooLarge { rpc, max: 1 }, margo_rs::CallError::TooLarge { size: 2, max: 1 }.blame()),
            (CallError::Handler("no luck".to_owned()), Blame::Server),
            (CallError::Closed, Blame::Caller),
        ];
        for (error, blame) in calling {
            assert_eq!(error.blame(), blame, "{error}");
        }
    }
}

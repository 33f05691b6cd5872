//! Mechanisms: how a client proves who it is, and what proves the server to it.
//!
//! A mechanism is two traits, [`Initiator`] on the client and [`Acceptor`] on the server. Their calls may ask a daemon
//! and so are futures; the handshake around them ([`protocol`](crate::protocol)) is pure.
//!
//! * [`munge`]: a credential with a payload, restricted to the server's uid (feature `munge`).
//! * [`key_file`]: a key that both ends have in a file.
//! * [`peer_credentials`]: what the kernel says about the peer of a Unix socket.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::Identity;
use crate::protocol::client::Answered;
use crate::protocol::server::{Claim, Verified};
use crate::protocol::{MechanismId, ProofTranscript, Psk, Th1};

pub mod key_file;
#[cfg(feature = "munge")]
pub mod munge;
pub mod peer_credentials;

use peer_credentials::{PeerCredentials, ServerUser};

/// A future of a mechanism.
pub type Step<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who was proven, and by what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// The mechanism that proved it.
    pub mechanism: MechanismId,
    /// Uid and gid.
    pub identity: Identity,
    /// A name of the mechanism's own (a Kerberos principal, a URI), if it has one.
    pub name: Option<Box<str>>,
}

/// What a handshake proves a server to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ServerIdentity {
    /// A process of this uid: only that could read the secret in a MUNGE credential (and, in the realm, whoever has munged's
    /// key), or the kernel says so.
    User(u32),
    /// A holder of this key, whoever that is.
    Key(key_file::KeyId),
}

/// As `uid 2003` or `key 0123…`.
impl fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Key(id) => write!(f, "key {id}"),
        }
    }
}

/// The server's token. A proof over the transcript, of a length known before, is at its end.
#[derive(Clone, Default)]
pub struct ReplyToken {
    /// What comes before the proof.
    pub head: Vec<u8>,
    /// Bytes of the proof; 0 where Finished proves the server.
    pub proof_len: usize,
}

/// What proves the server to the client, besides Finished.
///
/// ```compile_fail,E0451
/// use mochi_auth::mechanism::{ServerProof, peer_credentials::ServerUser};
/// let forged = ServerProof::Kernel(ServerUser { uid: 0 }); // only a check makes one
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerProof {
    /// Only the right server knows the mechanism's secret, so Finished is the proof. Refused when there was no secret.
    SharedSecret,
    /// The kernel says that the server is of the expected uid.
    Kernel(ServerUser),
    /// The token ends with a proof of this length that was found to be the server's over this transcript.
    Token {
        /// What the proof was checked against.
        over: ProofTranscript,
        /// Its length.
        proof_len: usize,
    },
}

/// A client's token, and the secret that goes with it.
pub struct ClientToken {
    /// The bytes for HELLO.
    pub token: Vec<u8>,
    /// For the key schedule.
    pub psk: Psk,
}

/// A mechanism refused or failed; for the local log only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MechanismError {
    /// MUNGE.
    #[cfg(feature = "munge")]
    #[error(transparent)]
    Munge(#[from] munge::MungeRefused),
    /// A key file.
    #[error(transparent)]
    KeyFile(#[from] key_file::KeyRefused),
    /// Peer credentials.
    #[error(transparent)]
    PeerCredentials(#[from] peer_credentials::PeerRefused),
    /// The token is of another mechanism than this one.
    #[error("token of mechanism {0:?} given to another mechanism")]
    Other(MechanismId),
    /// The system gave no random bytes.
    #[error("no random bytes from the system")]
    Random,
    /// A mechanism from outside of this crate.
    #[error("{0}")]
    External(Box<dyn std::error::Error + Send + Sync>),
}

/// The client's side of a mechanism.
pub trait Initiator: Send + Sync {
    /// Which one it is.
    fn id(&self) -> MechanismId;

    /// Makes a token bound to `th1`.
    ///
    /// `random` is 32 fresh random bytes of this handshake alone, to be wiped by the caller; MUNGE's `m` is made of them.
    fn token<'a>(&'a self, th1: Th1, random: &'a [u8; 32]) -> Step<'a, Result<ClientToken, MechanismError>>;

    /// Checks what the server sent, besides Finished.
    fn check_server<'a>(&'a self, answered: &'a Answered) -> Step<'a, Result<ServerProof, MechanismError>>;

    /// Who the server is proven to be by a handshake that [`check_server`](Self::check_server) let through and whose Finished
    /// was good; asked only after one. `None`: a server that the mechanism has no such name for.
    fn server(&self) -> Option<ServerIdentity> {
        None
    }
}

/// The server's side of a mechanism.
pub trait Acceptor: Send + Sync {
    /// Which one it is.
    fn id(&self) -> MechanismId;

    /// Checks a token. `peer` is what the kernel says about the connection, where it says something.
    fn verify(&self, claim: Claim, peer: Option<PeerCredentials>) -> Step<'_, Result<Verified, MechanismError>>;

    /// Whether `verify` computes nothing before it has handed its work to somebody else, whom it then waits for: a daemon,
    /// another thread. It is begun as soon as the request arrives then, on the engine's progress thread; any other on a pool.
    fn waits(&self) -> bool {
        false
    }

    /// Makes the proof that [`ReplyToken::proof_len`] announced. Most mechanisms have none.
    fn prove(&self, _over: ProofTranscript) -> Step<'_, Result<Vec<u8>, MechanismError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

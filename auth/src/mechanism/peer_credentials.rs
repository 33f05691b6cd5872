//! Peer credentials: the kernel's word on who connected, or listened, on a Unix socket (`SO_PEERCRED`, unix(7)).
//!
//! They are those of the time of connect(2) or listen(2), and say nothing about who holds the socket now: a session made
//! with them is to be bound to its connection.

use std::future::ready;
use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};

use super::{Acceptor, ClientToken, Initiator, MechanismError, Principal, ServerIdentity, ServerProof, Step};
use crate::Identity;
use crate::protocol::client::Answered;
use crate::protocol::server::{Claim, Verified};
use crate::protocol::{MechanismId, Psk, Th1};

/// What the kernel shows for users that this user namespace does not map; two of them look the same.
pub const OVERFLOW_ID: u32 = 65534;

/// Why peer credentials gave no proof. For the local log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// The connection is no Unix socket, or the transport did not say.
    #[error("no peer credentials: the connection is not a Unix socket")]
    None,
    /// The uid or gid stands for any user that is not mapped here.
    #[error("peer has the overflow id 65534: its user is not mapped in this user namespace")]
    Overflow,
    /// This mechanism has no token.
    #[error("unexpected token of {0} bytes")]
    Token(usize),
    /// The server runs under another uid than was expected.
    #[error("the server's socket belongs to uid {found}, not to uid {expected}; check who serves it")]
    OtherServer {
        /// Who it is.
        found: u32,
        /// Who was meant.
        expected: u32,
    },
}

/// What the kernel says about the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCredentials {
    uid: u32,
    gid: u32,
}

impl PeerCredentials {
    /// Asks the kernel about a connected Unix socket.
    ///
    /// Not through rustix: the kernel gives process id 0 for a peer of another PID namespace, which is no value of the type
    /// that rustix has for it.
    ///
    /// # Errors
    /// When it is not one.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid() })
    }

    /// As a transport that asked the kernel by itself reports them.
    pub fn from_kernel(uid: u32, gid: u32) -> Self {
        Self { uid, gid }
    }

    /// The user and group, when they are somebody.
    ///
    /// # Errors
    /// For the overflow id and for -1, which are nobody in particular.
    pub fn identity(&self) -> Result<Identity, PeerRefused> {
        let nobody = |id: u32| id == OVERFLOW_ID || id == u32::MAX;
        if nobody(self.uid) || nobody(self.gid) {
            return Err(PeerRefused::Overflow);
        }
        Ok(Identity { uid: self.uid, gid: self.gid })
    }

    /// Proof for a client that the server is of this uid.
    ///
    /// # Errors
    /// When it is not, or is nobody in particular.
    pub fn check_server(&self, expected: u32) -> Result<ServerUser, PeerRefused> {
        let found = self.identity()?.uid;
        if found == expected {
            Ok(ServerUser { uid: found })
        } else {
            Err(PeerRefused::OtherServer { found, expected })
        }
    }
}

/// A server whose uid was checked; made by [`PeerCredentials::check_server`] alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerUser {
    uid: u32,
}

impl ServerUser {
    /// The uid.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

/// The client's side, for one connection.
#[derive(Clone, Copy, Debug)]
pub struct PeerInitiator {
    server: ServerUser,
}

impl PeerInitiator {
    /// Over a connection whose server was checked.
    pub fn new(server: ServerUser) -> Self {
        Self { server }
    }
}

impl Initiator for PeerInitiator {
    fn id(&self) -> MechanismId {
        MechanismId::PeerCredentials
    }

    fn token<'a>(&'a self, _: Th1, _: &'a [u8; 32]) -> Step<'a, Result<ClientToken, MechanismError>> {
        Box::pin(ready(Ok(ClientToken { token: Vec::new(), psk: Psk::none() })))
    }

    fn check_server<'a>(&'a self, _: &'a Answered) -> Step<'a, Result<ServerProof, MechanismError>> {
        Box::pin(ready(Ok(ServerProof::Kernel(self.server))))
    }

    fn server(&self) -> Option<ServerIdentity> {
        Some(ServerIdentity::User(self.server.uid()))
    }
}

/// The server's side.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerAcceptor;

impl PeerAcceptor {
    fn check(claim: Claim, peer: Option<PeerCredentials>) -> Result<Verified, PeerRefused> {
        let identity = peer.ok_or(PeerRefused::None)?.identity()?;
        if !claim.token().is_empty() {
            return Err(PeerRefused::Token(claim.token().len()));
        }
        let principal = Principal { mechanism: MechanismId::PeerCredentials, identity, name: None };
        Ok(claim.verified(principal, Psk::none()))
    }
}

impl Acceptor for PeerAcceptor {
    fn id(&self) -> MechanismId {
        MechanismId::PeerCredentials
    }

    fn verify(&self, claim: Claim, peer: Option<PeerCredentials>) -> Step<'_, Result<Verified, MechanismError>> {
        Box::pin(ready(match claim.mechanism() {
            MechanismId::PeerCredentials => Self::check(claim, peer).map_err(MechanismError::from),
            other => Err(MechanismError::Other(other)),
        }))
    }
}

#[cfg(test)]
#[path = "peer_credentials_tests.rs"]
mod tests;

//! The kernel's word on the server of an endpoint.

use std::future::ready;

use margo_rs::Endpoint;

use crate::mechanism::peer_credentials::{PeerCredentials, PeerRefused};
use crate::mechanism::{ClientToken, Initiator, MechanismError, ServerIdentity, ServerProof, Step};
use crate::protocol::client::Answered;
use crate::protocol::{MechanismId, Psk, Th1};

/// As [`PeerInitiator`](crate::mechanism::peer_credentials::PeerInitiator), for whichever connection stands when a
/// handshake is made.
pub(super) struct EndpointInitiator {
    endpoint: Endpoint,
    expected: u32,
}

impl EndpointInitiator {
    pub(super) fn new(endpoint: Endpoint, expected: u32) -> Self {
        Self { endpoint, expected }
    }

    fn prove(&self) -> Result<ServerProof, PeerRefused> {
        let peer = self.endpoint.peer_credentials().ok_or(PeerRefused::None)?;
        PeerCredentials::from_kernel(peer.uid, peer.gid).check_server(self.expected).map(ServerProof::Kernel)
    }
}

impl Initiator for EndpointInitiator {
    fn id(&self) -> MechanismId {
        MechanismId::PeerCredentials
    }

    /// Nothing is sent to a server of another user.
    fn token<'a>(&'a self, _: Th1, _: &'a [u8; 32]) -> Step<'a, Result<ClientToken, MechanismError>> {
        Box::pin(async {
            // The kernel has something to say about a connection that stands; a handshake would make one only later.
            let connected = self.endpoint.connect().await;
            connected.map_err(|error| MechanismError::External(Box::new(error)))?;
            self.prove()?;
            Ok(ClientToken { token: Vec::new(), psk: Psk::none() })
        })
    }

    fn check_server<'a>(&'a self, _: &'a Answered) -> Step<'a, Result<ServerProof, MechanismError>> {
        Box::pin(ready(self.prove().map_err(MechanismError::from)))
    }

    fn server(&self) -> Option<ServerIdentity> {
        Some(ServerIdentity::User(self.expected))
    }
}

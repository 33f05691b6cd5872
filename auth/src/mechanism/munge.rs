//! MUNGE: the client's credential carries 65 bytes (0x01, TH1, a random `m`) and is restricted to the server's uid, so
//! only a process of that uid learns `m`, which the key schedule needs beside X25519.

use std::time::Duration;

use subtle::ConstantTimeEq;

use super::{Acceptor, ClientToken, Initiator, MechanismError, Principal, ServerIdentity, ServerProof, Step};
use crate::Identity;
use crate::mechanism::peer_credentials::PeerCredentials;
use crate::munge::{Cipher, Decoded, EncodeOptions, Metadata, Munge, MungeError, Payload};
use crate::protocol::client::Answered;
use crate::protocol::server::{Claim, Verified};
use crate::protocol::{MechanismId, Psk, Secret, Th1};

/// Bytes of a credential's payload: 0x01, TH1, `m`.
pub const PAYLOAD_LEN: usize = 65;
/// The first byte of the payload: another service's credential does not have it by accident.
const PURPOSE: u8 = 1;
/// How long a credential is good.
const TTL: Duration = Duration::from_secs(30);

/// Why MUNGE gave no proof. For the local log only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MungeRefused {
    /// libmunge or munged, or the form of the credential.
    #[error(transparent)]
    Munge(#[from] MungeError),
    /// The payload is not one of this protocol.
    #[error("MUNGE payload of {0} bytes is not one of this protocol")]
    Payload(usize),
    /// The credential is bound to another HELLO.
    #[error("MUNGE credential belongs to another HELLO")]
    OtherTranscript,
    /// The credential is not restricted, so that others of the realm can read its secret.
    #[error("MUNGE credential has no uid restriction")]
    Unrestricted,
    /// The credential is restricted to another uid.
    #[error("MUNGE credential is restricted to uid {0}, not to this server")]
    OtherUid(u32),
    /// The credential is not encrypted.
    #[error("MUNGE credential is not encrypted; set a cipher in munged's configuration")]
    Unencrypted,
    /// The start-up test: munged let a wrong uid decode a credential.
    #[error("munged does not enforce uid restrictions; do not use it")]
    RestrictionNotEnforced,
}

/// The client's side.
#[derive(Debug)]
pub struct MungeInitiator {
    munge: Munge,
    server_uid: u32,
}

impl MungeInitiator {
    /// Makes credentials that only `server_uid` can decode. What a server claims to be has no part in it.
    pub fn new(munge: Munge, server_uid: u32) -> Self {
        Self { munge, server_uid }
    }
}

impl Initiator for MungeInitiator {
    fn id(&self) -> MechanismId {
        MechanismId::Munge
    }

    fn token<'a>(&'a self, th1: Th1, random: &'a [u8; 32]) -> Step<'a, Result<ClientToken, MechanismError>> {
        Box::pin(async move {
            let options = EncodeOptions::new().payload(payload(&th1, random)).ttl(TTL).restrict_uid(self.server_uid);
            let credential = self.munge.encode(options).await.map_err(MungeRefused::from)?;
            let psk = Psk::shared(Secret::new(|secret| secret.copy_from_slice(random)));
            Ok(ClientToken { token: credential.as_str().as_bytes().to_vec(), psk })
        })
    }

    fn check_server<'a>(&'a self, _: &'a Answered) -> Step<'a, Result<ServerProof, MechanismError>> {
        Box::pin(std::future::ready(Ok(ServerProof::SharedSecret)))
    }

    fn server(&self) -> Option<ServerIdentity> {
        Some(ServerIdentity::User(self.server_uid))
    }
}

/// The server's side.
#[derive(Debug)]
pub struct MungeAcceptor {
    munge: Munge,
    own_uid: u32,
}

impl MungeAcceptor {
    /// Takes credentials that are restricted to this process's effective uid.
    pub fn new(munge: Munge) -> Self {
        Self { munge, own_uid: Identity::own().uid }
    }

    /// Checks at start that munged enforces restrictions: it must refuse us a credential for another uid.
    ///
    /// # Errors
    /// When it does not, or cannot be asked.
    pub async fn self_test(&self) -> Result<(), MungeRefused> {
        let other = self.own_uid.wrapping_add(1) % (u32::MAX - 1);
        let credential = self.munge.encode(EncodeOptions::new().ttl(TTL).restrict_uid(other)).await?;
        match self.munge.decode(&credential).await {
            Ok(_) => Err(MungeRefused::RestrictionNotEnforced),
            Err(error) if error.status() == Some(18) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Acceptor for MungeAcceptor {
    fn id(&self) -> MechanismId {
        MechanismId::Munge
    }

    fn waits(&self) -> bool {
        true
    }

    fn verify(&self, claim: Claim, _: Option<PeerCredentials>) -> Step<'_, Result<Verified, MechanismError>> {
        Box::pin(async move {
            if claim.mechanism() != MechanismId::Munge {
                return Err(MechanismError::Other(claim.mechanism()));
            }
            // Only status 0 gives a `Decoded`: expired, rewound and replayed credentials are errors.
            let decoded: Decoded = self.munge.decode(claim.token()).await.map_err(MungeRefused::from)?;
            Ok(check(claim, decoded.metadata(), decoded.payload(), self.own_uid)?)
        })
    }
}

fn payload(th1: &Th1, m: &[u8; 32]) -> Payload {
    let mut bytes = Vec::with_capacity(PAYLOAD_LEN); // of the right size: no copy is left unwiped
    bytes.push(PURPOSE);
    bytes.extend_from_slice(th1.as_bytes());
    bytes.extend_from_slice(m);
    Payload::from(bytes)
}

/// The checks of a credential that munged found valid, fresh and first.
fn check(claim: Claim, metadata: &Metadata, payload: &[u8], own_uid: u32) -> Result<Verified, MungeRefused> {
    match metadata.uid_restriction {
        None => return Err(MungeRefused::Unrestricted),
        Some(uid) if uid != own_uid => return Err(MungeRefused::OtherUid(uid)),
        Some(_) => {}
    }
    if metadata.cipher == Cipher::NONE {
        return Err(MungeRefused::Unencrypted);
    }
    let wrong = || MungeRefused::Payload(payload.len());
    let payload: &[u8; PAYLOAD_LEN] = payload.try_into().map_err(|_| wrong())?;
    if payload[0] != PURPOSE {
        return Err(wrong());
    }
    if !bool::from(payload[1..33].ct_eq(claim.th1().as_bytes())) {
        return Err(MungeRefused::OtherTranscript);
    }
    let m = Secret::from_slice(&payload[33..]).expect("65 bytes less 33");
    let principal = Principal { mechanism: MechanismId::Munge, identity: metadata.identity, name: None };
    Ok(claim.verified(principal, Psk::shared(m)))
}

#[cfg(test)]
#[path = "munge_tests.rs"]
mod tests;

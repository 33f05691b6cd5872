//! The key schedule: each step takes the one before by value, and only a checked Finished leads to traffic keys.

use ring::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use ring::rand::SecureRandom;

use super::kdf::{expand_label, extract, mac};
use super::secret::Secret;
use super::transcript::{Th2, Th3};

/// An X25519 key pair for one handshake, made outside and taken in by value.
pub struct Ephemeral {
    private: EphemeralPrivateKey,
    public: [u8; 32],
}

impl Ephemeral {
    /// A fresh pair, or `None` when the system gave no random bytes.
    pub fn generate(random: &dyn SecureRandom) -> Option<Self> {
        let private = EphemeralPrivateKey::generate(&X25519, random).ok()?;
        let public = private.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { private, public })
    }

    /// What is sent to the peer.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public
    }

    /// Agrees with the peer's public key: the costly part, which needs nothing that the mechanism brings.
    ///
    /// # Errors
    /// For points of low order: ring refuses an all-zero result.
    pub fn agree(self, peer: &[u8; 32]) -> Result<Agreed, LowOrderPoint> {
        let Self { private, public } = self;
        let shared = |shared: &[u8]| Secret::new(|secret: &mut [u8; 32]| secret.copy_from_slice(shared));
        let shared = agreement::agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, peer), shared);
        Ok(Agreed { own: public, peer: *peer, shared: shared.map_err(|_| LowOrderPoint)? })
    }
}

/// What X25519 gave for our key pair and the peer's public key. It proves nothing: anybody can get so far.
pub struct Agreed {
    own: [u8; 32],
    peer: [u8; 32],
    shared: Secret<32>,
}

impl Agreed {
    /// Our public key.
    pub fn own(&self) -> &[u8; 32] {
        &self.own
    }

    /// The peer's.
    pub fn peer(&self) -> &[u8; 32] {
        &self.peer
    }
}

/// A secret that the mechanism brought beside X25519: MUNGE's `m`, the key of a key file, or none.
pub struct Psk(Option<Secret<32>>);

impl Psk {
    /// The mechanism shares no secret: 32 zero bytes go into the schedule, and Finished alone does not prove the server.
    pub fn none() -> Self {
        Self(None)
    }

    /// A secret that only the two ends can know.
    pub fn shared(secret: Secret<32>) -> Self {
        Self(Some(secret))
    }

    /// Whether knowing the keys proves that the peer knew the mechanism's secret.
    pub fn is_shared(&self) -> bool {
        self.0.is_some()
    }
}

/// The peer's public key gave an all-zero secret: a point of low order, which no honest peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowOrderPoint;

/// The server's Finished is not the one of this transcript and these secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongFinished;

/// `hs`: both the mechanism's secret and X25519 are in it.
pub struct HandshakeSecret(Secret<32>);

/// What a session is made of. Only [`HandshakeSecret::finish`] and [`HandshakeSecret::verify`] make one.
pub struct SessionSecrets {
    /// `c2s_0`: requests.
    pub(crate) client_to_server: Secret<32>,
    /// `s2c_0`: replies.
    pub(crate) server_to_client: Secret<32>,
    /// `exp`.
    pub(crate) exporter: Secret<32>,
}

impl HandshakeSecret {
    /// Mixes both secrets.
    pub fn mix(psk: &Psk, agreed: Agreed) -> Self {
        let none = [0; 32];
        let early = extract(b"hgrpc1", psk.0.as_ref().map_or(none.as_slice(), |secret| secret.expose()));
        let salt: Secret<32> = expand_label(&early, "derived", b"");
        Self(extract(salt.expose(), agreed.shared.expose()))
    }

    fn finished(&self, th2: &Th2) -> Secret<32> {
        let key: Secret<32> = expand_label(&self.0, "s finished", th2.as_bytes());
        mac(key.expose(), &[th2.as_bytes()])
    }

    /// The server's end of the handshake: Finished to send, and the session's secrets.
    pub fn finish(self, th2: &Th2) -> ([u8; 32], SessionSecrets) {
        let finished = *self.finished(th2).expose();
        (finished, self.derive(&Th3::of(th2, &finished)))
    }

    /// The client's end: the session's secrets only for the right Finished, compared in constant time.
    ///
    /// # Errors
    /// When the server does not hold the same secrets or saw another transcript.
    pub fn verify(self, th2: &Th2, finished: &[u8; 32]) -> Result<SessionSecrets, WrongFinished> {
        if self.finished(th2).same(finished) { Ok(self.derive(&Th3::of(th2, finished))) } else { Err(WrongFinished) }
    }

    fn derive(self, th3: &Th3) -> SessionSecrets {
        let salt: Secret<32> = expand_label(&self.0, "derived", b"");
        let master = extract(salt.expose(), &[0; 32]);
        let label = |label| expand_label(&master, label, th3.as_bytes());
        SessionSecrets {
            client_to_server: label("c2s traffic"),
            server_to_client: label("s2c traffic"),
            exporter: label("exporter"),
        }
    }
}

/// A traffic secret of one direction and epoch.
pub(crate) struct Traffic(Secret<32>);

impl Traffic {
    pub(crate) fn new(secret: Secret<32>) -> Self {
        Self(secret)
    }

    pub(crate) fn key(&self) -> Secret<32> {
        expand_label(&self.0, "key", b"")
    }

    pub(crate) fn iv(&self) -> Secret<12> {
        expand_label(&self.0, "iv", b"")
    }

    /// The next epoch's. The caller drops, and so wipes, this one when nothing needs it any more.
    pub(crate) fn next(&self) -> Self {
        Self(expand_label(&self.0, "traffic upd", b""))
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;

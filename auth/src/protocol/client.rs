//! The client's side of a handshake: [`Begun`] -> the mechanism's token -> [`Sent`] -> [`Answered`] -> the mechanism's
//! [`ServerProof`] -> [`Session`].

use super::hello::{HelloDraft, HelloFields, SUITES_MAX, SuiteOffer};
use super::hello_reply::{HelloReply, Terms};
use super::ids::{MechanismId, Protection, ServerId, SessionId, Suite};
use super::parse::ParseError;
use super::schedule::{Ephemeral, HandshakeSecret, Psk, SessionSecrets};
use super::transcript::{ProofTranscript, Th1};
use crate::mechanism::ServerProof;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The server that is meant.
    pub server: ServerId,
    /// How the client proves who it is.
    pub mechanism: MechanismId,
    /// Suites, 1 to [`SUITES_MAX`], each once.
    pub suites: &'a [Suite],
    /// What is to be done to bodies.
    pub protection: Protection,
    /// Of a RETRY before.
    pub cookie: Option<[u8; 16]>,
    /// The wall clock, ms since 1970.
    pub client_time_ms: u64,
}

/// Why a handshake did not lead to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The offer names no suite, too many, or one twice.
    #[error("offer 1 to 8 different cipher suites")]
    Offer,
    /// The mechanism's token does not fit in a HELLO.
    #[error("the mechanism's token of {0} bytes is too long for a HELLO")]
    TokenTooLong(usize),
    /// The answer is malformed.
    #[error("malformed answer: {0}; is it a server of this protocol?")]
    Malformed(#[from] ParseError),
    /// The server chose a suite that was not offered.
    #[error("the server chose cipher suite {0:?}, which was not offered")]
    SuiteNotOffered(Suite),
    /// The server does something else to bodies than was asked for.
    #[error("the server answered {0:?}, which was not asked for")]
    OtherProtection(Protection),
    /// The server's key is a point of low order.
    #[error("X25519 key of low order")]
    LowOrderPoint,
    /// The mechanism shares no secret and nothing else proved the server.
    #[error("nothing proves who the server is")]
    ServerUnproven,
    /// The proof that was checked is of another handshake.
    #[error("the server's proof is of another handshake")]
    OtherTranscript,
    /// The mechanism has no server token, and the answer carries one.
    #[error("unexpected server token")]
    UnexpectedToken,
    /// Finished is wrong: the server does not hold the secrets, or somebody changed a message.
    #[error("the server's Finished is wrong: not the server that was meant, or a changed message")]
    WrongFinished,
}

/// A HELLO that lacks its token.
pub struct Begun {
    draft: HelloDraft,
    ephemeral: Ephemeral,
    offered: SuiteOffer,
    protection: Protection,
}

impl Begun {
    /// Drafts a HELLO.
    ///
    /// # Errors
    /// For an impossible list of suites.
    pub fn new(offer: &Offer<'_>, random: &[u8; 32], ephemeral: Ephemeral) -> Result<Self, HandshakeError> {
        let suites = offer.suites;
        let twice = suites.iter().enumerate().any(|(at, suite)| suites[..at].contains(suite));
        if suites.is_empty() || suites.len() > SUITES_MAX || twice {
            return Err(HandshakeError::Offer);
        }
        let draft = HelloDraft::new(&HelloFields {
            mechanism: offer.mechanism,
            suites,
            protection: offer.protection,
            cookie: offer.cookie.as_ref(),
            random,
            public_key: ephemeral.public_key(),
            server: offer.server,
            client_time_ms: offer.client_time_ms,
        });
        Ok(Self { draft, ephemeral, offered: SuiteOffer::new(suites), protection: offer.protection })
    }

    /// What the mechanism's token is to be bound to.
    pub fn th1(&self) -> Th1 {
        self.draft.th1()
    }

    /// Takes the mechanism's token and secret; gives HELLO to send, and what waits for the answer.
    ///
    /// # Errors
    /// For a token that is too long.
    pub fn send(self, token: &[u8], psk: Psk) -> Result<(Vec<u8>, Sent), HandshakeError> {
        let Self { draft, ephemeral, offered, protection } = self;
        let hello = draft.finish(token).ok_or(HandshakeError::TokenTooLong(token.len()))?;
        let sent = Sent { hello: hello.clone(), ephemeral, offered, protection, psk };
        Ok((hello, sent))
    }
}

/// A handshake that waits for HELLO_REP.
pub struct Sent {
    hello: Vec<u8>,
    ephemeral: Ephemeral,
    offered: SuiteOffer,
    protection: Protection,
    psk: Psk,
}

impl Sent {
    /// Gives the key pair back, for the HELLO that answers a RETRY: its cookie is good for this key alone.
    pub fn into_ephemeral(self) -> Ephemeral {
        self.ephemeral
    }

    /// Takes the answer, which was checked for being no bare error before.
    ///
    /// # Errors
    /// For anything but a HELLO_REP that fits what was offered.
    pub fn receive(self, wire: &[u8]) -> Result<Answered, HandshakeError> {
        let reply = HelloReply::parse(wire)?;
        let terms = *reply.terms();
        if !self.offered.contains(terms.suite) {
            return Err(HandshakeError::SuiteNotOffered(terms.suite));
        }
        if terms.protection != self.protection {
            return Err(HandshakeError::OtherProtection(terms.protection));
        }
        let Self { hello, ephemeral, psk, .. } = self;
        Ok(Answered { hello, reply: wire.to_vec(), ephemeral, psk })
    }
}

/// An answer whose form is right. The server is not proven.
pub struct Answered {
    hello: Vec<u8>,
    reply: Vec<u8>,
    ephemeral: Ephemeral,
    psk: Psk,
}

impl Answered {
    fn reply(&self) -> HelloReply<'_> {
        HelloReply::parse(&self.reply).expect("it was parsed before")
    }

    /// The server's token, for the mechanism to check.
    pub fn token(&self) -> &[u8] {
        self.reply().token()
    }

    /// What a proof of this length at the token's end must be over; `None` when the token is shorter.
    pub fn proof_transcript(&self, proof_len: usize) -> Option<ProofTranscript> {
        self.reply().proof_transcript(&self.hello, proof_len)
    }

    /// Takes the mechanism's word on the server and checks Finished.
    ///
    /// # Errors
    /// When the server is not proven to be the one that was meant.
    pub fn complete(self, proof: ServerProof) -> Result<Session, HandshakeError> {
        let reply = self.reply();
        match proof {
            ServerProof::SharedSecret if !self.psk.is_shared() => {
                return Err(HandshakeError::ServerUnproven);
            }
            ServerProof::SharedSecret | ServerProof::Kernel(_) if !reply.token().is_empty() => {
                return Err(HandshakeError::UnexpectedToken);
            }
            ServerProof::Token { over, proof_len } if reply.proof_transcript(&self.hello, proof_len) != Some(over) => {
                return Err(HandshakeError::OtherTranscript);
            }
            ServerProof::SharedSecret | ServerProof::Kernel(_) | ServerProof::Token { .. } => {}
        }
        let (id, terms, public_key) = (reply.session(), *reply.terms(), *reply.public_key());
        let (th2, finished) = (reply.th2(&self.hello), *reply.finished());
        let agreed = self.ephemeral.agree(&public_key).map_err(|_| HandshakeError::LowOrderPoint)?;
        let secret = HandshakeSecret::mix(&self.psk, agreed);
        let secrets = secret.verify(&th2, &finished).map_err(|_| HandshakeError::WrongFinished)?;
        Ok(Session { id, terms, secrets })
    }
}

/// A handshake that the client ended: the server is the one that was meant.
pub struct Session {
    pub(crate) id: SessionId,
    pub(crate) terms: Terms,
    pub(crate) secrets: SessionSecrets,
}

impl Session {
    /// The session's name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What was granted.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// A secret for the application, bound to the session: see RFC 8446 section 7.5.
    pub fn export(&self, label: &str) -> super::Secret<32> {
        super::kdf::expand_label(&self.secrets.exporter, label, b"")
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;

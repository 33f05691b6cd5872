//! The server's side of a handshake: [`Received`] -> the mechanism's [`Verified`] -> [`Proving`] -> [`Established`].
//!
//! Each step takes the one before by value and gives the next only when its checks passed, so none can be forgotten.
//! Between the steps nothing is held; a mechanism may take its time.

use super::hello::Hello;
use super::hello_reply::{FINISHED_LEN, ReplyDraft, Terms};
use super::ids::{MechanismId, Protection, ServerId, SessionId, Suite, Tick};
use super::parse::ParseError;
use super::schedule::{Agreed, Ephemeral, HandshakeSecret, Psk, SessionSecrets};
use super::secret::Secret;
use super::transcript::{ProofTranscript, Th1, Th2};
use crate::mechanism::{Principal, ReplyToken};

/// What a server takes and grants.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// Who the server is, as clients of each mechanism name it; a HELLO for any other is refused.
    pub ids: Vec<(MechanismId, ServerId)>,
    /// Mechanisms taken. There is no fallback from one to another.
    pub mechanisms: Vec<MechanismId>,
    /// Suites, the preferred one first.
    pub suites: Vec<Suite>,
    /// What clients may ask to be done to bodies.
    pub protections: Vec<Protection>,
    /// What is granted; `suite` and `protection` are those of each handshake.
    pub terms: Terms,
}

/// Why a handshake was refused: for the audit log. The peer is told NO, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloRefused {
    /// The HELLO is malformed.
    #[error("malformed HELLO: {0}")]
    Malformed(#[from] ParseError),
    /// It is meant for another server.
    #[error("HELLO is for another server")]
    OtherServer,
    /// Its mechanism is not taken here.
    #[error("mechanism {0:?} is not accepted here")]
    Mechanism(MechanismId),
    /// No suite in common.
    #[error("no cipher suite in common")]
    NoCommonSuite,
    /// The client wants something done to bodies that is not allowed here.
    #[error("{0:?} is not allowed here")]
    Protection(Protection),
    /// The mechanism's result is of another HELLO.
    #[error("verified another HELLO than this")]
    OtherTranscript,
    /// The client's key is a point of low order.
    #[error("X25519 key of low order")]
    LowOrderPoint,
    /// The proof is longer or shorter than announced, or the terms or the token do not fit in a HELLO_REP.
    #[error("reply token or terms do not fit")]
    Reply,
}

/// A HELLO that this server may answer. Nothing about the client is proven.
pub struct Received {
    hello: Vec<u8>,
    th1: Th1,
    mechanism: MechanismId,
    public_key: [u8; 32],
    terms: Terms,
}

/// What a mechanism is given to verify.
pub struct Claim {
    th1: Th1,
    mechanism: MechanismId,
    token: Vec<u8>,
    random: [u8; 32],
    client_time_ms: u64,
}

impl Claim {
    /// What the token must be bound to.
    pub fn th1(&self) -> &Th1 {
        &self.th1
    }

    /// Which mechanism's token it is.
    pub fn mechanism(&self) -> MechanismId {
        self.mechanism
    }

    /// The client's token.
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// The client's random bytes, for mechanisms that keep a strike list.
    pub fn random(&self) -> &[u8; 32] {
        &self.random
    }

    /// The client's wall clock, for mechanisms that limit how far it may be off.
    pub fn client_time_ms(&self) -> u64 {
        self.client_time_ms
    }

    /// The mechanism's word that the token proves this principal. To be given only by a mechanism that checked it.
    pub fn verified(self, principal: Principal, psk: Psk) -> Verified {
        Verified { th1: self.th1, principal, psk, token: ReplyToken::default(), expires: None }
    }
}

/// A mechanism's result for one HELLO.
pub struct Verified {
    th1: Th1,
    principal: Principal,
    psk: Psk,
    token: ReplyToken,
    expires: Option<Tick>,
}

impl Verified {
    /// With a token for the client.
    #[must_use]
    pub fn with_token(mut self, token: ReplyToken) -> Self {
        self.token = token;
        self
    }

    /// With an end of its own: of a ticket, a certificate. Sessions do not outlive it.
    #[must_use]
    pub fn expiring(mut self, at: Tick) -> Self {
        self.expires = Some(at);
        self
    }

    /// Who it is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }
}

impl Received {
    /// Looks at a HELLO: server, mechanism, suite, protection. Cheap; copies the HELLO at its end.
    ///
    /// # Errors
    /// When this server does not answer it.
    pub fn begin(hello: &Hello<'_>, policy: &ServerPolicy) -> Result<Self, HelloRefused> {
        if !policy.mechanisms.contains(&hello.mechanism()) {
            return Err(HelloRefused::Mechanism(hello.mechanism()));
        }
        if !policy.ids.contains(&(hello.mechanism(), hello.server())) {
            return Err(HelloRefused::OtherServer);
        }
        if !policy.protections.contains(&hello.protection()) {
            return Err(HelloRefused::Protection(hello.protection()));
        }
        let suite = hello.suites().choose(&policy.suites).ok_or(HelloRefused::NoCommonSuite)?;
        let terms = Terms { suite, protection: hello.protection(), ..policy.terms };
        terms.check()?;
        Ok(Self {
            th1: hello.th1(),
            mechanism: hello.mechanism(),
            public_key: *hello.public_key(),
            hello: hello.wire().to_vec(),
            terms,
        })
    }

    /// For the mechanism.
    pub fn claim(&self) -> Claim {
        let hello = Hello::parse(&self.hello).expect("it was parsed before");
        Claim {
            th1: self.th1,
            mechanism: self.mechanism,
            token: hello.token().to_vec(),
            random: *hello.random(),
            client_time_ms: hello.client_time_ms(),
        }
    }

    /// Agrees with the client's public key. Takes some tens of microseconds, and needs nothing that the mechanism finds out:
    /// it can be done while that is at work.
    ///
    /// # Errors
    /// When the client's key is a point of low order.
    pub fn agree(&self, own: Ephemeral) -> Result<Agreed, HelloRefused> {
        own.agree(&self.public_key).map_err(|_| HelloRefused::LowOrderPoint)
    }

    /// Takes the mechanism's result and what was agreed, and drafts the answer.
    ///
    /// # Errors
    /// When one of them is of another HELLO.
    pub fn accept(
        self,
        verified: Verified,
        session: SessionId,
        random: &[u8; 32],
        agreed: Agreed,
        now: Tick,
    ) -> Result<Proving, HelloRefused> {
        let is_other = verified.th1 != self.th1 || agreed.peer() != &self.public_key;
        if is_other || verified.principal.mechanism != self.mechanism {
            return Err(HelloRefused::OtherTranscript);
        }
        let mut terms = self.terms;
        if let Some(expires) = verified.expires {
            let left = std::time::Duration::from_secs(expires.0.saturating_sub(now.0) / 1000);
            terms.absolute = terms.absolute.min(left);
            terms.check()?;
        }
        let ReplyToken { head, proof_len } = &verified.token;
        let draft = ReplyDraft::new(&terms, session, random, agreed.own(), head, *proof_len);
        let draft = draft.ok_or(HelloRefused::Reply)?;
        let secret = HandshakeSecret::mix(&verified.psk, agreed);
        Ok(Proving { hello: self.hello, draft, secret, session, terms, principal: verified.principal })
    }
}

/// An answer that lacks the mechanism's proof, if it has one, and Finished.
pub struct Proving {
    hello: Vec<u8>,
    draft: ReplyDraft,
    secret: HandshakeSecret,
    session: SessionId,
    terms: Terms,
    principal: Principal,
}

impl Proving {
    /// What the proof is to be made over.
    pub fn transcript(&self) -> ProofTranscript {
        self.draft.proof_transcript(&self.hello)
    }

    /// Takes the proof (empty for most mechanisms) and ends the handshake.
    ///
    /// # Errors
    /// When the proof has another length than was announced.
    pub fn finish(self, proof: &[u8]) -> Result<Established, HelloRefused> {
        if proof.len() != self.draft.proof_len() {
            return Err(HelloRefused::Reply);
        }
        let mut reply = self.draft.with_proof(proof);
        let (finished, secrets) = self.secret.finish(&Th2::of(&self.hello, &reply));
        reply.extend_from_slice(&finished);
        debug_assert_eq!(finished.len(), FINISHED_LEN);
        let Self { session, terms, principal, .. } = self;
        Ok(Established { reply, session, terms, principal, secrets })
    }
}

/// A handshake that the server ended: HELLO_REP to send, and what the session table is given.
pub struct Established {
    /// HELLO_REP.
    pub reply: Vec<u8>,
    pub(crate) session: SessionId,
    pub(crate) terms: Terms,
    pub(crate) principal: Principal,
    pub(crate) secrets: SessionSecrets,
}

impl Established {
    /// The session's name.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Who the client is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// A secret for the application, bound to the session: see RFC 8446 section 7.5.
    pub fn export(&self, label: &str) -> Secret<32> {
        super::kdf::expand_label(&self.secrets.exporter, label, b"")
    }
}

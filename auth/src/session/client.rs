use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::protocol::client;
use crate::protocol::message::{Content, Draft, Header, Incoming, Kind, Tag, Target, Unused};
use crate::protocol::traffic::{KeyExhausted, Limits, OpenError, Opening, Sealing};
use crate::protocol::{ParseError, SEQ_END, SealedError, SessionId, Terms, Tick};

/// The client's end of a session, for any number of threads at once.
pub struct ClientSession {
    id: SessionId,
    terms: Terms,
    ends: Tick,
    next: AtomicU64,
    closed: AtomicBool,
    sealing: Sealing,
    opening: Opening,
}

/// A call on its way: what its reply must fit.
#[must_use = "the reply cannot be opened without it"]
#[derive(Debug)]
pub struct Call {
    seq: u64,
    tag: Tag,
    target: Target,
}

/// Why a call was not sealed: it was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallRefused {
    /// The arguments are longer than was agreed.
    #[error("arguments of {len} bytes are longer than the {max} agreed")]
    TooLarge {
        /// Bytes of the body.
        len: usize,
        /// The limit.
        max: u32,
    },
    /// The session was closed or has ended; make a new one.
    #[error("session has ended; make a new one")]
    Ended,
    /// All numbers or keys are used up; make a new session.
    #[error("session is used up; make a new one")]
    Exhausted,
}

/// Why a reply was not taken. The call's outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyRefused {
    /// It is malformed.
    #[error("malformed reply: {0}")]
    Malformed(#[from] ParseError),
    /// It is no reply: a request, say, that somebody sent back.
    #[error("{0:?} is not a reply")]
    Kind(Kind),
    /// It is of another session or another call.
    #[error("reply to another call")]
    OtherCall,
    /// Its body is not protected as agreed.
    #[error("body is not protected as agreed")]
    Protection,
    /// It is longer than agreed.
    #[error("reply of {0} bytes is longer than agreed")]
    TooLarge(u32),
    /// Its tag or its key.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A reply that is authentic and of this call. Its `Debug` shows lengths, not what is in it.
pub enum Reply<'a> {
    /// The result.
    Result {
        /// In the clear.
        body: &'a mut [u8],
        /// What is in it.
        content: Content,
    },
    /// The server's refusal or the handler's failure.
    Error(SealedError),
}

impl std::fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Result { body, .. } => write!(f, "Reply({} bytes)", body.len()),
            Self::Error(SealedError::Handler { code, text }) => {
                write!(f, "Reply(handler error {code}, {} bytes)", text.len())
            }
            Self::Error(error) => write!(f, "Reply({error:?})"),
        }
    }
}

impl ClientSession {
    /// After a handshake.
    pub fn new(session: client::Session, now: Tick) -> Self {
        let client::Session { id, terms, secrets } = session;
        Self {
            id,
            ends: now.after(terms.absolute),
            next: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            sealing: Sealing::new(terms.suite, secrets.client_to_server, now),
            opening: Opening::new(terms.suite, secrets.server_to_client),
            terms,
        }
    }

    /// The session's name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What was granted. The caller keeps to `max_in_flight`.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// When it ends in any case; a new one is to be opened before.
    pub fn ends(&self) -> Tick {
        self.ends
    }

    /// The number that the next call gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Seals a request under a number of its own.
    ///
    /// # Errors
    /// When it is too long, or the session is at its end.
    #[inline]
    pub fn call(
        &self,
        target: Target,
        content: Content,
        body: Draft,
        now: Tick,
    ) -> Result<(Vec<u8>, Call), CallRefused> {
        self.seal(Kind::Request, target, content, body, now)
    }

    /// Seals the message that ends the session. Calls are refused from now on; replies are still opened. It can be sealed
    /// again, where the first may not have been sent.
    ///
    /// # Errors
    /// When the session has ended, or is used up.
    pub fn close(&self, now: Tick) -> Result<(Vec<u8>, Call), CallRefused> {
        let target = Target { rpc: 0, provider: 0 };
        self.closed.store(true, Ordering::Release);
        self.seal(Kind::Close, target, Content::default(), Draft::with_capacity(0), now)
    }

    /// Checks a reply and opens it in place. A call takes one.
    ///
    /// # Errors
    /// When it is not the server's reply to this very call.
    #[inline]
    pub fn open<'a>(&self, call: Call, wire: &'a mut [u8], now: Tick) -> Result<Reply<'a>, ReplyRefused> {
        let mut message = Incoming::parse(wire)?;
        let header = message.header();
        if !matches!(header.kind, Kind::Reply | Kind::Error) {
            return Err(ReplyRefused::Kind(header.kind));
        }
        if header.session != self.id || header.seq != call.seq || header.target != call.target {
            return Err(ReplyRefused::OtherCall);
        }
        if header.protection != self.terms.protection {
            return Err(ReplyRefused::Protection);
        }
        if header.body_len > self.terms.max_message {
            return Err(ReplyRefused::TooLarge(header.body_len));
        }
        let (kind, content) = (header.kind, header.content);
        self.opening.open(&mut message, Some(&call.tag), now, &Limits::DEFAULT)?;
        let body = message.into_body();
        if kind == Kind::Error {
            return Ok(Reply::Error(SealedError::parse(body)?));
        }
        Ok(Reply::Result { body, content })
    }

    /// Drops the keys made ready; for a session that will be idle.
    pub fn cool(&self, now: Tick) {
        self.sealing.cool();
        self.opening.cool(now);
    }

    #[inline(always)]
    fn seal(
        &self,
        kind: Kind,
        target: Target,
        content: Content,
        body: Draft,
        now: Tick,
    ) -> Result<(Vec<u8>, Call), CallRefused> {
        let max = self.terms.max_message;
        if body.body_len() > max as usize {
            return Err(CallRefused::TooLarge { len: body.body_len(), max });
        }
        if now >= self.ends || kind != Kind::Close && self.closed.load(Ordering::Acquire) {
            return Err(CallRefused::Ended);
        }
        let header = Header {
            kind,
            protection: self.terms.protection,
            content,
            epoch: 0,
            session: self.id,
            seq: 0,
            target,
            body_len: 0,
        };
        let number = self.number()?;
        let seq = number.seq();
        let sealed = self.sealing.seal(number, header, None, body, now, &Limits::DEFAULT);
        let wire = sealed.map_err(|KeyExhausted| CallRefused::Exhausted)?;
        let tag = *wire.last_chunk().expect("a message ends with a tag");
        Ok((wire, Call { seq, tag, target }))
    }

    /// The next number. The counter stays far from wrapping: 2^63 threads would have to be in here at once.
    fn number(&self) -> Result<Unused, CallRefused> {
        let seq = self.next.fetch_add(1, Ordering::SeqCst);
        if seq >= SEQ_END {
            self.next.store(SEQ_END, Ordering::Relaxed);
            return Err(CallRefused::Exhausted);
        }
        Ok(Unused::assume(seq))
    }

    #[cfg(test)]
    pub(crate) fn skip_to(&self, seq: u64) {
        self.next.store(seq, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn halves(&self) -> (&Sealing, &Opening) {
        (&self.sealing, &self.opening)
    }
}

#[cfg(test)]
pub(super) fn copy_of(call: &Call) -> Call {
    Call { seq: call.seq, tag: call.tag, target: call.target }
}

#[cfg(test)]
pub(super) fn flip_tag(call: &mut Call) {
    call.tag[0] ^= 1;
}

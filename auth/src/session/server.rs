use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::draining::Draining;
use super::node::NodeAddress;
use crate::mechanism::Principal;
use crate::protocol::message::{Content, Draft, Header, Incoming, Kind, Tag, Target, Unused};
use crate::protocol::server::Established;
use crate::protocol::traffic::{KeyExhausted, Limits, OpenError, Opening, Sealing};
use crate::protocol::{SealedError, SessionId, Terms, Tick, Window, WindowError};

/// Calls borne beyond those agreed, at least: they were cancelled, and their handlers have not ended yet.
const CANCELLED_MIN: u32 = 64;

/// What may be done in a session. It only ever goes forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum State {
    /// The handshake is over, and the client has not yet shown that it holds its key.
    HalfOpen = 0,
    /// In use.
    Open = 1,
    /// Closed or expired: running handlers may reply, new requests are refused.
    Draining = 2,
    /// Revoked: nothing is sent or taken any more.
    Dead = 3,
}

impl State {
    fn how_it_ended(self) -> &'static str {
        match self {
            Self::HalfOpen | Self::Open => "has expired",
            Self::Draining => "was closed or has expired",
            Self::Dead => "was revoked",
        }
    }
}

/// The server's end of a session. Its keys are wiped when the last user of it is gone.
pub struct Session {
    id: SessionId,
    principal: Principal,
    terms: Terms,
    node: NodeAddress,
    pub(super) generation: u64,
    opened_at: Tick,
    half_open_until: Tick,
    ends: Tick,
    state: AtomicU8,
    window: Mutex<Window>,
    /// The number after the newest in the window, to be read without its lock.
    newest: AtomicU64,
    opening: Opening,
    sealing: Sealing,
    running: AtomicU32,
    /// Whoever waits for it to be drained.
    draining: Draining,
    last_used: AtomicU64,
    /// The connection that it is bound to, if it is.
    bound_to: OnceLock<u64>,
    /// In the table's list of sessions with keys made ready.
    pub(super) warm: AtomicBool,
}

/// Why a request was refused. What the peer is told: see [`is_answered`](Self::is_answered).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestRefused {
    /// There is no such session.
    #[error("unknown session")]
    UnknownSession,
    /// The session is closed, expired or revoked.
    #[error("session {}", .0.how_it_ended())]
    Ended(State),
    /// It is the first of its session, and its user has too many others with running calls.
    #[error("too many sessions of this user, all with running calls")]
    NoRoom,
    /// It is no request: a reply, say, that somebody sent back.
    #[error("{0:?} is not for a server")]
    Kind(Kind),
    /// Its body is not protected as agreed.
    #[error("body is not protected as agreed")]
    Protection,
    /// It is longer than agreed.
    #[error("body of {0} bytes is longer than agreed")]
    TooLarge(u32),
    /// Its number was seen or is too old.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// Its tag or its key.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl RequestRefused {
    /// Whether a bare NO is sent (at a bounded rate), which says only what everybody may know: that there is no such
    /// session. All else is dropped in silence.
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::UnknownSession | Self::Ended(_) | Self::NoRoom)
    }
}

/// A request that is authentic and new. Nothing is known yet about whether it is allowed.
pub struct Request<'a> {
    kind: Kind,
    content: Content,
    body: &'a mut [u8],
    /// Whom it is from, and the right to answer once.
    pub responder: Responder,
    over_limit: bool,
    is_first: bool,
}

impl Request<'_> {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is in its body.
    pub fn content(&self) -> Content {
        self.content
    }

    /// What is called.
    pub fn target(&self) -> Target {
        self.responder.target
    }

    /// The arguments, in the clear.
    pub fn body(&self) -> &[u8] {
        self.body
    }

    /// Whether more calls are in flight than was agreed: to be answered with BUSY.
    pub fn is_over_limit(&self) -> bool {
        self.over_limit
    }

    /// Whether it is the session's first: it has shown that the client holds its key.
    pub fn is_first(&self) -> bool {
        self.is_first
    }
}

impl Session {
    pub(super) fn new(
        established: Established,
        node: NodeAddress,
        generation: u64,
        half_open: Duration,
        now: Tick,
    ) -> Self {
        let Established { session, terms, principal, secrets, .. } = established;
        Self {
            id: session,
            principal,
            node,
            generation,
            opened_at: now,
            half_open_until: now.after(half_open),
            ends: now.after(terms.absolute),
            state: AtomicU8::new(State::HalfOpen as u8),
            window: Mutex::new(Window::new(terms.window_bits)),
            newest: AtomicU64::new(0),
            opening: Opening::new(terms.suite, secrets.client_to_server),
            sealing: Sealing::new(terms.suite, secrets.server_to_client, now),
            running: AtomicU32::new(0),
            draining: Draining::default(),
            last_used: AtomicU64::new(now.0),
            bound_to: OnceLock::new(),
            warm: AtomicBool::new(false),
            terms,
        }
    }

    /// Its name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Who was proven.
    #[inline]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What was agreed.
    #[inline]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Where the handshake came from.
    pub fn node(&self) -> NodeAddress {
        self.node
    }

    /// When the handshake was.
    pub fn opened_at(&self) -> Tick {
        self.opened_at
    }

    /// When it was last used.
    #[inline]
    pub fn last_used(&self) -> Tick {
        Tick(self.last_used.load(Ordering::Relaxed))
    }

    /// Requests whose responder is still there.
    #[inline]
    pub fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    /// Binds it to one connection, for good. Before its id is told to anybody.
    pub fn bind_to(&self, connection: u64) {
        let _ = self.bound_to.set(connection);
    }

    /// Whether messages of this connection may be of this session.
    #[inline]
    pub fn admits(&self, connection: u64) -> bool {
        self.bound_to.get().is_none_or(|bound| *bound == connection)
    }

    /// What may be done in it.
    #[inline]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::SeqCst) {
            0 => State::HalfOpen,
            1 => State::Open,
            2 => State::Draining,
            _ => State::Dead,
        }
    }

    /// When it ends if nothing more happens.
    #[inline]
    pub(super) fn deadline(&self) -> Tick {
        match self.state() {
            State::HalfOpen => self.half_open_until,
            State::Open if self.running() > 0 => self.ends,
            State::Open => self.last_used().after(self.terms.idle).min(self.ends),
            State::Draining | State::Dead => Tick(0),
        }
    }

    /// Ends it, and gives the state it was in.
    pub(super) fn end(&self, state: State) -> State {
        match self.state.fetch_max(state as u8, Ordering::SeqCst) {
            0 => State::HalfOpen,
            1 => State::Open,
            2 => State::Draining,
            _ => State::Dead,
        }
    }

    /// Ready when no request runs in a session that has ended, but those that wait for just that: clients may have sent two
    /// that close it.
    pub fn drained(responder: &Responder) -> impl Future<Output = ()> + Send + '_ {
        responder.session.draining.wait(&responder.session.running)
    }

    /// Half-open to open; `false` when it was not half-open. Only the table calls it, which counts.
    pub(super) fn make_open(&self) -> bool {
        let (from, to) = (State::HalfOpen as u8, State::Open as u8);
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Checks a request and opens it in place.
    ///
    /// In the order of cost: constant fields, the window, the cipher; the window moves only after the tag was good.
    ///
    /// `make_open` is called for a half-open session, and ends by [`Session::make_open`].
    #[inline]
    pub(super) fn open<'a>(
        self: Arc<Self>,
        mut message: Incoming<'a>,
        now: Tick,
        make_open: impl FnOnce(&Self) -> Result<(), RequestRefused>,
    ) -> Result<Request<'a>, RequestRefused> {
        let header = message.header();
        let state = self.state();
        if header.session != self.id {
            return Err(RequestRefused::UnknownSession);
        }
        if state >= State::Draining || now >= self.deadline() {
            return Err(RequestRefused::Ended(state));
        }
        if !matches!(header.kind, Kind::Request | Kind::Close) {
            return Err(RequestRefused::Kind(header.kind));
        }
        if header.protection != self.terms.protection {
            return Err(RequestRefused::Protection);
        }
        if header.body_len > self.terms.max_message {
            return Err(RequestRefused::TooLarge(header.body_len));
        }
        // Nothing as new as this was seen: there is nothing to look up.
        if header.seq < self.newest.load(Ordering::Acquire) {
            self.window.lock().peek(header.seq)?;
        }
        let (kind, content, seq, target) = (header.kind, header.content, header.seq, header.target);
        let tag = message.tag();
        self.opening.open(&mut message, None, now, &Limits::DEFAULT)?;
        {
            let mut window = self.window.lock();
            window.accept(seq)?;
            self.newest.store(window.next(), Ordering::Release);
        }
        let is_first = self.state() == State::HalfOpen;
        if is_first {
            make_open(&self)?;
        }
        if self.last_used.load(Ordering::Relaxed) < now.0 {
            self.last_used.fetch_max(now.0, Ordering::Relaxed);
        }
        let running = self.running.fetch_add(1, Ordering::SeqCst);
        let calls_borne = self.calls_borne();
        let responder = Responder { session: self, seq, tag, target };
        // Somebody may have ended it meanwhile. Who closes looks in the other order: it ends the session, and then waits for
        // what is counted.
        let state = responder.session.state();
        if state >= State::Draining {
            return Err(RequestRefused::Ended(state));
        }
        let body = message.into_body();
        Ok(Request { kind, content, body, responder, over_limit: running >= calls_borne, is_first })
    }

    /// Calls that are taken in all. A client's cancel makes room for its next call at once, while the handler here may need
    /// a moment to end.
    #[inline]
    fn calls_borne(&self) -> u32 {
        let agreed = self.terms.max_in_flight;
        agreed + agreed.max(CANCELLED_MIN)
    }

    /// Drops the keys made ready. The next message makes them again.
    pub(super) fn cool(&self, now: Tick) {
        self.warm.store(false, Ordering::Release);
        self.opening.cool(now);
        self.sealing.cool();
    }

    /// Whether an expanded key is held.
    #[cfg(test)]
    pub(super) fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Acquire) || self.sealing.is_ready()
    }
}

/// The right to answer one request, once: answering takes it by value, so that no number is sealed with twice.
///
/// ```
/// # use mochi_auth::protocol::{Tick, message::{Content, Draft}};
/// # fn answer(responder: mochi_auth::session::Responder) {
/// responder.reply(Content::default(), Draft::copy_of(b"yes"), Tick(0));
/// # }
/// ```
///
/// ```compile_fail,E0382
/// # use mochi_auth::protocol::{Tick, message::{Content, Draft}};
/// # fn answer(responder: mochi_auth::session::Responder) {
/// responder.reply(Content::default(), Draft::copy_of(b"yes"), Tick(0));
/// responder.reply(Content::default(), Draft::copy_of(b"no"), Tick(0)); // use of moved value
/// # }
/// ```
///
/// ```compile_fail,E0599
/// # fn twice(responder: mochi_auth::session::Responder) {
/// let other = responder.clone(); // no such method
/// # }
/// ```
///
/// It keeps the session, and so its keys, alive; a session that was closed still answers, one that was revoked does not.
pub struct Responder {
    session: Arc<Session>,
    seq: u64,
    tag: Tag,
    target: Target,
}

/// Why there is no answer.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RespondError {
    /// The result is longer than was agreed; the caller can be told so with the responder that is given back.
    #[error("result of {len} bytes is longer than the {max} agreed")]
    TooLarge {
        /// Bytes of the body.
        len: usize,
        /// The limit.
        max: u32,
        /// Still good for an error.
        responder: Responder,
    },
    /// The session was revoked.
    #[error("session was revoked")]
    Revoked,
    /// The key may seal no more.
    #[error("key used up")]
    KeyExhausted,
}

impl std::fmt::Debug for RespondError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RespondError({self})")
    }
}

impl Responder {
    /// The session of the request.
    #[inline]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Seals the result.
    ///
    /// # Errors
    /// When it is too long, or the session was revoked.
    #[inline]
    pub fn reply(self, content: Content, body: Draft, now: Tick) -> Result<Vec<u8>, RespondError> {
        self.seal(Kind::Reply, content, body, now)
    }

    /// Seals an error.
    ///
    /// # Errors
    /// When the session was revoked.
    pub fn refuse(self, error: &SealedError, now: Tick) -> Result<Vec<u8>, RespondError> {
        self.seal(Kind::Error, Content::default(), Draft::copy_of(&error.encode()), now)
    }

    #[inline]
    fn seal(self, kind: Kind, content: Content, body: Draft, now: Tick) -> Result<Vec<u8>, RespondError> {
        let session = &self.session;
        let max = session.terms.max_message;
        if body.body_len() > max as usize {
            return Err(RespondError::TooLarge { len: body.body_len(), max, responder: self });
        }
        if session.state() == State::Dead {
            return Err(RespondError::Revoked);
        }
        let header = Header {
            kind,
            protection: session.terms.protection,
            content,
            epoch: 0,
            session: session.id,
            seq: self.seq,
            target: self.target,
            body_len: 0,
        };
        let number = Unused::assume(self.seq); // accepted by the window once, and `self` ends here
        let sealed = session.sealing.seal(number, header, Some(&self.tag), body, now, &Limits::DEFAULT);
        if !session.warm.load(Ordering::Acquire) {
            session.sealing.cool(); // idle but for this handler
        }
        sealed.map_err(|KeyExhausted| RespondError::KeyExhausted)
    }
}

impl Drop for Responder {
    #[inline]
    fn drop(&mut self) {
        let session = &self.session;
        session.running.fetch_sub(1, Ordering::SeqCst);
        if session.state.load(Ordering::SeqCst) > State::Open as u8 {
            session.draining.wake();
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;

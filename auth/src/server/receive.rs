//! From a sealed request to a handler's arguments, and from its result to a sealed reply.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use margo_rs::{Buffer, HandlerError, RESPONSE_HEADER, RawResponder, Request, RpcId, codec};
use pin_project_lite::pin_project;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::caller::Caller;
use super::handshake::node_of;
use super::rule::Rule;
use super::{Shared, Wrapped};
use crate::bulk::context;
use crate::clock;
use crate::protocol::message::{Content, Draft, HEADER_LEN, Incoming, Kind, Target};
use crate::protocol::{BareError, ParseError, SealedError, SessionId, Tick};
use crate::session::{self, RequestRefused, RespondError};
use crate::wipe::Wiped;

/// Bytes that a reply has room for at first: small ones grow no more.
const ROOM: usize = 192;
/// How long a caller with too many calls in flight is told to wait, in ms.
const BUSY_RETRY_MS: u32 = 5;
/// The code of a sealed handler error: the handler's own words.
pub(crate) const CODE_HANDLER: u32 = 0;
/// The code of a sealed handler error: the arguments could not be decoded.
pub(crate) const CODE_ARGUMENTS: u32 = 1;
/// The code of a sealed handler error: the handler panicked or gave no answer.
pub(crate) const CODE_NO_ANSWER: u32 = 2;

/// Why a message was refused: for the audit log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It is no message of a session: a plain call, for one.
    #[error("not a sealed request ({0}); the caller must authenticate")]
    Malformed(ParseError),
    /// It names another RPC than the one it was sent to.
    #[error("sealed for another RPC than the one it was sent to")]
    OtherTarget,
    /// It is of a session that is bound to another connection.
    #[error("session belongs to another connection")]
    OtherConnection,
    /// It is of a kind that does not belong here.
    #[error("message of kind {0:?} does not belong here")]
    Kind(Kind),
    /// Its session refuses it.
    #[error(transparent)]
    Session(#[from] RequestRefused),
}

/// Why a caller may not have what he asks for: for the audit log.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("descriptors of large arguments are not taken here")]
    Large,
    #[error("a bulk descriptor may travel only inside a sealed body")]
    BareDescriptor,
    #[error("the rule of this RPC does not allow it: {0:?}")]
    Rule(Rule),
}

impl Shared {
    /// Checks a message and opens it in place. Nothing of it is believed before.
    ///
    /// Always inline: moving what it gives takes as long as a lock.
    #[inline(always)]
    pub(super) fn open<'a>(
        &self,
        incoming: Incoming<'a>,
        request: &Request,
        now: Tick,
    ) -> Result<session::Request<'a>, Refused> {
        let header = incoming.header();
        let target = match header.kind() {
            Kind::Close => Target { rpc: 0, provider: 0 },
            _ => target_of(request.rpc_id()),
        };
        if header.target() != target {
            return Err(Refused::OtherTarget);
        }
        let opened = self.table.open(incoming, now)?;
        // Before anything else is found wrong with it: from now on the session is in use.
        if opened.is_first() {
            let session = opened.responder.session();
            self.audit.session_opened(request.peer(), session.principal(), session.id());
        }
        if !opened.responder.session().admits(request.connection().as_u64()) {
            return Err(Refused::OtherConnection);
        }
        Ok(opened)
    }

    /// Says NO where everybody may know why, or nothing at all; and writes down the reason.
    pub(super) fn refuse(
        &self,
        request: &Request,
        session: Option<SessionId>,
        refused: Refused,
        responder: RawResponder,
    ) {
        self.audit.request_refused(request.peer(), request.rpc_id(), session, &refused);
        let is_answered = match &refused {
            Refused::Session(refused) => refused.is_answered(),
            Refused::Malformed(_) => true,
            Refused::OtherTarget | Refused::OtherConnection | Refused::Kind(_) => false,
        };
        if is_answered && self.gate.lock().may_refuse(node_of(request), clock::now()) {
            match refused {
                // A plain caller would take the bytes of NO for a result.
                Refused::Malformed(_) => responder.fail("this RPC takes calls of authenticated callers alone"),
                _ => {
                    let echo = session.map_or([0; 16], |id| *id.as_bytes());
                    responder.respond(&BareError::No { echo }.encode());
                }
            }
        } else {
            responder.abandon();
        }
    }

    /// Takes a request up to the point where its handler is called: opens it, decides whether the caller may, decodes the
    /// arguments. `None` when it was answered already.
    pub(super) fn receive<In: DeserializeOwned>(
        self: &Arc<Self>,
        wrapped: &Wrapped,
        request: Request,
        input: Buffer,
        raw: RawResponder,
    ) -> Option<(Caller, In, SealedResponder)> {
        let mut input = Wiped::new(input);
        let now = clock::now();
        let incoming = match Incoming::parse(&mut input) {
            Ok(incoming) => incoming,
            Err(error) => {
                self.refuse(&request, None, Refused::Malformed(error), raw);
                return None;
            }
        };
        let claimed = incoming.header().session();
        let opened = match self.open(incoming, &request, now) {
            Ok(opened) if opened.kind() == Kind::Request => opened,
            Ok(opened) => {
                let kind = opened.kind();
                self.refuse(&request, Some(claimed), Refused::Kind(kind), raw);
                return None;
            }
            Err(refused) => {
                self.refuse(&request, Some(claimed), refused, raw);
                return None;
            }
        };
        // The session is the sender's own from here on: whatever is wrong, he gets a sealed answer.
        if opened.is_over_limit() && !wrapped.one_way {
            SealedResponder::new(opened.responder, raw).refuse(&SealedError::Busy { retry_ms: BUSY_RETRY_MS });
            return None;
        }
        let caller = Caller::new(Arc::clone(opened.responder.session()), request, self.bulk);
        if let Err(reason) = decide(&wrapped.rule, &caller, opened.content()) {
            let session = opened.responder.session();
            let rpc = caller.request().rpc_id();
            self.audit.denied(caller.request().peer(), rpc, session.id(), session.principal(), &reason);
            SealedResponder::new(opened.responder, raw).refuse(&SealedError::Denied);
            return None;
        }
        let content = opened.content();
        let args = context::decoding(caller.protection(), content, || codec::from_slice::<In>(opened.body()));
        let mut responder = SealedResponder::new(opened.responder, raw);
        match args {
            Ok(args) => Some((caller, args, responder)),
            Err(error) => {
                responder.refuse(&SealedError::Handler { code: CODE_ARGUMENTS, text: error.to_string() });
                None
            }
        }
    }
}

/// Whether the caller may have what he asks for.
fn decide(rule: &Rule, caller: &Caller, content: Content) -> Result<(), Denied> {
    if content.large {
        return Err(Denied::Large);
    }
    if content.bulk && caller.protection() != crate::protocol::Protection::Sealed {
        return Err(Denied::BareDescriptor);
    }
    if rule.allows(caller) { Ok(()) } else { Err(Denied::Rule(rule.clone())) }
}

/// How a sealed message names an RPC.
pub(crate) fn target_of(rpc: RpcId) -> Target {
    Target { rpc: rpc.as_u64(), provider: rpc.provider_id().as_u16() }
}

/// Answers one request of a session, sealed, once. Dropped unused, it answers that the handler did not.
pub(super) struct SealedResponder {
    /// `None` once answered.
    both: Option<(session::Responder, RawResponder)>,
}

impl SealedResponder {
    fn new(session: session::Responder, raw: RawResponder) -> Self {
        Self { both: Some((session, raw)) }
    }

    /// Answers what a handler returned.
    pub(super) fn answer<Out: Serialize>(&mut self, result: Result<Out, HandlerError>) {
        match result {
            Ok(output) => self.respond(&output),
            Err(error) => self.fail(&error),
        }
    }

    pub(super) fn fail(&mut self, error: &HandlerError) {
        self.refuse(&SealedError::Handler { code: CODE_HANDLER, text: error.to_string() });
    }

    pub(super) fn respond<Out: Serialize>(&mut self, output: &Out) {
        let Some((session, _)) = &self.both else { return };
        let mut draft = Draft::within(Buffer::room_for(RESPONSE_HEADER + HEADER_LEN, ROOM));
        let protection = session.session().terms().protection;
        let encode = || draft.append(|bytes| codec::encode_into(output, bytes));
        let (encoded, content) = context::encoding(protection, encode);
        if let Err(error) = encoded {
            tracing::error!(%error, "a handler's result cannot be encoded");
            let text = format!("the result cannot be encoded: {error}");
            return self.refuse(&SealedError::Handler { code: CODE_NO_ANSWER, text });
        }
        let Some((session, raw)) = self.both.take() else { return };
        match session.reply(content, draft, clock::now()) {
            Ok(reply) => raw.respond_headed(reply),
            Err(RespondError::TooLarge { responder, .. }) => {
                self.both = Some((responder, raw));
                self.refuse(&SealedError::TooLarge);
            }
            Err(_) => raw.abandon(), // revoked: nothing is said any more
        }
    }

    pub(super) fn refuse(&mut self, error: &SealedError) {
        let Some((session, raw)) = self.both.take() else { return };
        match session.refuse(error, clock::now()) {
            Ok(reply) => raw.respond(&reply),
            Err(_) => raw.abandon(),
        }
    }

    /// Answers that nobody will, if that is so.
    fn give_up(&mut self) {
        if self.both.is_some() {
            let text = if std::thread::panicking() { "handler panicked" } else { "handler gave no answer" };
            self.refuse(&SealedError::Handler { code: CODE_NO_ANSWER, text: text.to_owned() });
        }
    }
}

impl Drop for SealedResponder {
    fn drop(&mut self) {
        self.give_up();
    }
}

pin_project! {
    /// A handler whose result is answered. An `async` block that awaits the handler would move it once more.
    pub(super) struct Answering<Fut> {
        #[pin]
        handler: Fut,
        responder: SealedResponder,
    }
}

impl<Fut> Answering<Fut> {
    pub(super) fn new(handler: Fut, responder: SealedResponder) -> Self {
        Self { handler, responder }
    }
}

impl<Out: Serialize, Fut: Future<Output = Result<Out, HandlerError>>> Future for Answering<Fut> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        /// Tells of a panic while it is one: the future is dropped later.
        struct OnPanic<'a>(&'a mut SealedResponder);
        impl Drop for OnPanic<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.give_up();
                }
            }
        }
        let this = self.project();
        let responder = OnPanic(this.responder);
        let result = ready!(this.handler.poll(cx));
        responder.0.answer(result);
        Poll::Ready(())
    }
}

//! A call in a session.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use margo_rs::{Buffer, Endpoint, ProviderId, REQUEST_HEADER, RawCall, Rpc, RpcId, Wait, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{CallError, RpcName};
use super::lane::{Live, Ticket};
use super::{Inner, deadline_after, within};
use crate::bulk::context;
use crate::clock;
use crate::protocol::message::{Content, Draft, HEADER_LEN};
use crate::protocol::{BareError, SealedError, Tick};
use crate::server::{CODE_ARGUMENTS, CODE_NO_ANSWER, target_of};
use crate::session::{self, CallRefused, Reply};
use crate::wipe::Wiped;

/// Bytes that a request has room for at first: small ones grow no more.
const ROOM: usize = 192;

/// A call of a typed RPC in a session: a future of its result.
///
/// As [`margo_rs::Call`]: the arguments are encoded when the call is made, sealed and sent when the future is first polled
/// or by [`Call::start`], and the deadline counts from then; making a new session, where that is needed, is within it.
/// Dropping the future cancels the call. A call is sent at most once.
#[must_use = "a call is sent when it is awaited, waited for, or started"]
pub struct Call<Out> {
    sealed: SealedCall,
    output: PhantomData<fn() -> Out>,
}

impl<Out: DeserializeOwned> Call<Out> {
    pub(super) fn new<In: Serialize>(inner: &Arc<Inner>, rpc: Rpc<In, Out>, provider: ProviderId, args: &In) -> Self {
        let mut body = Draft::within(Buffer::room_for(REQUEST_HEADER + HEADER_LEN, ROOM));
        let id = rpc.id(provider);
        let name = RpcName { name: rpc.name(), provider };
        let encode = || body.append(|bytes| codec::encode_into(args, bytes));
        let (encoded, content) = context::encoding(inner.protection, encode);
        let state = match encoded {
            Ok(()) => State::Unsent(body),
            Err(source) => State::Failed(CallError::Encode { rpc: name, source }),
        };
        let sealed = SealedCall {
            timeout: inner.default_timeout,
            inner: Arc::clone(inner),
            rpc: id,
            name,
            one_way: rpc.response_disabled(),
            content,
            state,
        };
        Self { sealed, output: PhantomData }
    }

    /// Sets how long the call may take, from when it is sent.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.sealed.timeout = timeout;
        self
    }

    /// Sends the request now, if there is a session with room for it, or else when the call is first polled. The answer is
    /// awaited later; errors show then. A call that is started takes one of the session's places until it is polled to its
    /// end or dropped.
    pub fn start(mut self) -> Self {
        self.sealed.start();
        self
    }

    /// Blocks the thread until the call is done.
    ///
    /// # Errors
    /// The call's own, and [`margo_rs::CallError::WouldDeadlock`] inside an asynchronous handler on the progress thread: a call
    /// that was not started is not sent then.
    pub fn wait(mut self) -> Result<Out, CallError> {
        self.sealed.wait(decode)
    }
}

fn decode<Out: DeserializeOwned>(rpc: RpcName, body: &[u8]) -> Result<Out, CallError> {
    codec::from_slice(body).map_err(|source| CallError::Decode { rpc, source })
}

impl<Out: DeserializeOwned> Future for Call<Out> {
    type Output = Result<Out, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.sealed.poll(cx, decode)
    }
}

impl<Out> fmt::Debug for Call<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("rpc", &self.sealed.rpc)
            .field("peer", self.sealed.inner.endpoint.address())
            .finish_non_exhaustive()
    }
}

/// A call without its types.
struct SealedCall {
    inner: Arc<Inner>,
    rpc: RpcId,
    name: RpcName,
    one_way: bool,
    content: Content,
    timeout: Duration,
    state: State,
}

type Preparing = Pin<Box<dyn Future<Output = Option<Result<Ticket, CallError>>> + Send>>;

#[allow(clippy::large_enum_variant, reason = "every call gets there, and a box would cost an allocation")]
enum State {
    Unsent(Draft),
    /// Waiting for a session or for room in it.
    Preparing(Preparing, Draft, Instant),
    InFlight(InFlight),
    Failed(CallError),
    Over,
}

struct InFlight {
    raw: RawCall,
    /// Taken by the one reply that there is.
    call: Option<session::Call>,
    ticket: Ticket,
    /// It may be overtaken as long as it is not answered.
    is_long: bool,
}

impl InFlight {
    /// Others need not stay near a request that is sent, unless it is long and so may be overtaken still.
    #[inline]
    fn note_sent(&mut self) {
        if self.raw.is_sent() {
            self.ticket.live.note_sent();
            if !self.is_long {
                self.ticket.arrived();
            }
        }
    }
}

impl SealedCall {
    /// Sends, if there is a session with room: whoever has not been polled must hold up nobody else.
    fn start(&mut self) {
        let State::Unsent(body) = &mut self.state else { return };
        let now = clock::now();
        let lane = self.inner.lane_of(body);
        let Some(ticket) = self.inner.try_ticket(lane, self.timeout, now) else { return };
        let body = body.take();
        self.seal(ticket, body, self.timeout, now);
        self.start_sealed();
    }

    fn start_sealed(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::InFlight(InFlight { raw, call, ticket, is_long }) => {
                let mut call = InFlight { raw: raw.start(), call, ticket, is_long };
                call.note_sent();
                State::InFlight(call)
            }
            other => other,
        };
    }

    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(RpcName, &[u8]) -> Result<T, CallError>,
    ) -> Poll<Result<T, CallError>> {
        ready!(self.poll_ready(cx));
        let outcome = match &mut self.state {
            State::InFlight(call) => {
                let polled = Pin::new(&mut call.raw).poll(cx);
                call.note_sent();
                ready!(polled)
            }
            State::Failed(_) => return Poll::Ready(Err(self.failure())),
            _ => panic!("call polled after it was done"),
        };
        Poll::Ready(self.finish(outcome, read))
    }

    fn wait<T>(&mut self, read: impl FnOnce(RpcName, &[u8]) -> Result<T, CallError>) -> Result<T, CallError> {
        if !margo_rs::may_block() {
            return Err(margo_rs::CallError::WouldDeadlock.into());
        }
        if matches!(self.state, State::Unsent(_) | State::Preparing(..)) {
            self.start();
            if matches!(self.state, State::Unsent(_) | State::Preparing(..)) {
                std::future::poll_fn(|cx| self.poll_ready(cx)).wait();
                self.start_sealed();
            }
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::InFlight(mut call) => {
                call.note_sent();
                let outcome = call.raw.wait();
                self.asked().read(call.call, &call.ticket.live, outcome, read)
            }
            State::Failed(error) => Err(error),
            _ => panic!("call waited for after it was done"),
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked { endpoint: &self.inner.endpoint, rpc: self.name, one_way: self.one_way, timeout: self.timeout }
    }

    fn failure(&mut self) -> CallError {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Failed(error) => error,
            _ => unreachable!("only called for a call that failed"),
        }
    }

    /// Done when the call is in flight, or has failed before.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Unsent(body) = &mut self.state {
            let now = clock::now();
            let lane = self.inner.lane_of(body);
            let body = body.take();
            match self.inner.try_ticket(lane, self.timeout, now) {
                Some(ticket) => self.seal(ticket, body, self.timeout, now),
                None => {
                    let deadline = deadline_after(self.timeout);
                    let inner = Arc::clone(&self.inner);
                    let preparing = Box::pin(async move { within(&inner.timer, deadline, inner.ticket(lane)).await });
                    self.state = State::Preparing(preparing, body, deadline);
                }
            }
        }
        if let State::Preparing(preparing, ..) = &mut self.state {
            let prepared = ready!(preparing.as_mut().poll(cx));
            let State::Preparing(_, body, deadline) = std::mem::replace(&mut self.state, State::Over) else {
                unreachable!()
            };
            match prepared {
                Some(Ok(ticket)) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.seal(ticket, body, left, clock::now());
                }
                Some(Err(error)) => self.state = State::Failed(error),
                None => {
                    let error = self.asked().late();
                    self.state = State::Failed(error);
                }
            }
        }
        Poll::Ready(())
    }

    /// Seals and sends; `left` is the time there is.
    fn seal(&mut self, ticket: Ticket, body: Draft, left: Duration, now: Tick) {
        let is_long = self.inner.lane_of(&body) > 0;
        let live = &ticket.live;
        let sealed = live.session.call(target_of(self.rpc), self.content, body, now);
        let (message, call) = match sealed {
            Ok(sealed) => sealed,
            Err(refused) => {
                self.state = State::Failed(match refused {
                    CallRefused::TooLarge { max, .. } => CallError::TooLarge { rpc: self.name, max },
                    CallRefused::Ended | CallRefused::Exhausted => {
                        live.spend();
                        CallError::SessionEnded
                    }
                });
                return;
            }
        };
        let endpoint = &self.inner.endpoint;
        let raw = match self.one_way {
            true => endpoint.send_raw_headed(self.rpc, message),
            false => endpoint.call_raw_headed(self.rpc, message),
        };
        self.state = State::InFlight(InFlight { raw: raw.timeout(left), call: Some(call), ticket, is_long });
    }

    fn finish<T>(
        &mut self,
        outcome: Result<Buffer, margo_rs::CallError>,
        read: impl FnOnce(RpcName, &[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        // Where it is: moving calls about would take as long as all the locks of a session.
        let asked =
            Asked { endpoint: &self.inner.endpoint, rpc: self.name, one_way: self.one_way, timeout: self.timeout };
        let State::InFlight(InFlight { call, ticket, .. }) = &mut self.state else {
            unreachable!("only called for a call in flight")
        };
        let result = asked.read(call.take(), &ticket.live, outcome, read);
        self.state = State::Over;
        result
    }
}

/// What an answer is to be read for.
struct Asked<'a> {
    endpoint: &'a Endpoint,
    rpc: RpcName,
    one_way: bool,
    timeout: Duration,
}

impl Asked<'_> {
    /// No answer in the time that was given.
    fn late(&self) -> CallError {
        let RpcName { name, provider } = self.rpc;
        let peer = self.endpoint.address().clone();
        let rpc = RpcId::new(name, provider);
        margo_rs::CallError::DeadlineExceeded { rpc, name: Some(name), peer, after: self.timeout }.into()
    }

    /// Opens the answer; `call` is there once.
    fn read<T>(
        &self,
        call: Option<session::Call>,
        live: &Live,
        outcome: Result<Buffer, margo_rs::CallError>,
        read: impl FnOnce(RpcName, &[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut answer = match outcome {
            Ok(answer) => Wiped::new(answer),
            // The time that the user gave, not what was left of it when the request was sent.
            Err(margo_rs::CallError::DeadlineExceeded { .. }) => return Err(self.late()),
            Err(other) => return Err(other.into()),
        };
        if self.one_way {
            return read(self.rpc, &answer);
        }
        if BareError::is_one(&answer) {
            // Perhaps from somebody else: a hint to make a new session, no more.
            live.lose();
            return Err(CallError::SessionLost(self.endpoint.address().clone()));
        }
        let rpc = self.rpc;
        let call = call.expect("a call is read once");
        match live.session.open(call, &mut answer, clock::now()) {
            Ok(Reply::Result { body, content }) => {
                context::decoding(live.session.terms().protection, content, || read(rpc, body))
            }
            Ok(Reply::Error(error)) => Err(match error {
                SealedError::Denied => CallError::Denied(rpc),
                SealedError::Expiring => {
                    live.spend();
                    CallError::SessionEnded
                }
                SealedError::Busy { retry_ms } => {
                    CallError::Busy { retry_after: Duration::from_millis(retry_ms.into()) }
                }
                SealedError::TooLarge => CallError::TooLarge { rpc, max: live.session.terms().max_message },
                SealedError::NoSuchRpc => CallError::NoSuchRpc(rpc),
                SealedError::Handler { code: CODE_ARGUMENTS, text } => CallError::InvalidArguments(text),
                SealedError::Handler { code: CODE_NO_ANSWER, text } => CallError::NoAnswer(text),
                SealedError::Handler { text, .. } => CallError::Handler(text),
            }),
            Err(source) => Err(CallError::Tampered { rpc, source }),
        }
    }
}

//! A call from its start to its end.

use super::peer::Peer;
use super::table::{Begin, Outcome, Wanted};
use crate::buffer::Buffer;
use crate::bulk::Transfer;
use crate::codec::{self, EncodeError};
use crate::engine::{Lead, Led, LinkState, REQUEST_HEADER, RESPONSE_HEADER, block_on, may_block};
use crate::error::{CallError, MESSAGE_MAX, Status};
use crate::exec::may_suspend;
use crate::limits::deadline_after;
use crate::rpc::{NO_PARENT, RpcId};
use crate::server::current_rpc;
use crate::transport::{CallId, Flush};
use crate::wire::RequestHead;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A call of a typed RPC: a future of its result.
///
/// * The arguments are encoded when the call is made; the request is sent when the future is first polled, or by
///   [`Call::start`]. The deadline counts from then. Without [`Call::timeout`] it is the engine's default.
/// * Dropping the future cancels the call: its resources are free at once, and the server is told. Whether the handler
///   ran is unknown then, as after a deadline or a lost connection.
/// * While it waits, polling looks for the answer for a short, bounded time (see [`Progress`](crate::Progress))
///   before it returns `Pending`.
/// * A call of a fire-and-forget RPC is done when the request is handed to the transport.
///
/// Any executor will do; [`Call::wait`] blocks without one.
#[must_use = "a call is sent when it is awaited, waited for, or started"]
pub struct Call<Out> {
    raw: RawCall,
    name: &'static str,
    output: PhantomData<fn() -> Out>,
}

impl<Out: DeserializeOwned> Call<Out> {
    pub(crate) fn new(raw: RawCall, name: &'static str) -> Self {
        Self { raw, name, output: PhantomData }
    }

    /// Sets how long the call may take, from when it is sent.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { raw: self.raw.timeout(timeout), ..self }
    }

    /// Sends the request now, if the connection stands and the server's limits leave room, or else when the call is
    /// first polled. The answer is awaited later; errors show then.
    pub fn start(self) -> Self {
        Self { raw: self.raw.start(), ..self }
    }

    /// Blocks the thread until the call is done.
    ///
    /// # Errors
    /// The call's own, and [`CallError::WouldDeadlock`] inside an asynchronous handler on the progress thread or in an
    /// Argobots pool.
    pub fn wait(mut self) -> Result<Out, CallError> {
        let output = self.raw.wait_in_place();
        self.decode(output)
    }

    fn decode(&self, output: Result<Buffer, CallError>) -> Result<Out, CallError> {
        let output = output.map_err(|error| error.named(self.name))?;
        let undecodable = |source| CallError::Decode { rpc: self.raw.rpc, name: Some(self.name), source };
        codec::from_slice(&output).map_err(undecodable)
    }
}

impl<Out: DeserializeOwned> Future for Call<Out> {
    type Output = Result<Out, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.raw).poll(cx).map(|output| self.decode(output))
    }
}

impl<Out> fmt::Debug for Call<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

/// A call of raw bytes: a future of the bytes that the handler answered. As [`Call`] in all else.
#[must_use = "a call is sent when it is awaited, waited for, or started"]
pub struct RawCall {
    peer: Arc<Peer>,
    rpc: RpcId,
    one_way: bool,
    timeout: Duration,
    /// Set when the call is first tried to be sent.
    deadline: Option<Instant>,
    /// The link that it last waited for.
    waited_for: Option<Arc<LinkState>>,
    state: State,
}

enum State {
    Unsent(Unsent),
    /// The outcome is known and nobody has asked for it yet.
    Ready(Outcome),
    InFlight(InFlight),
    Over,
}

enum Unsent {
    Request(Buffer),
    /// Boxed, so that calls do not have its size.
    Transfer(Box<Transfer>),
}

struct InFlight {
    link: Arc<LinkState>,
    id: CallId,
    /// It is this call's turn to drive the transport.
    leading: Option<Lead>,
    /// The task has been woken once for others to make their calls.
    probed: bool,
}

/// How a poll may wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Task,
    Blocking,
    /// Send and return.
    Start,
}

impl RawCall {
    pub(crate) fn new(
        peer: Arc<Peer>,
        rpc: RpcId,
        one_way: bool,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Self {
        let mut payload = Buffer::new();
        payload.vec_mut().extend_from_slice(&current_rpc().as_u64().to_le_bytes());
        let state = match encode(payload.vec_mut()) {
            Ok(()) => State::Unsent(Unsent::Request(payload)),
            Err(source) => State::Ready(Err(Box::new(CallError::Encode { rpc, name: None, source }))),
        };
        let timeout = peer.core().limits.default_timeout;
        Self { peer, rpc, one_way, timeout, deadline: None, waited_for: None, state }
    }

    #[inline]
    pub(crate) fn headed(peer: Arc<Peer>, rpc: RpcId, one_way: bool, mut request: Vec<u8>) -> Self {
        let header = request.first_chunk_mut::<REQUEST_HEADER>().expect("a request with room for its header");
        *header = current_rpc().as_u64().to_le_bytes();
        let timeout = peer.core().limits.default_timeout;
        Self {
            peer,
            rpc,
            one_way,
            timeout,
            deadline: None,
            waited_for: None,
            state: State::Unsent(Unsent::Request(request.into())),
        }
    }

    /// A bulk transfer, which is a call to everything but the transport. Its outcome is empty.
    pub(crate) fn transfer(peer: Arc<Peer>, transfer: Transfer, timeout: Duration) -> Self {
        let state = State::Unsent(Unsent::Transfer(Box::new(transfer)));
        Self { peer, rpc: NO_PARENT, one_way: false, timeout, deadline: None, waited_for: None, state }
    }

    /// Sets how long the call may take, from when it is sent.
    #[inline]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends the request now, if the connection stands and the server's limits leave room, or else when the call is
    /// first polled. The answer is awaited later; errors show then.
    pub fn start(mut self) -> Self {
        let noop = Waker::noop();
        if let State::Unsent(_) = self.state
            && let Poll::Ready(outcome) = self.poll_in(&mut Context::from_waker(noop), Mode::Start)
        {
            self.state = State::Ready(outcome);
        }
        self
    }

    /// Whether the request may have left: if not, it has certainly had no effect.
    #[inline]
    pub fn is_sent(&self) -> bool {
        !matches!(self.state, State::Unsent(_))
    }

    /// Blocks the thread until the call is done.
    ///
    /// # Errors
    /// The call's own, and [`CallError::WouldDeadlock`] inside an asynchronous handler on the progress thread or in an
    /// Argobots pool.
    pub fn wait(mut self) -> Result<Buffer, CallError> {
        self.wait_in_place()
    }

    fn wait_in_place(&mut self) -> Result<Buffer, CallError> {
        let outcome = self.wait_for_outcome();
        self.read(outcome)
    }

    /// Blocks until the call or transfer is done, and returns its outcome as it came.
    pub(crate) fn wait_for_outcome(&mut self) -> Outcome {
        if !may_block() {
            return Err(Box::new(CallError::WouldDeadlock));
        }
        block_on(|cx| self.poll_in(cx, Mode::Blocking))
    }

    /// As the future, but for the outcome as it came.
    pub(crate) fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.poll_in(cx, Mode::Task)
    }

    fn poll_in(&mut self, cx: &mut Context<'_>, mode: Mode) -> Poll<Outcome> {
        if let State::Unsent(_) = self.state {
            let alone = match std::task::ready!(self.send(cx, mode)) {
                Ok(Sent::Alone) => true,
                Ok(Sent::AmongOthers) => false,
                Ok(Sent::Done) => return Poll::Ready(Ok(Buffer::new())),
                Err(error) => return Poll::Ready(Err(error)),
            };
            if mode == Mode::Start {
                return Poll::Pending;
            }
            if mode == Mode::Task
                && let Some(pending) = self.let_others_run(cx, alone)
            {
                return pending;
            }
        }
        match &self.state {
            State::InFlight(_) => self.poll_in_flight(cx, mode),
            State::Ready(_) => match std::mem::replace(&mut self.state, State::Over) {
                State::Ready(outcome) => Poll::Ready(outcome),
                _ => unreachable!("just matched"),
            },
            State::Unsent(_) | State::Over => panic!("call polled after it was done"),
        }
    }

    /// Sends the request as soon as the link and the peer's limits allow.
    fn send(&mut self, cx: &mut Context<'_>, mode: Mode) -> Poll<Result<Sent, Box<CallError>>> {
        let State::Unsent(unsent) = &mut self.state else { unreachable!("only called for an unsent call") };
        let core = self.peer.core();
        let now = Instant::now();
        let waited = self.deadline.is_some();
        let deadline = *self.deadline.get_or_insert_with(|| deadline_after(now, self.timeout));
        if now >= deadline {
            self.state = State::Over;
            if waited {
                self.peer.wake_waiting();
            }
            let peer = self.peer.address().clone();
            let late = CallError::DeadlineExceeded { rpc: self.rpc, name: None, peer, after: self.timeout };
            return Poll::Ready(Err(Box::new(late)));
        }
        // The link that it waited for may have failed to come up. Another attempt is for the next call: this one would
        // try until its deadline.
        if let Some(error) = self.waited_for.take().and_then(|link| link.calls.connect_error()) {
            self.state = State::Over;
            return Poll::Ready(Err(error));
        }
        let bytes = match unsent {
            Unsent::Request(payload) => payload.len() as u64,
            Unsent::Transfer(_) => 0,
        };
        let begun = self.peer.link().map(|link| {
            let begun = link.calls.begin(Wanted { rpc: self.rpc, bytes, deadline, timeout: self.timeout }, cx.waker());
            (link, begun)
        });
        let (link, id) = match begun {
            Ok((link, Begin::Id(id))) => (link, id),
            Ok((link, Begin::Wait)) => {
                self.waited_for = Some(link);
                core.driver.watch_deadline(deadline);
                return Poll::Pending;
            }
            Ok((_, Begin::Failed(error))) | Err(error) => {
                self.state = State::Over;
                return Poll::Ready(Err(error));
            }
        };
        let Some(transport) = link.link() else { unreachable!("a link that is up is attached") };
        // What was cancelled stays in the queue of a peer that does not read, and no longer counts as in flight.
        if let Unsent::Request(_) = unsent
            && transport.queued() > core.limits.max_queued
            && (self.one_way
                || transport.queued() as u64 > link.calls.bytes_in_flight() + core.limits.max_queued as u64)
        {
            link.calls.forget(id);
            let peer = self.peer.address().clone();
            self.state = State::Over;
            return Poll::Ready(Err(Box::new(CallError::Overloaded { peer })));
        }
        let unsent = std::mem::replace(unsent, Unsent::Request(Buffer::default()));
        let timeout_ms = (deadline - now).as_millis().clamp(1, u32::MAX.into()) as u32;
        let head = RequestHead { rpc: self.rpc, timeout_ms, one_way: self.one_way };
        if self.one_way {
            self.state = State::Over;
            if let Unsent::Request(payload) = unsent {
                transport.request(id, head, payload, self.flush(true));
            }
            link.calls.forget(id);
            return Poll::Ready(Ok(Sent::Done));
        }
        let others = core.driver.call_starts(deadline);
        let now = others == 0 || mode != Mode::Task || core.driver.should_flush(others + 1);
        match unsent {
            Unsent::Request(payload) => transport.request(id, head, payload, self.flush(now)),
            Unsent::Transfer(transfer) => {
                if let Err(error) = transport.transfer(id, *transfer, self.flush(now)) {
                    link.calls.complete(id, || Err(Box::new(CallError::Transfer(error))));
                }
            }
        }
        if !now {
            core.driver.call_queued();
        }
        self.state = State::InFlight(InFlight { link, id, leading: None, probed: false });
        Poll::Ready(Ok(if others == 0 { Sent::Alone } else { Sent::AmongOthers }))
    }

    /// Inside of the transport's poll, everything goes out together at its end.
    fn flush(&self, now: bool) -> Flush {
        if now && !self.peer.core().driver.is_polling_here() { Flush::Now } else { Flush::Later }
    }

    /// After sending: other tasks of the same executor may have calls to make, which then go out in one write.
    fn let_others_run(&mut self, cx: &mut Context<'_>, alone: bool) -> Option<Poll<Outcome>> {
        let State::InFlight(call) = &mut self.state else { return None };
        let driver = &self.peer.core().driver;
        if call.link.is_local() || driver.is_polling_here() {
            return None;
        }
        if alone {
            if call.probed || !driver.should_probe() {
                return None;
            }
            call.probed = true;
            // Answers of other engines may wait for a thread of theirs, and that for this processor: whoever gets his own
            // at once never goes without it otherwise.
            std::thread::yield_now();
            cx.waker().wake_by_ref();
        } else {
            call.leading = driver.elect();
            if call.leading.is_some() {
                cx.waker().wake_by_ref();
            }
        }
        Some(Poll::Pending)
    }

    fn poll_in_flight(&mut self, cx: &mut Context<'_>, mode: Mode) -> Poll<Outcome> {
        let State::InFlight(call) = &mut self.state else { unreachable!("only called for a call in flight") };
        let core = self.peer.core();
        if !call.link.is_local() {
            call.leading = call.leading.filter(|lead| core.driver.is_led_by(*lead)).or_else(|| core.driver.elect());
        }
        // Whoever leads looks for himself and need not be woken.
        let waker = if call.leading.is_some() { Waker::noop() } else { cx.waker() };
        if let Poll::Ready(outcome) = call.link.calls.poll(call.id, waker) {
            return Poll::Ready(self.finish(outcome));
        }
        if call.leading.is_none() && !call.link.is_local() {
            // Who led may have left before it could know that somebody waits.
            call.leading = core.driver.elect();
        }
        let Some(lead) = call.leading else { return Poll::Pending };
        let deadline = self.deadline.unwrap_or_else(Instant::now);
        // A user-level thread shares its execution stream as a task shares its executor.
        let block = mode == Mode::Blocking && !may_suspend();
        match core.driver.lead(deadline, block, || call.link.calls.is_done(call.id)) {
            Led::Done => {}
            Led::Others => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Led::GaveUp => {
                call.leading = None;
                core.driver.hand_over(lead);
            }
        }
        match call.link.calls.poll(call.id, cx.waker()) {
            Poll::Ready(outcome) => Poll::Ready(self.finish(outcome)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The call has its outcome: whoever waits still must be driven by somebody.
    fn finish(&mut self, outcome: Outcome) -> Outcome {
        if let State::InFlight(call) = std::mem::replace(&mut self.state, State::Over) {
            self.leave(call);
        }
        outcome
    }

    fn leave(&self, call: InFlight) {
        let core = self.peer.core();
        core.driver.call_ends();
        let Some(lead) = call.leading else { return };
        core.driver.step_back(lead);
        // Looked at only now: a call that started before and was not elected counts already.
        if core.driver.outstanding() > 0 {
            core.pass_lead_on(&call.link);
        }
    }

    /// Reads the status that starts every response.
    fn read(&self, outcome: Outcome) -> Result<Buffer, CallError> {
        let mut payload = outcome.map_err(|error| *error)?;
        if self.one_way {
            return Ok(payload);
        }
        let Some(status) = payload.first_chunk::<RESPONSE_HEADER>() else {
            return Err(CallError::MalformedResponse { rpc: self.rpc, name: None });
        };
        let status = Status(i32::from_le_bytes(*status));
        payload.skip(RESPONSE_HEADER);
        if status == Status::SUCCESS {
            return Ok(payload);
        }
        let peer = || self.peer.address().clone();
        let message = || String::from_utf8_lossy(&payload[..payload.len().min(MESSAGE_MAX)]).into_owned();
        Err(match status {
            Status::NOENTRY => {
                CallError::NoSuchRpc { rpc: self.rpc, name: None, provider: self.rpc.provider_id(), peer: peer() }
            }
            Status::PERMISSION => CallError::PeerShuttingDown { peer: peer() },
            Status::BUSY => CallError::Overloaded { peer: peer() },
            Status::INVALID_ARG => CallError::InvalidArguments { message: message() },
            Status::FAULT => CallError::Handler { message: message() },
            Status::MSGSIZE => CallError::Rejected { message: message() },
            Status(other) => CallError::Status(other),
        })
    }
}

impl Future for RawCall {
    type Output = Result<Buffer, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(self.poll_in(cx, Mode::Task));
        Poll::Ready(self.read(outcome))
    }
}

impl Drop for RawCall {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::InFlight(call) => {
                if call.link.calls.forget(call.id)
                    && let Some(transport) = call.link.link()
                {
                    transport.cancel(call.id);
                }
                self.leave(call);
            }
            // It may have been this call's turn to be sent.
            State::Unsent(_) if self.deadline.is_some() => self.peer.wake_waiting(),
            _ => {}
        }
    }
}

impl fmt::Debug for RawCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("rpc", &self.rpc).field("peer", self.peer.address()).finish_non_exhaustive()
    }
}

/// What became of a request that was ready to go.
enum Sent {
    /// No other call is in flight.
    Alone,
    AmongOthers,
    /// It wants no response.
    Done,
}

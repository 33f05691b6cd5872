//! Handlers of all kinds behind one type, and how they are run.

use super::request::Request;
use super::responder::{RawResponder, Responder};
use super::running::InFlight;
use crate::buffer::{Buffer, Payload};
use crate::codec;
use crate::engine::Core;
use crate::error::{HandlerError, Status};
use crate::exec::{Pool, Task};
use crate::rpc::{NO_PARENT, ProviderId, RpcId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Arguments up to this size are decoded on the progress thread, in bytes.
const INLINE_PAYLOAD_MAX: usize = 72 * 1024;

thread_local! {
    /// The RPC whose handler this thread runs: the parent of the calls it makes.
    static CURRENT_RPC: Cell<RpcId> = const { Cell::new(NO_PARENT) };
}

/// The RPC whose handler runs here, or [`NO_PARENT`].
pub(crate) fn current_rpc() -> RpcId {
    CURRENT_RPC.get()
}

/// Sets the RPC whose handler this thread runs, where that changes in the middle of a handler. Gives the one before.
#[cfg(argobots)]
pub(crate) fn replace_current_rpc(rpc: RpcId) -> RpcId {
    CURRENT_RPC.replace(rpc)
}

/// Runs `work` as a part of the handler of `rpc`.
fn within_rpc<T>(rpc: RpcId, work: impl FnOnce() -> T) -> T {
    struct Restore(RpcId);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT_RPC.set(self.0);
        }
    }
    let _restore = Restore(CURRENT_RPC.replace(rpc));
    work()
}

/// What a handler makes of a request.
enum Work {
    /// It is answered, or its responder has been given away.
    Done,
    Future(Task),
}

/// What a handler of any kind comes down to.
type Start = dyn Fn(Request, RawResponder, Payload<'_>) -> Work + Send + Sync;

/// The second half of a handler whose gate let a request through.
type Rest = Box<dyn FnOnce() -> Work + Send>;

/// What looks at a request as soon as it has arrived.
type Gate = dyn Fn(Request, RawResponder, Payload<'_>) -> Option<Rest> + Send + Sync;

/// A handler of any kind.
pub(crate) struct Handler {
    start: Box<Start>,
    /// For handlers that look at small requests in the order of their arrival, wherever they are served then.
    gate: Option<Box<Gate>>,
    /// `start` blocks until the request is answered.
    blocking: bool,
}

impl Handler {
    fn starting(start: impl Fn(Request, RawResponder, Payload<'_>) -> Work + Send + Sync + 'static) -> Self {
        Self { start: Box::new(start), gate: None, blocking: false }
    }

    pub(crate) fn future<In, Out, F, Fut>(handler: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    {
        Self::starting(move |request, responder, payload| {
            let Some((args, responder)) = decode(&request, responder, &payload) else { return Work::Done };
            let result = handler(request, args);
            Work::Future(Box::pin(async move { answer(responder, result.await) }))
        })
    }

    pub(crate) fn blocking<In, Out, F>(handler: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Result<Out, HandlerError> + Send + Sync + 'static,
    {
        let start = move |request: Request, responder: RawResponder, payload: Payload<'_>| {
            if let Some((args, responder)) = decode(&request, responder, &payload) {
                answer(responder, handler(request, args));
            }
            Work::Done
        };
        Self { start: Box::new(start), gate: None, blocking: true }
    }

    pub(crate) fn deferred<In, Out, F, Fut>(handler: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In, Responder<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::starting(move |request, responder, payload| {
            let Some((args, responder)) = decode(&request, responder, &payload) else { return Work::Done };
            Work::Future(Box::pin(handler(request, args, Responder::new(responder))))
        })
    }

    pub(crate) fn raw<F, Fut>(handler: F) -> Self
    where
        F: Fn(Request, Buffer, RawResponder) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::starting(move |request, responder, payload| {
            Work::Future(Box::pin(handler(request, input_of(payload), responder)))
        })
    }

    /// As `raw`, in two halves: `admit` sees each small request when it arrives, and `handler` what that makes of it.
    pub(crate) fn gated<T, A, F, Fut>(admit: A, handler: F) -> Self
    where
        T: Send + 'static,
        A: Fn(Request, Buffer, RawResponder) -> Option<T> + Send + Sync + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let both = Arc::new((admit, handler));
        let gate = both.clone();
        let start =
            move |request, responder, payload: Payload<'_>| match (both.0)(request, input_of(payload), responder) {
                Some(admitted) => Work::Future(Box::pin((both.1)(admitted))),
                None => Work::Done,
            };
        let gate = move |request, responder, payload: Payload<'_>| {
            let admitted = (gate.0)(request, input_of(payload), responder)?;
            let both = gate.clone();
            Some(Box::new(move || Work::Future(Box::pin((both.1)(admitted)))) as Rest)
        };
        Self { start: Box::new(start), gate: Some(Box::new(gate)), blocking: false }
    }

    /// As `gated`, with a handler that may block.
    pub(crate) fn gated_blocking<T, A, F>(admit: A, handler: F) -> Self
    where
        T: Send + 'static,
        A: Fn(Request, Buffer, RawResponder) -> Option<T> + Send + Sync + 'static,
        F: Fn(T) + Send + Sync + 'static,
    {
        let both = Arc::new((admit, handler));
        let gate = both.clone();
        let start = move |request, responder, payload: Payload<'_>| {
            if let Some(admitted) = (both.0)(request, input_of(payload), responder) {
                (both.1)(admitted);
            }
            Work::Done
        };
        let gate = move |request, responder, payload: Payload<'_>| {
            let admitted = (gate.0)(request, input_of(payload), responder)?;
            let both = gate.clone();
            let rest = move || {
                (both.1)(admitted);
                Work::Done
            };
            Some(Box::new(rest) as Rest)
        };
        Self { start: Box::new(start), gate: Some(Box::new(gate)), blocking: true }
    }

    pub(crate) fn raw_blocking<F>(handler: F) -> Self
    where
        F: Fn(Request, Buffer, RawResponder) + Send + Sync + 'static,
    {
        let start = move |request: Request, responder: RawResponder, payload: Payload<'_>| {
            handler(request, input_of(payload), responder);
            Work::Done
        };
        Self { start: Box::new(start), gate: None, blocking: true }
    }
}

/// What the caller encoded.
fn input_of(payload: Payload<'_>) -> Buffer {
    let mut input = payload.into_buffer();
    input.skip(crate::engine::REQUEST_HEADER);
    input
}

/// Decodes the arguments, or answers that they cannot be.
fn decode<In: DeserializeOwned>(
    request: &Request,
    responder: RawResponder,
    payload: &Payload<'_>,
) -> Option<(In, RawResponder)> {
    let input = payload.bytes().get(crate::engine::REQUEST_HEADER..).unwrap_or(&[]);
    match codec::from_slice(input) {
        Ok(args) => Some((args, responder)),
        Err(error) => {
            if request.in_flight().link().core().is_some_and(|core| core.warnings.allow(Instant::now())) {
                tracing::warn!(rpc = %request.rpc_id(), peer = %request.peer(), %error, "arguments cannot be decoded");
            }
            responder.refuse(Status::INVALID_ARG, &error.to_string());
            None
        }
    }
}

fn answer<Out: Serialize>(responder: RawResponder, result: Result<Out, HandlerError>) {
    match result {
        Ok(output) => responder.respond_with(|payload| codec::encode_into(&output, payload)),
        Err(error) => responder.refuse(Status::FAULT, &error.to_string()),
    }
}

/// A handler under its name.
pub(crate) struct Registration {
    pub(super) name: String,
    pub(super) id: RpcId,
    pub(crate) response_disabled: bool,
    handler: Handler,
    /// `None` is the default pool, whose handlers are polled on the progress thread first, unless it is of Argobots.
    pool: Option<Pool>,
}

impl Registration {
    pub(crate) fn new(
        name: &str,
        provider: ProviderId,
        response_disabled: bool,
        handler: Handler,
        pool: Option<Pool>,
    ) -> Self {
        Self { name: name.to_owned(), id: RpcId::new(name, provider), response_disabled, handler, pool }
    }

    /// Runs the handler on a request: right here if this is the progress thread and the request small, or else in its
    /// pool, where its arguments are decoded too.
    pub(crate) fn dispatch(
        self: &Arc<Self>,
        core: &Core,
        request: Request,
        responder: RawResponder,
        payload: Payload<'_>,
    ) {
        let in_flight = request.in_flight().clone();
        let here = self.pool.is_none()
            && !core.pools.default().is_argobots()
            && !self.handler.blocking
            && payload.bytes().len() <= INLINE_PAYLOAD_MAX
            && core.is_listening()
            && core.driver.is_progress_thread()
            && !in_flight.link().is_local();
        if here {
            return self.run_here(core, in_flight, request, responder, payload);
        }
        in_flight.make_cancellable();
        let pool = self.pool.as_ref().unwrap_or(core.pools.default());
        let this = self.clone();
        let rest: Rest = match &self.handler.gate {
            Some(gate) if payload.bytes().len() <= INLINE_PAYLOAD_MAX => {
                match self.catch(|| gate(request, responder, payload)).flatten() {
                    Some(rest) => Box::new(move || this.catch(rest).unwrap_or(Work::Done)),
                    None => return,
                }
            }
            _ => {
                let payload = payload.into_buffer();
                Box::new(move || this.start(request, responder, Payload::Owned(payload)))
            }
        };
        if self.handler.blocking {
            pool.spawn_blocking(Box::new(move || {
                if !in_flight.is_cancelled() {
                    rest();
                }
            }));
            return;
        }
        let future = Box::pin(async move {
            if let Work::Future(future) = rest() {
                future.await;
            }
        });
        let registration = self.clone();
        pool.spawn(Box::pin(HandlerTask { registration, future: Some(future), in_flight, cancellable: true }));
    }

    fn run_here(
        self: &Arc<Self>,
        core: &Core,
        in_flight: Arc<InFlight>,
        request: Request,
        responder: RawResponder,
        payload: Payload<'_>,
    ) {
        let mut task = match self.start(request, responder, payload) {
            Work::Done => HandlerTask { registration: self.clone(), future: None, in_flight, cancellable: false },
            Work::Future(future) => {
                HandlerTask { registration: self.clone(), future: Some(future), in_flight, cancellable: false }
            }
        };
        let done = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        if done && task.in_flight.is_settled() {
            return;
        }
        // If it is done, somebody holds the responder, and wants to know when the caller is gone.
        task.in_flight.make_cancellable();
        if !done {
            task.cancellable = true;
            core.pools.default().spawn(Box::pin(task));
        }
    }

    /// Calls the handler. A panic drops the responder, which answers.
    fn start(&self, request: Request, responder: RawResponder, payload: Payload<'_>) -> Work {
        self.catch(|| (self.handler.start)(request, responder, payload)).unwrap_or(Work::Done)
    }

    /// Runs a part of the handler; `None` if it panics.
    fn catch<T>(&self, part: impl FnOnce() -> T) -> Option<T> {
        let caught = catch_unwind(AssertUnwindSafe(|| within_rpc(self.id, part)));
        caught.map_err(|panic| report_panic(&self.name, panic)).ok()
    }
}

/// A handler's future with what surrounds it: the current RPC, panics, cancellation.
struct HandlerTask {
    registration: Arc<Registration>,
    /// `None` when it is over.
    future: Option<Task>,
    in_flight: Arc<InFlight>,
    /// It has moved to a pool: somebody can cancel it.
    cancellable: bool,
}

impl HandlerTask {
    /// Runs a part of the handler, its drop included, so that none of its panics gets further.
    fn within<T>(&mut self, part: impl FnOnce(&mut Option<Task>) -> T) -> Option<T> {
        let id = self.registration.id;
        let part = || within_rpc(id, || part(&mut self.future));
        match catch_unwind(AssertUnwindSafe(part)) {
            Ok(result) => Some(result),
            Err(panic) => {
                report_panic(&self.registration.name, panic);
                None
            }
        }
    }
}

impl Future for HandlerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let cancelled = this.cancellable && this.in_flight.poll_cancelled(cx.waker()).is_ready();
        let polled = this.within(|slot| match slot {
            Some(future) if !cancelled => future.as_mut().poll(cx),
            _ => Poll::Ready(()),
        });
        match polled {
            Some(Poll::Pending) => Poll::Pending,
            _ => {
                this.within(|slot| drop(slot.take()));
                Poll::Ready(())
            }
        }
    }
}

fn report_panic(name: &str, panic: Box<dyn Any + Send>) {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(rpc = name, panic = text, "handler panicked");
}

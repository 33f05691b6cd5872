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

thread_local! {
    /// The RPC whose handler this thread runs: the parent of the calls it makes.
    static CURRENT_RPC: Cell<RpcId> = const { Cell::new(NO_PARENT) };
}

/// The RPC whose handler runs here, or [`NO_PARENT`].
pub(crate) fn current_rpc() -> RpcId {
    CURRENT_RPC.get()
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
    /// It is answered.
    Done,
    Future(Task),
    Blocking(Box<dyn FnOnce() + Send>),
}

/// What a handler of any kind comes down to.
type Start = dyn Fn(Request, RawResponder, Payload<'_>) -> Work + Send + Sync;

/// A handler of any kind.
pub(crate) struct Handler(Box<Start>);

impl Handler {
    pub(crate) fn future<In, Out, F, Fut>(handler: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    {
        Self(Box::new(move |request, responder, payload| {
            let Some((args, responder)) = decode(responder, &payload) else { return Work::Done };
            let result = handler(request, args);
            Work::Future(Box::pin(async move { answer(responder, result.await) }))
        }))
    }

    pub(crate) fn blocking<In, Out, F>(handler: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In) -> Result<Out, HandlerError> + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        Self(Box::new(move |request, responder, payload| {
            let Some((args, responder)) = decode(responder, &payload) else { return Work::Done };
            let handler = handler.clone();
            Work::Blocking(Box::new(move || answer(responder, handler(request, args))))
        }))
    }

    pub(crate) fn deferred<In, Out, F, Fut>(handler: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        F: Fn(Request, In, Responder<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(Box::new(move |request, responder, payload| {
            let Some((args, responder)) = decode(responder, &payload) else { return Work::Done };
            Work::Future(Box::pin(handler(request, args, Responder::new(responder))))
        }))
    }

    pub(crate) fn raw<F, Fut>(handler: F) -> Self
    where
        F: Fn(Request, Buffer, RawResponder) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(Box::new(move |request, responder, payload| {
            let mut input = payload.into_buffer();
            input.skip(crate::engine::REQUEST_HEADER);
            Work::Future(Box::pin(handler(request, input, responder)))
        }))
    }
}

/// Decodes the arguments, or answers that they cannot be.
fn decode<In: DeserializeOwned>(responder: RawResponder, payload: &Payload<'_>) -> Option<(In, RawResponder)> {
    let input = payload.bytes().get(crate::engine::REQUEST_HEADER..).unwrap_or(&[]);
    match codec::from_slice(input) {
        Ok(args) => Some((args, responder)),
        Err(error) => {
            tracing::debug!(%error, "arguments cannot be decoded");
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
    /// `None` is the default pool, whose handlers are polled on the progress thread first.
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

    /// Runs the handler on a request.
    pub(crate) fn dispatch(
        self: &Arc<Self>,
        core: &Core,
        request: Request,
        responder: RawResponder,
        payload: Payload<'_>,
    ) {
        let in_flight = request.in_flight().clone();
        // A panic drops the responder, which answers.
        let work =
            catch_unwind(AssertUnwindSafe(|| within_rpc(self.id, || (self.handler.0)(request, responder, payload))));
        let future = match work {
            Ok(Work::Future(future)) => future,
            Ok(Work::Done) => return,
            Ok(Work::Blocking(work)) => {
                in_flight.make_cancellable();
                let this = self.clone();
                let work = move || {
                    if in_flight.is_cancelled() {
                        return;
                    }
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| within_rpc(this.id, work))) {
                        report_panic(&this.name, panic);
                    }
                };
                return self.pool.as_ref().unwrap_or(core.pools.default()).spawn_blocking(Box::new(work));
            }
            Err(panic) => return report_panic(&self.name, panic),
        };
        let is_local = in_flight.link().is_local();
        let mut task = HandlerTask { registration: self.clone(), future: Some(future), in_flight, cancellable: false };
        let pool = match &self.pool {
            Some(pool) => pool,
            None => {
                let here = core.is_listening() && core.driver.is_progress_thread() && !is_local;
                if here && Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    if !task.in_flight.is_settled() {
                        // Somebody holds the responder, and wants to know when the caller is gone.
                        task.in_flight.make_cancellable();
                    }
                    return;
                }
                core.pools.default()
            }
        };
        task.in_flight.make_cancellable();
        task.cancellable = true;
        pool.spawn(Box::pin(task));
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

impl Future for HandlerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Ready(()) };
        if this.cancellable && this.in_flight.poll_cancelled(cx.waker()).is_ready() {
            this.future = None;
            return Poll::Ready(());
        }
        let polled = catch_unwind(AssertUnwindSafe(|| within_rpc(this.registration.id, || future.as_mut().poll(cx))));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                this.future = None;
                Poll::Ready(())
            }
            Err(panic) => {
                report_panic(&this.registration.name, panic);
                this.future = None;
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

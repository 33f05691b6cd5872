//! The right to answer one request, once.

use super::running::InFlight;
use crate::buffer::Buffer;
use crate::codec;
use crate::engine::{LinkState, RESPONSE_HEADER};
use crate::error::{HandlerError, Status};
use crate::transport::CallId;
use serde::Serialize;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Answers one request with bytes.
///
/// It can be moved to any task or thread and used there; it cannot be copied, so nothing is answered twice. Dropped
/// unused, it answers with an error, so that the caller never waits in vain.
#[must_use = "dropping it answers the request with an error"]
pub struct RawResponder {
    /// `None` once answered.
    in_flight: Option<Arc<InFlight>>,
    /// The caller wants no response.
    silent: bool,
}

impl RawResponder {
    pub(crate) fn new(in_flight: Arc<InFlight>, silent: bool) -> Self {
        Self { in_flight: Some(in_flight), silent }
    }

    /// Answers with `output`.
    pub fn respond(self, output: &[u8]) {
        self.respond_with(|payload| {
            payload.extend_from_slice(output);
            Ok(())
        });
    }

    /// Answers with a response that has room for Margo's header: its first [`RESPONSE_HEADER`] bytes, which are filled in
    /// here. No copy is made. [`Buffer::room_for`] gives such a vector.
    ///
    /// # Panics
    /// The response is shorter than the header.
    pub fn respond_headed(mut self, mut response: Vec<u8>) {
        let header = response.first_chunk_mut::<RESPONSE_HEADER>().expect("a response with room for its header");
        *header = Status::SUCCESS.0.to_le_bytes();
        self.finish(|link, call| link.respond(call, response.into()));
    }

    /// Answers that the handler failed.
    pub fn fail(self, error: impl Into<HandlerError>) {
        let message = error.into().to_string();
        self.refuse(Status::FAULT, &message);
    }

    /// Gives no answer at all: the caller waits until its deadline, as if the request had been lost. For protocols that
    /// tell an attacker nothing; everybody else answers.
    pub fn abandon(mut self) {
        self.finish(|_, _| {});
    }

    pub(crate) fn refuse(mut self, status: Status, message: &str) {
        self.finish(|link, call| link.refuse(call, status, message));
    }

    /// Answers with what `encode` appends.
    pub(crate) fn respond_with(mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), codec::EncodeError>) {
        self.finish(|link, call| {
            let mut payload = Buffer::new();
            payload.vec_mut().extend_from_slice(&Status::SUCCESS.0.to_le_bytes());
            match encode(payload.vec_mut()) {
                Ok(()) => link.respond(call, payload),
                Err(error) => {
                    tracing::error!(%error, "a handler's result cannot be encoded");
                    link.refuse(call, Status::FAULT, &format!("the result cannot be encoded: {error}"));
                }
            }
        });
    }

    fn finish(&mut self, answer: impl FnOnce(&LinkState, CallId)) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.settle();
            if !self.silent && !in_flight.is_cancelled() {
                answer(in_flight.link(), in_flight.call());
            }
            in_flight.end();
        }
    }
}

impl Drop for RawResponder {
    fn drop(&mut self) {
        self.finish(|link, call| {
            let reason = if std::thread::panicking() { "handler panicked" } else { "handler gave no answer" };
            link.refuse(call, Status::FAULT, reason);
        });
    }
}

impl fmt::Debug for RawResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawResponder").field("silent", &self.silent).finish_non_exhaustive()
    }
}

/// Answers one request with a value. As [`RawResponder`] in all else.
#[must_use = "dropping it answers the request with an error"]
pub struct Responder<Out> {
    raw: RawResponder,
    output: PhantomData<fn(Out)>,
}

impl<Out: Serialize> Responder<Out> {
    pub(crate) fn new(raw: RawResponder) -> Self {
        Self { raw, output: PhantomData }
    }

    /// Answers with `output`.
    pub fn respond(self, output: &Out) {
        self.raw.respond_with(|payload| codec::encode_into(output, payload));
    }

    /// Answers that the handler failed.
    pub fn fail(self, error: impl Into<HandlerError>) {
        self.raw.fail(error);
    }
}

impl<Out> fmt::Debug for Responder<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

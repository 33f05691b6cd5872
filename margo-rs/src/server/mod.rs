//! The serving side: what is registered, and what becomes of a request.

pub(crate) mod builtin;
mod handler;
mod provider;
mod registry;
mod request;
mod responder;
mod running;

pub use self::provider::Provider;
pub use self::request::Request;
pub use self::responder::{RawResponder, Responder};

#[cfg(argobots)]
pub(crate) use self::handler::replace_current_rpc;
pub(crate) use self::handler::{Handler, Registration, current_rpc};
pub(crate) use self::registry::Registry;
pub(crate) use self::running::{InFlight, Running};

//! Echo by RPC: what a user of typed calls gets.

pub(super) mod auth;
pub(super) mod client;
pub(super) mod server;

use margo_rs::codec::Blob;
use margo_rs::{Address, Rpc};
use mochi_rs::program::Outcome;

use super::Options;
use super::case::Case;
use super::process::Server;
use super::rounds::Span;
use super::sample::Sample;

pub(super) use self::auth::{Mechanism, daemon_time};

const ECHO: Rpc<Blob, Blob> = Rpc::new("bench_echo");

/// Measures the case against a new server.
pub(super) fn measure(options: &Options, case: Case, span: Span) -> Outcome<Sample> {
    let listen = listen_address(&options.transport)?;
    let pin = options.pin.map(|pins| pins.server.to_string());
    let mut arguments = vec!["serve", &listen, "--progress", options.progress.name()];
    if let Some(pin) = &pin {
        arguments.extend(["--pin", pin]);
    }
    let socket = options.munge_socket.as_ref().map(|path| path.to_string_lossy().into_owned());
    if let Some(mechanism) = options.auth {
        arguments.extend(["--auth", mechanism.name()]);
        if let Some(socket) = &socket {
            arguments.extend(["--munge-socket", socket]);
        }
    }
    let mut server = Server::start(&arguments)?;
    client::measure(options, server.address(), case, span).map_err(|error| server.blame(case, error).into())
}

/// Where the server of a transport listens: for TCP, where nothing outside of this host is involved.
pub(super) fn listen_address(transport: &str) -> Outcome<String> {
    if transport == "tcp" {
        return Ok("native+tcp://127.0.0.1".to_owned());
    }
    let address: Address = transport.parse()?;
    if address.location().is_empty() && address.protocol().ends_with("tcp") {
        return Ok(format!("{}://127.0.0.1", address.protocol()));
    }
    Ok(address.to_string())
}

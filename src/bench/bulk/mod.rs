//! One-sided transfers: what a user of `pull` and `push` gets, one after the other.

mod client;
pub(super) mod server;

use margo_rs::Rpc;
use margo_rs::bulk::BulkDescriptor;
use mochi_rs::program::Outcome;

use super::Options;
use super::calls::listen_address;
use super::case::Case;
use super::process::Server;
use super::rounds::Span;
use super::sample::Sample;

/// Has the server expose so many bytes.
const REGION: Rpc<u64, BulkDescriptor> = Rpc::new("bench_region");

/// Measures the case against a new server.
pub(super) fn measure(options: &Options, case: Case, span: Span) -> Outcome<Sample> {
    let listen = listen_address(&options.transport)?;
    let pin = options.pin.map(|pins| pins.server.to_string());
    let mut arguments = vec!["serve-bulk", &listen, "--progress", options.progress.name()];
    if let Some(pin) = &pin {
        arguments.extend(["--pin", pin]);
    }
    let mut server = Server::start(&arguments)?;
    client::measure(options, server.address(), case, span).map_err(|error| server.blame(case, error).into())
}

//! The server that a measurement calls: one of its own, or one that runs elsewhere.

use std::fmt;

use margo_rs::{Address, Endpoint, Engine};
use mochi_rs::program::Outcome;

use super::Setup;
use super::process::Server;
use super::serve::{STATE, State};

pub(super) struct Target {
    own: Option<Server>,
    address: String,
}

impl Target {
    /// Starts a server, unless there is one already.
    pub(super) fn start(setup: &Setup<'_>) -> Outcome<Self> {
        let options = setup.options;
        if let Some(address) = &options.server {
            return Ok(Self { own: None, address: address.clone() });
        }
        let mut arguments = vec![setup.transport.to_owned(), format!("--progress={}", options.progress.name())];
        arguments.extend(options.pin.map(|pins| format!("--pin={}", pins.server)));
        if let Some(mechanism) = setup.auth {
            arguments.push(format!("--auth={}", mechanism.name()));
            let socket = options.munge_socket.as_ref();
            arguments.extend(socket.map(|path| format!("--munge-socket={}", path.display())));
        }
        arguments.push("--child".to_owned());
        let own = Server::start("serve", &arguments)?;
        Ok(Self { address: own.address().to_owned(), own: Some(own) })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// An error of the client's, with the end of the server if that is the reason.
    pub(super) fn blame(&mut self, what: impl fmt::Display, error: impl fmt::Display) -> String {
        match &mut self.own {
            Some(server) => server.blame(what, error),
            None => format!("{what}: {error}"),
        }
    }
}

/// What the server takes at the moment.
pub(super) async fn state(server: &Endpoint) -> Outcome<State> {
    Ok(server.call(STATE, &()).await?)
}

/// Whether benches are served at an address.
///
/// # Errors
/// They are not; says what to do.
pub(super) fn check(address: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = Engine::connect(address)?;
        let server = engine.lookup(address).await?;
        let answer = state(&server).await;
        engine.shutdown().await;
        let served = |error| format!("{address} serves no benches ({error}); start `mochi bench serve` there");
        answer.map(drop).map_err(|error| served(error).into())
    })
}

/// Where the server of a transport listens: for TCP, where nothing outside of this host is involved.
pub(super) fn listen_address(transport: &str) -> Outcome<String> {
    let address: Address = transport.parse()?;
    if address.location().is_empty() && address.protocol().ends_with("tcp") {
        return Ok(format!("{}://127.0.0.1", address.protocol()));
    }
    Ok(address.to_string())
}

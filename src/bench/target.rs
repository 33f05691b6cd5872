//! The server that a measurement calls: one of its own, or one that runs elsewhere.

use std::fmt;

use margo_rs::{Address, Builder, Endpoint, Engine};
use mochi_rs::program::Outcome;

use super::Setup;
use super::process::Server;
use super::serve::{STATE, State};

/// The transport that is native+tcp with shared memory underneath, which is off in all others.
pub(super) const SAME_NODE: &str = "same-node";
/// How often a client tries to get shared memory: a server that is busy may let it wait too long.
const ATTEMPTS: u32 = 20;

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
        arguments.push(format!("--handlers={}", options.handlers.name()));
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

/// Connects a client, and sees to it that bytes go where the transport says. Of many clients, those for which there is no
/// shared memory use TCP, as those of any service.
pub(super) async fn reach(
    setup: &Setup<'_>,
    address: &str,
    is_one_of_many: bool,
    builder: impl Fn() -> Builder,
) -> Outcome<(Engine, Endpoint)> {
    let wants_memory = setup.transport == SAME_NODE;
    for _ in 0..ATTEMPTS {
        let engine = builder().same_node(wants_memory).connect()?;
        let server = engine.lookup(address).await?;
        let is_told_apart = server.address().protocol() == "native+tcp" && !is_one_of_many;
        if !is_told_apart || server.is_through_memory() == wants_memory {
            return Ok((engine, server));
        }
        engine.shutdown().await;
    }
    Err("there is no shared memory between these processes; MOCHI_LOG=debug says why".into())
}

/// Whether benches are served at an address.
///
/// # Errors
/// They are not; says what to do.
pub(super) fn check(address: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = Engine::builder(address).same_node(false).connect()?;
        let server = engine.lookup(address).await?;
        let answer = state(&server).await;
        engine.shutdown().await;
        let served = |error| format!("{address} serves no benches ({error}); start `mochi bench serve` there");
        answer.map(drop).map_err(|error| served(error).into())
    })
}

/// Whether a server can listen on a transport here, which is tried.
///
/// # Errors
/// It cannot; says why.
pub(super) fn check_listening(transport: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        Engine::listen(&listen_address(transport)?).await?.shutdown().await;
        Ok(())
    })
}

/// Where the server of a transport listens: for TCP, where nothing outside of this host is involved.
pub(super) fn listen_address(transport: &str) -> Outcome<String> {
    if transport == SAME_NODE {
        return Ok("native+tcp://127.0.0.1".to_owned());
    }
    let address: Address = transport.parse()?;
    if address.location().is_empty() && address.protocol().ends_with("tcp") {
        return Ok(format!("{}://127.0.0.1", address.protocol()));
    }
    Ok(address.to_string())
}

//! From an address to an endpoint.

use super::endpoint::Endpoint;
use super::peer::Peer;
use crate::address::Address;
use crate::engine::{Core, run_blocking};
use crate::error::{CallError, ConnectError};
use crate::limits::deadline_after;
use crate::transport;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Finds a server; see [`Engine::lookup`](crate::Engine::lookup).
#[must_use = "a lookup does nothing until it is awaited"]
pub struct Lookup(Pin<Box<dyn Future<Output = Result<Endpoint, ConnectError>> + Send>>);

impl Lookup {
    pub(crate) fn new(core: Arc<Core>, address: &str) -> Self {
        let address = address.parse::<Address>();
        Self(Box::pin(async move { find(core, address?).await }))
    }
}

impl Future for Lookup {
    type Output = Result<Endpoint, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

async fn find(core: Arc<Core>, address: Address) -> Result<Endpoint, ConnectError> {
    transport::check_protocol(&address)?;
    let ours = core.own_address();
    if transport::in_words_of(ours, &address).is_none() {
        let ours = ours.protocol().to_owned();
        return Err(ConnectError::OtherProtocol { address, ours });
    }
    if !core.is_running() {
        return Err(ConnectError::ShutDown);
    }
    let candidates = if transport::is_literal(&address) {
        transport::resolve(&address)?
    } else {
        let unresolved = address.clone();
        run_blocking(move || transport::resolve(&unresolved)).await?
    };
    if let [only] = &candidates[..]
        && core.is_listening()
        && transport::in_words_of(ours, only).as_ref() == Some(ours)
    {
        let link = core.local();
        return Ok(Endpoint::new(Arc::new(Peer::given(core, link))));
    }
    let mut failure = None;
    for candidate in candidates {
        match connect(&core, &candidate).await {
            Ok(endpoint) => return Ok(endpoint),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| ConnectError::Unreachable {
        address,
        source: Arc::new(std::io::Error::other("the host name stands for no address")),
    }))
}

async fn connect(core: &Arc<Core>, address: &Address) -> Result<Endpoint, ConnectError> {
    let peer = core.peer(address);
    come_up(&peer).await?;
    Ok(Endpoint::new(peer))
}

/// Waits until the peer's link is up; begins one if there is none.
pub(super) async fn come_up(peer: &Peer) -> Result<(), ConnectError> {
    let core = peer.core();
    let result = match peer.link() {
        // The transport limits the time of an attempt; this is only where the table remembers who waits.
        Ok(link) => {
            let far = deadline_after(Instant::now(), core.limits.connect_timeout.saturating_mul(2));
            poll_fn(|cx| link.calls.poll_up(cx.waker(), far)).await
        }
        Err(error) => Err(error),
    };
    result.map_err(|error| match *error {
        CallError::Unreachable(error) => error,
        CallError::ConnectionLost { reason, .. } => ConnectError::Handshake { address: peer.address().clone(), reason },
        _ => ConnectError::ShutDown,
    })
}

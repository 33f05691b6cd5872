//! The client's side of a handshake, over the `authenticate` RPC.

use std::time::{Duration, Instant};

use margo_rs::{CallError, ProviderId, RpcId};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::error::OpenError;
use super::{Inner, within};
use crate::clock::{self, NoRandom};
use crate::protocol::client::{Begun, Offer};
use crate::protocol::{BareError, Ephemeral};
use crate::service::AUTHENTICATE;
use crate::session::ClientSession;

/// The wait before the second HELLO that answers a RETRY; it doubles each time.
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The RPC that handshakes and closing messages go to.
pub(super) const fn rpc() -> RpcId {
    RpcId::new(AUTHENTICATE, ProviderId::DEFAULT)
}

/// Makes a session, within the connection's time for it.
pub(super) async fn open(inner: &Inner) -> Result<ClientSession, OpenError> {
    let after = inner.handshake_timeout;
    let deadline = Instant::now() + after;
    let opened = within(&inner.timer, deadline, shake_hands(inner, deadline)).await;
    opened.unwrap_or_else(|| Err(OpenError::Timeout { peer: inner.endpoint.address().clone(), after }))
}

async fn shake_hands(inner: &Inner, deadline: Instant) -> Result<ClientSession, OpenError> {
    let endpoint = &inner.endpoint;
    let peer = || endpoint.address().clone();
    let unproven = |source| OpenError::Server { peer: peer(), source };
    let mut ephemeral = Ephemeral::generate(&SystemRandom::new()).ok_or(NoRandom)?;
    let mut cookie = None;
    let mut backoff = Duration::ZERO;
    loop {
        let random = clock::random::<32>()?;
        let offer = Offer {
            server: inner.server,
            mechanism: inner.initiator.id(),
            suites: &inner.suites,
            protection: inner.protection,
            cookie,
            client_time_ms: clock::wall_ms(),
        };
        let begun = Begun::new(&offer, &random, ephemeral).map_err(unproven)?;
        let secret = Zeroizing::new(clock::random::<32>()?);
        let token = inner.initiator.token(begun.th1(), &secret).await?;
        let (hello, sent) = begun.send(&token.token, token.psk).map_err(unproven)?;
        let reply = exchange(inner, &hello, deadline).await?;
        match BareError::parse(&reply) {
            Ok(BareError::No { .. }) => return Err(OpenError::Refused(peer())),
            Ok(BareError::Version { .. }) => return Err(OpenError::Version(peer())),
            Ok(BareError::Retry { cookie: given }) => {
                // The first cookie is answered at once; whoever is told so again waits.
                inner.timer.sleep(backoff).await;
                backoff = (backoff * 2).clamp(BACKOFF, BACKOFF_MAX);
                cookie = Some(given);
                ephemeral = sent.into_ephemeral(); // the cookie is good for this key alone
            }
            Err(_) => {
                let answered = sent.receive(&reply).map_err(unproven)?;
                let proof = inner.initiator.check_server(&answered).await?;
                let session = answered.complete(proof).map_err(unproven)?;
                return Ok(ClientSession::new(session, clock::now()));
            }
        }
    }
}

async fn exchange(inner: &Inner, hello: &[u8], deadline: Instant) -> Result<margo_rs::Buffer, OpenError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let endpoint = &inner.endpoint;
    let peer = || endpoint.address().clone();
    endpoint.call_raw(rpc(), hello).timeout(left).await.map_err(|error| match error {
        CallError::NoSuchRpc { .. } => OpenError::NotAuthenticating(peer()),
        CallError::Unreachable(error) => OpenError::Connect(error),
        // The time for the whole handshake, not what was left of it for this message.
        CallError::DeadlineExceeded { .. } => OpenError::Timeout { peer: peer(), after: inner.handshake_timeout },
        source => OpenError::Call { peer: peer(), source: Box::new(source) },
    })
}

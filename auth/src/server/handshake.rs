//! The `authenticate` RPC: handshakes, and the messages that end sessions.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use margo_rs::{Buffer, RawResponder, Request};

use super::Shared;
use super::receive::Refused;
use crate::clock::{self, NoRandom};
use crate::mechanism::MechanismError;
use crate::mechanism::peer_credentials::PeerCredentials;
use crate::protocol::message::{Content, Draft, Incoming, Kind};
use crate::protocol::server::{HelloRefused, Received};
use crate::protocol::{BareError, Hello, MAGIC, MechanismId, ParseError, SessionId};
use crate::session::{Admission, InsertRefused, NodeAddress, QuotaExceeded, Session};

/// Handshakes at work at a time; each may wait for a daemon.
pub(super) const HANDSHAKES_MAX: usize = 256;
/// From this many on, clients must show a cookie.
const HANDSHAKES_LOADED: usize = HANDSHAKES_MAX / 2;

/// Why a handshake was refused: for the audit log. The peer is told NO.
#[derive(Debug, thiserror::Error)]
enum HandshakeRefused {
    #[error("malformed HELLO: {0}")]
    Malformed(#[from] ParseError),
    #[error(transparent)]
    Hello(#[from] HelloRefused),
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    #[error(transparent)]
    Random(#[from] NoRandom),
    #[error("{1}")]
    Retry(BareError, &'static str),
}

/// One of the handshakes at work.
struct AtWork<'a>(&'a AtomicUsize);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where a peer is, for limits per address. Peers without an IP address are on this host.
pub(super) fn node_of(request: &Request) -> NodeAddress {
    if let Some(peer) = request.peer_credentials() {
        return NodeAddress::of_user(peer.uid);
    }
    let location = request.peer().location();
    let ip = location.parse::<SocketAddr>().map(|socket| socket.ip()).or_else(|_| location.parse::<IpAddr>());
    ip.map_or(NodeAddress::LOCAL, NodeAddress::from)
}

/// The handler of the RPC.
pub(super) async fn serve(shared: Arc<Shared>, request: Request, input: Buffer, responder: RawResponder) {
    const CLOSE: u8 = Kind::Close as u8;
    match input[..] {
        [MAGIC, CLOSE, ..] => close(&shared, &request, input, responder).await,
        _ => {
            let answer = shake_hands(&shared, &request, &input).await;
            responder.respond(&answer);
            // For the next one, while the client computes.
            shared.ephemerals.prepare();
        }
    }
}

/// The answer to what should be a HELLO.
async fn shake_hands(shared: &Shared, request: &Request, input: &[u8]) -> Vec<u8> {
    let peer = request.peer();
    let parsed = Hello::parse(input);
    let echo = parsed.as_ref().map_or([0; 16], |hello| *hello.random().first_chunk().expect("32 bytes"));
    let refused = match parsed {
        Ok(hello) => match agree(shared, request, &hello).await {
            Ok(reply) => return reply,
            Err(refused) => refused,
        },
        Err(error) => error.into(),
    };
    let answer = match refused {
        HandshakeRefused::Retry(retry, reason) => {
            shared.audit.retry_asked(peer, reason);
            return retry.encode().to_vec();
        }
        HandshakeRefused::Malformed(ParseError::Version(_)) => BareError::Version { echo },
        _ => BareError::No { echo },
    };
    shared.audit.handshake_refused(peer, &refused);
    answer.encode().to_vec()
}

async fn agree(shared: &Shared, request: &Request, hello: &Hello<'_>) -> Result<Vec<u8>, HandshakeRefused> {
    let peer = request.peer();
    let node = node_of(request);
    let at_work = shared.handshakes.fetch_add(1, Ordering::AcqRel);
    let _at_work = AtWork(&shared.handshakes);
    admit(shared, hello, node, at_work)?;
    let generation = shared.table.generation();
    let later = |error| come_again(shared, hello, node, error);
    shared.table.check_half_open(node).map_err(|full| later(full.into()))?;
    let received = Received::begin(hello, &shared.policy)?;
    let acceptor = shared.acceptor(hello.mechanism()).ok_or(HelloRefused::Mechanism(hello.mechanism()))?;
    let mut verifying = acceptor.verify(received.claim(), peer_credentials(request));
    let mut verified = Poll::Pending;
    if acceptor.waits() {
        verified = poll_fn(|cx| Poll::Ready(verifying.as_mut().poll(cx))).await;
    }
    // What follows takes tens of microseconds at least, and belongs on a pool, not on the progress thread.
    yield_once().await;
    let agree = || received.agree(shared.ephemerals.take()?).map_err(HandshakeRefused::from);
    let (verified, agreed) = match verified {
        Poll::Ready(verified) => (verified?, agree()?),
        // Somebody else works on it: time for the other part.
        Poll::Pending if acceptor.waits() => {
            let agreed = agree();
            let verified = verifying.await?;
            (verified, agreed?)
        }
        Poll::Pending => (verifying.await?, agree()?),
    };
    let (id, random) = (SessionId::new(clock::random()?), clock::random()?);
    let now = clock::now();
    let proving = received.accept(verified, id, &random, agreed, now)?;
    let proof = acceptor.prove(proving.transcript()).await?;
    let mut established = proving.finish(&proof)?;
    let reply = std::mem::take(&mut established.reply);
    let session = shared.table.insert(established, generation, node, clock::now()).map_err(later)?;
    if hello.mechanism() == MechanismId::PeerCredentials {
        session.bind_to(request.connection().as_u64());
    }
    shared.upkeep.look_again();
    shared.audit.handshake_answered(peer, session.principal(), id);
    Ok(reply)
}

/// Half-open places are free again in a moment, and it need not be this client who took them. A revocation ends what began
/// before it, and shuts nobody out.
fn come_again(shared: &Shared, hello: &Hello<'_>, node: NodeAddress, error: InsertRefused) -> HandshakeRefused {
    let reason = match error {
        InsertRefused::Quota(QuotaExceeded::HalfOpen | QuotaExceeded::HalfOpenOfNode) => "too many half-open sessions",
        InsertRefused::Revoked => "sessions of its user were revoked meanwhile",
        InsertRefused::Quota(other) => return other.into(),
    };
    HandshakeRefused::Retry(shared.gate.lock().retry(hello, node), reason)
}

fn admit(shared: &Shared, hello: &Hello<'_>, node: NodeAddress, at_work: usize) -> Result<(), HandshakeRefused> {
    let now = clock::now();
    let mut gate = shared.gate.lock();
    if gate.is_due(now) {
        gate.rotate(clock::random_secret()?, now);
    }
    if at_work >= HANDSHAKES_MAX {
        return Err(HandshakeRefused::Retry(gate.retry(hello, node), "as many handshakes at work as may be"));
    }
    match gate.admit(hello, node, at_work >= HANDSHAKES_LOADED, now) {
        Admission::Proceed => Ok(()),
        Admission::Retry(retry) => Err(HandshakeRefused::Retry(retry, "under load: cookie asked for")),
        Admission::Slower(retry) => Err(HandshakeRefused::Retry(retry, "too many handshakes from this address")),
    }
}

/// Lets the executor go on with something else once.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What the kernel says about the peer, where its transport knows.
fn peer_credentials(request: &Request) -> Option<PeerCredentials> {
    request.peer_credentials().map(|peer| PeerCredentials::from_kernel(peer.uid, peer.gid))
}

/// Ends a session, on the word of the client that holds its key. The answer says that nothing runs in it any more, also to
/// one who says so while another does.
async fn close(shared: &Arc<Shared>, request: &Request, mut input: Buffer, responder: RawResponder) {
    let incoming = match Incoming::parse(&mut input) {
        Ok(incoming) => incoming,
        Err(error) => {
            shared.audit.request_refused(request.peer(), request.rpc_id(), None, &Refused::Malformed(error));
            return responder.respond(&BareError::No { echo: [0; 16] }.encode());
        }
    };
    let claimed = incoming.header().session();
    let opened = shared.open(incoming, request, clock::now());
    match opened.map(|opened| (opened.kind(), opened.responder)) {
        Ok((Kind::Close, answer)) => {
            let session = answer.session();
            if shared.table.close(&session.id()) {
                shared.audit.session_closed(request.peer(), session.principal(), session.id());
            }
            Session::drained(&answer).await;
            match answer.reply(Content::default(), Draft::with_capacity(0), clock::now()) {
                Ok(reply) => responder.respond(&reply),
                Err(_) => responder.abandon(), // revoked meanwhile
            }
        }
        Ok((kind, _)) => shared.refuse(request, Some(claimed), Refused::Kind(kind), responder),
        Err(refused) => shared.refuse(request, Some(claimed), refused, responder),
    }
}

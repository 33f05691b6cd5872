//! What a handler learns about the request it serves.

use super::running::InFlight;
use crate::address::Address;
use crate::client::{ConnectionId, Endpoint, Peer};
use crate::rpc::{NO_PARENT, ProviderId, RpcId};
use crate::transport::PeerCredentials;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Instant;

/// The circumstances of a request: who asks, for what, until when.
///
/// Nothing here is proven but [`Request::peer_credentials`]: the peer address is where the connection comes from, not who
/// is behind it.
pub struct Request {
    in_flight: Arc<InFlight>,
    rpc: RpcId,
    parent: RpcId,
}

impl Request {
    pub(crate) fn new(in_flight: Arc<InFlight>, rpc: RpcId, parent: RpcId) -> Self {
        Self { in_flight, rpc, parent }
    }

    /// The RPC, with its provider part.
    pub fn rpc_id(&self) -> RpcId {
        self.rpc
    }

    /// The provider asked.
    pub fn provider_id(&self) -> ProviderId {
        self.rpc.provider_id()
    }

    /// The RPC whose handler made this call, if the caller says that one did.
    pub fn parent_rpc_id(&self) -> Option<RpcId> {
        (self.parent != NO_PARENT).then_some(self.parent)
    }

    /// Where the request comes from.
    pub fn peer(&self) -> &Address {
        self.in_flight.link().peer()
    }

    /// The connection it came over.
    pub fn connection(&self) -> ConnectionId {
        self.in_flight.link().id()
    }

    /// The user who asks, by the kernel's word: over `native+sm` and in calls to self, not over a network. It is who
    /// opened the connection, for as long as that stands.
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.in_flight.link().link()?.peer_credentials()
    }

    /// Until when the caller waits, if it said so, by this host's clock.
    pub fn deadline(&self) -> Option<Instant> {
        self.in_flight.deadline()
    }

    /// Calls the caller back over its own connection; it need not listen. Calls fail once that connection is gone.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let link = self.in_flight.link();
        Some(Endpoint::new(Arc::new(Peer::given(link.core()?, link.clone()))))
    }

    /// Done when nobody waits for the response any more: the caller cancelled, its deadline passed on its side, or its
    /// connection is gone. For blocking handlers and detached tasks; the future of an asynchronous handler is dropped
    /// by itself then.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.in_flight.make_cancellable();
        let in_flight = self.in_flight.clone();
        poll_fn(move |cx| in_flight.poll_cancelled(cx.waker()))
    }

    /// Whether nobody waits for the response any more.
    pub fn is_cancelled(&self) -> bool {
        self.in_flight.make_cancellable();
        self.in_flight.is_cancelled()
    }

    pub(crate) fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("rpc", &self.rpc).field("peer", self.peer()).finish_non_exhaustive()
    }
}

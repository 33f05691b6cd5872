//! What calls are made on.

#[cfg(doc)]
use crate::{Buffer, REQUEST_HEADER};

use super::call::{Call, RawCall};
use super::peer::{ConnectionId, Peer, Standing};
use crate::address::Address;
use crate::bulk::{BulkError, BulkTransfer, Direction, LocalRange, Memory, Permission, Region, RemoteRange};
use crate::codec::HgString;
use crate::error::{CallError, ConnectError};
use crate::rpc::{ProviderId, Rpc, RpcId};
use crate::server::builtin;
use crate::transport::PeerCredentials;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

/// A process that can be called: what [`Engine::lookup`](crate::Engine::lookup) returns.
///
/// Cheap to clone. If the connection is lost, calls in flight fail and the next call connects again; nothing is sent
/// twice. The connection closes when the last endpoint and call that use it are gone.
#[derive(Clone)]
pub struct Endpoint {
    peer: Arc<Peer>,
}

impl Endpoint {
    pub(crate) fn new(peer: Arc<Peer>) -> Self {
        Self { peer }
    }

    /// Where calls go.
    pub fn address(&self) -> &Address {
        self.peer.address()
    }

    /// The connection that the next call will use; `None` while there is none, and that call will make one.
    pub fn connection(&self) -> Option<ConnectionId> {
        self.peer.standing().map(|standing| standing.id())
    }

    /// The same connection, to be asked again and again whether it still is the one of the next call.
    pub fn standing(&self) -> Option<Standing> {
        self.peer.standing()
    }

    /// Largest request, in bytes of encoded arguments, that none sent after it over the same connection overtakes: 16 KiB, or
    /// over Mercury what fits into one of its messages (about 4 KiB). `na+sm` lets others overtake, too, while its queue of
    /// 64 messages is full.
    pub fn kept_in_order(&self) -> usize {
        self.peer.core().transport.kept_in_order()
    }

    /// The user who serves there, by the kernel's word: over `native+sm`, for a call to self, and for a caller that is
    /// called back over one of these; not over a network. `None` also while there is no connection. Over `native+sm` it
    /// is always the user that the address names.
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.peer.credentials()
    }

    /// Whether a connection stands whose bytes go through shared memory: always over `native+sm`, and over `native+tcp`
    /// where [`Builder::same_node`](crate::Builder::same_node) says. For logs and measurements; nothing else depends on it.
    pub fn is_through_memory(&self) -> bool {
        self.peer.is_through_memory()
    }

    /// Connects, unless a connection stands. Calls do so by themselves.
    ///
    /// # Errors
    /// The process cannot be reached.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        super::lookup::come_up(&self.peer).await
    }

    /// Calls an RPC that is registered without a provider. See [`Call`] for when it is sent and how it ends.
    pub fn call<In: Serialize, Out: DeserializeOwned>(&self, rpc: Rpc<In, Out>, args: &In) -> Call<Out> {
        self.provider(ProviderId::DEFAULT).call(rpc, args)
    }

    /// Calls an RPC with bytes that are already encoded.
    pub fn call_raw(&self, rpc: RpcId, input: &[u8]) -> RawCall {
        RawCall::new(self.peer.clone(), rpc, false, |payload| {
            payload.extend_from_slice(input);
            Ok(())
        })
    }

    /// As [`Endpoint::call_raw`], of a request with room for Margo's header: the first [`REQUEST_HEADER`] bytes, which are
    /// filled in here. No copy is made. [`Buffer::room_for`] gives such a vector.
    ///
    /// # Panics
    /// The request is shorter than the header.
    #[inline]
    pub fn call_raw_headed(&self, rpc: RpcId, request: Vec<u8>) -> RawCall {
        RawCall::headed(self.peer.clone(), rpc, false, request)
    }

    /// As [`Endpoint::send_raw`], of a request with room for Margo's header; see [`Endpoint::call_raw_headed`].
    ///
    /// # Panics
    /// The request is shorter than the header.
    #[inline]
    pub fn send_raw_headed(&self, rpc: RpcId, request: Vec<u8>) -> RawCall {
        RawCall::headed(self.peer.clone(), rpc, true, request)
    }

    /// Sends bytes to an RPC that answers nobody.
    pub fn send_raw(&self, rpc: RpcId, input: &[u8]) -> RawCall {
        RawCall::new(self.peer.clone(), rpc, true, |payload| {
            payload.extend_from_slice(input);
            Ok(())
        })
    }

    /// Moves data from a region of that process into a local one, both of the same length. The address that the
    /// descriptor names is not looked at: this connection is used. See [`BulkTransfer`] for when it starts and how it ends.
    pub fn pull(&self, from: impl Into<RemoteRange>, to: impl Into<LocalRange>) -> BulkTransfer {
        BulkTransfer::new(self.peer.clone(), Direction::Pull, from.into(), to.into())
    }

    /// Moves data from a local region into one of that process; otherwise as [`Endpoint::pull`].
    pub fn push(&self, from: impl Into<LocalRange>, to: impl Into<RemoteRange>) -> BulkTransfer {
        BulkTransfer::new(self.peer.clone(), Direction::Push, to.into(), from.into())
    }

    /// Gives memory to the engine of this endpoint, as [`Engine::expose`](crate::Engine::expose).
    ///
    /// # Errors
    /// As there.
    pub fn expose<M: Memory>(&self, memory: M, permission: Permission) -> Result<Region<M>, BulkError> {
        Region::new(self.peer.core(), memory, permission)
    }

    /// Gives memory to the engine of this endpoint, as [`Engine::stage`](crate::Engine::stage).
    ///
    /// # Errors
    /// As there.
    pub fn stage<M: Memory>(&self, memory: M) -> Result<Region<M>, BulkError> {
        self.expose(memory, Permission::Private)
    }

    /// A provider of that process. Nothing is sent.
    pub fn provider(&self, id: ProviderId) -> ProviderHandle {
        ProviderHandle { endpoint: self.clone(), id }
    }

    /// Asks the process to shut down, with Margo's RPC.
    ///
    /// # Errors
    /// The call's own, or [`CallError::Rejected`] if the process does not allow it.
    pub fn shutdown_remote(&self) -> impl Future<Output = Result<(), CallError>> + Send + 'static {
        let call = self.call(builtin::SHUTDOWN, &());
        async move {
            match call.await? {
                0 => Ok(()),
                _ => Err(CallError::Rejected { message: "remote shutdown is not allowed".to_owned() }),
            }
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.address())
    }
}

/// One provider of a process.
#[derive(Clone)]
pub struct ProviderHandle {
    endpoint: Endpoint,
    id: ProviderId,
}

impl ProviderHandle {
    /// The process.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The provider's id.
    pub fn provider_id(&self) -> ProviderId {
        self.id
    }

    /// Calls an RPC of this provider. See [`Call`] for when it is sent and how it ends.
    pub fn call<In: Serialize, Out: DeserializeOwned>(&self, rpc: Rpc<In, Out>, args: &In) -> Call<Out> {
        let raw = RawCall::new(self.endpoint.peer.clone(), rpc.id(self.id), rpc.response_disabled(), |payload| {
            crate::codec::encode_into(args, payload)
        });
        Call::new(raw, rpc.name())
    }

    /// What kind of provider it is: the text that it announced. `None` if it announced nothing at all.
    ///
    /// # Errors
    /// The call's own.
    pub fn identity(&self) -> impl Future<Output = Result<Option<String>, CallError>> + Send + 'static {
        let call = self.call(builtin::IDENTITY, &());
        async move {
            match call.await {
                Ok(identity) => Ok(HgString::into_string(identity)),
                Err(CallError::NoSuchRpc { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
}

impl fmt::Debug for ProviderHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderHandle({}, {})", self.endpoint.address(), self.id)
    }
}

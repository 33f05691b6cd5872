//! The contract that every transport meets.
//!
//! A transport carries whole requests and responses between engines; it knows nothing of handlers, deadlines or
//! values. The engine above drives it and gives it two kinds of callbacks: an [`Acceptor`] for links that peers open,
//! and [`LinkEvents`] for what arrives on a link.
//!
//! # Guarantees
//!
//! | | `native+tcp` | `native+sm` | Mercury | calls to self |
//! |---|---|---|---|---|
//! | requests of one link reach the peer in the order sent | up to 16 KiB; larger ones may be overtaken | the same | those that fit into one of Mercury's messages (about 4 KiB), as the plugin has it (`na+sm`: unless its queue of 64 was full) | yes |
//! | a request is delivered | at most once | at most once | at most once | at most once |
//! | payload arrives unchanged | as TCP does (16-bit checksum); nothing against an attacker | yes | as the network does | yes |
//! | nobody at an address | refused at once | refused at once | `na+sm` at once; else [`connect_timeout`](crate::Limits::connect_timeout) | |
//! | a peer that ends is noticed | at once | at once | a peer of this crate at once; others by the next row | |
//! | a peer process that dies is noticed | at once | at once | by a ping: within 1.6 times [`keepalive`](crate::Limits::keepalive) if it is of this crate, or else once a ping cannot be sent | |
//! | a peer host that dies is noticed | within 1.6 times [`keepalive`](crate::Limits::keepalive) if nothing is being sent, else within [`unacknowledged_timeout`](crate::Limits::unacknowledged_timeout) | it is our own | as a process | |
//! | cancelling reaches the server | yes | yes | if it is of this crate | yes |
//! | a plain client that leaves is noticed | | | it is forgotten after 6 times [`keepalive`](crate::Limits::keepalive) without a request | |
//! | responses may be larger than requests | yes | yes | yes | yes |
//! | largest payload | the receiver's [`max_message`](crate::Limits::max_message) | the same | the same; what is larger is refused only after Mercury has fetched it | the same |
//! | memory for what arrives is taken | as it arrives | as it arrives | by Mercury, as much as the sender states, before anything is checked | |
//! | user of the peer known | no | yes, by the kernel's word | no; `na+sm` is open to processes of the same user only | yes, it is this process |
//! | bulk transfers | yes | yes | yes | yes |
//! | the owner checks key, permission and bounds of a transfer | always | always | if both ends are of this crate; see `transport::mercury` | always |
//! | copies of bulk data in user space | none, but for up to 4 KiB a frame | one, of memory of the engine's that is moved again and again; else two, in pieces that stay in the cache | as the plugin does: none on the initiator's side, none on the owner's over `na+sm` (the kernel makes one) | two, one of them in the cache |
//! | memory of a connection | the kernel's socket buffers | 264 KiB shared, half of it by each side; and what is lent of regions | the plugin's | none |
//!
//! Over Mercury's `na+sm`, an engine that has reached an address cannot reach another server at the same one: the plugin
//! remembers the memory of the first. Servers get addresses with their process id, so a new process has a new one.
//!
//! A peer of this crate is told from others by Mercury with a hello (see `transport::mercury`). Two plain peers that call each
//! other, both with responses larger than a message, can disturb each other: Mercury numbers the receipts of the one
//! like the requests of the other. Engines of this crate avoid that among themselves.
//!
//! Between processes of one node, `native+tcp` is carried by shared memory unless one of them has that off (see
//! [`Builder::same_node`](crate::Builder::same_node)). The guarantees are those of `native+sm` then, except that the
//! user of the peer is not known.
//!
//! What every transport owes the engine:
//! * For each request that [`Link::request`] took and that wants a response, exactly one of: one
//!   [`LinkEvents::on_response`], one [`LinkEvents::on_refused`], or one [`LinkEvents::on_lost`] for the whole link.
//!   A transport may deliver a response twice (a network may duplicate); the engine ignores the second.
//! * For each transfer that [`Link::transfer`] took: one [`LinkEvents::on_transferred`], or one `on_lost`.
//! * [`LinkEvents::on_lost`] is the last event of a link, and comes exactly once for each link that was handed out.
//! * Callbacks come from inside [`Transport::poll`] only, except `on_lost`, which may also come from inside any call
//!   on the link. No lock that [`Link`]'s methods need is held during a callback.
//! * Nothing blocks except [`Transport::park`].
//!
//! # Bulk data
//!
//! A transfer moves bytes between a [`Window`] of a local region and a range of a remote one. Handlers take no part: the
//! owner's transport asks its engine with [`LinkEvents::grant`], which checks key, permission and bounds against the
//! owner's own table, and moves the bytes through the window that it gets. A transport with addresses of its own for
//! memory (a network card's) registers regions in [`Transport::register`], and puts what peers need into the descriptor.
//!
//! What a transport owes the memory:
//! * It touches bytes only through windows, which fail once the region was taken back: a transfer under way ends with
//!   [`Refusal::Revoked`](crate::bulk::Refusal::Revoked) or [`TransferError::LocalRevoked`] then, and bytes that were
//!   promised to the peer are sent as zeros.
//! * Where a device moves the bytes by itself, a [`Pinned`](crate::bulk::Pinned) window is held as long as it may.
//! * After [`LinkEvents::on_transferred`], [`Link::cancel`] of the transfer or [`LinkEvents::on_lost`], its local window is
//!   not used any more (the engine sees to it that uses fail), or is still pinned.

#[cfg(feature = "fault-injection")]
pub mod fault;
#[cfg(mercury)]
pub mod mercury;
pub mod sm;
pub mod tcp;

mod allowances;
mod choose;
mod intake;
mod lifecycle;
mod loopback;
mod outgoing;
mod pace;
mod poller;
mod restraint;
mod same_node;
mod timers;

pub use choose::protocol_help;

#[cfg(mercury)]
pub(crate) use choose::over_network;
pub(crate) use choose::{Options, check_protocol, in_words_of, is_literal, resolve, start};
pub(crate) use loopback::LoopbackLink;
#[doc(hidden)]
pub use same_node::Offer;
pub(crate) use same_node::SameNode;

use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::bulk::{Direction, Memory, Permission, RegionKey, Segment, Transfer, TransferError, Window};
use crate::error::ConnectError;
use crate::rpc::RpcId;
use crate::wire::{Refusal, RequestHead};
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

/// Names a call or a transfer on its link: chosen by the caller for what goes out, by the peer for what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// When queued bytes go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Before the method returns, as far as the transport takes them.
    Now,
    /// With the next [`Transport::poll`] or [`Link::flush`], so that many go out together.
    Later,
}

/// What one call of [`Transport::poll`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// Another thread is inside `poll`.
    Busy,
    /// There was nothing to do.
    Idle,
    /// There was nothing to do, but bulk data is on its way that this end may have to do something for soon.
    Moving,
    /// Something arrived or was sent.
    Progress,
}

/// What a peer accepts, known once its link is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// Requests in flight on this link.
    pub max_in_flight: u32,
    /// Largest payload in bytes.
    pub max_message: u64,
    /// Payload bytes of requests in flight on this link.
    pub max_bytes: u64,
}

/// The user behind a link, by the kernel's word: who connected or who listened, when that was done (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// Effective user id, as seen from this process's user namespace.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Largest request of the built-in transports that keeps its place, in bytes: larger ones go in pieces.
const KEPT_IN_ORDER: usize = 16 * 1024;

/// One way of carrying requests and responses.
pub trait Transport: Send + Sync + 'static {
    /// The address that peers reach this engine at; the protocol alone if it does not listen.
    fn address(&self) -> Address;

    /// Begins to open a link, without blocking. It ends in [`LinkEvents::on_up`] or [`LinkEvents::on_lost`].
    ///
    /// # Errors
    /// The address is not one of this transport's, or the operating system refuses at once. No event follows then.
    fn connect(&self, address: &Address, events: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError>;

    /// Requests of this RPC are about to come in: for transports that must know their ids. `one_way`: nobody answers
    /// them. One that is no longer served need not be forgotten.
    fn serve(&self, _rpc: RpcId, _one_way: bool) {}

    /// Sends what waits and handles what arrived, once, without blocking. Any thread may call it; one at a time gets
    /// in.
    fn poll(&self) -> Polled;

    /// Blocks until something may have arrived, [`Transport::unpark`] was called, or `until` has passed. Called by
    /// one thread at a time; others may be inside [`Transport::poll`] meanwhile.
    fn park(&self, until: Option<Instant>);

    /// Ends the current or the next [`Transport::park`].
    fn unpark(&self);

    /// When [`Transport::poll`] must be called next even if nothing arrives (a handshake that runs out of time).
    fn next_timer(&self) -> Option<Instant>;

    /// Accepts no further links; tells peers to send no further requests.
    fn stop_accepting(&self);

    /// Closes every link and frees what the transport holds. Links still open get [`LinkEvents::on_lost`].
    fn close(&self);

    /// Makes memory known, before a region of it exists. `permission` is what peers will be allowed;
    /// [`Permission::Private`] memory is only the local end of transfers, in both directions. The segments stay valid until
    /// the registration is dropped, at the latest during [`Transport::close`]. A transport that needs to know nothing
    /// returns `None`, as the default does.
    ///
    /// # Errors
    /// Why the memory cannot be used.
    fn register(&self, memory: &[Segment], permission: Permission) -> Result<Option<Box<dyn Registration>>, String> {
        let _ = (memory, permission);
        Ok(None)
    }

    /// Memory of a kind that this transport moves with fewer copies, all zero; `None`, as the default does, if any memory
    /// is as good.
    fn allocate(&self, bytes: usize) -> Option<Box<dyn Memory>> {
        let _ = bytes;
        None
    }

    /// Largest transfer that should go in one piece, in bytes. Larger ones are cut, and their pieces run side by side;
    /// the owner of the region is asked for [`Transfer::whole`] with each, or refuses the last after others were made.
    fn transfer_piece(&self) -> u64 {
        u64::MAX
    }

    /// Largest request in bytes that no later one of the same link overtakes, as far as the guarantees above go.
    fn kept_in_order(&self) -> usize {
        KEPT_IN_ORDER
    }
}

/// What a transport keeps for a region's memory. Dropping it ends what it allows: no device touches the memory any more
/// when that returns, pinned windows aside.
pub trait Registration: Send + Sync + 'static {
    /// What peers need besides the key that they hand to [`LinkEvents::grant`], if anything; it is put in front of the
    /// descriptor.
    fn descriptor(&self) -> Option<Vec<u8>>;

    /// Whether peers can write the memory while this process does not know.
    fn is_written_unseen(&self) -> bool;

    /// The region is taken back from peers, and its memory is to be that of another one. `false` if that must not be,
    /// because peers may still see it: then it is given up.
    fn renew(&self) -> bool {
        true
    }

    /// For the transport to find what it has registered: [`Window::with_registration`].
    fn as_any(&self) -> &dyn Any;
}

/// A way to one peer.
pub trait Link: Send + Sync + 'static {
    /// The peer, as far as it is known: for links that peers opened, where they came from.
    fn peer(&self) -> &Address;

    /// The user behind the link, where the kernel knows: not over a network.
    fn peer_credentials(&self) -> Option<PeerCredentials> {
        None
    }

    /// Whether the bytes go through shared memory, rather than the network or this process alone.
    fn is_through_memory(&self) -> bool {
        false
    }

    /// The way through shared memory that the server at one end has offered to the client at the other, and the number
    /// that the server's engine has stated; for the transport that makes use of it.
    #[doc(hidden)]
    fn offer(&self) -> Option<(u64, Offer)> {
        None
    }

    /// Sends a request. A link that is not up yet keeps it until it is.
    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, flush: Flush);

    /// Answers a request that came in on this link.
    fn respond(&self, call: CallId, payload: Buffer, flush: Flush);

    /// Takes back a request or a transfer as far as that is possible, and tells the peer. No event need follow.
    fn cancel(&self, call: CallId);

    /// Begins to move bulk data. `call` is from the same sequence as those of requests. A link that is not up yet keeps
    /// the transfer until it is.
    ///
    /// # Errors
    /// The transfer cannot be begun; no event follows then. The default moves nothing.
    fn transfer(&self, call: CallId, transfer: Transfer, flush: Flush) -> Result<(), TransferError> {
        let _ = (call, transfer, flush);
        Err(TransferError::Unsupported)
    }

    /// Sends what waits, as far as the transport takes it.
    fn flush(&self);

    /// Bytes that wait to be sent.
    fn queued(&self) -> usize;

    /// Ends the link; outstanding calls fail with `reason`.
    fn close(&self, reason: &str);
}

/// What happens on a link.
pub trait LinkEvents: Send + Sync + 'static {
    /// The peer answered on `link`; requests flow from now on.
    fn on_up(&self, link: &Arc<dyn Link>, limits: PeerLimits);

    /// A request came in.
    fn on_request(&self, call: CallId, head: RequestHead, payload: Payload<'_>);

    /// A request came in that breaks a limit; it was not read.
    fn on_request_refused(&self, call: CallId, head: RequestHead, refusal: Refusal);

    /// Whether a call still waits for its response: if not, a long one need not be received.
    fn expects(&self, call: CallId) -> bool;

    /// The response to a call came in.
    fn on_response(&self, call: CallId, payload: Payload<'_>);

    /// A call will get no response though the link lives on.
    fn on_refused(&self, call: CallId, refusal: Refusal);

    /// The peer no longer wants the response to its request.
    fn on_cancel(&self, call: CallId);

    /// A transfer of ours is complete, or has failed though the link lives on. A second event for the same transfer
    /// changes nothing.
    fn on_transferred(&self, call: CallId, result: Result<(), TransferError>);

    /// The peer wants to move data from ([`Direction::Pull`]) or to ([`Direction::Push`]) a region of ours: the window to
    /// do it through, for reading or for writing.
    ///
    /// # Errors
    /// What the peer is to be told. Nothing may be moved.
    fn grant(
        &self,
        key: &RegionKey,
        direction: Direction,
        offset: u64,
        length: u64,
    ) -> Result<Window, crate::bulk::Refusal>;

    /// The peer takes no new requests.
    fn on_go_away(&self);

    /// The link is gone.
    fn on_lost(&self, error: &LinkError);
}

/// Takes the links that peers open.
pub trait Acceptor: Send + Sync + 'static {
    /// A peer opened a link; its events go to what is returned.
    fn accept(&self, link: Arc<dyn Link>) -> Arc<dyn LinkEvents>;
}

/// Why a link ended.
#[derive(Debug, Clone)]
pub enum LinkError {
    /// It never came up.
    Connect(ConnectError),
    /// It was up, and ended.
    Lost(String),
}

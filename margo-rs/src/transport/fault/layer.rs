//! The layer between an engine and its transport.

use super::held::{Held, Message};
use super::{Fate, Injector};
use crate::address::Address;
use crate::buffer::{Buffer, Payload};
use crate::bulk::{self, Direction, Memory, Permission, RegionKey, Segment, Transfer, TransferError, Window};
use crate::error::ConnectError;
use crate::rpc::RpcId;
use crate::transport::{
    Acceptor, CallId, Flush, Link, LinkError, LinkEvents, PeerCredentials, PeerLimits, Polled, Registration, Transport,
};
use crate::wire::{Refusal, RequestHead};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Largest payload that is sent twice, in bytes: pieces of two messages under one id would be mixed up.
const DUPLICATED_MAX: usize = 16 * 1024;

/// A transport whose links are unreliable.
pub(super) struct FaultyTransport {
    inner: Arc<dyn Transport>,
    injector: Injector,
    held: Arc<Held>,
}

impl FaultyTransport {
    pub(super) fn new(inner: Arc<dyn Transport>, injector: Injector, held: Arc<Held>) -> Self {
        Self { inner, injector, held }
    }
}

impl Transport for FaultyTransport {
    fn address(&self) -> Address {
        self.inner.address()
    }

    fn connect(&self, address: &Address, events: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError> {
        let link = FaultyLink::new(address.clone(), &self.injector, &self.held);
        let inner = self.inner.connect(address, Arc::new(FaultyEvents { inner: events, link: link.clone() }))?;
        link.attach(&inner);
        Ok(link)
    }

    fn poll(&self) -> Polled {
        let released = self.held.release();
        match self.inner.poll() {
            Polled::Idle if released => Polled::Progress,
            polled => polled,
        }
    }

    fn serve(&self, rpc: RpcId, one_way: bool) {
        self.inner.serve(rpc, one_way);
    }

    fn park(&self, until: Option<Instant>) {
        let until = match (until, self.held.next()) {
            (Some(until), Some(due)) => Some(until.min(due)),
            (one, other) => one.or(other),
        };
        self.inner.park(until);
    }

    fn unpark(&self) {
        self.inner.unpark();
    }

    fn next_timer(&self) -> Option<Instant> {
        match (self.inner.next_timer(), self.held.next()) {
            (Some(timer), Some(due)) => Some(timer.min(due)),
            (one, other) => one.or(other),
        }
    }

    fn stop_accepting(&self) {
        self.inner.stop_accepting();
    }

    fn close(&self) {
        self.held.clear();
        self.inner.close();
    }

    fn register(&self, memory: &[Segment], permission: Permission) -> Result<Option<Box<dyn Registration>>, String> {
        self.inner.register(memory, permission)
    }

    fn allocate(&self, bytes: usize) -> Option<Box<dyn Memory>> {
        self.inner.allocate(bytes)
    }

    fn transfer_piece(&self) -> u64 {
        self.inner.transfer_piece()
    }

    fn kept_in_order(&self) -> usize {
        self.inner.kept_in_order()
    }
}

/// Makes the links that peers open unreliable, too.
pub(super) struct FaultyAcceptor {
    inner: Arc<dyn Acceptor>,
    injector: Injector,
    held: Arc<Held>,
}

impl FaultyAcceptor {
    pub(super) fn new(inner: Arc<dyn Acceptor>, injector: Injector, held: Arc<Held>) -> Self {
        Self { inner, injector, held }
    }
}

impl Acceptor for FaultyAcceptor {
    fn accept(&self, inner: Arc<dyn Link>) -> Arc<dyn LinkEvents> {
        let link = FaultyLink::new(inner.peer().clone(), &self.injector, &self.held);
        link.attach(&inner);
        Arc::new(FaultyEvents { inner: self.inner.accept(link.clone()), link })
    }
}

/// A link whose sending side is unreliable.
struct FaultyLink {
    peer: Address,
    inner: OnceLock<Arc<dyn Link>>,
    injector: Injector,
    held: Arc<Held>,
}

impl FaultyLink {
    fn new(peer: Address, injector: &Injector, held: &Arc<Held>) -> Arc<Self> {
        Arc::new(Self { peer, inner: OnceLock::new(), injector: injector.clone(), held: held.clone() })
    }

    /// Says which link is underneath: after `connect` or with the first event, whichever comes first.
    fn attach(&self, inner: &Arc<dyn Link>) {
        let _ = self.inner.set(inner.clone());
    }

    fn send(&self, message: Message, flush: Flush) {
        let Some(link) = self.inner.get() else { return };
        let injector = &self.injector;
        match injector.decide() {
            Fate::Drop => {}
            Fate::Delay(time) => self.held.hold(time, link.clone(), message),
            Fate::Duplicate if message.len() <= DUPLICATED_MAX => {
                message.copy().send(&**link, flush);
                message.send(&**link, flush);
            }
            Fate::Pass | Fate::Duplicate => message.send(&**link, flush),
            Fate::Truncate => message.map(|payload| injector.truncated(payload)).send(&**link, flush),
            Fate::Corrupt => message.map(|payload| injector.corrupted(payload)).send(&**link, flush),
            Fate::Disconnect => link.close("injected fault: disconnect"),
        }
    }
}

impl Link for FaultyLink {
    fn peer(&self) -> &Address {
        &self.peer
    }

    fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.inner.get()?.peer_credentials()
    }

    fn is_through_memory(&self) -> bool {
        self.inner.get().is_some_and(|link| link.is_through_memory())
    }

    fn request(&self, call: CallId, head: RequestHead, payload: Buffer, flush: Flush) {
        self.send(Message::Request(call, head, payload), flush);
    }

    fn respond(&self, call: CallId, payload: Buffer, flush: Flush) {
        self.send(Message::Response(call, payload), flush);
    }

    fn cancel(&self, call: CallId) {
        self.send(Message::Cancel(call), Flush::Now);
    }

    fn transfer(&self, call: CallId, transfer: Transfer, flush: Flush) -> Result<(), TransferError> {
        match self.inner.get() {
            Some(link) => link.transfer(call, transfer, flush),
            None => Ok(()),
        }
    }

    fn flush(&self) {
        if let Some(link) = self.inner.get() {
            link.flush();
        }
    }

    fn queued(&self) -> usize {
        self.inner.get().map_or(0, |link| link.queued())
    }

    fn close(&self, reason: &str) {
        if let Some(link) = self.inner.get() {
            link.close(reason);
        }
    }
}

/// Hands events on, naming the unreliable link instead of the one underneath.
struct FaultyEvents {
    inner: Arc<dyn LinkEvents>,
    link: Arc<FaultyLink>,
}

impl LinkEvents for FaultyEvents {
    fn on_up(&self, link: &Arc<dyn Link>, limits: PeerLimits) {
        self.link.attach(link);
        let link: Arc<dyn Link> = self.link.clone();
        self.inner.on_up(&link, limits);
    }

    fn on_request(&self, call: CallId, head: RequestHead, payload: Payload<'_>) {
        self.inner.on_request(call, head, payload);
    }

    fn on_request_refused(&self, call: CallId, head: RequestHead, refusal: Refusal) {
        self.inner.on_request_refused(call, head, refusal);
    }

    fn expects(&self, call: CallId) -> bool {
        self.inner.expects(call)
    }

    fn on_response(&self, call: CallId, payload: Payload<'_>) {
        self.inner.on_response(call, payload);
    }

    fn on_refused(&self, call: CallId, refusal: Refusal) {
        self.inner.on_refused(call, refusal);
    }

    fn on_cancel(&self, call: CallId) {
        self.inner.on_cancel(call);
    }

    fn on_transferred(&self, call: CallId, result: Result<(), TransferError>) {
        self.inner.on_transferred(call, result);
    }

    fn grant(&self, key: &RegionKey, direction: Direction, offset: u64, length: u64) -> Result<Window, bulk::Refusal> {
        self.inner.grant(key, direction, offset, length)
    }

    fn on_go_away(&self) {
        self.inner.on_go_away();
    }

    fn on_lost(&self, error: &LinkError) {
        self.inner.on_lost(error);
    }
}

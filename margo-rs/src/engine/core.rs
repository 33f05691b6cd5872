//! What all parts of an engine share.

use super::lifecycle::{Lifecycle, Serving};
use super::link::LinkState;
use super::progress::Driver;
use super::timer::Sleepers;
use crate::address::Address;
use crate::bulk::Regions;
use crate::client::Peer;
use crate::config::Config;
use crate::error::RegisterError;
use crate::exec::Pools;
use crate::limits::Limits;
use crate::rpc::RpcId;
use crate::server::{Registration, Registry};
use crate::transport::{Link, LinkEvents, LoopbackLink, PeerLimits, Transport};
use crate::warnings::Warnings;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

/// What all parts of an engine share.
pub(crate) struct Core {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) driver: Driver,
    pub(crate) limits: Limits,
    pub(crate) registry: Registry,
    pub(crate) pools: Pools,
    pub(crate) lifecycle: Lifecycle,
    /// Limits the log lines that bad requests cause.
    pub(crate) warnings: Warnings,
    pub(super) address: Address,
    pub(super) listening: bool,
    pub(super) peers: Mutex<HashMap<Address, Weak<Peer>>>,
    pub(super) links: Mutex<HashMap<usize, Weak<LinkState>>>,
    pub(super) local: OnceLock<Arc<LinkState>>,
    /// Requests being served, on all links.
    pub(crate) serving: Arc<Serving>,
    pub(crate) sleepers: Sleepers,
    /// Memory that transfers may reach.
    pub(crate) regions: Regions,
    /// As it was when the engine started.
    pub(super) config: Config,
}

impl Core {
    pub(crate) fn is_running(&self) -> bool {
        self.lifecycle.is_running()
    }

    pub(crate) fn register(&self, registration: Registration) -> Result<RpcId, RegisterError> {
        if !self.is_running() {
            return Err(RegisterError::ShutDown);
        }
        let one_way = registration.response_disabled;
        let id = self.registry.insert(registration)?;
        self.transport.serve(id, one_way);
        Ok(id)
    }

    /// The peer at an address that was resolved, shared by all who look it up.
    pub(crate) fn peer(self: &Arc<Self>, address: &Address) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(address).and_then(Weak::upgrade) {
            return peer;
        }
        peers.retain(|_, peer| peer.strong_count() > 0);
        let peer = Arc::new(Peer::dialed(self.clone(), address.clone()));
        peers.insert(address.clone(), Arc::downgrade(&peer));
        peer
    }

    /// The engine's link to itself.
    pub(crate) fn local(self: &Arc<Self>) -> Arc<LinkState> {
        let make = || {
            let loopback = Arc::new(LoopbackLink::new(self.address.clone()));
            let link: Arc<dyn Link> = loopback.clone();
            let state = LinkState::new(self, self.address.clone(), true);
            let events: Arc<dyn LinkEvents> = state.clone();
            loopback.attach(Arc::downgrade(&events));
            let limits = PeerLimits {
                max_in_flight: self.limits.max_in_flight,
                max_message: self.limits.max_message,
                max_bytes: self.limits.max_bytes,
            };
            state.on_up(&link, limits);
            state
        };
        self.local.get_or_init(make).clone()
    }

    pub(crate) fn own_address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listening
    }

    pub(super) fn track(&self, link: &Arc<LinkState>) {
        self.links.lock().insert(Arc::as_ptr(link).addr(), Arc::downgrade(link));
    }

    pub(super) fn untrack(&self, link: &LinkState) {
        self.links.lock().remove(&std::ptr::from_ref(link).addr());
    }

    pub(super) fn links(&self) -> Vec<Arc<LinkState>> {
        self.links.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Ends calls and requests whose deadline has passed; returns the next deadline.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let sleeps = self.sleepers.wake_due(now);
        let mut next = earlier(self.expire_grace(now), sleeps);
        for link in self.links() {
            let (expired, earliest) = link.calls.expire(now);
            if let Some(transport) = link.link() {
                for call in expired {
                    transport.cancel(call);
                }
            }
            next = earlier(earlier(next, earliest), link.running.expire(now));
        }
        next
    }

    /// Wakes a caller that still waits, so that it drives the transport next. If none does, the answers that are in
    /// only wait to be picked up, and the progress thread looks after the rest in its own time.
    pub(crate) fn pass_lead_on(&self, link: &LinkState) {
        let _ = link.calls.wake_one() || self.links().iter().any(|link| !link.is_local() && link.calls.wake_one());
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

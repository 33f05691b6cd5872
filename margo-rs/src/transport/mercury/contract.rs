//! What the contract of transports asks for, by way of Mercury.

use super::MercuryTransport;
use super::envelope::Head;
use super::fabric::{self, explain};
use super::huge::HugePages;
use super::link::MercuryLink;
use super::location;
use super::registration::Registered;
use crate::address::Address;
use crate::bulk::{Memory, Permission, Segment};
use crate::error::ConnectError;
use crate::rpc::RpcId;
use crate::transport::{self, Link, LinkEvents, Polled, Registration, Transport};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Largest piece of a transfer in bytes where the plugin copies it before it returns, and elsewhere.
const PIECE_COPIED: u64 = 1024 * 1024;
const PIECE: u64 = 4 * 1024 * 1024;

impl Transport for MercuryTransport {
    fn address(&self) -> Address {
        self.shared.address.clone()
    }

    fn connect(&self, address: &Address, events: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError> {
        let unreachable =
            |error: io::Error| ConnectError::Unreachable { address: address.clone(), source: Arc::new(error) };
        let mercury = |code| unreachable(io::Error::other(self.shared.why_unreachable(code)));
        let fabric = self.shared.fabric().ok_or(ConnectError::ShutDown)?;
        let over_network = transport::over_network(address).filter(|_| self.config.auto_sm != Some(true));
        let address = over_network.as_ref().unwrap_or(address);
        if let Some(reason) = location::why_unreachable(address) {
            return Err(unreachable(io::Error::other(reason)));
        }
        let name = fabric::c_name(address.as_str()).ok_or_else(|| unreachable(io::ErrorKind::InvalidInput.into()))?;
        let addr = fabric.lookup(&name).map_err(mercury)?;
        let id = getrandom::u64().map_err(|error| unreachable(io::Error::other(error.to_string())))?;
        let link = MercuryLink::dialed(&self.shared, address.clone(), addr, id, events);
        self.shared.add(&link);
        if let Err(code) = link.greet() {
            link.abandon();
            return Err(mercury(code));
        }
        Ok(link)
    }

    fn serve(&self, rpc: RpcId, one_way: bool) {
        if let Some(fabric) = self.shared.fabric()
            && let Err(code) = fabric.register(rpc.as_u64(), one_way)
        {
            tracing::error!(%rpc, reason = explain(code), "Mercury does not take an RPC: callers will not find it");
        }
    }

    fn poll(&self) -> Polled {
        let polled = match self.shared.poll_once() {
            None => Polled::Busy,
            Some(polled) => polled,
        };
        if self.shared.parted.load(Ordering::Acquire) {
            // It may have been closed from inside of a callback.
            self.shared.tear_down_unless_ending();
        }
        polled
    }

    fn park(&self, until: Option<Instant>) {
        self.shared.park(until);
    }

    fn unpark(&self) {
        self.shared.wake();
    }

    fn next_timer(&self) -> Option<Instant> {
        match self.shared.next_check.load(Ordering::Acquire) {
            u64::MAX => None,
            due => self.shared.epoch.checked_add(Duration::from_millis(due)),
        }
    }

    fn register(&self, memory: &[Segment], permission: Permission) -> Result<Option<Box<dyn Registration>>, String> {
        let fabric = self.shared.fabric().ok_or("the engine was shut down")?;
        let registered = Registered::new(&fabric, memory, permission)
            .map_err(|code| format!("the network does not take the memory: {}", explain(code)))?;
        let mut all = self.shared.registered.lock();
        if all.len() == all.capacity() {
            all.retain(|memory| memory.strong_count() > 0);
        }
        all.push(Arc::downgrade(registered.memory()));
        Ok(Some(Box::new(registered)))
    }

    fn allocate(&self, bytes: usize) -> Option<Box<dyn Memory>> {
        Some(Box::new(HugePages::new(bytes)?))
    }

    fn transfer_piece(&self) -> u64 {
        if self.shared.is_shared_memory() { PIECE_COPIED } else { PIECE }
    }

    fn kept_in_order(&self) -> usize {
        // Mercury has the rest of a larger one fetched, after others have come.
        let eager = self.config.input_eager_size.unwrap_or(0);
        (eager as usize).saturating_sub(Head::LEN)
    }

    fn stop_accepting(&self) {
        self.shared.accepting.store(false, Ordering::Release);
        let links: Vec<_> = self.shared.links.lock().values().cloned().collect();
        for link in links {
            link.go_away();
        }
    }

    fn close(&self) {
        self.shared.accepting.store(false, Ordering::Release);
        self.shared.closed.store(true, Ordering::SeqCst);
        let links: Vec<_> = self.shared.links.lock().values().cloned().collect();
        for link in links {
            link.close("the engine was shut down");
        }
        // Whoever has not answered by now need not.
        let left = std::mem::take(&mut *self.shared.left_behind.lock());
        for link in left.iter().filter_map(Weak::upgrade) {
            link.give_up();
        }
        // Not before: a poll on another thread would end Mercury under those who still tell their peers.
        self.shared.parted.store(true, Ordering::Release);
        self.shared.tear_down();
    }
}

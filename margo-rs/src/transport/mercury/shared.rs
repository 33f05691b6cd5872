//! What a transport and its links share.

use super::fabric::{Code, Fabric, explain};
use super::grants::Grants;
use super::link::MercuryLink;
use super::registration::Registrations;
use crate::address::Address;
use crate::limits::Limits;
use crate::transport::{Acceptor, CallId, Link, PeerLimits};
use crate::warnings::Warnings;
use mochi_sys::mercury::HG_NODEV;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

/// What links share with their transport.
pub(super) struct Shared {
    pub(super) this: Weak<Shared>,
    pub(super) limits: Limits,
    pub(super) address: Address,
    pub(super) listening: bool,
    /// `None` once closed.
    pub(super) fabric: RwLock<Option<Arc<Fabric>>>,
    pub(super) acceptor: OnceLock<Arc<dyn Acceptor>>,
    pub(super) accepting: AtomicBool,
    pub(super) closed: AtomicBool,
    /// Peers were told of the end: whoever polls may end Mercury.
    pub(super) parted: AtomicBool,
    pub(super) wake: OwnedFd,
    pub(super) polling: Mutex<()>,
    /// Held while Mercury is ended, by whoever does that.
    pub(super) ending: Mutex<()>,
    pub(super) links: Mutex<HashMap<u64, Arc<MercuryLink>>>,
    /// Links of plain peers that sent requests, by where they come from.
    pub(super) guests: Mutex<HashMap<String, Arc<MercuryLink>>>,
    /// Ended links on which answers may still come in.
    pub(super) left_behind: Mutex<Vec<Weak<MercuryLink>>>,
    pub(super) grants: Grants,
    /// Memory that Mercury knows.
    pub(super) registered: Mutex<Vec<Weak<Registrations>>>,
    pub(super) accepted: AtomicUsize,
    /// Calls that could not be sent; their callers are told inside of `poll`.
    pub(super) deferred: Mutex<Vec<(Arc<MercuryLink>, CallId, Code)>>,
    pub(super) epoch: Instant,
    /// When links must be looked at, in milliseconds after `epoch`.
    pub(super) next_check: AtomicU64,
    /// When messages of shared memory were last looked for, in nanoseconds after `epoch`.
    pub(super) looked: AtomicU64,
    /// The last look that found something found many calls.
    pub(super) crowded: AtomicBool,
    /// When a piece of a transfer was last begun, by us or a peer, in milliseconds after `epoch`.
    pub(super) stirred: AtomicU64,
    pub(super) connect_ms: u64,
    pub(super) keepalive_ms: u64,
    pub(super) warnings: Warnings,
}

impl Shared {
    pub(super) fn fabric(&self) -> Option<Arc<Fabric>> {
        self.fabric.read().clone()
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    pub(super) fn is_shared_memory(&self) -> bool {
        self.address.protocol() == "na+sm"
    }

    /// Why a peer was not found, from Mercury's code.
    pub(super) fn why_unreachable(&self, code: Code) -> String {
        // Shared memory says that for what is not in the file system.
        let is_missing = code == HG_NODEV && self.is_shared_memory();
        if is_missing { "no server of this name on this node".to_owned() } else { explain(code) }
    }

    pub(super) fn limits_stated(&self) -> PeerLimits {
        PeerLimits {
            max_in_flight: self.limits.max_in_flight,
            max_message: self.limits.max_message,
            max_bytes: self.limits.max_bytes,
        }
    }

    pub(super) fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(super) fn wake(&self) {
        // Only a counter that is full refuses, and then the waiter wakes anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Makes sure that links are looked at by then.
    pub(super) fn check_at(&self, due: u64) {
        if self.next_check.fetch_min(due, Ordering::AcqRel) > due {
            self.wake();
        }
    }

    pub(super) fn defer(&self, link: Arc<MercuryLink>, call: CallId, code: Code) {
        self.deferred.lock().push((link, call, code));
        self.wake();
    }

    pub(super) fn leave_behind(&self, link: Weak<MercuryLink>) {
        let mut left = self.left_behind.lock();
        left.retain(|link| link.strong_count() > 0);
        left.push(link);
    }

    pub(super) fn add(&self, link: &Arc<MercuryLink>) {
        self.links.lock().insert(link.id(), link.clone());
        self.check_at(link.due(self));
    }

    pub(super) fn remove(&self, link: &MercuryLink) {
        let link_removed = self.links.lock().remove(&link.id());
        if link.is_accepted() && link_removed.is_some() {
            self.accepted.fetch_sub(1, Ordering::Relaxed);
        }
        if link.is_guest() {
            let removed = self.guests.lock().remove(link.peer().as_str());
            drop(removed);
        }
        drop(link_removed);
    }

    /// Counts a link of a peer's in, unless there are too many.
    pub(super) fn admit(&self) -> bool {
        if self.accepted.fetch_add(1, Ordering::Relaxed) < self.limits.max_connections {
            return true;
        }
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        if self.warnings.allow(Instant::now()) {
            tracing::warn!(max = self.limits.max_connections, "too many peers: one was refused");
        }
        false
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire)
    }

    /// Looks after links whose time has come.
    pub(super) fn run_timers(&self) {
        let now = self.now_ms();
        if now < self.next_check.load(Ordering::Acquire) {
            return;
        }
        // From here on, links state their times anew.
        self.next_check.store(u64::MAX, Ordering::Release);
        let links: Vec<_> = self.links.lock().values().cloned().collect();
        for link in &links {
            link.on_time(self, now);
        }
        self.grants.on_time(self, now);
        let next = links.iter().map(|link| link.due(self)).min().unwrap_or(u64::MAX);
        self.next_check.fetch_min(next.min(self.grants.due()), Ordering::AcqRel);
    }
}

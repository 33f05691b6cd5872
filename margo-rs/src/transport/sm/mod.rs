//! `native+sm`: frames through shared memory, between processes of one node, also of different users.
//!
//! A link is two rings of bytes (`ring`), each in a segment that only its writer can write (`segment`), and a Unix
//! socket beside them (`socket`) by which the two find each other (`location`), hand over the segments, wake each
//! other, and learn of the other's end. What goes through the rings are the frames of [`wire`](crate::wire); large bulk
//! data can go past them (`loan`).
//!
//! Nobody makes a system call while both sides look: whoever polls looks at the counters of the links that are in use
//! (the *active* ones). A side that goes to sleep says so in its bell, and is woken through the socket. Links that are
//! not in use are not looked at: their bell stays armed.

mod accepting;
mod active;
mod connection;
mod credentials;
mod loan;
mod location;
mod memory;
mod patience;
mod places;
mod polling;
mod ring;
#[cfg(test)]
mod ring_tests;
mod sealed;
mod segment;
mod socket;

use self::active::Polling;
use self::connection::{Connection, Target};
use self::loan::Loans;
use self::loan::lendable::{LendableMemory, Lending};
use self::location::Listener;
use self::places::Places;
use super::allowances::Allowances;
use super::lifecycle::Ending;
use super::poller::{HANGUP, Poller};
use super::restraint::Restrained;
use super::same_node::{Door, Offer};
use super::timers::{Timers, Watch};
use super::{Acceptor, Link, LinkEvents, Polled, Registration, Transport};
use crate::address::Address;
use crate::bulk::{Memory, Permission, Segment};
use crate::error::{ConnectError, ListenError};
use crate::limits::Limits;
use crate::warnings::Warnings;
use parking_lot::Mutex;
use rustix::net::SocketAddrUnix;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub(crate) use self::location::{PROTOCOL, resolve};

/// The listener's token.
const LISTENER: u64 = 1;
/// Pause before a server whose queue is full is asked again.
const CONNECT_RETRY: Duration = Duration::from_millis(2);

/// The transport.
pub struct SmTransport {
    shared: Arc<Shared>,
}

/// What connections share with their transport.
struct Shared {
    allowances: Allowances,
    poller: Poller,
    acceptor: OnceLock<Arc<dyn Acceptor>>,
    /// Decides instead of the acceptor, where the socket is an unlisted one.
    door: OnceLock<Arc<dyn Door>>,
    listener: Option<Listener>,
    accepting: AtomicBool,
    /// Accepting waits for descriptors; a timer goes on with it.
    accept_waits: AtomicBool,
    /// Said so in the log.
    out_of_descriptors: AtomicBool,
    warnings: Warnings,
    closed: AtomicBool,
    /// Of the links that peers have opened.
    places: Places,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next_token: AtomicU64,
    /// Something is in `ready` or `ended`.
    attention: AtomicBool,
    /// Tokens whose readiness was noticed and not yet handled.
    ready: Mutex<Vec<u64>>,
    /// Something is in `dirty`.
    some_dirty: AtomicBool,
    /// Connections with something to flush.
    dirty: Mutex<Vec<Arc<Connection>>>,
    /// Ended connections whose receive memory the polling thread should drop.
    ended: Mutex<Vec<Arc<Connection>>>,
    timers: Timers,
    loans: Arc<Loans>,
    /// A thread is parked, or about to be: the bells must stay armed.
    parked: AtomicBool,
    polling: Mutex<Polling>,
}

impl SmTransport {
    /// A transport that opens connections and accepts none.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn client(limits: Limits, instance: u64) -> Result<Self, ListenError> {
        let address = Address::new(PROTOCOL, "");
        Self::new(limits, instance, None).map_err(|source| ListenError::Io { address, source })
    }

    /// A transport that listens. Blocks for a moment if another server of the same user is just starting.
    ///
    /// # Errors
    /// The name is malformed, taken, or another user's; or the directory of the sockets cannot be used.
    pub fn listen(address: &Address, limits: Limits, instance: u64) -> Result<Self, ListenError> {
        let listener = Listener::new(address)?;
        Self::new(limits, instance, Some(listener))
            .map_err(|source| ListenError::Io { address: address.clone(), source })
    }

    /// The shared-memory half of an engine of `native+tcp`: under no address of its own, for peers that bring an [`Offer`].
    /// It takes in only those that `door` lets in; without one, it accepts none.
    ///
    /// # Errors
    /// The process has no descriptors left, or may not listen.
    pub(super) fn unlisted(limits: Limits, instance: u64, door: Option<Arc<dyn Door>>) -> io::Result<Self> {
        let listener = door.as_ref().map(|_| Listener::unlisted(instance)).transpose()?;
        let transport = Self::new(limits, instance, listener)?;
        if let Some(door) = door {
            let _ = transport.shared.door.set(door);
        }
        Ok(transport)
    }

    /// Begins to open a link to the server that has made `offer` and has stated `instance`, for as long as `patience`.
    ///
    /// # Errors
    /// There is no such server in this network namespace, or it is another user's than it said.
    pub(super) fn follow(
        &self,
        peer: &Address,
        instance: u64,
        offer: Offer,
        patience: Duration,
        events: Arc<dyn LinkEvents>,
    ) -> Result<Arc<dyn Link>, ConnectError> {
        let at = location::unlisted(instance)
            .map_err(|error| ConnectError::Unreachable { address: peer.clone(), source: Arc::new(error.into()) })?;
        let to = Target { at, uid: offer.uid, offer: Some(offer) };
        self.open(peer, to, patience.min(self.shared.allowances.limits.connect_timeout), events)
    }

    fn open(
        &self,
        peer: &Address,
        to: Target,
        timeout: Duration,
        events: Arc<dyn LinkEvents>,
    ) -> Result<Arc<dyn Link>, ConnectError> {
        let shared = &self.shared;
        let connection = Connection::opening(shared, shared.new_token(), peer.clone(), to, events);
        let connected = connection.try_connect(shared)?;
        shared.connections.lock().insert(connection.token, connection.clone());
        if connected {
            if let Err(source) = shared.watch(&connection) {
                shared.connections.lock().remove(&connection.token);
                return Err(ConnectError::Unreachable { address: peer.clone(), source: Arc::new(source) });
            }
            // The answer may have come before it was watched.
            shared.mark_ready(connection.token);
        } else {
            shared.add_timer(CONNECT_RETRY, connection.token, Watch::Connecting);
        }
        shared.add_timer(timeout, connection.token, Watch::Handshake);
        Ok(connection)
    }

    /// What becomes ready when there is something for [`Transport::poll`], besides the links that are looked at.
    pub(super) fn poller(&self) -> &Poller {
        &self.shared.poller
    }

    /// Links that peers have opened, and that are being opened.
    pub(super) fn accepted(&self) -> usize {
        self.shared.places.taken()
    }

    /// Whether there are links, or peers that want one.
    pub(super) fn has_links(&self) -> bool {
        !self.shared.connections.lock().is_empty()
    }

    /// Whether something waits for the next poll.
    pub(super) fn has_work(&self) -> bool {
        self.shared.attention.load(Ordering::Relaxed) || self.shared.some_dirty.load(Ordering::Relaxed)
    }

    /// Gets ready for `sleep`, which ends when [`SmTransport::poller`] becomes ready, and does it: not at all if there
    /// is something to do, and not beyond the given time.
    pub(super) fn park_in(&self, until: Option<Instant>, sleep: impl FnOnce(Option<Instant>)) {
        let shared = &self.shared;
        // Somebody who polls right now may not know yet that the bells must be armed.
        let Some(mut polling) = shared.polling.try_lock() else {
            let soon = Instant::now() + Duration::from_millis(1);
            return sleep(Some(until.map_or(soon, |until| until.min(soon))));
        };
        shared.parked.store(true, Ordering::SeqCst);
        let may_sleep = polling.arm();
        // Nobody asks epoll again for what it finds now: the next poll must look.
        polling.epoll_every = 1;
        drop(polling);
        if may_sleep && !shared.attention.load(Ordering::SeqCst) {
            sleep(until);
        }
        shared.parked.store(false, Ordering::SeqCst);
    }

    /// Takes in what has become ready, and the wake-ups.
    pub(super) fn take_ready(&self) {
        self.shared.poller.wait(Some(Instant::now()), |token| self.shared.list_ready(token));
    }

    /// Where accepted links go; without it none are accepted. To be called once, before the first poll.
    pub fn set_acceptor(&self, acceptor: Arc<dyn Acceptor>) {
        let _ = self.shared.acceptor.set(acceptor);
    }

    fn new(limits: Limits, instance: u64, listener: Option<Listener>) -> io::Result<Self> {
        let poller = Poller::new()?;
        if let Some(listener) = &listener {
            poller.watch_input(&listener.socket, LISTENER)?;
        }
        let shared = Arc::new(Shared {
            allowances: Allowances::new(limits, instance),
            poller,
            acceptor: OnceLock::new(),
            door: OnceLock::new(),
            accepting: AtomicBool::new(listener.is_some()),
            accept_waits: AtomicBool::new(false),
            out_of_descriptors: AtomicBool::new(false),
            warnings: Warnings::new(Instant::now()),
            closed: AtomicBool::new(false),
            places: Places::default(),
            listener,
            connections: Mutex::new(HashMap::new()),
            next_token: AtomicU64::new(LISTENER + 1),
            attention: AtomicBool::new(false),
            some_dirty: AtomicBool::new(false),
            ready: Mutex::new(Vec::new()),
            dirty: Mutex::new(Vec::new()),
            ended: Mutex::new(Vec::new()),
            timers: Timers::default(),
            loans: Arc::default(),
            parked: AtomicBool::new(false),
            polling: Mutex::new(Polling::new()),
        });
        Ok(Self { shared })
    }
}

impl Shared {
    fn list_ready(&self, token: u64) {
        self.ready.lock().push(token);
        self.attention.store(true, Ordering::SeqCst);
    }

    fn mark_ready(&self, token: u64) {
        self.list_ready(token);
        self.poller.wake();
    }

    /// Has a connection looked at that waits for room. Nobody need be woken for it unless somebody sleeps: whoever looks
    /// at it before that finds it by itself.
    fn attend(&self, token: u64) {
        self.list_ready(token);
        if self.parked.load(Ordering::SeqCst) {
            self.poller.wake();
        }
    }

    fn list_dirty(&self, connection: Arc<Connection>) {
        self.dirty.lock().push(connection);
        self.some_dirty.store(true, Ordering::Release);
    }

    fn add_timer(&self, after: Duration, token: u64, watch: Watch) {
        self.timers.add(after, token, watch);
        self.poller.wake();
    }

    /// Looks after the message that a peer has begun, or the answers that it should read.
    fn look_after(&self, token: u64, watch: Watch) {
        self.add_timer(self.allowances.limits.stall_timeout, token, watch);
    }

    /// Looks after a connection whose ring is full.
    fn watch_unread(&self, token: u64) {
        self.add_timer(self.allowances.limits.unacknowledged_timeout, token, Watch::Reading);
    }

    fn new_token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    /// Watches the socket of a connection that has one.
    fn watch(&self, connection: &Connection) -> io::Result<()> {
        connection.socket.with(|socket| Ok(self.poller.watch_input(socket, connection.token)))?
    }

    fn remove(&self, connection: &Connection) {
        // Fails for one that is closed, and so forgotten, already.
        let _ = connection.socket.with(|socket| {
            self.poller.forget(socket);
            Ok(())
        });
        let removed = self.connections.lock().remove(&connection.token);
        if let Some(connection) = removed {
            self.ended.lock().push(connection);
            // Nothing more comes from its socket that would wake whoever has to close it.
            self.attention.store(true, Ordering::SeqCst);
            self.poller.wake();
        }
    }

    /// Tries to connect, and comes back to it if the server's queue is full.
    fn connect_on(&self, connection: &Connection) {
        match connection.try_connect(self) {
            Ok(true) => {
                if let Err(error) = self.watch(connection) {
                    // One that was closed meanwhile has no socket to be watched, and nobody to tell.
                    connection.fail_connecting(error);
                }
                self.mark_ready(connection.token);
            }
            Ok(false) => self.add_timer(CONNECT_RETRY, connection.token, Watch::Connecting),
            Err(error) => connection.give_up(error),
        }
    }
}

impl Transport for SmTransport {
    fn address(&self) -> Address {
        match &self.shared.listener {
            Some(listener) => listener.address.clone(),
            None => Address::new(PROTOCOL, ""),
        }
    }

    fn connect(&self, address: &Address, events: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError> {
        let place = location::place(address)?;
        let at = SocketAddrUnix::new(location::path(&place))
            .map_err(|error| ConnectError::Unreachable { address: address.clone(), source: Arc::new(error.into()) })?;
        let to = Target { at, uid: place.uid, offer: None };
        self.open(address, to, self.shared.allowances.limits.connect_timeout, events)
    }

    fn poll(&self) -> Polled {
        let Some(mut polling) = self.shared.polling.try_lock() else { return Polled::Busy };
        let progress = self.shared.poll(&mut polling);
        drop(polling);
        if self.shared.closed.load(Ordering::Relaxed) {
            // It was closed from inside of a callback.
            self.shared.bury_if_idle();
        }
        if progress { Polled::Progress } else { Polled::Idle }
    }

    fn park(&self, until: Option<Instant>) {
        let shared = &self.shared;
        self.park_in(until, |until| shared.poller.wait(until, |token| shared.list_ready(token)));
    }

    fn unpark(&self) {
        self.shared.poller.wake();
    }

    fn next_timer(&self) -> Option<Instant> {
        let connections = self.shared.connections.lock();
        self.shared.timers.first(|token, watch| {
            let connection = connections.get(&token);
            match watch {
                Watch::Accepting => true,
                Watch::Handshake => connection.is_some_and(|connection| !connection.lifecycle().is_past_handshake()),
                Watch::Connecting => connection.is_some_and(|connection| connection.lifecycle().is_connecting()),
                Watch::Message => connection.is_some_and(|connection| connection.restraint().is_message_watched()),
                Watch::Answers => connection.is_some_and(|connection| connection.restraint().is_reader_watched()),
                Watch::Reading => connection.is_some_and(|connection| connection.is_watched_for_reading()),
            }
        })
    }

    fn stop_accepting(&self) {
        self.shared.accepting.store(false, Ordering::Release);
        let Some(listener) = &self.shared.listener else { return };
        // The name first: as long as the socket listens, nobody else takes it.
        listener.remove();
        self.shared.poller.forget(&listener.socket);
        // Later connection attempts are refused by the kernel instead of waiting for nobody.
        let _ = rustix::net::shutdown(&listener.socket, rustix::net::Shutdown::Both);
        let open: Vec<_> = self.shared.connections.lock().values().cloned().collect();
        for connection in open {
            connection.go_away();
        }
    }

    fn close(&self) {
        self.stop_accepting();
        let open: Vec<_> = self.shared.connections.lock().values().cloned().collect();
        for connection in open {
            connection.fail("the engine was shut down");
        }
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.bury_if_idle();
    }

    fn register(&self, memory: &[Segment], _permission: Permission) -> Result<Option<Box<dyn Registration>>, String> {
        let lending = Lending::new(&self.shared.loans, memory);
        Ok(lending.map(|lending| Box::new(lending) as Box<dyn Registration>))
    }

    fn allocate(&self, bytes: usize) -> Option<Box<dyn Memory>> {
        let memory = LendableMemory::new(&self.shared.loans, bytes);
        memory.ok().map(|memory| Box::new(memory) as Box<dyn Memory>)
    }
}

impl Drop for SmTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for SmTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmTransport").field("address", &self.address()).finish_non_exhaustive()
    }
}

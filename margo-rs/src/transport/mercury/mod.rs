//! Mercury: the transports of HPC fabrics, and the way to and from C and C++ Mochi services.
//!
//! What goes over the wire is what Margo sends: an RPC id, the parent's id before the input, a status before the output.
//! Engines of this crate find out that the other one is, too, and then use an [`envelope`] that gives them
//! what Mercury alone does not: cancelling, an end that both sides notice, deadlines that the server knows.
//!
//! # Bulk data
//!
//! The initiator of a transfer, or its network card, moves the bytes by itself. Mercury has nothing by which an owner could
//! refuse or notice that, so engines of this crate [ask](grants) before each piece and say when it is over: then the rules
//! are those of the other transports, at the price of a round trip. What is different, and cannot be helped:
//!
//! * Programs in C and C++ do not ask. What they may do with a region was fixed when it was exposed, and is checked by the
//!   network as far as it does so: `ofi+…` checks key and direction, `na+sm` nothing but that the process is of the same
//!   user. Memory is to be taken back from them when they have said that they are done, as Margo's users know it: what
//!   such a peer has begun by then goes on where software moves the bytes.
//! * The keys of `ofi+tcp` are small numbers that count up. Whoever reaches the port can try them, and so reach all memory
//!   that is exposed, or was the local end of a transfer, without a descriptor. Where not all who can are trusted, seal
//!   the data (`mochi_auth::bulk`), or use `native+tcp`.
//! * A piece that is being moved cannot be stopped where the plugin cannot. Taking back a region of either end waits for it;
//!   also for one that was cancelled, or whose peer is lost and not known to be dead.
//! * A region's descriptor has about 72 bytes for each segment of its memory, and 64 KiB at most.

#[allow(unsafe_code)]
mod bulk;
mod death;
mod envelope;
#[allow(unsafe_code)]
mod fabric;
#[allow(unsafe_code)]
mod given;
mod grants;
#[allow(unsafe_code)]
mod huge;
mod leftovers;
mod link;
mod location;
mod numbers;
#[allow(unsafe_code)]
mod options;
#[allow(unsafe_code)]
mod registration;
mod wire_id;

use self::envelope::{Answer, HELLO, Head, Hello, Kind, Purpose, TUNNEL, TUNNEL_ONE_WAY, Welcome};
use self::fabric::{Code, Fabric, Incoming, Receiver, explain};
use self::grants::Grants;
use self::huge::HugePages;
use self::link::MercuryLink;
use self::options::Options;
use self::registration::{Registered, Registrations};
use super::{Acceptor, CallId, Link, LinkEvents, PeerLimits, Polled, Registration, Transport};
use crate::address::Address;
use crate::bulk::{Memory, Permission, Segment};
use crate::config::MercuryConfig;
use crate::error::{ConnectError, ListenError, Status};
use crate::limits::Limits;
use crate::rpc::RpcId;
use crate::warnings::Warnings;
use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

pub use self::given::{GivenContext, hg_class_t, hg_context_t};
pub(crate) use self::location::{is_literal, resolve};

/// How long the end waits for what is still being sent or given up.
const DRAIN: Duration = Duration::from_secs(2);
/// For how long nothing may have come in before the end.
const CALM: Duration = Duration::from_millis(3);
/// For how long to wait for that where peers go on asking.
const CALM_MAX: Duration = Duration::from_millis(100);
/// Longest wait where a plugin has no descriptor to wait for.
const BLIND_WAIT: Duration = Duration::from_millis(1);
/// Longest wait elsewhere. Not everything that a plugin has to do shows at its descriptor: libfabric's connections are
/// made inside of its progress. Margo looks as often.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Largest piece of a transfer in bytes where the plugin copies it before it returns, and elsewhere.
const PIECE_COPIED: u64 = 1024 * 1024;
const PIECE: u64 = 4 * 1024 * 1024;
/// For how long one poll takes in messages that come one by one, in nanoseconds. Whom they are for waits as long.
const LOOK_NS: u64 = 50_000;
/// Looks for a message before there is none, where the processor is not wanted by others.
const LOOKS: u32 = 4;
/// Who gets the processor back within this time, in nanoseconds, gave it to nobody.
const ALONE_NS: u64 = 3000;
/// A look that finds no more found a call alone: a request and the end of sending its answer.
const LONE_MAX: u32 = 2;
/// For how long both ends look on after a piece was begun, in milliseconds: as Margo does after anything.
const STIRRED_MS: u64 = 10;

thread_local! {
    /// The transport that this thread is inside of (its address), or 0.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// The transport.
pub struct MercuryTransport {
    shared: Arc<Shared>,
    config: MercuryConfig,
}

/// What links share with their transport.
struct Shared {
    this: Weak<Shared>,
    limits: Limits,
    address: Address,
    listening: bool,
    /// `None` once closed.
    fabric: RwLock<Option<Arc<Fabric>>>,
    acceptor: OnceLock<Arc<dyn Acceptor>>,
    accepting: AtomicBool,
    closed: AtomicBool,
    wake: OwnedFd,
    polling: Mutex<()>,
    /// Held while Mercury is ended, by whoever does that.
    ending: Mutex<()>,
    links: Mutex<HashMap<u64, Arc<MercuryLink>>>,
    /// Links of plain peers that sent requests, by where they come from.
    guests: Mutex<HashMap<String, Arc<MercuryLink>>>,
    /// Ended links on which answers may still come in.
    left_behind: Mutex<Vec<Weak<MercuryLink>>>,
    grants: Grants,
    /// Memory that Mercury knows.
    registered: Mutex<Vec<Weak<Registrations>>>,
    accepted: AtomicUsize,
    /// Calls that could not be sent; their callers are told inside of `poll`.
    deferred: Mutex<Vec<(Arc<MercuryLink>, CallId, Code)>>,
    epoch: Instant,
    /// When links must be looked at, in milliseconds after `epoch`.
    next_check: AtomicU64,
    /// When messages of shared memory were last looked for, in nanoseconds after `epoch`.
    looked: AtomicU64,
    /// The last look that found something found many calls.
    crowded: AtomicBool,
    /// When a piece of a transfer was last begun, by us or a peer, in milliseconds after `epoch`.
    stirred: AtomicU64,
    connect_ms: u64,
    keepalive_ms: u64,
    warnings: Warnings,
}

impl MercuryTransport {
    /// A transport that makes calls. With an address on this host's loopback it keeps to that, and otherwise uses the
    /// interface that the plugin chooses.
    ///
    /// # Errors
    /// Mercury does not start, or does not have an option.
    pub fn client(address: &Address, limits: Limits, config: &MercuryConfig) -> Result<Self, ListenError> {
        let address = &super::over_network(address).unwrap_or_else(|| address.clone());
        let name = location::client_name(address, config)?;
        Self::start(&name, address, limits, config, false)
    }

    /// A transport that listens. Blocks while a host name is resolved.
    ///
    /// # Errors
    /// The port is taken, or Mercury does not have an option, or it does not start; its own log says more.
    pub fn listen(address: &Address, limits: Limits, config: &MercuryConfig) -> Result<Self, ListenError> {
        // One that listened on shared memory, too, does so again if it is told to.
        let address = &super::over_network(address).unwrap_or_else(|| address.clone());
        let name = location::listen_name(address, config)?;
        Self::start(&name, address, limits, config, true)
    }

    /// A transport on what somebody else has started: one that `listens`, or only makes calls. The class must listen in
    /// either case.
    ///
    /// # Errors
    /// The class is of another protocol or does not listen, or an RPC that the engine needs for itself is taken.
    pub fn on(given: GivenContext, address: &Address, limits: Limits, listens: bool) -> Result<Self, ListenError> {
        let refused = |reason: &str| ListenError::Location { address: address.clone(), reason: reason.to_owned() };
        if !given.is_listening() {
            return Err(refused(
                "the class that was given does not listen, and an engine must be reached by its peers",
            ));
        }
        if !given.tells_lengths() {
            return Err(refused(
                "on a class that was started elsewhere, Mercury before 2.4 does not tell how long messages are",
            ));
        }
        if [HELLO, TUNNEL, TUNNEL_ONE_WAY].iter().any(|id| given.is_registered(wire_id::on_wire(id.as_u64()))) {
            return Err(refused(
                "the class that was given serves an engine already, or Margo: their __identity__ would be in the way",
            ));
        }
        let fabric = Fabric::adopt(given);
        let printed = fabric.address().map_err(|code| refused(&explain(code)))?.parse::<Address>()?;
        if super::in_words_of(&printed, address).is_none() {
            return Err(refused(&format!("the class that was given is of {}", printed.protocol())));
        }
        Self::with(fabric, address, printed, limits, MercuryConfig::default(), listens)
    }

    /// The options in effect.
    pub fn config(&self) -> &MercuryConfig {
        &self.config
    }

    /// Where accepted links go; without it none are accepted. To be called once, before the first poll.
    pub fn set_acceptor(&self, acceptor: Arc<dyn Acceptor>) {
        let _ = self.shared.acceptor.set(acceptor);
    }

    fn start(
        name: &str,
        address: &Address,
        limits: Limits,
        config: &MercuryConfig,
        listening: bool,
    ) -> Result<Self, ListenError> {
        let refused = || ListenError::Location { address: address.clone(), reason: location::why_not(address) };
        let failed = |source: io::Error| ListenError::Io { address: address.clone(), source };
        let name = fabric::c_name(name).ok_or_else(refused)?;
        if let Some(reason) = options::why_not_this_library() {
            return Err(ListenError::Location { address: address.clone(), reason });
        }
        let options = Options::new(config)?;
        let fabric = Fabric::start(&name, &options).ok_or_else(refused)?;
        let printed = fabric.address().map_err(|code| failed(io::Error::other(explain(code))))?.parse::<Address>()?;
        Self::with(fabric, address, printed, limits, options.effective(config), listening)
    }

    /// A transport over a fabric that runs at `printed`.
    fn with(
        fabric: Arc<Fabric>,
        address: &Address,
        printed: Address,
        limits: Limits,
        config: MercuryConfig,
        listening: bool,
    ) -> Result<Self, ListenError> {
        let failed = |source: io::Error| ListenError::Io { address: address.clone(), source };
        let mercury = |code| failed(io::Error::other(explain(code)));
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| failed(error.into()))?;
        let ms = |time: Duration| time.as_millis().clamp(1, u64::MAX as u128 / 16) as u64;
        let shared = Arc::new_cyclic(|this: &Weak<Shared>| Shared {
            this: this.clone(),
            address: if listening { printed } else { Address::new(address.protocol(), "") },
            listening,
            fabric: RwLock::new(Some(fabric.clone())),
            acceptor: OnceLock::new(),
            accepting: AtomicBool::new(listening),
            closed: AtomicBool::new(false),
            wake,
            polling: Mutex::new(()),
            ending: Mutex::new(()),
            links: Mutex::new(HashMap::new()),
            guests: Mutex::new(HashMap::new()),
            left_behind: Mutex::new(Vec::new()),
            grants: Grants::default(),
            registered: Mutex::new(Vec::new()),
            accepted: AtomicUsize::new(0),
            deferred: Mutex::new(Vec::new()),
            epoch: Instant::now(),
            next_check: AtomicU64::new(u64::MAX),
            looked: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            stirred: AtomicU64::new(0),
            connect_ms: ms(limits.connect_timeout),
            keepalive_ms: ms(limits.keepalive),
            limits,
            warnings: Warnings::new(Instant::now()),
        });
        fabric.set_receiver(shared.this.clone());
        for (id, one_way) in [(HELLO, false), (TUNNEL, false), (TUNNEL_ONE_WAY, true)] {
            fabric.register(id.as_u64(), one_way).map_err(mercury)?;
        }
        let (input, output) = fabric.eager_sizes();
        let config = MercuryConfig {
            address: Some(shared.address.to_string()),
            listening: Some(listening),
            version: mochi_sys::MERCURY_VERSION.map(str::to_owned),
            input_eager_size: Some(input as u64),
            output_eager_size: Some(output as u64),
            ..config
        };
        Ok(Self { shared, config })
    }
}

impl Shared {
    fn fabric(&self) -> Option<Arc<Fabric>> {
        self.fabric.read().clone()
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn is_shared_memory(&self) -> bool {
        self.address.protocol() == "na+sm"
    }

    fn limits_stated(&self) -> PeerLimits {
        PeerLimits {
            max_in_flight: self.limits.max_in_flight,
            max_message: self.limits.max_message,
            max_bytes: self.limits.max_bytes,
        }
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn wake(&self) {
        // Only a counter that is full refuses, and then the waiter wakes anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Makes sure that links are looked at by then.
    fn check_at(&self, due: u64) {
        if self.next_check.fetch_min(due, Ordering::AcqRel) > due {
            self.wake();
        }
    }

    fn defer(&self, link: Arc<MercuryLink>, call: CallId, code: Code) {
        self.deferred.lock().push((link, call, code));
        self.wake();
    }

    fn leave_behind(&self, link: Weak<MercuryLink>) {
        let mut left = self.left_behind.lock();
        left.retain(|link| link.strong_count() > 0);
        left.push(link);
    }

    fn add(&self, link: &Arc<MercuryLink>) {
        self.links.lock().insert(link.id(), link.clone());
        self.check_at(link.due(self));
    }

    fn remove(&self, link: &MercuryLink) {
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
    fn admit(&self) -> bool {
        if self.accepted.fetch_add(1, Ordering::Relaxed) < self.limits.max_connections {
            return true;
        }
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        if self.warnings.allow(Instant::now()) {
            tracing::warn!(max = self.limits.max_connections, "too many peers: one was refused");
        }
        false
    }

    fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire)
    }

    /// A peer of this crate opens a link, or wants to know whether it stands.
    fn on_hello(self: &Arc<Self>, request: &Arc<Incoming>, hello: Hello) {
        let known = self.links.lock().get(&hello.link).cloned();
        let welcome = match (hello.purpose, known) {
            (Purpose::Ping, Some(_)) => Welcome::Up(self.limits_stated()),
            (Purpose::Open, None) if self.is_accepting() && self.accept(request, hello) => {
                Welcome::Up(self.limits_stated())
            }
            _ => Welcome::Refused,
        };
        if let Err(code) = request.respond(&welcome.encode(), &[]) {
            tracing::debug!(reason = explain(code), "a hello cannot be answered");
        }
    }

    fn accept(self: &Arc<Self>, request: &Arc<Incoming>, hello: Hello) -> bool {
        let (Some(acceptor), Ok(addr), Some(peer)) = (self.acceptor.get(), request.origin(), origin_address(request))
        else {
            return false;
        };
        if !self.admit() {
            return false;
        }
        let link = MercuryLink::accepted(self, peer, addr, hello.link);
        self.add(&link);
        let events = acceptor.accept(link.clone());
        link.come_up(events, hello.limits);
        true
    }

    /// The link of a plain peer.
    fn guest(self: &Arc<Self>, request: &Arc<Incoming>) -> Option<Arc<MercuryLink>> {
        let peer = origin_address(request)?;
        if let Some(link) = self.guests.lock().get(peer.as_str()) {
            return Some(link.clone());
        }
        let acceptor = self.acceptor.get().filter(|_| self.listening && !self.closed.load(Ordering::Acquire))?;
        let (addr, id) = (request.origin().ok()?, getrandom::u64().ok()?);
        if !self.admit() {
            return None;
        }
        let link = MercuryLink::guest(self, peer, addr, id);
        self.guests.lock().insert(link.peer().as_str().to_owned(), link.clone());
        self.add(&link);
        let events = acceptor.accept(link.clone());
        link.come_up(events, self.limits_stated());
        Some(link)
    }

    /// Looks after links whose time has come.
    fn run_timers(&self) {
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

    fn poll(&self, fabric: &Fabric) -> Polled {
        let some = self.look(fabric);
        let deferred = std::mem::take(&mut *self.deferred.lock());
        let some = some || !deferred.is_empty();
        for (link, call, code) in deferred {
            link.fail_call(call, code);
        }
        self.run_timers();
        match some {
            true => Polled::Progress,
            false if self.is_moving(fabric) => Polled::Moving,
            false => Polled::Idle,
        }
    }

    /// Takes in what has arrived. `true` if there was something.
    fn look(&self, fabric: &Fabric) -> bool {
        if !self.is_shared_memory() {
            return self.look_once(fabric);
        }
        // It gives out one message at a time.
        let begun = self.now_ns();
        let mut looks = self.looks(begun);
        let mut now = begun;
        let mut found = 0;
        while looks > 0 && now.saturating_sub(begun) < LOOK_NS {
            if self.look_once(fabric) {
                found += 1;
                // Beyond the last answer a client looks for nothing.
                looks = u32::from(self.listening || fabric.is_awaiting());
            } else {
                looks -= 1;
            }
            now = self.now_ns();
        }
        self.looked.store(now, Ordering::Relaxed);
        if found > 0 {
            self.crowded.store(found > LONE_MAX, Ordering::Relaxed);
        }
        found > 0
    }

    fn look_once(&self, fabric: &Fabric) -> bool {
        if let Err(code) = fabric.progress()
            && self.warnings.allow(Instant::now())
        {
            tracing::warn!(reason = explain(code), "Mercury makes no progress");
        }
        fabric.trigger() > 0
    }

    /// How often to look for a message before there is none. Whoever polls gives the processor to others after that, which
    /// costs more than to look: for a call alone, where nobody else wanted the processor, that is seldom enough. With many
    /// in flight it is no loss, because more of them come together.
    fn looks(&self, now: u64) -> u32 {
        let since = now.saturating_sub(self.looked.load(Ordering::Relaxed));
        if since < ALONE_NS && !self.crowded.load(Ordering::Relaxed) { LOOKS } else { 1 }
    }

    /// Whether data was begun to be moved a short time ago, in or out, and may need this end: where software moves it, it
    /// does so inside of progress, and pieces follow each other.
    fn is_moving(&self, fabric: &Fabric) -> bool {
        (fabric.is_moving() || !self.grants.is_empty())
            && self.now_ms().saturating_sub(self.stirred.load(Ordering::Relaxed)) <= STIRRED_MS
    }

    /// A piece is about to be moved.
    fn stir(&self) {
        self.stirred.store(self.now_ms(), Ordering::Relaxed);
    }

    /// One poll, if no other thread is inside. `None` if one is, or if all is over.
    fn poll_once(&self) -> Option<Polled> {
        let fabric = self.fabric()?;
        let _polling = self.polling.try_lock()?;
        let _inside = self.enter();
        Some(self.poll(&fabric))
    }

    /// Marks this thread as inside of this transport, until what is returned is dropped.
    fn enter(&self) -> Inside {
        Inside { before: INSIDE.replace(self.key()) }
    }

    /// Ends Mercury, and returns when it has ended. A thread that is inside of it cannot: then whoever polls does it on the
    /// way out.
    fn tear_down(&self) {
        if INSIDE.get() != self.key() {
            // If another thread is at it, this waits: the address must be free again when an engine has ended.
            let ending = self.ending.lock();
            self.end_mercury(&ending);
        }
    }

    /// What [`Shared::tear_down`] does, for a thread that must not wait for another.
    fn tear_down_unless_ending(&self) {
        if INSIDE.get() != self.key()
            && let Some(ending) = self.ending.try_lock()
        {
            self.end_mercury(&ending);
        }
    }

    fn end_mercury(&self, _ending: &MutexGuard<'_, ()>) {
        let Some(fabric) = self.fabric.write().take() else { return };
        self.wake();
        let registered = std::mem::take(&mut *self.registered.lock());
        registered.iter().filter_map(Weak::upgrade).for_each(|memory| memory.close());
        let begun = Instant::now();
        let mut last_event = begun;
        loop {
            let now = Instant::now();
            // What peers sent before they knew of the end comes in until now. Shared memory does not end while it holds
            // a message that nobody has taken; and TCP, closed with bytes that nobody has read, takes back what it was
            // given last, which is that we end.
            let held = Arc::strong_count(&fabric) > 1;
            let calm = now >= last_event + CALM || now >= begun + CALM_MAX;
            if !held && calm {
                break;
            }
            if now >= begun + DRAIN {
                if held {
                    tracing::warn!("Mercury still holds what it was asked to give up; it is left behind");
                    fabric.remove_files();
                }
                break;
            }
            if let Some(_polling) = self.polling.try_lock() {
                let _inside = self.enter();
                let _ = fabric.progress();
                if fabric.trigger() > 0 {
                    last_event = now;
                }
            }
            thread::yield_now();
        }
        drop(fabric);
        self.grants.clear();
    }
}

/// See [`Shared::enter`].
struct Inside {
    before: usize,
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

impl Receiver for Shared {
    fn enter(&self) -> Inside {
        Shared::enter(self)
    }

    fn wake(&self) {
        Shared::wake(self);
    }

    fn on_request(&self, request: &Arc<Incoming>) {
        let Some(this) = self.this.upgrade() else { return };
        let id = RpcId::from_raw(request.id());
        if id == TUNNEL || id == TUNNEL_ONE_WAY {
            let head = request.read(|payload| Head::decode(payload.bytes()));
            let link = match head {
                Ok(Some(Head { link, call, kind: Kind::Release })) => return this.grants.release(link, call),
                Ok(Some(head)) => this.links.lock().get(&head.link).cloned().map(|link| (link, head)),
                _ => None,
            };
            match link {
                Some((link, head)) => link.on_enveloped(request, head),
                None if id == TUNNEL => drop(request.respond(&Answer::Gone.encode(), &[])),
                None => {}
            }
            return;
        }
        if id == HELLO
            && let Ok(Some(hello)) = request.read(|payload| Hello::decode(payload.bytes()))
        {
            return this.on_hello(request, hello);
        }
        match this.guest(request) {
            Some(link) => link.on_plain_request(request, id),
            None if request.is_one_way() => {}
            None => drop(request.respond(&Status::PERMISSION.0.to_le_bytes(), &[])),
        }
    }
}

/// The answer to a request of that id on the wire that was not served to its end.
fn unserved(id: u64) -> [u8; Answer::LEN] {
    if id == wire_id::on_wire(TUNNEL.as_u64()) { Answer::Gone.encode() } else { Status::PERMISSION.0.to_le_bytes() }
}

/// Where a request came from, if Mercury's words for it are an address.
fn origin_address(request: &Incoming) -> Option<Address> {
    request.peer().ok()?.parse().ok()
}

impl Transport for MercuryTransport {
    fn address(&self) -> Address {
        self.shared.address.clone()
    }

    fn connect(&self, address: &Address, events: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError> {
        let unreachable =
            |error: io::Error| ConnectError::Unreachable { address: address.clone(), source: Arc::new(error) };
        let mercury = |code| unreachable(io::Error::other(explain(code)));
        let fabric = self.shared.fabric().ok_or(ConnectError::ShutDown)?;
        let over_network = super::over_network(address).filter(|_| self.config.auto_sm != Some(true));
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
        if self.shared.closed.load(Ordering::Acquire) {
            // It may have been closed from inside of a callback.
            self.shared.tear_down_unless_ending();
        }
        polled
    }

    fn park(&self, until: Option<Instant>) {
        let fabric = self.shared.fabric();
        let asleep = fabric.as_ref().and_then(|fabric| fabric.fall_asleep());
        // What was sent before that was not shown by anything.
        let polled = if asleep.is_some() { self.shared.poll_once() } else { Some(Polled::Idle) };
        let is_ready = || fabric.as_ref().is_some_and(|fabric| fabric.is_ready());
        if matches!(polled, Some(Polled::Progress)) || !self.shared.deferred.lock().is_empty() || is_ready() {
            return;
        }
        let mut wait = until.map_or(WAIT_MAX, |until| until.saturating_duration_since(Instant::now()).min(WAIT_MAX));
        let is_moving = fabric.as_ref().is_some_and(|fabric| fabric.is_moving());
        if is_moving || !self.shared.grants.is_empty() || polled.is_none() {
            // Where software moves the bytes, it does so in small steps inside of progress, on both sides.
            wait = wait.min(BLIND_WAIT);
        }
        let mut descriptors = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if let Some(fabric) = &fabric {
            match fabric.descriptor() {
                Some(descriptor) => descriptors.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN)),
                None => wait = wait.min(BLIND_WAIT),
            }
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        // A signal ends the wait early, as any event does.
        let _ = poll(&mut descriptors, Some(&wait));
        let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
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
        self.shared.tear_down();
    }
}

impl Drop for MercuryTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for MercuryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MercuryTransport").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

//! `native+tcp` with shared memory underneath where both ends are on one node and neither has it off.
//!
//! A client connects by TCP as ever. If the server sees that the client is on its own node, its hello holds an
//! [`Offer`]. The client then opens a link through shared memory, and once that is up, it closes the TCP connection.
//! Where the offer is missing, is refused or leads nowhere within a few milliseconds, the TCP connection is used. Addresses,
//! limits and errors are those of `native+tcp` either way.
//!
//! A server has at most [`GUESTS_MAX`] such links, since each takes memory that a TCP connection does not; who comes then is
//! offered nothing.
//!
//! # Why the peer is the same
//!
//! Nothing on the node is looked up by the address, so that nobody can lay out something under it:
//! * The socket of the server is an abstract one of a random name. There is one of a name in a network namespace, and
//!   none that reaches across: a relay into another namespace or host leads to TCP. It takes no file, no directory and
//!   no permission, and goes with the process.
//! * The client shows the *ask* of the offer: the server takes in nobody who has not come by TCP before. An offer is
//!   for one connection, holds once, and ends with the connection.
//! * The server shows the *answer*, which whoever has taken the name of a server that died does not know. And the
//!   kernel must say that the socket is the user's whom the offer names. A uid that may stand for any user is not
//!   trusted.
//! * The offer names the port that the client has, as the server sees it, and the client shows a mark of both ends of its
//!   connection ([`route`]), which the server compares with its own. If somebody relays the connection (a proxy, a
//!   forwarded port, a tap), they differ, and the client stays on the way that was laid out for it.
//!
//! A server that is not what it claims to be could pass on the offer of another; it could as well relay the bytes.
//! That must not give it the client's name with the other server: so the links have no
//! [`peer_credentials`](super::Link::peer_credentials), at either end. Who a user is, is decided as over TCP.
//!
//! # Driving two transports
//!
//! The epoll of the one watches the epoll of the other, so there is one place to sleep. Of the two, the one that had
//! something last is polled each time, and the other every few times, or when something waits there; both each time while
//! both have something.

mod offer;
mod route;
mod way;

pub use self::offer::Offer;
pub(super) use self::route::Route;

use self::offer::ask_in;
use self::way::{Role, Side, Way};
use super::sm::SmTransport;
use super::tcp::TcpTransport;
use super::{Acceptor, Link, LinkError, LinkEvents, Polled, Registration, Transport};
use crate::address::Address;
use crate::bulk::{Memory, Permission, Segment};
use crate::error::{ConnectError, ListenError};
use crate::limits::Limits;
use crate::wire::EXTRA_LEN;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

/// How a connection ends whose peer has left by the other way.
pub(super) const OTHER_WAY_ENDED: &str = "the other way to the peer has ended";

/// The transport that had nothing last is polled this rarely, in polls.
const OTHER_EVERY: u32 = 8;
/// Links through shared memory that a server takes in, of 132 KiB of its own each: 33 MiB in all.
const GUESTS_MAX: usize = 256;

/// Makes offers to clients that come by TCP.
pub(super) trait Offers: Send + Sync {
    /// An offer for a client on this node, who came on `link`, which goes by `route`.
    fn make(&self, route: &Route, link: Arc<dyn Link>) -> Option<Offer>;

    /// Clients that are here by other ways: they count towards the limit on connections.
    fn taken(&self) -> usize;

    /// The link has ended, and its user has been told.
    fn withdraw(&self, ask: u64);
}

/// Decides who comes in through shared memory.
pub(super) trait Door: Send + Sync {
    /// What to answer to a peer that shows `shown`, and who takes its events; `None` to send it away.
    fn enter(&self, shown: &[u8; EXTRA_LEN], link: Arc<dyn Link>) -> Option<([u8; EXTRA_LEN], Arc<dyn LinkEvents>)>;
}

/// The transport.
pub(crate) struct SameNode {
    tcp: TcpTransport,
    sm: Arc<SmTransport>,
    guests: Option<Arc<Guests>>,
    /// The one thread that polls.
    polling: Mutex<()>,
    /// Shared memory had something last.
    favours_sm: AtomicBool,
    /// Both had something: they take turns, so that neither's clients starve.
    both_busy: AtomicBool,
    /// Polls since the other transport was polled.
    since_other: AtomicU32,
    /// The thread that was parked wants both polled: it slept for both.
    woken: AtomicBool,
}

impl SameNode {
    /// A transport that opens connections and accepts none.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn client(limits: Limits, instance: u64) -> Result<Self, ListenError> {
        let tcp = TcpTransport::client(limits.clone(), instance)?;
        let failed = |source| ListenError::Io { address: tcp.address(), source };
        let sm = SmTransport::unlisted(limits, instance, None).map_err(failed)?;
        Self::of(tcp, sm, None)
    }

    /// A transport that listens.
    ///
    /// # Errors
    /// As for [`TcpTransport::listen`].
    pub(crate) fn listen(address: &Address, limits: Limits, instance: u64) -> Result<Self, ListenError> {
        let tcp = TcpTransport::listen(address, limits.clone(), instance)?;
        let failed = |source| ListenError::Io { address: address.clone(), source };
        let guests = Arc::new(Guests::default());
        let few = Limits { max_connections: limits.max_connections.min(GUESTS_MAX), ..limits.clone() };
        match SmTransport::unlisted(few, instance, Some(guests.clone())) {
            Ok(sm) => {
                tcp.set_offers(guests.clone());
                let node = Self::of(tcp, sm, Some(guests.clone()))?;
                let _ = guests.sm.set(Arc::downgrade(&node.sm));
                Ok(node)
            }
            Err(error) => {
                tracing::debug!(%error, "no shared memory is offered to clients on this node");
                let sm = SmTransport::unlisted(limits, instance, None).map_err(failed)?;
                Self::of(tcp, sm, None)
            }
        }
    }

    fn of(tcp: TcpTransport, sm: SmTransport, guests: Option<Arc<Guests>>) -> Result<Self, ListenError> {
        tcp.watch_guest(sm.poller()).map_err(|source| ListenError::Io { address: tcp.address(), source })?;
        let sm = Arc::new(sm);
        Ok(Self {
            tcp,
            sm,
            guests,
            polling: Mutex::new(()),
            favours_sm: AtomicBool::new(false),
            both_busy: AtomicBool::new(false),
            since_other: AtomicU32::new(0),
            woken: AtomicBool::new(false),
        })
    }

    /// Where accepted links go; without it none are accepted. To be called once, before the first poll.
    pub(crate) fn set_acceptor(&self, acceptor: Arc<dyn Acceptor>) {
        match &self.guests {
            Some(guests) => {
                let _ = guests.acceptor.set(acceptor);
                self.tcp.set_acceptor(guests.clone());
            }
            None => self.tcp.set_acceptor(acceptor),
        }
    }

    fn poll_tcp(&self) -> bool {
        self.tcp.poll() == Polled::Progress
    }

    fn poll_sm(&self) -> bool {
        self.sm.poll() == Polled::Progress
    }
}

impl Transport for SameNode {
    fn address(&self) -> Address {
        self.tcp.address()
    }

    fn connect(&self, address: &Address, events: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError> {
        let way = Way::new(address.clone());
        let side = Side::tcp(way.clone(), events, Role::Client(Arc::downgrade(&self.sm)));
        way.set_tcp(self.tcp.connect(address, side)?);
        Ok(way)
    }

    fn poll(&self) -> Polled {
        let Some(_polling) = self.polling.try_lock() else { return Polled::Busy };
        let favours_sm = self.favours_sm.load(Ordering::Relaxed);
        let since_other = self.since_other.load(Ordering::Relaxed) + 1;
        let woken = self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::AcqRel);
        let is_turn = woken || since_other >= OTHER_EVERY || self.both_busy.load(Ordering::Relaxed);
        self.since_other.store(if is_turn { 0 } else { since_other }, Ordering::Relaxed);
        // First TCP: what it finds may be meant for the other.
        let tcp = (!favours_sm || is_turn || self.tcp.has_work()) && self.poll_tcp();
        let sm_wanted = favours_sm || woken || self.tcp.take_guest_ready() || self.sm.has_work();
        let sm = (sm_wanted || is_turn && self.sm.has_links()) && self.poll_sm();
        if tcp != sm {
            self.favours_sm.store(sm, Ordering::Relaxed);
        }
        self.both_busy.store(tcp && sm, Ordering::Relaxed);
        if tcp || sm { Polled::Progress } else { Polled::Idle }
    }

    fn park(&self, until: Option<Instant>) {
        self.sm.park_in(until, |until| self.tcp.park(until));
        self.sm.take_ready();
        // Whatever has ended the sleep may be either's, a timer too.
        self.woken.store(true, Ordering::Release);
    }

    fn unpark(&self) {
        self.tcp.unpark();
    }

    fn next_timer(&self) -> Option<Instant> {
        match (self.tcp.next_timer(), self.sm.next_timer()) {
            (Some(tcp), Some(sm)) => Some(tcp.min(sm)),
            (one, other) => one.or(other),
        }
    }

    fn stop_accepting(&self) {
        self.tcp.stop_accepting();
        self.sm.stop_accepting();
    }

    fn close(&self) {
        self.tcp.close();
        self.sm.close();
        // Each may have been left something by the other's end.
        self.tcp.close();
    }

    fn register(&self, memory: &[Segment], permission: Permission) -> Result<Option<Box<dyn Registration>>, String> {
        self.sm.register(memory, permission)
    }

    fn allocate(&self, bytes: usize) -> Option<Box<dyn Memory>> {
        self.sm.allocate(bytes)
    }

    fn transfer_piece(&self) -> u64 {
        self.tcp.transfer_piece()
    }
}

impl fmt::Debug for SameNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SameNode").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// The clients on this node to whom an offer was made, as long as their TCP connection stands.
#[derive(Default)]
struct Guests {
    acceptor: OnceLock<Arc<dyn Acceptor>>,
    /// What they come in by.
    sm: OnceLock<Weak<SmTransport>>,
    by_ask: Mutex<HashMap<u64, Guest>>,
}

#[derive(Clone)]
struct Guest {
    offer: Offer,
    way: Arc<Way>,
    /// Who takes the events, once somebody does.
    events: Option<Arc<dyn LinkEvents>>,
}

impl Guests {
    /// The user of a guest's link: asked for when the first of the two ways comes up. Only while polling.
    fn events_of(&self, ask: u64) -> Option<(Guest, Arc<dyn LinkEvents>)> {
        let guest = self.by_ask.lock().get(&ask).cloned()?;
        if let Some(events) = &guest.events {
            let events = events.clone();
            return Some((guest, events));
        }
        let events = self.acceptor.get()?.accept(guest.way.clone());
        if let Some(kept) = self.by_ask.lock().get_mut(&ask) {
            kept.events = Some(events.clone());
        }
        Some((guest, events))
    }
}

impl Offers for Guests {
    fn make(&self, route: &Route, link: Arc<dyn Link>) -> Option<Offer> {
        if self.taken() >= GUESTS_MAX {
            return None;
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let uid = rustix::process::geteuid().as_raw();
        let offer = Offer::new(uid, route, u128::from_le_bytes(random))?;
        let way = Way::new(link.peer().clone());
        way.set_tcp(link);
        self.by_ask.lock().insert(offer.ask, Guest { offer, way, events: None });
        Some(offer)
    }

    fn taken(&self) -> usize {
        self.sm.get().and_then(Weak::upgrade).map_or(0, |sm| sm.accepted())
    }

    fn withdraw(&self, ask: u64) {
        // The lock is free again after this statement: the guest may be the last to hold the link.
        let guest = self.by_ask.lock().remove(&ask);
        let Some(Guest { way, events, .. }) = guest else { return };
        // Only where TCP has ended before its handshake: else its end has been told.
        if way.abandon_tcp()
            && let Some(events) = events
        {
            events.on_lost(&LinkError::Lost("the peer closed the connection".to_owned()));
        }
    }
}

impl Door for Guests {
    fn enter(&self, shown: &[u8; EXTRA_LEN], link: Arc<dyn Link>) -> Option<([u8; EXTRA_LEN], Arc<dyn LinkEvents>)> {
        let ask = ask_in(shown);
        let Guest { offer, way, .. } = self.by_ask.lock().get(&ask)?.clone();
        if !offer.is_asked_by(shown) || !way.agree(link) {
            return None;
        }
        let (guest, events) = self.events_of(ask)?;
        Some((guest.offer.answer_bytes(), Side::sm(guest.way, events, Role::Server)))
    }
}

impl Acceptor for Guests {
    fn accept(&self, link: Arc<dyn Link>) -> Arc<dyn LinkEvents> {
        match link.offer().and_then(|(_, offer)| self.events_of(offer.ask)) {
            Some((guest, events)) => Side::tcp(guest.way, events, Role::Server),
            None => self.acceptor.get().expect("it is set before this is given to the transport").accept(link),
        }
    }
}

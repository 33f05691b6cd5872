//! `native+tcp`: frames over TCP sockets, no C library needed.
//!
//! One epoll instance watches all sockets, edge-triggered. Whoever polls reads the connection that was active last
//! without asking epoll first, which saves a system call on the path of a small call.

mod accepting;
mod connection;
mod location;
mod polling;
mod socket;

use self::connection::Connection;
use super::allowances::Allowances;
use super::lifecycle::Ending;
use super::poller::{HANGUP, Poller};
use super::restraint::Restrained;
use super::same_node::Offers;
use super::timers::{Timers, Watch};
use super::{Acceptor, Link, LinkEvents, Polled, Transport};
use crate::address::Address;
use crate::error::{ConnectError, ListenError};
use crate::limits::Limits;
use crate::warnings::Warnings;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub(crate) use self::location::{PROTOCOL, is_literal};

/// The listener's token.
const LISTENER: u64 = 1;
/// The token of another poller that is watched along.
const GUEST: u64 = 2;
/// Bytes read at a time.
const SCRATCH: usize = 256 * 1024;
/// Length of the queue of connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Larger transfers go in pieces, whose frames take turns, in bytes.
const TRANSFER_PIECE: u64 = 64 << 20;
/// Buffer of a socket whose peer is on this host, in bytes. What is under way then stays in the processors' caches, which
/// moves bulk data faster by a third and more; without any distance to fill, more only means more misses.
const SAME_HOST_BUFFER: usize = 512 * 1024;
/// Longest silence that the kernel can be asked to watch (`MAX_TCP_KEEPIDLE`).
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// Longest wait for an acknowledgement that the kernel takes, in milliseconds: 24 days.
const USER_TIMEOUT_MAX: u32 = i32::MAX as u32;

/// The transport.
pub struct TcpTransport {
    shared: Arc<Shared>,
}

/// What connections share with their transport.
struct Shared {
    allowances: Allowances,
    serves: bool,
    poller: Poller,
    acceptor: OnceLock<Arc<dyn Acceptor>>,
    /// Offers peers on this host another way.
    offers: OnceLock<Arc<dyn Offers>>,
    /// Another poller is watched, and has become ready.
    guest_ready: AtomicBool,
    listener: Option<(TcpListener, Address)>,
    accepting: AtomicBool,
    /// Accepting waits for descriptors; a timer goes on with it.
    accept_waits: AtomicBool,
    /// Said so in the log.
    out_of_descriptors: AtomicBool,
    warnings: Warnings,
    closed: AtomicBool,
    accepted: AtomicUsize,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next_token: AtomicU64,
    /// Tokens whose readiness was noticed and not yet handled.
    ready: Mutex<Vec<u64>>,
    /// Connections with something to flush.
    dirty: Mutex<Vec<Arc<Connection>>>,
    /// Ended connections whose receive memory the polling thread should drop.
    ended: Mutex<Vec<Arc<Connection>>>,
    timers: Timers,
    polling: Mutex<Polling>,
}

/// What the polling thread uses.
struct Polling {
    scratch: Box<[u8]>,
    /// The connection that had something last.
    hot: Option<Arc<Connection>>,
    /// Polls since epoll was asked.
    since_epoll: u32,
    /// Ask epoll this often, in polls.
    epoll_every: u32,
    ready: Vec<u64>,
    dirty: Vec<Arc<Connection>>,
}

impl TcpTransport {
    /// A transport that opens connections and accepts none.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn client(limits: Limits, instance: u64) -> Result<Self, ListenError> {
        let address = Address::new(PROTOCOL, "");
        Self::new(limits, instance, None).map_err(|source| ListenError::Io { address, source })
    }

    /// A transport that listens. Blocks while it resolves a host name.
    ///
    /// # Errors
    /// The address names no interface or host, or the port is taken.
    pub fn listen(address: &Address, limits: Limits, instance: u64) -> Result<Self, ListenError> {
        let at = location::listen_at(address)?;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address: address.clone() },
            _ => ListenError::Io { address: address.clone(), source },
        };
        let listener = bind(at.bind).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let printed = location::printed(SocketAddr::new(at.printed, port));
        Self::new(limits, instance, Some((listener, printed))).map_err(failed)
    }

    /// Where accepted links go; without it none are accepted. To be called once, before the first poll.
    pub fn set_acceptor(&self, acceptor: Arc<dyn Acceptor>) {
        let _ = self.shared.acceptor.set(acceptor);
    }

    /// What peers on this host are offered, which is nothing without this. To be called once, before the first poll.
    pub(super) fn set_offers(&self, offers: Arc<dyn Offers>) {
        let _ = self.shared.offers.set(offers);
    }

    /// Has [`Transport::park`] end when another poller becomes ready.
    pub(super) fn watch_guest(&self, other: &Poller) -> io::Result<()> {
        self.shared.poller.watch_poller(other, GUEST)
    }

    /// Whether that poller was found to be ready since this was asked last.
    pub(super) fn take_guest_ready(&self) -> bool {
        self.shared.guest_ready.load(Ordering::Relaxed) && self.shared.guest_ready.swap(false, Ordering::AcqRel)
    }

    /// Whether something waits for the next poll.
    pub(super) fn has_work(&self) -> bool {
        !self.shared.dirty.lock().is_empty() || !self.shared.ready.lock().is_empty()
    }

    fn new(limits: Limits, instance: u64, listener: Option<(TcpListener, Address)>) -> io::Result<Self> {
        let poller = Poller::new()?;
        if let Some((listener, _)) = &listener {
            poller.watch(listener, LISTENER)?;
        }
        let shared = Arc::new(Shared {
            serves: listener.is_some(),
            allowances: Allowances::new(limits, instance),
            poller,
            acceptor: OnceLock::new(),
            offers: OnceLock::new(),
            guest_ready: AtomicBool::new(false),
            accepting: AtomicBool::new(listener.is_some()),
            accept_waits: AtomicBool::new(false),
            out_of_descriptors: AtomicBool::new(false),
            warnings: Warnings::new(Instant::now()),
            closed: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            listener,
            connections: Mutex::new(HashMap::new()),
            next_token: AtomicU64::new(GUEST + 1),
            ready: Mutex::new(Vec::new()),
            dirty: Mutex::new(Vec::new()),
            ended: Mutex::new(Vec::new()),
            timers: Timers::default(),
            polling: Mutex::new(Polling {
                scratch: vec![0; SCRATCH].into_boxed_slice(),
                hot: None,
                since_epoll: 0,
                epoll_every: 1,
                ready: Vec::new(),
                dirty: Vec::new(),
            }),
        });
        Ok(Self { shared })
    }
}

/// The addresses that `address` stands for. Blocks while it resolves a host name.
///
/// # Errors
/// It names no host and port, or the host is not known.
pub(crate) fn resolve(address: &Address) -> Result<Vec<Address>, ConnectError> {
    let mut found: Vec<_> = location::resolve(address)?.into_iter().map(location::printed).collect();
    found.dedup();
    Ok(found)
}

/// Where a server of this address is to listen. Blocks while it resolves a host name.
///
/// # Errors
/// The address names no interface or host.
#[cfg(mercury)]
pub(crate) fn listen_at(address: &Address) -> Result<SocketAddr, ListenError> {
    let at = location::listen_at(address)?;
    Ok(SocketAddr::new(at.printed, at.bind.port()))
}

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = net::socket_with(family(&at), SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // A restarted server gets its port back at once.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if at.is_ipv6() && !at.ip().is_unspecified() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &at)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Whether the peer, as far as TCP shows, is on this host.
fn is_here(stream: &TcpStream, peer: &SocketAddr) -> bool {
    peer.ip().is_loopback() || stream.local_addr().is_ok_and(|local| local.ip() == peer.ip())
}

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

impl Shared {
    fn mark_ready(&self, token: u64) {
        self.ready.lock().push(token);
        self.poller.wake();
    }

    fn list_dirty(&self, connection: Arc<Connection>) {
        self.dirty.lock().push(connection);
    }

    /// Options of every connection: no delay, and the kernel's probes of silent peers.
    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        let idle = self.allowances.limits.keepalive.clamp(Duration::from_secs(1), KEEPALIVE_MAX);
        let probe = (idle / 5).max(Duration::from_secs(1));
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, idle)?;
        sockopt::set_tcp_keepintvl(stream, probe)?;
        sockopt::set_tcp_keepcnt(stream, 3)?;
        let unacknowledged = self.allowances.limits.unacknowledged_timeout.as_millis().min(USER_TIMEOUT_MAX.into());
        sockopt::set_tcp_user_timeout(stream, unacknowledged as u32)?;
        Ok(())
    }

    /// Keeps little under way to a peer on this host. For others the kernel finds out how much the distance needs.
    fn tune_distance(stream: &TcpStream, peer: &SocketAddr) {
        if is_here(stream, peer) {
            // A limit of the system may be lower, which is as well.
            let _ = sockopt::set_socket_send_buffer_size(stream, SAME_HOST_BUFFER);
            let _ = sockopt::set_socket_recv_buffer_size(stream, SAME_HOST_BUFFER);
        }
    }

    /// Watches a new connection, and its handshake's time.
    fn add(self: &Arc<Self>, connection: &Arc<Connection>, timeout: Duration) -> io::Result<()> {
        self.connections.lock().insert(connection.token, connection.clone());
        if let Err(error) = connection.socket.with(|stream| self.poller.watch(stream, connection.token)) {
            self.connections.lock().remove(&connection.token);
            return Err(error);
        }
        self.timers.add(timeout, connection.token, Watch::Handshake);
        Ok(())
    }

    fn remove(&self, connection: &Connection) {
        // Fails for one that is closed, and so forgotten, already.
        let _ = connection.socket.with(|stream| {
            self.poller.forget(stream);
            Ok(())
        });
        let removed = self.connections.lock().remove(&connection.token);
        if let Some(connection) = removed {
            self.ended.lock().push(connection);
            // Nothing more comes from its socket that would wake whoever has to close it.
            self.poller.wake();
        }
    }

    fn add_timer(&self, after: Duration, token: u64, watch: Watch) {
        self.timers.add(after, token, watch);
        self.poller.wake();
    }

    /// Looks after the message that a peer has begun, or the answers that it should read.
    fn look_after(&self, token: u64, watch: Watch) {
        self.add_timer(self.allowances.limits.stall_timeout, token, watch);
    }

    fn new_token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }
}

impl Transport for TcpTransport {
    fn address(&self) -> Address {
        match &self.shared.listener {
            Some((_, address)) => address.clone(),
            None => Address::new(PROTOCOL, ""),
        }
    }

    fn connect(&self, address: &Address, events: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError> {
        let to = location::resolve(address)?.into_iter().next();
        let unreachable =
            |error: io::Error| ConnectError::Unreachable { address: address.clone(), source: Arc::new(error) };
        let to = to.ok_or_else(|| unreachable(io::ErrorKind::NotFound.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(family(&to), SocketType::STREAM, flags, None);
        let stream = TcpStream::from(socket.map_err(|error| unreachable(error.into()))?);
        self.shared.tune(&stream).map_err(unreachable)?;
        match net::connect(&stream, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(unreachable(error.into())),
        }
        Shared::tune_distance(&stream, &to);
        let connection = Connection::new(&self.shared, self.shared.new_token(), stream, address.clone(), Some(events));
        self.shared.add(&connection, self.shared.allowances.limits.connect_timeout).map_err(unreachable)?;
        // Whoever is parked learns of the new timer, and of a connection that stood before it was watched.
        self.shared.mark_ready(connection.token);
        Ok(connection)
    }

    fn poll(&self) -> Polled {
        let Some(mut polling) = self.shared.polling.try_lock() else { return Polled::Busy };
        let progress = self.shared.poll(&mut polling);
        drop(polling);
        if self.shared.closed.load(Ordering::SeqCst) {
            // It was closed from inside of a callback.
            self.shared.bury_if_idle();
        }
        if progress { Polled::Progress } else { Polled::Idle }
    }

    fn park(&self, until: Option<Instant>) {
        if self.shared.ready.lock().is_empty() {
            let mut found = Vec::new();
            self.shared.poller.wait(until, |token| found.push(token));
            self.shared.ready.lock().append(&mut found);
        }
        // Nobody asks epoll again for what was found: the next poll must look.
        if let Some(mut polling) = self.shared.polling.try_lock() {
            polling.epoll_every = 1;
        }
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
                Watch::Message => connection.is_some_and(|connection| connection.restraint().is_message_watched()),
                Watch::Answers => connection.is_some_and(|connection| connection.restraint().is_reader_watched()),
                Watch::Connecting | Watch::Reading => false,
            }
        })
    }

    fn stop_accepting(&self) {
        self.shared.accepting.store(false, Ordering::Release);
        if let Some((listener, _)) = &self.shared.listener {
            self.shared.poller.forget(listener);
            // Later connection attempts are refused by the kernel instead of waiting for nobody.
            let _ = net::shutdown(listener, net::Shutdown::Both);
        }
        let open: Vec<_> = self.shared.connections.lock().values().cloned().collect();
        if self.shared.serves {
            for connection in open {
                connection.go_away();
            }
        }
    }

    fn transfer_piece(&self) -> u64 {
        TRANSFER_PIECE
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
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport").field("address", &self.address()).finish_non_exhaustive()
    }
}

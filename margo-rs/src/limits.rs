//! What an engine accepts, and for how long it waits.

use std::time::{Duration, Instant};

/// A wait as long as this never ends, in practice: 30 years, which every clock and counter here can add up.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Bounds on what peers may make an engine hold, and the times it waits.
///
/// The first three are stated to each peer in the handshake: an engine of this crate slows its callers down before it
/// would pass them. A peer that passes them all the same is told `Overloaded` when it reaches twice as much, or 1024
/// requests more if that is higher: the margin is for requests that were cancelled and are not put away yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Largest payload of a request or response, in bytes. Default 64 MiB.
    pub max_message: u64,
    /// Requests in flight on one connection. Default 4096.
    pub max_in_flight: u32,
    /// Payload bytes of requests in flight on one connection. Default 256 MiB.
    pub max_bytes: u64,
    /// Requests in flight in the whole engine. Default 65,536.
    pub max_in_flight_total: usize,
    /// Payload bytes of requests in flight in the whole engine, and again as many of messages that are still arriving or
    /// held. Again as many of responses that wait for slow peers, over each transport: past that, a connection gets no
    /// more requests handled while 1 MiB of its responses waits, and one whose peer then reads less than 256 KiB in
    /// [`Limits::stall_timeout`] is closed. Default 1 GiB.
    pub max_bytes_total: u64,
    /// Bytes of responses waiting for one slow peer, past which no more of its requests are handled: they are kept, up to
    /// the other limits here, and all else that comes from it goes on. What handlers are at work on comes on top: at
    /// most [`Limits::max_in_flight`] responses. Default 64 MiB.
    pub max_queued: usize,
    /// Connections accepted at a time. Default 65,536 (the descriptor limit of the process may be lower).
    pub max_connections: usize,
    /// Of these, connections of one user of this node, over `native+sm`, where the kernel says whose they are: no neighbour
    /// can take the places of all others. Each costs a descriptor, of which a process often has 1024 (`ulimit -n`), and
    /// 132 KiB. Default 4096.
    pub max_connections_per_user: usize,
    /// Time a new connection has for its handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// Time a connection attempt may take. Default 5 s.
    pub connect_timeout: Duration,
    /// Silence after which the kernel probes whether a peer's host is still there. It is probed three times, at a
    /// fifth of this time each, but at least a second. Default 10 s.
    pub keepalive: Duration,
    /// How long sent bytes may stay unacknowledged before the connection counts as lost: the peer's host is gone, or the
    /// peer reads nothing at all. Default 60 s.
    pub unacknowledged_timeout: Duration,
    /// How long a peer may send nothing, or less than 256 KiB, in the middle of a message. Default 30 s.
    pub stall_timeout: Duration,
    /// Time that running handlers get to end at shutdown. Default 5 s.
    pub shutdown_grace: Duration,
    /// Deadline of a call that names none. Default 30 s.
    pub default_timeout: Duration,
}

impl Limits {
    /// Requests of one peer that are taken in all. A caller's cancel makes room for its next request at once, while the
    /// handler here may need a moment to end: that must not look like a peer that ignores the limit.
    pub(crate) fn requests_borne(&self) -> usize {
        let stated = self.max_in_flight as usize;
        stated + stated.max(1024)
    }

    /// As [`Limits::requests_borne`], in bytes. One message may be larger than what is stated, if it comes alone.
    pub(crate) fn bytes_borne(&self) -> u64 {
        self.max_bytes.max(self.max_message).saturating_mul(2)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 64 << 20,
            max_in_flight: 4096,
            max_bytes: 256 << 20,
            max_in_flight_total: 65_536,
            max_bytes_total: 1 << 30,
            max_queued: 64 << 20,
            max_connections: 65_536,
            max_connections_per_user: 4096,
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(10),
            unacknowledged_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
            default_timeout: Duration::from_secs(30),
        }
    }
}

/// `timeout` after `now`; any duration will do, also [`Duration::MAX`].
pub(crate) fn deadline_after(now: Instant, timeout: Duration) -> Instant {
    now + timeout.min(FOREVER)
}

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
mod contract;
mod death;
mod ending;
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
mod peers;
mod progress;
#[allow(unsafe_code)]
mod registration;
mod shared;
mod wire_id;

use self::envelope::{HELLO, TUNNEL, TUNNEL_ONE_WAY};
use self::fabric::{Fabric, explain};
use self::grants::Grants;
use self::options::Options;
use self::shared::Shared;
use super::{Acceptor, Transport};
use crate::address::Address;
use crate::config::MercuryConfig;
use crate::error::ListenError;
use crate::limits::Limits;
use crate::warnings::Warnings;
use parking_lot::{Mutex, RwLock};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

pub use self::given::{GivenContext, hg_class_t, hg_context_t};
pub(crate) use self::location::{is_literal, resolve};

/// The transport.
pub struct MercuryTransport {
    shared: Arc<Shared>,
    config: MercuryConfig,
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
            parted: AtomicBool::new(false),
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

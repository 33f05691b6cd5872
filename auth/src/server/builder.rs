//! How a server of authenticated callers is set up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use margo_rs::{Engine, ProviderId, RegisterError};
use parking_lot::Mutex;

use super::audit::Audit;
use super::caller::BulkPolicy;
use super::ephemeral::Ephemerals;
use super::rule::Rule;
use super::upkeep::Upkeep;
use super::{AuthServer, Shared, handshake};
use crate::bulk::Level;
use crate::clock::{self, NoRandom};
use crate::mechanism::Acceptor;
use crate::mechanism::key_file::KeyRing;
#[cfg(feature = "munge")]
use crate::mechanism::munge::{MungeAcceptor, MungeRefused};
use crate::mechanism::peer_credentials::PeerAcceptor;
#[cfg(feature = "munge")]
use crate::munge::Munge;
use crate::protocol::message::OVERHEAD_MAX;
use crate::protocol::server::ServerPolicy;
use crate::protocol::{MESSAGE_LEN_MIN, Protection, Suite, Terms, Window};
use crate::service::{AUTHENTICATE, server_id};
use crate::session::{Gate, Lifetimes, Quota, Rate, Table};
use crate::{Identity, cipher};

/// Options of an [`AuthServer`].
///
/// At least one mechanism is needed. What is not set is as here:
///
/// | option | default |
/// |---|---|
/// | [`rule`](Self::rule) | nobody |
/// | [`idle`](Self::idle) / [`lifetime`](Self::lifetime) | 15 min / 12 h |
/// | [`half_open`](Self::half_open) | 5 s |
/// | [`max_in_flight`](Self::max_in_flight) | 1024 calls a session |
/// | [`max_message`](Self::max_message) | the engine's, less 64 bytes |
/// | [`window`](Self::window) | 2048 calls |
/// | [`protections`](Self::protections) | sealed only |
/// | [`quota`](Self::quota) | 131,072 sessions, see [`Quota`] |
/// | [`bulk_level`](Self::bulk_level) / [`max_bulk`](Self::max_bulk) | private / 256 MiB |
/// | [`handshakes`](Self::handshakes) | 100 a second for each address, 512 at once |
#[must_use = "a server is there after `install`"]
pub struct AuthServerBuilder {
    acceptors: Vec<Box<dyn Acceptor>>,
    #[cfg(feature = "munge")]
    munge: Option<Munge>,
    services: Vec<String>,
    rule: Rule,
    suites: Vec<Suite>,
    protections: Vec<Protection>,
    idle: Duration,
    lifetime: Duration,
    half_open: Duration,
    max_in_flight: u32,
    max_message: Option<u32>,
    window: u16,
    quota: Quota,
    handshakes: Rate,
    bulk: BulkPolicy,
}

/// Why a server could not be set up; each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// No mechanism was given: nobody could ever authenticate.
    #[error("no mechanism given; add munge, a key ring or peer credentials")]
    NoMechanism,
    /// Two mechanisms of one kind.
    #[error("mechanism {0:?} given twice")]
    Twice(crate::protocol::MechanismId),
    /// The engine does not listen.
    #[error("the engine does not listen; start it with Engine::listen")]
    NotListening,
    /// An option cannot be.
    #[error("invalid option {option}: {reason}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The test at the start failed: munged is not there, or does not do what is relied upon.
    #[cfg(feature = "munge")]
    #[error("the test of munged failed: {0}")]
    Munge(#[from] MungeRefused),
    /// Another handler has the RPC's name.
    #[error("cannot register the RPC \"authenticate\": {0}")]
    Register(#[from] RegisterError),
    /// The system gave no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Default for AuthServerBuilder {
    fn default() -> Self {
        Self {
            acceptors: Vec::new(),
            #[cfg(feature = "munge")]
            munge: None,
            services: Vec::new(),
            rule: Rule::nobody(),
            suites: cipher::preferred(),
            protections: vec![Protection::Sealed],
            idle: Duration::from_secs(15 * 60),
            lifetime: Duration::from_secs(12 * 3600),
            half_open: Lifetimes::default().half_open,
            max_in_flight: 1024,
            max_message: None,
            window: 2048,
            quota: Quota::default(),
            handshakes: Rate::HANDSHAKES,
            bulk: BulkPolicy { least: Level::Private, max: 256 << 20 },
        }
    }
}

impl AuthServerBuilder {
    /// Takes MUNGE credentials that are restricted to this process's user.
    #[cfg(feature = "munge")]
    pub fn munge(mut self, munge: Munge) -> Self {
        self.munge = Some(munge);
        self
    }

    /// Takes whoever holds one of these keys.
    pub fn key_ring(self, keys: KeyRing) -> Self {
        self.mechanism(keys)
    }

    /// Takes the kernel's word on who connected, where the transport has it: over `native+sm`. Sessions that begin so are
    /// bound to their connection.
    pub fn peer_credentials(self) -> Self {
        self.mechanism(PeerAcceptor)
    }

    /// Takes another mechanism.
    pub fn mechanism(mut self, acceptor: impl Acceptor + 'static) -> Self {
        self.acceptors.push(Box::new(acceptor));
        self
    }

    /// Names the service, besides its address. Needed where clients reach it by another address than the one it prints: a
    /// host with several networks, a forwarded port. Clients say the same name.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.services.push(name.into());
        self
    }

    /// Who may call RPCs that are registered without a rule of their own.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rule = rule;
        self
    }

    /// The ciphers taken, the preferred one first.
    pub fn suites(mut self, suites: &[Suite]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    /// What clients may choose to be done to arguments and results.
    pub fn protections(mut self, protections: &[Protection]) -> Self {
        self.protections = protections.to_vec();
        self
    }

    /// Ends sessions after so long without a call; whole seconds.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Ends sessions so long after their handshake, used or not; whole seconds. Clients make new ones by themselves.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Ends sessions that are not used at all after so long; at least 5 s, which clients rely on.
    pub fn half_open(mut self, half_open: Duration) -> Self {
        self.half_open = half_open;
        self
    }

    /// Calls in flight in one session; at most half of the window.
    pub fn max_in_flight(mut self, calls: u32) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Bytes of arguments or of a result; at least 4096.
    pub fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = Some(bytes);
        self
    }

    /// How far calls of a session may overtake each other; a multiple of 64, see [`Window`].
    pub fn window(mut self, calls: u16) -> Self {
        self.window = calls;
        self
    }

    /// How many sessions there may be.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = quota;
        self
    }

    /// How often one address may shake hands.
    pub fn handshakes(mut self, rate: Rate) -> Self {
        self.handshakes = rate;
        self
    }

    /// What bulk data must be protected by, at least.
    pub fn bulk_level(mut self, least: Level) -> Self {
        self.bulk.least = least;
        self
    }

    /// Bytes that a handler pulls at once, at most.
    pub fn max_bulk(mut self, bytes: u64) -> Self {
        self.bulk.max = bytes;
        self
    }

    /// Registers the RPC `authenticate` on a listening engine, and starts taking handshakes. With MUNGE it first checks
    /// that munged is there and honours restrictions.
    ///
    /// # Errors
    /// No mechanism, options that cannot be, an engine that does not listen, a munged that is not there.
    #[cfg_attr(
        not(feature = "munge"),
        allow(unused_mut, reason = "only MUNGE is tested, and it is taken out for that")
    )]
    pub async fn install(mut self, engine: &Engine) -> Result<AuthServer, InstallError> {
        if !engine.is_listening() {
            return Err(InstallError::NotListening);
        }
        #[cfg(feature = "munge")]
        if let Some(munge) = self.munge.take() {
            let acceptor = MungeAcceptor::new(munge);
            acceptor.self_test().await?;
            self.acceptors.push(Box::new(acceptor));
        }
        let policy = self.policy(engine)?;
        let Self { acceptors, rule, half_open, quota, handshakes, bulk, .. } = self;
        let now = clock::now();
        let shared = Arc::new(Shared {
            policy,
            acceptors,
            ephemerals: Ephemerals::default(),
            gate: Mutex::new(Gate::new(clock::random_secret()?, handshakes, now)),
            table: Table::new(quota, Lifetimes { half_open }, now),
            handshakes: AtomicUsize::new(0),
            rule,
            bulk,
            audit: Audit::new(),
            upkeep: Upkeep::default(),
        });
        Upkeep::start(&shared).map_err(InstallError::Thread)?;
        let serving = Arc::clone(&shared);
        engine.register_raw(AUTHENTICATE, ProviderId::DEFAULT, move |request, input, responder| {
            handshake::serve(Arc::clone(&serving), request, input, responder)
        })?;
        Ok(AuthServer { engine: engine.clone(), shared })
    }

    fn policy(&self, engine: &Engine) -> Result<ServerPolicy, InstallError> {
        let mechanisms: Vec<_> = self.acceptors.iter().map(|acceptor| acceptor.id()).collect();
        if mechanisms.is_empty() {
            return Err(InstallError::NoMechanism);
        }
        if let Some(at) = (1..mechanisms.len()).find(|at| mechanisms[..*at].contains(&mechanisms[*at])) {
            return Err(InstallError::Twice(mechanisms[at]));
        }
        let invalid = |option, reason: &str| Err(InstallError::Option { option, reason: reason.to_owned() });
        if self.suites.is_empty() {
            return invalid("suites", "name at least one");
        }
        if self.protections.is_empty() {
            return invalid("protections", "name at least one");
        }
        let seconds = |time: Duration| time.subsec_nanos() == 0 && (1..=u64::from(u32::MAX)).contains(&time.as_secs());
        if !seconds(self.idle) {
            return invalid("idle", "give whole seconds, at least one");
        }
        if !seconds(self.lifetime) {
            return invalid("lifetime", "give whole seconds, at least one");
        }
        if self.half_open < Lifetimes::default().half_open {
            return invalid("half_open", "give at least 5 s");
        }
        if !Window::is_size(self.window) {
            return invalid("window", "give a multiple of 64, from 64 to 8128");
        }
        if !(1..=u32::from(self.window) / 2).contains(&self.max_in_flight) {
            return invalid("max_in_flight", "give at least 1 and at most half of the window");
        }
        // Header and tag must fit beside the body in what the engine takes, and so must Margo's own header.
        let room = engine.limits().max_message.saturating_sub(OVERHEAD_MAX as u64 + 8);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let max_message = self.max_message.unwrap_or(room);
        if max_message > room || max_message < MESSAGE_LEN_MIN {
            let reason = format!("give at least {MESSAGE_LEN_MIN} and at most {room}, which the engine's limit leaves");
            return Err(InstallError::Option { option: "max_message", reason });
        }
        let own = Identity::own().uid;
        let services = || self.services.iter().map(String::as_str).chain([engine.address().as_str()]);
        Ok(ServerPolicy {
            ids: mechanisms
                .iter()
                .flat_map(|id| services().map(|service| (*id, server_id(*id, own, service))))
                .collect(),
            mechanisms: mechanisms.clone(),
            suites: self.suites.clone(),
            protections: self.protections.clone(),
            terms: Terms {
                suite: self.suites[0],
                protection: self.protections[0],
                window_bits: self.window,
                idle: self.idle,
                absolute: self.lifetime,
                max_in_flight: self.max_in_flight,
                max_message,
            },
        })
    }
}

impl fmt::Debug for AuthServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthServerBuilder").field("rule", &self.rule).finish_non_exhaustive()
    }
}

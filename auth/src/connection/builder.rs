//! How a connection is opened.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use margo_rs::{Endpoint, Engine, Timer};
use tokio::sync::Notify;

use super::error::OpenError;
use super::lane::Lane;
use super::peer::EndpointInitiator;
use super::{Connection, Inner};
use crate::mechanism::Initiator;
use crate::mechanism::key_file::{Key, KeyFileInitiator};
#[cfg(feature = "munge")]
use crate::mechanism::munge::MungeInitiator;
#[cfg(feature = "munge")]
use crate::munge::Munge;
use crate::protocol::{Protection, Suite};
use crate::service::server_id;
use crate::{Identity, cipher};

/// Options of a [`Connection`]: how to prove who calls, and which server is meant.
#[must_use = "a connection is there after `open`"]
pub struct ConnectionBuilder {
    proof: Proof,
    server_uid: Option<u32>,
    service: Option<String>,
    suites: Vec<Suite>,
    protection: Protection,
    handshake_timeout: Duration,
}

enum Proof {
    None,
    #[cfg(feature = "munge")]
    Munge(Munge),
    Initiator(Box<dyn Initiator>),
    Peer,
}

impl Default for ConnectionBuilder {
    fn default() -> Self {
        Self {
            proof: Proof::None,
            server_uid: None,
            service: None,
            suites: cipher::preferred(),
            protection: Protection::Sealed,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl ConnectionBuilder {
    /// Proves this process's user by MUNGE.
    #[cfg(feature = "munge")]
    pub fn munge(mut self, munge: Munge) -> Self {
        self.proof = Proof::Munge(munge);
        self
    }

    /// Proves to hold this key.
    pub fn key(self, key: Key) -> Self {
        self.mechanism(KeyFileInitiator::new(key))
    }

    /// Lets the kernel say who calls, and who serves: over `native+sm`.
    pub fn peer_credentials(mut self) -> Self {
        self.proof = Proof::Peer;
        self
    }

    /// Proves who calls by another mechanism.
    pub fn mechanism(mut self, initiator: impl Initiator + 'static) -> Self {
        self.proof = Proof::Initiator(Box::new(initiator));
        self
    }

    /// The user that the server runs as; a server of any other is not talked to. Without it: the caller's own user. Means
    /// nothing where a key proves the server.
    pub fn server_uid(mut self, uid: u32) -> Self {
        self.server_uid = Some(uid);
        self
    }

    /// The name of the service, where the server was given one. Without it: its address.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// The ciphers offered; the server chooses.
    pub fn suites(mut self, suites: &[Suite]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    /// What is done to arguments and results. A server that does not allow it refuses.
    pub fn protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// How long a handshake may take, daemons and waiting included. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Finds the server, and makes a session with it by one handshake.
    ///
    /// # Errors
    /// See [`OpenError`]: the server cannot be reached, refuses, or is not the one that was meant.
    pub async fn open(self, engine: &Engine, address: impl AsRef<str>) -> Result<Connection, OpenError> {
        let endpoint = engine.lookup(address).await?;
        self.open_at(endpoint, engine.timer(), engine.limits().default_timeout).await
    }

    async fn open_at(
        self,
        endpoint: Endpoint,
        timer: Timer,
        default_timeout: Duration,
    ) -> Result<Connection, OpenError> {
        if self.suites.is_empty() {
            return Err(OpenError::Option { option: "suites", reason: "name at least one" });
        }
        let server_uid = self.server_uid.unwrap_or_else(|| Identity::own().uid);
        let initiator: Box<dyn Initiator> = match self.proof {
            Proof::None => {
                let reason = "no way given to prove who calls; add munge or a key";
                return Err(OpenError::Option { option: "mechanism", reason });
            }
            #[cfg(feature = "munge")]
            Proof::Munge(munge) => Box::new(MungeInitiator::new(munge, server_uid)),
            Proof::Initiator(initiator) => initiator,
            Proof::Peer => Box::new(EndpointInitiator::new(endpoint.clone(), server_uid)),
        };
        let service = self.service.as_deref().unwrap_or(endpoint.address().as_str());
        let inner = Inner {
            server: server_id(initiator.id(), server_uid, service),
            kept_in_order: endpoint.kept_in_order(),
            endpoint,
            timer,
            default_timeout,
            handshake_timeout: self.handshake_timeout,
            initiator,
            suites: self.suites,
            protection: self.protection,
            lanes: <[Lane; super::LANES]>::default(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            closer: tokio::sync::Mutex::new(()),
            last_deadline: AtomicU64::new(0),
        };
        inner.make_session(0).await?;
        Ok(Connection { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for ConnectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionBuilder")
            .field("server_uid", &self.server_uid)
            .field("service", &self.service)
            .field("suites", &self.suites)
            .field("protection", &self.protection)
            .finish_non_exhaustive()
    }
}

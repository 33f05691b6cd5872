use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::builder::MungeBuilder;
use super::credential::Credential;
use super::decoded::Decoded;
use super::encode::EncodeOptions;
use super::error::MungeError;
use super::ffi::{Context, Failure};
use super::pending::Pending;
use super::socket;
use crate::helpers::HelperPool;

/// A way to the local `munged`.
///
/// Calls return at once and run on a bounded pool of helper threads, since libmunge blocks: for
/// about 10 s with a daemon that hangs. Every call has a deadline, from when it is made, that
/// covers the wait for a helper, too. A helper whose call is overdue stays busy until libmunge
/// returns; errors tell how many are.
///
/// Clones share the pool. Its threads start with the first calls, sleep without wake-ups between
/// calls, and end by themselves after the last clone and the last [`Pending`] are dropped; dropping
/// waits for nothing.
///
/// A handle does not work in a child process made by `fork(2)`: calls then fail with
/// [`MungeError::Forked`].
#[derive(Clone)]
pub struct Munge {
    pool: Arc<HelperPool>,
    daemon: Arc<Daemon>,
    timeout: Duration,
}

/// Where the daemon is.
struct Daemon {
    path: Arc<Path>,
    c_path: CString,
}

impl Munge {
    /// The defaults: libmunge's socket, 2 s, 4 threads, 256 waiting calls.
    pub fn builder() -> MungeBuilder {
        MungeBuilder::default()
    }

    pub(super) fn new(pool: Arc<HelperPool>, path: PathBuf, c_path: CString, timeout: Duration) -> Self {
        Self { pool, daemon: Arc::new(Daemon { path: path.into(), c_path }), timeout }
    }

    /// The same daemon and pool with another time limit for each call.
    ///
    /// # Errors
    /// [`MungeError::InvalidOption`] unless it is more than 0 and at most 1 h.
    pub fn with_timeout(&self, timeout: Duration) -> Result<Self, MungeError> {
        MungeBuilder::check_timeout(timeout)?;
        Ok(Self { timeout, ..self.clone() })
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.daemon.path
    }

    /// The time limit of each call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks for a credential with the identity of this process; munge_encode(3).
    ///
    /// The call starts now. Dropping the [`Pending`] abandons it: a credential may still be made,
    /// and nobody gets it.
    ///
    /// # Errors
    /// In the [`Pending`]: [`MungeError::InvalidOption`], [`MungeError::PayloadTooLong`],
    /// [`MungeError::NoDaemon`], [`MungeError::Timeout`], [`MungeError::Overloaded`], and others of
    /// libmunge.
    pub fn encode(&self, options: EncodeOptions) -> Pending<Credential> {
        match options.check() {
            Ok(()) => self.call(move |daemon| daemon.encode(&options)),
            Err(error) => self.refuse(error),
        }
    }

    /// Has a credential checked; munge_decode(3). Takes a [`Credential`], a string or bytes.
    ///
    /// Success means: made in this realm, unaltered, within its lifetime, not decoded before by
    /// this daemon, and its restrictions allow this process. Whether it *is* restricted, and
    /// encrypted, is for the caller to check in [`Decoded::metadata`].
    ///
    /// The call starts now. Dropping the [`Pending`], or a timeout, leaves open whether the daemon
    /// has seen the credential: decoding it again may report a replay.
    ///
    /// # Errors
    /// In the [`Pending`]: [`MungeError::Malformed`] for a text that is not
    /// [well formed](Credential::parse), which is not shown to libmunge; an error for each status
    /// of `munge.h`, and those of [`encode`](Self::encode). With an error there is never a payload,
    /// although libmunge gives one for an expired, rewound or replayed credential.
    pub fn decode(&self, credential: impl AsRef<[u8]>) -> Pending<Decoded> {
        match Credential::parse(credential) {
            Ok(credential) => self.call(move |daemon| daemon.decode(&credential)),
            Err(error) => self.refuse(error.into()),
        }
    }

    fn call<T, F>(&self, call: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(&Daemon) -> Result<T, MungeError> + Send + 'static,
    {
        let daemon = Arc::clone(&self.daemon);
        match self.pool.submit(self.timeout, move || call(&daemon)) {
            Ok(task) => Pending::started(task, Arc::clone(&self.daemon.path)),
            Err(error) => self.refuse(MungeError::from_helper(error, self.socket())),
        }
    }

    fn refuse<T: Send + 'static>(&self, error: MungeError) -> Pending<T> {
        tracing::debug!(socket = %self.socket().display(), %error, "MUNGE call refused");
        Pending::refused(error)
    }
}

impl fmt::Debug for Munge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Munge")
            .field("socket", &self.daemon.path)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What helper threads do.
impl Daemon {
    fn encode(&self, options: &EncodeOptions) -> Result<Credential, MungeError> {
        let ttl = options.ttl_seconds()?;
        self.check_presence()?;
        let fail = |failure| self.error(failure);
        let mut context = self.context()?;
        context.set_ttl(ttl).map_err(fail)?;
        if let Some(uid) = options.uid {
            context.set_uid_restriction(uid).map_err(fail)?;
        }
        if let Some(gid) = options.gid {
            context.set_gid_restriction(gid).map_err(fail)?;
        }
        let credential = context.encode(&options.payload, |text| Credential::parse(text)).map_err(fail)?;
        Ok(credential?)
    }

    fn decode(&self, credential: &Credential) -> Result<Decoded, MungeError> {
        self.check_presence()?;
        let decoded = self.context()?.decode(credential.as_c_str());
        decoded.map(|(metadata, payload)| Decoded { metadata, payload }).map_err(|failure| self.error(failure))
    }

    fn check_presence(&self) -> Result<(), MungeError> {
        match socket::refusal(&self.path) {
            Some(reason) => Err(MungeError::NoDaemon { socket: self.path.to_path_buf(), reason }),
            None => Ok(()),
        }
    }

    fn context(&self) -> Result<Context, MungeError> {
        let mut context = Context::new().map_err(|failure| self.error(failure))?;
        context.set_socket(&self.c_path).map_err(|failure| self.error(failure))?;
        Ok(context)
    }

    fn error(&self, failure: Failure) -> MungeError {
        MungeError::from_status(failure.status, failure.detail, &self.path, failure.metadata)
    }
}

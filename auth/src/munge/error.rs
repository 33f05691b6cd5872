use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::credential::CredentialError;
use super::decoded::Metadata;
use crate::helpers::HelperError;

/// Why a credential was not encoded or not accepted, and what to do about it.
///
/// For the local log only: a peer whose credential is refused is told nothing but that. No variant
/// holds a payload, a key or the text of a credential. [`status`](Self::status) gives the number of
/// `munge.h`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MungeError {
    // Found here, before libmunge was asked.
    /// The text is no credential; libmunge was not asked.
    #[error("malformed MUNGE credential: {0}")]
    Malformed(#[from] CredentialError),
    /// The payload is longer than [`Payload::LEN_MAX`](super::Payload::LEN_MAX).
    #[error("a payload of {len} bytes is more than the {max} a credential may carry; send it another way")]
    PayloadTooLong {
        /// Bytes of the payload.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// An option has a value that makes no sense.
    #[error("invalid MUNGE option {option}: {problem}")]
    InvalidOption {
        /// Which one.
        option: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },

    // The helper pool.
    /// As many calls wait for `munged` as are allowed; this one was turned away at once.
    #[error(
        "too many calls to munged: {waiting} wait for {helpers} helpers, {stuck} of them stuck in an overdue call; \
         retry later, and check that munged answers (`munge -n | unmunge`)"
    )]
    Overloaded {
        /// Calls that wait.
        waiting: usize,
        /// Helper threads allowed.
        helpers: usize,
        /// Helpers still inside a call that is past its deadline.
        stuck: usize,
    },
    /// The deadline passed. Whether the daemon still handles the call is unknown: a credential to
    /// decode may count as seen.
    #[error(
        "no result from munged at {} within {timeout:?}: {stage} ({stuck} of {helpers} helpers stuck in an overdue \
         call); check that munged answers (`munge -n | unmunge`), restart it if it hangs",
        socket.display()
    )]
    Timeout {
        /// The daemon's socket.
        socket: PathBuf,
        /// The time that was given.
        timeout: Duration,
        /// Where the time went.
        stage: TimeoutStage,
        /// Helper threads allowed.
        helpers: usize,
        /// Helpers still inside a call that is past its deadline, this one included.
        stuck: usize,
    },
    /// The system gave no thread for a helper.
    #[error("cannot start a helper thread for MUNGE calls; raise the limit on processes (ulimit -u)")]
    NoThread(#[source] io::Error),
    /// The process forked after the [`Munge`](super::Munge) was built.
    #[error("this MUNGE handle is from before a fork; build a new one in the child process")]
    Forked,
    /// A helper panicked: a bug in this crate.
    #[error("internal error in a MUNGE call: the helper panicked; please report it")]
    HelperPanicked,

    // No daemon, found before libmunge was asked.
    /// Nobody serves the socket.
    #[error("no munged at {}: {reason}; start munged, or name the socket of a running one", socket.display())]
    NoDaemon {
        /// The socket that was tried.
        socket: PathBuf,
        /// How that shows.
        reason: NoDaemonReason,
    },

    // The statuses of munge.h, in order.
    /// `EMUNGE_SNAFU`, 1: an internal error of libmunge or munged.
    #[error("internal error of MUNGE: {0}; see munged's log")]
    Internal(String),
    /// `EMUNGE_BAD_ARG`, 2: libmunge refused an argument.
    #[error("libmunge refused an argument: {0}; check the options")]
    BadArgument(String),
    /// `EMUNGE_BAD_LENGTH`, 3: longer than libmunge or munged allows.
    #[error("longer than MUNGE allows: {0}; send a shorter payload")]
    TooLong(String),
    /// `EMUNGE_OVERFLOW`, 4: a buffer was too small, in practice for the path of the socket.
    #[error("buffer overflow in MUNGE: {0}; if it is the socket's path, use one under 108 bytes")]
    Overflow(String),
    /// `EMUNGE_NO_MEMORY`, 5.
    #[error("MUNGE ran out of memory: {0}; free some on this host")]
    OutOfMemory(String),
    /// `EMUNGE_SOCKET`, 6: talking to the daemon failed.
    #[error("cannot talk to munged at {}: {detail}; check that it runs and is not overloaded, see its log", socket.display())]
    Socket {
        /// The socket that was tried.
        socket: PathBuf,
        /// What libmunge says.
        detail: String,
    },
    /// `EMUNGE_TIMEOUT`, 7: the daemon did not answer libmunge in time.
    #[error("munged at {} did not answer libmunge: {detail}; restart it if it hangs, see its log", socket.display())]
    DaemonTimeout {
        /// The socket that was tried.
        socket: PathBuf,
        /// What libmunge says.
        detail: String,
    },
    /// `EMUNGE_BAD_CRED`, 8: munged cannot read the credential.
    #[error("munged cannot read the credential: {0}; it was cut or altered, ask for a new one")]
    BadFormat(String),
    /// `EMUNGE_BAD_VERSION`, 9: made by an incompatible MUNGE.
    #[error("credential of another MUNGE version: {0}; bring munged of both hosts to the same version")]
    BadVersion(String),
    /// `EMUNGE_BAD_CIPHER`, 10: this munged lacks the cipher.
    #[error("cipher not supported by munged: {0}; use one that munged of both hosts has")]
    BadCipher(String),
    /// `EMUNGE_BAD_MAC`, 11: this munged lacks the message authentication code.
    #[error("message authentication code not supported by munged: {0}; use one that munged of both hosts has")]
    BadMac(String),
    /// `EMUNGE_BAD_ZIP`, 12: this munged lacks the compression.
    #[error("compression not supported by munged: {0}; use one that munged of both hosts has")]
    BadCompression(String),
    /// `EMUNGE_BAD_REALM`, 13: this munged does not know the realm.
    #[error("unknown MUNGE realm: {0}; both hosts must be in the same realm")]
    BadRealm(String),
    /// `EMUNGE_CRED_INVALID`, 14: altered, or encrypted with the key of another realm.
    #[error(
        "invalid credential: {0}; it was altered or comes from another realm (both hosts need the same munge.key, \
         and munged must be restarted after it changes)"
    )]
    Invalid(String),
    /// `EMUNGE_CRED_EXPIRED`, 15.
    #[error("expired credential of {}; ask for a new one, and compare the clocks of both hosts", summary(.0))]
    Expired(Box<Metadata>),
    /// `EMUNGE_CRED_REWOUND`, 16: made in the future by this host's clock.
    #[error("rewound credential of {}: it is from the future; synchronise the clocks of both hosts", summary(.0))]
    Rewound(Box<Metadata>),
    /// `EMUNGE_CRED_REPLAYED`, 17: this munged has decoded it before.
    #[error("replayed credential of {}; ask for a new one for each use, and look for who else saw it", summary(.0))]
    Replayed(Box<Metadata>),
    /// `EMUNGE_CRED_UNAUTHORIZED`, 18: restricted to another uid or gid.
    #[error(
        "not authorized to decode the credential: {0}; it is restricted to another user or group than this process has"
    )]
    Unauthorized(String),
    /// A status this crate does not know.
    #[error("unknown MUNGE status {status}: {detail}; see munge(3) of the installed libmunge")]
    Unknown {
        /// The number.
        status: u32,
        /// What libmunge says.
        detail: String,
    },
}

/// Where the time of a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeoutStage {
    /// It waited for a helper the whole time and was never sent.
    Queued,
    /// A helper was waiting for the daemon; it stays busy until libmunge gives up, after about 10
    /// s.
    Daemon,
}

/// How it shows that nobody serves a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoDaemonReason {
    /// The path does not exist.
    Missing,
    /// The path is a socket left behind by a daemon that is gone, or no socket at all.
    Stale,
    /// This process may not reach the path.
    PermissionDenied,
}

impl MungeError {
    /// The status in `munge.h` if the error came from libmunge, or would have.
    pub fn status(&self) -> Option<u32> {
        use munge_sys as c;
        let status = match self {
            Self::Internal(_) => c::munge_err_EMUNGE_SNAFU,
            Self::BadArgument(_) => c::munge_err_EMUNGE_BAD_ARG,
            Self::TooLong(_) => c::munge_err_EMUNGE_BAD_LENGTH,
            Self::Overflow(_) => c::munge_err_EMUNGE_OVERFLOW,
            Self::OutOfMemory(_) => c::munge_err_EMUNGE_NO_MEMORY,
            Self::Socket { .. } | Self::NoDaemon { .. } => c::munge_err_EMUNGE_SOCKET,
            Self::DaemonTimeout { .. } => c::munge_err_EMUNGE_TIMEOUT,
            Self::BadFormat(_) => c::munge_err_EMUNGE_BAD_CRED,
            Self::BadVersion(_) => c::munge_err_EMUNGE_BAD_VERSION,
            Self::BadCipher(_) => c::munge_err_EMUNGE_BAD_CIPHER,
            Self::BadMac(_) => c::munge_err_EMUNGE_BAD_MAC,
            Self::BadCompression(_) => c::munge_err_EMUNGE_BAD_ZIP,
            Self::BadRealm(_) => c::munge_err_EMUNGE_BAD_REALM,
            Self::Invalid(_) => c::munge_err_EMUNGE_CRED_INVALID,
            Self::Expired(_) => c::munge_err_EMUNGE_CRED_EXPIRED,
            Self::Rewound(_) => c::munge_err_EMUNGE_CRED_REWOUND,
            Self::Replayed(_) => c::munge_err_EMUNGE_CRED_REPLAYED,
            Self::Unauthorized(_) => c::munge_err_EMUNGE_CRED_UNAUTHORIZED,
            Self::Unknown { status, .. } => *status,
            _ => return None,
        };
        Some(status)
    }

    /// What the refused credential said, where munged tells: for an audit log only.
    pub fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::Expired(metadata) | Self::Rewound(metadata) | Self::Replayed(metadata) => Some(metadata),
            _ => None,
        }
    }

    /// The error for a status other than success.
    pub(super) fn from_status(
        status: u32,
        detail: String,
        socket: &std::path::Path,
        metadata: Option<Metadata>,
    ) -> Self {
        use munge_sys as c;
        let socket = || socket.to_path_buf();
        match (status, metadata.map(Box::new)) {
            (c::munge_err_EMUNGE_SNAFU, _) => Self::Internal(detail),
            (c::munge_err_EMUNGE_BAD_ARG, _) => Self::BadArgument(detail),
            (c::munge_err_EMUNGE_BAD_LENGTH, _) => Self::TooLong(detail),
            (c::munge_err_EMUNGE_OVERFLOW, _) => Self::Overflow(detail),
            (c::munge_err_EMUNGE_NO_MEMORY, _) => Self::OutOfMemory(detail),
            (c::munge_err_EMUNGE_SOCKET, _) => Self::Socket { socket: socket(), detail },
            (c::munge_err_EMUNGE_TIMEOUT, _) => Self::DaemonTimeout { socket: socket(), detail },
            (c::munge_err_EMUNGE_BAD_CRED, _) => Self::BadFormat(detail),
            (c::munge_err_EMUNGE_BAD_VERSION, _) => Self::BadVersion(detail),
            (c::munge_err_EMUNGE_BAD_CIPHER, _) => Self::BadCipher(detail),
            (c::munge_err_EMUNGE_BAD_MAC, _) => Self::BadMac(detail),
            (c::munge_err_EMUNGE_BAD_ZIP, _) => Self::BadCompression(detail),
            (c::munge_err_EMUNGE_BAD_REALM, _) => Self::BadRealm(detail),
            (c::munge_err_EMUNGE_CRED_INVALID, _) => Self::Invalid(detail),
            (c::munge_err_EMUNGE_CRED_EXPIRED, Some(metadata)) => Self::Expired(metadata),
            (c::munge_err_EMUNGE_CRED_REWOUND, Some(metadata)) => Self::Rewound(metadata),
            (c::munge_err_EMUNGE_CRED_REPLAYED, Some(metadata)) => Self::Replayed(metadata),
            (c::munge_err_EMUNGE_CRED_UNAUTHORIZED, _) => Self::Unauthorized(detail),
            (status, _) => Self::Unknown { status, detail },
        }
    }

    pub(super) fn from_helper(error: HelperError, socket: &std::path::Path) -> Self {
        match error {
            HelperError::Overloaded(load) => {
                Self::Overloaded { waiting: load.waiting, helpers: load.helpers, stuck: load.stuck }
            }
            HelperError::TimedOut { timeout, started, load } => Self::Timeout {
                socket: socket.to_path_buf(),
                timeout,
                stage: if started { TimeoutStage::Daemon } else { TimeoutStage::Queued },
                helpers: load.helpers,
                stuck: load.stuck,
            },
            HelperError::NoThread(error) => Self::NoThread(error),
            HelperError::Forked => Self::Forked,
            HelperError::Panicked => Self::HelperPanicked,
        }
    }
}

impl fmt::Display for TimeoutStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "all helpers were busy and the call was never sent",
            Self::Daemon => "munged hangs or is overloaded",
        })
    }
}

impl fmt::Display for NoDaemonReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "there is no such file",
            Self::Stale => "nothing serves it, the daemon that made it is gone",
            Self::PermissionDenied => "permission denied, the directories must let every user through",
        })
    }
}

fn summary(metadata: &Metadata) -> String {
    let age = match metadata.decoded_at.duration_since(metadata.encoded_at) {
        Ok(age) => format!("{} s old", age.as_secs()),
        Err(ahead) => format!("{} s ahead", ahead.duration().as_secs()),
    };
    format!("{} from {}, {age}, lifetime {} s", metadata.identity, metadata.origin, metadata.ttl.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use crate::munge::decoded::{Cipher, Compression, Mac};
    use crate::munge::ffi;
    use std::net::Ipv4Addr;
    use std::path::Path;
    use std::time::SystemTime;

    fn metadata() -> Metadata {
        Metadata {
            identity: Identity { uid: 2003, gid: 100 },
            encoded_at: SystemTime::UNIX_EPOCH,
            decoded_at: SystemTime::UNIX_EPOCH + Duration::from_secs(400),
            ttl: Duration::from_secs(300),
            origin: Ipv4Addr::LOCALHOST,
            cipher: Cipher::AES128,
            mac: Mac::SHA256,
            compression: Compression::NONE,
            uid_restriction: Some(1),
            gid_restriction: None,
        }
    }

    fn error(status: u32) -> MungeError {
        MungeError::from_status(status, ffi::describe(status), Path::new("/run/sock"), Some(metadata()))
    }

    #[test]
    fn every_status_of_munge_h_has_an_error_of_its_own_that_says_what_to_do() {
        let mut seen = std::collections::HashSet::new();
        for status in 1..=18 {
            assert!(!ffi::describe(status).is_empty(), "libmunge has no words for {status}");
            let error = error(status);
            assert!(!matches!(error, MungeError::Unknown { .. }), "{status}");
            assert_eq!(error.status(), Some(status));
            assert!(seen.insert(std::mem::discriminant(&error)), "{status} shares an error: {error}");
            let message = error.to_string();
            assert!(message.contains([';', ':']), "{message} does not say what to do");
            assert!(message.len() > 40, "{message}");
        }
        assert!(!ffi::describe(0).is_empty(), "success");
    }

    #[test]
    fn unknown_statuses_are_kept() {
        for status in [19, 255, u32::MAX] {
            let error = error(status);
            assert!(matches!(error, MungeError::Unknown { .. }));
            assert_eq!(error.status(), Some(status));
            assert!(error.to_string().contains(&status.to_string()));
        }
    }

    #[test]
    fn only_errors_that_know_it_give_metadata() {
        for status in 1..=19 {
            assert_eq!(error(status).metadata().is_some(), (15..=17).contains(&status), "{status}");
        }
        // A daemon that breaks its promise to tell it.
        let bare = MungeError::from_status(15, String::new(), Path::new("/run/sock"), None);
        assert!(matches!(bare, MungeError::Unknown { status: 15, .. }));
    }

    #[test]
    fn messages_name_the_socket_the_age_and_the_maker() {
        assert!(error(6).to_string().contains("/run/sock"));
        let message = error(15).to_string();
        assert!(message.contains("uid 2003 gid 100 from 127.0.0.1, 400 s old, lifetime 300 s"), "{message}");
    }
}

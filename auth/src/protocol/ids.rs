use std::fmt;

use super::transcript::labelled_hash;

/// A session's random 128-bit name; the key of the session table, and no secret.
///
/// Logs get [`log_id`](Self::log_id).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// From 16 random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes as on the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What audit events name the session by: 8 bytes of a hash, from which the id cannot be had.
    pub fn log_id(&self) -> [u8; 8] {
        labelled_hash("log id", &self.0)[..8].try_into().expect("8 of 32 bytes")
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId(log {:016x})", u64::from_be_bytes(self.log_id()))
    }
}

/// SHA-256 of a server's canonical identity: which service a HELLO is meant for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerId([u8; 32]);

impl ServerId {
    /// The hash of a name such as `uid:2003|tcp://h:1234|group`. A fixed-size hash leaves no room for prefixes.
    pub fn of(canonical: &str) -> Self {
        Self(labelled_hash("server id", canonical.as_bytes()))
    }

    /// From the wire.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes as on the wire.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// How a client proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MechanismId {
    /// A MUNGE credential.
    Munge = 1,
    /// Kerberos through GSSAPI; no implementation yet.
    Gssapi = 2,
    /// A certificate; no implementation yet.
    X509 = 3,
    /// A shared key in a file.
    KeyFile = 4,
    /// The kernel's word on the peer of a Unix socket.
    PeerCredentials = 5,
}

impl MechanismId {
    pub(super) fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Munge,
            2 => Self::Gssapi,
            3 => Self::X509,
            4 => Self::KeyFile,
            5 => Self::PeerCredentials,
            _ => return None,
        })
    }

    /// The longest HELLO, which also bounds the token.
    pub const fn hello_max(self) -> usize {
        match self {
            Self::Munge | Self::KeyFile | Self::PeerCredentials => 4 << 10,
            Self::X509 => 16 << 10,
            Self::Gssapi => u16::MAX as usize,
        }
    }
}

impl fmt::Display for MechanismId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Munge => "MUNGE",
            Self::Gssapi => "Kerberos",
            Self::X509 => "a certificate",
            Self::KeyFile => "a key file",
            Self::PeerCredentials => "peer credentials",
        })
    }
}

/// The cipher of a session; the hash is SHA-256 in both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM: the faster one where the CPU has AES instructions.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    pub(super) fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }
}

/// What happens to the bodies of a session's messages. Both ends fix it in the handshake; it is part of the transcript.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protection {
    /// Encrypted and authenticated.
    #[default]
    Sealed,
    /// Authenticated, and readable by everyone on the path: for sites that must not encrypt.
    IntegrityOnly,
}

impl Protection {
    /// Bit 0 of the flags of HELLO and HELLO_REP.
    pub(super) fn from_hello_flags(flags: u8) -> Option<Self> {
        match flags {
            0 => Some(Self::Sealed),
            1 => Some(Self::IntegrityOnly),
            _ => None,
        }
    }

    pub(super) fn hello_flags(self) -> u8 {
        match self {
            Self::Sealed => 0,
            Self::IntegrityOnly => 1,
        }
    }
}

/// A time in milliseconds on a monotonic clock, counted from any start of the caller's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tick(pub u64);

impl Tick {
    /// This much later.
    #[must_use]
    pub fn after(self, time: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use super::payload::Payload;
use crate::Identity;

/// A credential that `munged` found valid, fresh, and meant for this process.
#[derive(Debug)]
pub struct Decoded {
    pub(super) metadata: Metadata,
    pub(super) payload: Payload,
}

/// All that a credential says besides its payload.
///
/// It also comes with the errors for expired, rewound and replayed credentials, for an audit log
/// only: the realm vouches for the content, but such a credential proves nothing about who presents
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Who made the credential.
    pub identity: Identity,
    /// When it was made, by the clock of the host that made it; whole seconds.
    pub encoded_at: SystemTime,
    /// When it was decoded, by the clock of this host; whole seconds.
    pub decoded_at: SystemTime,
    /// How long it is good, after the daemon here lowered it to its maximum.
    pub ttl: Duration,
    /// The host that made it, as its `munged` was configured to say; not proof of a network path.
    pub origin: Ipv4Addr,
    /// The cipher over the payload. Refuse [`Cipher::NONE`] where the payload is secret.
    pub cipher: Cipher,
    /// The message authentication code.
    pub mac: Mac,
    /// The compression of the payload.
    pub compression: Compression,
    /// The only uid that may decode it, if it is restricted so.
    pub uid_restriction: Option<u32>,
    /// The only gid that may decode it, if it is restricted so.
    pub gid_restriction: Option<u32>,
}

impl Decoded {
    /// Who made the credential.
    pub fn identity(&self) -> Identity {
        self.metadata.identity
    }

    /// Times, origin, algorithms and restrictions.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The payload; empty if there is none.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, to be kept; still wiped when dropped.
    pub fn into_payload(self) -> Payload {
        self.payload
    }
}

macro_rules! algorithm {
    ($(#[$doc:meta])* $type:ident { $($(#[$constant_doc:meta])* $constant:ident = $number:path, $name:literal;)* }) => {
        $(#[$doc])*
        ///
        /// A number of `munge.h`: a newer daemon may use one that has no constant here.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub(super) u32);

        impl $type {
            $($(#[$constant_doc])* pub const $constant: Self = Self($number);)*

            /// The number in `munge.h`.
            pub fn number(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$constant => f.pad($name),)*
                    Self(number) => write!(f, "number {number}"),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }
    };
}

algorithm! {
    /// A symmetric cipher of MUNGE.
    Cipher {
        /// No encryption: anyone who sees the credential reads the payload.
        NONE = munge_sys::munge_cipher_MUNGE_CIPHER_NONE, "none";
        /// Blowfish CBC, 128-bit key.
        BLOWFISH = munge_sys::munge_cipher_MUNGE_CIPHER_BLOWFISH, "blowfish";
        /// CAST5 CBC, 128-bit key.
        CAST5 = munge_sys::munge_cipher_MUNGE_CIPHER_CAST5, "cast5";
        /// AES CBC, 128-bit key.
        AES128 = munge_sys::munge_cipher_MUNGE_CIPHER_AES128, "aes128";
        /// AES CBC, 256-bit key.
        AES256 = munge_sys::munge_cipher_MUNGE_CIPHER_AES256, "aes256";
    }
}

algorithm! {
    /// A message authentication code of MUNGE.
    Mac {
        /// MD5.
        MD5 = munge_sys::munge_mac_MUNGE_MAC_MD5, "md5";
        /// SHA-1.
        SHA1 = munge_sys::munge_mac_MUNGE_MAC_SHA1, "sha1";
        /// RIPEMD-160.
        RIPEMD160 = munge_sys::munge_mac_MUNGE_MAC_RIPEMD160, "ripemd160";
        /// SHA-256.
        SHA256 = munge_sys::munge_mac_MUNGE_MAC_SHA256, "sha256";
        /// SHA-512.
        SHA512 = munge_sys::munge_mac_MUNGE_MAC_SHA512, "sha512";
    }
}

algorithm! {
    /// A compression of MUNGE.
    Compression {
        /// No compression.
        NONE = munge_sys::munge_zip_MUNGE_ZIP_NONE, "none";
        /// bzip2.
        BZLIB = munge_sys::munge_zip_MUNGE_ZIP_BZLIB, "bzlib";
        /// zlib.
        ZLIB = munge_sys::munge_zip_MUNGE_ZIP_ZLIB, "zlib";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_print_their_names_or_numbers() {
        assert_eq!(Cipher::AES128.to_string(), "aes128");
        assert_eq!(format!("{:?}", Mac::SHA256), "Mac(sha256)");
        assert_eq!(Compression(77).to_string(), "number 77");
    }
}

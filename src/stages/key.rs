//! The secret a client and a server share from stage 2 on, and the random ids of sessions.

use std::fmt;

use ring::hmac;
use zeroize::Zeroizing;

/// The key of one client: 32 random bytes, made by the client and carried to the server inside its MUNGE credential.
///
/// Wiped when dropped, and never printed. There is no default key: before a client has authenticated there is no key
/// that a token could be checked with.
pub struct Key(Zeroizing<[u8; Self::LENGTH]>);

impl Key {
    /// Bytes of a key, and of the payload of the credential that carries it.
    pub const LENGTH: usize = 32;

    /// A fresh key.
    ///
    /// # Errors
    /// The system has no random bytes to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; Self::LENGTH]);
        getrandom::fill(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// The key in the payload of a credential; `None` unless the payload is a key and nothing else.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(payload.try_into().ok()?)))
    }

    /// The bytes to put in a credential.
    pub fn payload(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The key as the HMAC wants it. It is made for each use, because ring does not wipe its own copy.
    pub(super) fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA512, self.payload())
    }
}

/// A random number for a session id.
///
/// # Errors
/// The system has no random bytes to give.
pub fn random_id() -> Result<u64, getrandom::Error> {
    let mut id = [0; 8];
    getrandom::fill(&mut id)?;
    Ok(u64::from_le_bytes(id))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn only_a_payload_of_exactly_a_key_is_a_key() {
        assert!(Key::from_payload(&[7; 32]).is_some());
        for length in [0, 31, 33, 64] {
            assert!(Key::from_payload(&vec![7; length]).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn key_is_not_printed() {
        let key = Key::from_payload(&[0xAB; 32]).expect("the length of a key");
        assert_eq!(format!("{key:?}"), "Key(..)");
    }
}

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroizing;

/// The bytes a credential carries; wiped on drop, and shown by length only.
#[derive(Clone, Default)]
pub struct Payload(Zeroizing<Vec<u8>>);

impl Payload {
    /// The longest payload that is encoded: 64 KiB. (A daemon takes about ten times that; no
    /// protocol needs it.)
    pub const LEN_MAX: usize = 64 * 1024;
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Payload {
    fn from(bytes: &[u8; N]) -> Self {
        Self::from(bytes.to_vec())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

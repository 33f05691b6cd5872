//! The key of a fabric, which is not shown.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use zeroize::Zeroizing;

/// What is printed instead.
const REDACTED: &str = "(redacted)";

/// A fabric's authorization key: for CXI `service:vni` and for GNI a cookie, as the site's tools give them out.
///
/// It is wiped when it is dropped, and neither printed nor compared in constant time: it lets a process onto a part of
/// the fabric, and is no proof of who it is. The text of a configuration that it came from is the caller's to wipe.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey(Zeroizing<String>);

impl AuthKey {
    /// A key, from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    #[cfg(mercury)]
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Whether Mercury could take it.
    pub(super) fn has_nul(&self) -> bool {
        self.0.contains('\0')
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for AuthKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for AuthKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own words would show what stands there.
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom("expected a string"))?;
        if text == REDACTED {
            return Err(D::Error::custom("this is what a dump shows instead of the key"));
        }
        Ok(Self::new(text))
    }
}

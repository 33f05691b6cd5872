//! Addresses: `protocol://location`, with the protocol always named in full.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Longest address text accepted, in bytes.
pub const ADDRESS_MAX: usize = 1024;

/// Where an engine listens, or may be looked up.
///
/// Written `protocol://location`, for example `native+tcp://node7:4321`; a protocol alone (`tcp`) leaves the location
/// to the transport. The bare names `tcp` and `sm` are aliases: Mercury's transport where it is linked, ours where it
/// is not; the parsed address already holds the full name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: Arc<str>,
    protocol: usize,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("malformed address {text:?}: {reason}")]
pub struct AddressError {
    /// The text, cut short if it was very long.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Address {
    pub(crate) fn new(protocol: &str, location: &str) -> Self {
        let text = if location.is_empty() { protocol.to_owned() } else { format!("{protocol}://{location}") };
        Self { text: text.into(), protocol: protocol.len() }
    }

    /// The protocol in full, `native+tcp` for example.
    pub fn protocol(&self) -> &str {
        &self.text[..self.protocol]
    }

    /// What follows `://`; empty for a protocol alone.
    pub fn location(&self) -> &str {
        self.text[self.protocol..].strip_prefix("://").unwrap_or("")
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |reason| AddressError { text: text.chars().take(120).collect(), reason };
        if text.len() > ADDRESS_MAX {
            return Err(wrong("it is longer than 1024 bytes"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("only printable ASCII without spaces is allowed"));
        }
        let (protocol, location) = match text.split_once("://") {
            Some((_, "")) => return Err(wrong("nothing follows `://`")),
            Some((protocol, location)) => (protocol, location),
            None if text.contains(':') || text.contains('/') => {
                return Err(wrong("expected `protocol` or `protocol://location`"));
            }
            None => (text, ""),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b';' | b'_' | b'-');
        if protocol.is_empty() || !protocol.bytes().all(allowed) {
            return Err(wrong("the protocol before `://` is missing or has characters that no protocol has"));
        }
        Ok(Self::new(full_name(protocol), location))
    }
}

/// The full name behind a bare alias, as Margo has them.
fn full_name(protocol: &str) -> &str {
    match protocol {
        "tcp" if mochi_sys::LINKED => "ofi+tcp",
        "tcp" => "native+tcp",
        "sm" if mochi_sys::LINKED => "na+sm",
        "sm" => "native+sm",
        "verbs" => "ofi+verbs;ofi_rxm",
        "cxi" => "ofi+cxi",
        other => other,
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let address: Address = "native+tcp://[::1]:5000".parse().unwrap();
        assert_eq!((address.protocol(), address.location()), ("native+tcp", "[::1]:5000"));
        let address: Address = "ofi+tcp;ofi_rxm://192.0.2.2:36377".parse().unwrap();
        assert_eq!((address.protocol(), address.location()), ("ofi+tcp;ofi_rxm", "192.0.2.2:36377"));
    }

    #[test]
    fn bare_names_become_the_full_protocol() {
        let tcp = if mochi_sys::LINKED { "ofi+tcp" } else { "native+tcp" };
        let address: Address = "tcp".parse().unwrap();
        assert_eq!((address.as_str(), address.location()), (tcp, ""));
        let address: Address = "tcp://127.0.0.1:0".parse().unwrap();
        assert_eq!(address.to_string(), format!("{tcp}://127.0.0.1:0"));
        assert_eq!("cxi".parse::<Address>().unwrap().as_str(), "ofi+cxi");
    }

    #[test]
    fn malformed_addresses_say_why() {
        for text in ["", "tcp://", "://x", "127.0.0.1:80", "tcp:127.0.0.1", "a b://x", "tcp://a b", "tcp\n", "t*p://x"]
        {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
        let error = format!("tcp://{}", "x".repeat(ADDRESS_MAX)).parse::<Address>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}

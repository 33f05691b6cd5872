use std::ffi::{CStr, CString};
use std::fmt;

use zeroize::Zeroizing;

const PREFIX: &[u8] = b"MUNGE:";
const SUFFIX: &[u8] = b":";

/// A credential text that is well formed: `MUNGE:`, strict base64, `:`, and nothing else.
///
/// `munged` itself takes leading and inner whitespace, missing padding and trailing garbage, so
/// that one credential has many texts. Here exactly one is accepted. That still says nothing about
/// validity, which only [`Munge::decode`](super::Munge::decode) does, and no text is a key to cache
/// decisions by; so there is no `Eq` and no `Hash`.
///
/// A credential is a bearer token: its text is wiped on drop and is not in the `Debug` output.
#[derive(Clone)]
pub struct Credential {
    /// ASCII.
    text: Zeroizing<CString>,
}

/// What is wrong with a credential text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The text is longer than [`Credential::LEN_MAX`].
    #[error("{len} bytes are more than the {max} allowed; refuse it")]
    TooLong {
        /// Bytes of the text.
        len: usize,
        /// [`Credential::LEN_MAX`].
        max: usize,
    },
    /// The text is not `MUNGE:…:`.
    #[error("it does not start with \"MUNGE:\" and end with \":\"; pass the text as encoded, without a line end")]
    Frame,
    /// The inside is not strict base64 (RFC 4648 section 4, padded, canonical, no whitespace).
    #[error("its inside is not strict base64; pass the text as encoded, unwrapped and whole")]
    Base64,
}

impl Credential {
    /// The longest text accepted: 96 KiB, enough for a payload of
    /// [`Payload::LEN_MAX`](super::Payload::LEN_MAX).
    pub const LEN_MAX: usize = 96 * 1024;

    /// Checks a text from anywhere: a string, bytes of a message.
    ///
    /// # Errors
    /// When the text is too long or is not exactly of the one accepted form.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, CredentialError> {
        let text = text.as_ref();
        if text.len() > Self::LEN_MAX {
            return Err(CredentialError::TooLong { len: text.len(), max: Self::LEN_MAX });
        }
        let inside =
            text.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)).ok_or(CredentialError::Frame)?;
        if !is_strict_base64(inside) {
            return Err(CredentialError::Base64);
        }
        let mut bytes = Vec::with_capacity(text.len() + 1); // room for the NUL: no second copy is left unwiped
        bytes.extend_from_slice(text);
        let text = CString::new(bytes).expect("base64 has no NUL");
        Ok(Self { text: Zeroizing::new(text) })
    }

    /// The text, to be sent.
    pub fn as_str(&self) -> &str {
        self.text.to_str().expect("a parsed credential is ASCII")
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        &self.text
    }
}

impl AsRef<[u8]> for Credential {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl AsRef<str> for Credential {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({} bytes)", self.text.as_bytes().len())
    }
}

/// Not empty, whole quanta, padding only at the end, and no stray bits below the last byte.
fn is_strict_base64(text: &[u8]) -> bool {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return false;
    }
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let stray = match padding {
        0 => 0,
        1 => 0b11,
        _ => 0b1111,
    };
    digits.iter().all(|byte| digit(*byte).is_some())
        && digits.last().and_then(|last| digit(*last)).is_some_and(|last| last & stray == 0)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_one_form_is_accepted() {
        for text in ["MUNGE:AAAA:", "MUNGE:AwQDAAA=:", "MUNGE:AwQDAA==:", "MUNGE:+/+/09az:"] {
            let credential = Credential::parse(text).expect(text);
            assert_eq!(credential.as_str(), text);
        }
    }

    #[test]
    fn other_texts_of_the_same_credential_are_refused() {
        for text in [
            " MUNGE:AAAA:",
            "MUNGE: AAAA:",
            "MUNGE:AA\nAA:",
            "MUNGE:AAAA :",
            "MUNGE:AAAA:\n",
            "MUNGE:AAAA:x",
            "MUNGE:AAAA",
            "munge:AAAA:",
            "MUNGE::",
            "MUNGE:",
            ":",
            "",
            "MUNGE:AwQDAAA:",
            "MUNGE:AwQDAAB=:",
            "MUNGE:AwQDAB==:",
            "MUNGE:A===:",
            "MUNGE:====:",
            "MUNGE:AA=A:",
            "MUNGE:A=AA:",
            "MUNGE:AA-_:",
            "MUNGE:AAAA:AAA:",
            "MUNGE:AAA\0:",
            "MUNGE:AAA\u{e9}:",
        ] {
            assert!(Credential::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_long_text_is_refused_by_its_length() {
        let text = vec![b'A'; Credential::LEN_MAX + 1];
        let refused = Credential::parse(text).expect_err("too long");
        assert!(matches!(refused, CredentialError::TooLong { .. }));
    }

    #[test]
    fn debug_does_not_show_the_text() {
        let credential = Credential::parse("MUNGE:c2VjcmV0:").expect("well formed");
        assert_eq!(format!("{credential:?}"), "Credential(15 bytes)");
    }

    /// A base64 encoder by the book, for the test only.
    fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::from("MUNGE:");
        for quantum in bytes.chunks(3) {
            let bits = quantum.iter().enumerate().fold(0u32, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
            for i in 0..4 {
                let value = (bits >> (18 - 6 * i)) & 63;
                text.push(if i <= quantum.len() { char::from(DIGITS[value as usize]) } else { '=' });
            }
        }
        text + ":"
    }

    proptest! {
        #[test]
        fn every_encoding_is_accepted(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let text = encode(&bytes);
            prop_assert!(Credential::parse(&text).is_ok(), "{}", text);
        }

        #[test]
        fn no_byte_can_be_put_in_or_taken_out(
            bytes in proptest::collection::vec(any::<u8>(), 1..100),
            at in any::<proptest::sample::Index>(),
            extra in any::<u8>(),
        ) {
            let text = encode(&bytes).into_bytes();
            let mut longer = text.clone();
            longer.insert(at.index(text.len() + 1), extra);
            prop_assert!(Credential::parse(&longer).is_err());
            let mut shorter = text;
            shorter.remove(at.index(shorter.len()));
            prop_assert!(Credential::parse(&shorter).is_err());
        }

        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Credential::parse(bytes);
        }
    }
}

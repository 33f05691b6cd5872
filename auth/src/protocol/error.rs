//! Errors on the wire: bare ones that anybody can forge, and sealed ones.

use super::parse::{ParseError, Reader};
use super::{BARE_ERROR, MAGIC};

/// Bytes of every bare error, so that its length tells nothing.
pub const BARE_ERROR_LEN: usize = 24;

/// What a server says outside of a session. Anybody can forge one: it is a hint to make a new handshake under the same
/// policy, never a reason to lower it or to repeat a call.
///
/// ```text
/// 0 u8 0xA1   1 u8 type = 6   2 u8 code   3 5 zero   8 16 echo, or the cookie
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BareError {
    /// No: for whatever reason. Echoes the session id, or the first 16 bytes of the client's random.
    No {
        /// What it answers.
        echo: [u8; 16],
    },
    /// Say HELLO again with this cookie. The call that it answers says what it answers.
    Retry {
        /// For the next HELLO.
        cookie: [u8; 16],
    },
    /// The server knows only the version of the first byte.
    Version {
        /// What it answers.
        echo: [u8; 16],
    },
}

impl BareError {
    /// The bytes.
    pub fn encode(&self) -> [u8; BARE_ERROR_LEN] {
        let (code, rest) = match self {
            Self::No { echo } => (1, echo),
            Self::Retry { cookie } => (2, cookie),
            Self::Version { echo } => (3, echo),
        };
        let mut out = [0; BARE_ERROR_LEN];
        out[..3].copy_from_slice(&[MAGIC, BARE_ERROR, code]);
        out[8..].copy_from_slice(rest);
        out
    }

    /// Whether this is one.
    #[inline]
    pub fn is_one(wire: &[u8]) -> bool {
        wire.len() == BARE_ERROR_LEN && Self::parse(wire).is_ok()
    }

    /// Reads exactly one bare error.
    ///
    /// # Errors
    /// For any other byte string.
    pub fn parse(wire: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(wire);
        reader.start(BARE_ERROR)?;
        let code = reader.u8()?;
        if reader.array::<5>()? != [0; 5] {
            return Err(ParseError::Field("zero"));
        }
        let rest = reader.array()?;
        reader.end()?;
        match code {
            1 => Ok(Self::No { echo: rest }),
            2 => Ok(Self::Retry { cookie: rest }),
            3 => Ok(Self::Version { echo: rest }),
            _ => Err(ParseError::Field("code")),
        }
    }
}

/// What a server says inside of a session: the body of a message of type 3.
///
/// ```text
/// 0 u8 code   1 3 zero   4 u32 value (BUSY: ms, HANDLER: its code, otherwise 0)   8 text of HANDLER, UTF-8
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SealedError {
    /// The caller may not call this; also for an unknown RPC of a provider that is not allowed.
    Denied,
    /// The session ends soon; make a new one.
    Expiring,
    /// Too much is going on; try again after this many milliseconds.
    Busy {
        /// The time to wait.
        retry_ms: u32,
    },
    /// The arguments or the result are longer than the session's limit.
    TooLarge,
    /// Nobody serves this RPC.
    NoSuchRpc,
    /// The handler failed.
    Handler {
        /// The handler's own number.
        code: u32,
        /// The handler's own words, cut to [`SealedError::TEXT_MAX`] bytes. Escape before printing.
        text: String,
    },
}

impl SealedError {
    /// The longest text of a handler, in bytes.
    pub const TEXT_MAX: usize = 1024;

    /// The bytes of the body.
    pub fn encode(&self) -> Vec<u8> {
        let (code, value, text) = match self {
            Self::Denied => (1u8, 0, ""),
            Self::Expiring => (2, 0, ""),
            Self::Busy { retry_ms } => (4, *retry_ms, ""),
            Self::TooLarge => (5, 0, ""),
            Self::NoSuchRpc => (6, 0, ""),
            Self::Handler { code, text } => (7, *code, text.as_str()),
        };
        let mut end = text.len().min(Self::TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut out = vec![code, 0, 0, 0];
        out.extend_from_slice(&value.to_le_bytes());
        out.extend_from_slice(&text.as_bytes()[..end]);
        out
    }

    /// Reads a body of type 3, after its tag was found good.
    ///
    /// # Errors
    /// For any byte string that [`encode`](Self::encode) does not make.
    pub fn parse(body: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(body);
        let code = reader.u8()?;
        if reader.array::<3>()? != [0; 3] {
            return Err(ParseError::Field("zero"));
        }
        let value = reader.u32()?;
        let text = &body[reader.position()..];
        if text.len() > Self::TEXT_MAX || (code != 7 && !text.is_empty()) {
            return Err(ParseError::Length(body.len()));
        }
        match (code, value) {
            (1, 0) => Ok(Self::Denied),
            (2, 0) => Ok(Self::Expiring),
            (4, retry_ms) => Ok(Self::Busy { retry_ms }),
            (5, 0) => Ok(Self::TooLarge),
            (6, 0) => Ok(Self::NoSuchRpc),
            (7, code) => {
                let text = std::str::from_utf8(text).map_err(|_| ParseError::Field("text"))?;
                Ok(Self::Handler { code, text: text.to_owned() })
            }
            _ => Err(ParseError::Field("code")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> [BareError; 3] {
        [BareError::No { echo: [7; 16] }, BareError::Retry { cookie: [8; 16] }, BareError::Version { echo: [9; 16] }]
    }

    #[test]
    fn a_bare_error_has_golden_bytes() {
        let mut golden = [0; 24];
        golden[..3].copy_from_slice(&[0xA1, 6, 1]);
        golden[8..].fill(7);
        assert_eq!(BareError::No { echo: [7; 16] }.encode(), golden);
    }

    #[test]
    fn bare_errors_come_back_and_have_one_length() {
        for error in bare() {
            assert_eq!(BareError::parse(&error.encode()), Ok(error));
            assert!(BareError::parse(&error.encode()[..23]).is_err());
            assert!(BareError::parse(&[&error.encode()[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn a_bare_error_with_a_changed_start_is_another_or_none() {
        for error in bare() {
            for bit in 0..64 {
                let mut wire = error.encode();
                wire[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(BareError::parse(&wire), Ok(error));
            }
        }
    }

    #[test]
    fn sealed_errors_come_back() {
        let handler = SealedError::Handler { code: 5, text: "no such key".to_owned() };
        for error in [
            SealedError::Denied,
            SealedError::Expiring,
            SealedError::Busy { retry_ms: 20 },
            SealedError::TooLarge,
            SealedError::NoSuchRpc,
            handler,
        ] {
            assert_eq!(SealedError::parse(&error.encode()), Ok(error));
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let error = SealedError::Handler { code: 0, text: "x".to_owned() + &"\u{e9}".repeat(2000) };
        let body = error.encode();
        assert_eq!(body.len(), 8 + 1023);
        assert!(SealedError::parse(&body).is_ok());
    }

    #[test]
    fn other_bodies_are_refused() {
        for body in
            [&[][..], &[1], &[0; 8], &[3, 0, 0, 0, 0, 0, 0, 0], &[1, 0, 0, 1, 0, 0, 0, 0], &[1, 0, 0, 0, 1, 0, 0, 0]]
        {
            assert!(SealedError::parse(body).is_err(), "{body:?}");
        }
        assert!(SealedError::parse(&[1, 0, 0, 0, 0, 0, 0, 0, b'x']).is_err());
        assert!(SealedError::parse(&[7, 0, 0, 0, 0, 0, 0, 0, 0xff]).is_err());
        assert!(SealedError::parse(&[[7, 0, 0, 0, 0, 0, 0, 0].as_slice(), &[b'x'; 1025]].concat()).is_err());
    }
}

/// What is wrong with the form of a message, for the local log; the peer is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The length is outside of the limits, or is not the one that the message states.
    #[error("message of {0} bytes has a wrong length")]
    Length(usize),
    /// The first byte is not that of this version.
    #[error("unknown protocol version {0:#04x}")]
    Version(u8),
    /// The message is of another type.
    #[error("unexpected message type {0}")]
    Type(u8),
    /// A field has a value that is not allowed.
    #[error("bad value of field {0}")]
    Field(&'static str),
}

/// Takes fixed-size little-endian fields off the front of a slice.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, whole: bytes.len() }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], ParseError> {
        let (front, rest) = self.rest.split_at_checked(len).ok_or(ParseError::Length(self.whole))?;
        self.rest = rest;
        Ok(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, ParseError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ParseError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The start that all messages share: version and type.
    pub(super) fn start(&mut self, kind: u8) -> Result<(), ParseError> {
        self.version()?;
        match self.u8()? {
            found if found == kind => Ok(()),
            other => Err(ParseError::Type(other)),
        }
    }

    pub(super) fn version(&mut self) -> Result<(), ParseError> {
        match self.u8()? {
            super::MAGIC => Ok(()),
            version => Err(ParseError::Version(version)),
        }
    }

    pub(super) fn end(&self) -> Result<(), ParseError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ParseError::Length(self.whole)) }
    }

    pub(super) fn position(&self) -> usize {
        self.whole - self.rest.len()
    }
}

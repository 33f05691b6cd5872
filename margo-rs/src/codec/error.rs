//! Why a value could not be encoded or decoded.

use std::fmt::Display;
use std::str::Utf8Error;

use thiserror::Error;

/// The offset of an error that serde made, until the codec knows where it was.
const UNPLACED: usize = usize::MAX;

/// Why a value has no encoding. Always the fault of the type or value given, never of a peer.
///
/// Offsets count from the first byte of the value's own encoding.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A C string cannot hold a NUL, so an [`HgString`](super::HgString) cannot either.
    #[error("string at byte {offset} has a NUL at its index {index}; a C string cannot hold one")]
    InteriorNul {
        /// Where the string would have started in the output.
        offset: usize,
        /// Where the NUL is in the string.
        index: usize,
    },
    /// The value nests deeper than a decoder would follow.
    #[error("value nests deeper than {} levels at byte {offset}", super::DEPTH_MAX)]
    TooDeep {
        /// Where the level beyond the last would have started.
        offset: usize,
    },
    /// `skip_serializing_if` left a field out, which this format cannot express.
    #[error("field {field:?} was left out at byte {offset}; every field is needed, as none has a name in the encoding")]
    SkippedField {
        /// Where the field would have been.
        offset: usize,
        /// The name of the field.
        field: &'static str,
    },
    /// A type's own `Serialize` refused.
    #[error("value cannot be encoded at byte {offset}: {message}")]
    Refused {
        /// How much had been encoded.
        offset: usize,
        /// What the type said.
        message: String,
    },
}

impl EncodeError {
    #[cold]
    pub(super) fn placed(mut self, at: usize) -> Self {
        if let EncodeError::Refused { offset, .. } = &mut self
            && *offset == UNPLACED
        {
            *offset = at;
        }
        self
    }
}

impl serde::ser::Error for EncodeError {
    fn custom<T: Display>(message: T) -> Self {
        EncodeError::Refused { offset: UNPLACED, message: message.to_string() }
    }
}

/// Why bytes are not the encoding of a value.
///
/// Offsets count from the first byte given to the decoder.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside the value.
    #[error("value is cut short: {needed} bytes expected at byte {offset}, {remaining} are there")]
    Truncated {
        /// Where the bytes were expected.
        offset: usize,
        /// How many were expected; a length that a peer wrote may have any value.
        needed: u64,
        /// How many there are.
        remaining: usize,
    },
    /// A sequence or map claims more elements than the bytes that follow could hold.
    #[error("count at byte {offset} claims {count} elements, {remaining} bytes follow")]
    Count {
        /// Where the count is.
        offset: usize,
        /// The elements claimed.
        count: u64,
        /// How many bytes follow the count.
        remaining: usize,
    },
    /// Too many elements that occupy no bytes.
    #[error("more than {} elements without bytes at byte {offset}", super::ZERO_SIZED_ELEMENTS_MAX)]
    ZeroSizedElements {
        /// Where the element beyond the last allowed is.
        offset: usize,
    },
    /// Nested deeper than the decoder follows.
    #[error("value nests deeper than {} levels at byte {offset}", super::DEPTH_MAX)]
    TooDeep {
        /// Where the level beyond the last starts.
        offset: usize,
    },
    /// A flag that is neither 0 nor 1.
    #[error("flag at byte {offset} is {value}, not 0 or 1")]
    Flag {
        /// Where the flag is.
        offset: usize,
        /// What it holds.
        value: u8,
    },
    /// A number that is no Unicode scalar value where a character was expected.
    #[error("character at byte {offset} is {value:#x}, not a unicode scalar value")]
    Char {
        /// Where the character is.
        offset: usize,
        /// What it holds.
        value: u32,
    },
    /// Text that is not UTF-8.
    #[error("text at byte {offset} is not utf-8")]
    Utf8 {
        /// Where the first byte of the text is.
        offset: usize,
        /// What is wrong with it.
        #[source]
        source: Utf8Error,
    },
    /// A C string whose only NUL is not its last byte.
    #[error("c string at byte {offset} does not end at its first NUL")]
    Nul {
        /// Where the first byte of the text is.
        offset: usize,
    },
    /// A value followed by bytes that belong to nothing.
    #[error("value ends at byte {offset}, {count} bytes follow")]
    Trailing {
        /// Where the value ends.
        offset: usize,
        /// How many bytes follow.
        count: usize,
    },
    /// A type wants to be told by the bytes what they are; these do not say.
    #[error(
        "{wanted} at byte {offset} cannot be decoded: the encoding does not describe itself, so untagged, internally tagged and flattened types do not work"
    )]
    NotSelfDescribing {
        /// Where the value would be.
        offset: usize,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A type's own `Deserialize` refused, such as an enum without the variant named.
    #[error("value is refused at byte {offset}: {message}")]
    Refused {
        /// Where the type stopped reading.
        offset: usize,
        /// What the type said.
        message: String,
    },
}

impl DecodeError {
    #[cold]
    pub(super) fn placed(mut self, at: usize) -> Self {
        if let DecodeError::Refused { offset, .. } = &mut self
            && *offset == UNPLACED
        {
            *offset = at;
        }
        self
    }
}

impl serde::de::Error for DecodeError {
    fn custom<T: Display>(message: T) -> Self {
        DecodeError::Refused { offset: UNPLACED, message: message.to_string() }
    }
}

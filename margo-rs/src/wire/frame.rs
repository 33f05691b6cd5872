//! The frame header and the fixed start of a request.

use crate::rpc::RpcId;
use thiserror::Error;

/// What a peer did wrong on the wire. The connection cannot go on after it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The first bytes were not a handshake of this protocol.
    #[error("peer does not speak this protocol (first bytes {0:02x?})")]
    Magic([u8; 8]),
    /// The peer's oldest version is newer than ours, or the other way round.
    #[error("peer speaks protocol versions {oldest} to {newest}, this side speaks {ours}")]
    Version {
        /// Oldest version that the peer accepts.
        oldest: u16,
        /// Newest version that the peer speaks.
        newest: u16,
        /// Our version.
        ours: u16,
    },
    /// A limit in the handshake is too small to work with.
    #[error("peer's handshake states an unusable limit: {0}")]
    Limit(&'static str),
    /// An unknown frame kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Flags that the frame kind does not have, or a reserved field that is not zero.
    #[error("frame of kind {kind} has reserved bits set")]
    Reserved {
        /// The frame's kind byte.
        kind: u8,
    },
    /// A body longer than the limit stated in the handshake.
    #[error("frame body of {length} bytes exceeds the limit of {max}")]
    FrameTooLong {
        /// Stated length.
        length: u32,
        /// Our limit.
        max: u32,
    },
    /// A body too short for its kind.
    #[error("frame of kind {kind} with a body of {length} bytes is too short")]
    FrameTooShort {
        /// The frame's kind byte.
        kind: u8,
        /// Stated length.
        length: u32,
    },
    /// A chunk of a message that was never started, or a second start of one that is under way.
    #[error("chunk sequence of call {call} is broken: {what}")]
    Chunk {
        /// The call.
        call: u64,
        /// What was wrong.
        what: &'static str,
    },
    /// More partly received messages than requests are allowed in flight.
    #[error("more than {0} messages begun and not finished")]
    TooManyMessages(usize),
}

/// Kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A request, or its first chunk.
    Request = 1,
    /// A response, or its first chunk.
    Response = 2,
    /// A further chunk of a request.
    RequestChunk = 3,
    /// A further chunk of a response.
    ResponseChunk = 4,
    /// The caller no longer wants the response.
    Cancel = 5,
    /// The responder gives up on a response that it had begun to send, after a cancel.
    ResponseAbort = 6,
    /// The sender takes no new requests.
    GoAway = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::RequestChunk,
            4 => Kind::ResponseChunk,
            5 => Kind::Cancel,
            6 => Kind::ResponseAbort,
            7 => Kind::GoAway,
            other => return Err(WireError::Kind(other)),
        })
    }

    fn flags_allowed(self) -> u8 {
        match self {
            Kind::Request => Header::MORE | Header::ONE_WAY,
            Kind::Response | Kind::RequestChunk | Kind::ResponseChunk => Header::MORE,
            Kind::Cancel | Kind::ResponseAbort | Kind::GoAway => 0,
        }
    }
}

/// The 16 bytes before every body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the body in bytes.
    pub length: u32,
    /// What the frame is.
    pub kind: Kind,
    /// [`Header::MORE`], [`Header::ONE_WAY`].
    pub flags: u8,
    /// The call it belongs to.
    pub call: u64,
}

impl Header {
    /// Encoded size in bytes.
    pub const LEN: usize = 16;
    /// Flag: more chunks of this message follow.
    pub const MORE: u8 = 1;
    /// Flag: the caller wants no response.
    pub const ONE_WAY: u8 = 2;

    /// Appends the encoded header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[8..16].copy_from_slice(&self.call.to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    /// Decodes and checks a header against the receiver's limit.
    ///
    /// # Errors
    /// Whatever makes the frame unacceptable; lengths are checked here, before anyone allocates for them.
    pub fn decode(bytes: &[u8; Self::LEN], max_frame: u32) -> Result<Self, WireError> {
        let [l0, l1, l2, l3, kind, flags, z0, z1, call @ ..] = *bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let header = Header { length, kind: Kind::from_byte(kind)?, flags, call: u64::from_le_bytes(call) };
        if z0 != 0 || z1 != 0 || flags & !header.kind.flags_allowed() != 0 {
            return Err(WireError::Reserved { kind });
        }
        if length > max_frame {
            return Err(WireError::FrameTooLong { length, max: max_frame });
        }
        let exact_empty = matches!(header.kind, Kind::Cancel | Kind::ResponseAbort | Kind::GoAway);
        if (length as usize) < header.prefix_len() || (exact_empty && length != 0) {
            return Err(WireError::FrameTooShort { kind, length });
        }
        Ok(header)
    }

    /// Whether more chunks follow.
    pub fn more(&self) -> bool {
        self.flags & Self::MORE != 0
    }

    /// Length of what stands in the body before the payload.
    pub fn prefix_len(&self) -> usize {
        let total = if self.more() { 8 } else { 0 };
        match self.kind {
            Kind::Request => RequestHead::LEN + total,
            Kind::Response => total,
            _ => 0,
        }
    }
}

/// What a request says besides its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// The RPC, with its provider part.
    pub rpc: RpcId,
    /// Time that the caller still waits, in milliseconds; 0 if it did not say.
    pub timeout_ms: u32,
    /// No response wanted.
    pub one_way: bool,
}

impl RequestHead {
    /// Encoded size in bytes (`one_way` is a header flag).
    pub const LEN: usize = 16;

    /// Appends the encoded head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&self.rpc.as_u64().to_le_bytes());
        bytes[8..12].copy_from_slice(&self.timeout_ms.to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    /// Decodes the head; `header` supplies the flag.
    ///
    /// # Errors
    /// A reserved field that is not zero.
    pub fn decode(bytes: &[u8; Self::LEN], header: &Header) -> Result<Self, WireError> {
        let [rpc @ .., t0, t1, t2, t3, z0, z1, z2, z3] = *bytes;
        if [z0, z1, z2, z3] != [0; 4] {
            return Err(WireError::Reserved { kind: header.kind as u8 });
        }
        Ok(Self {
            rpc: RpcId::from_raw(u64::from_le_bytes(rpc)),
            timeout_ms: u32::from_le_bytes([t0, t1, t2, t3]),
            one_way: header.flags & Header::ONE_WAY != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { length: 0x0102, kind: Kind::Request, flags: Header::ONE_WAY, call: 0x1122_3344_5566_7788 };

    #[test]
    fn header_bytes_are_golden() {
        let mut bytes = Vec::new();
        HEADER.encode(&mut bytes);
        assert_eq!(bytes, [2, 1, 0, 0, 1, 2, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(Header::decode(&bytes.try_into().unwrap(), 0x102), Ok(HEADER));
    }

    #[test]
    fn request_head_bytes_are_golden() {
        let head = RequestHead { rpc: RpcId::from_raw(0x1c88_57ad_0000_002a), timeout_ms: 1500, one_way: true };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        assert_eq!(bytes, [0x2a, 0, 0, 0, 0xad, 0x57, 0x88, 0x1c, 0xdc, 5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(RequestHead::decode(&bytes.try_into().unwrap(), &HEADER), Ok(head));
    }

    #[test]
    fn every_reserved_bit_is_refused() {
        let mut bytes = Vec::new();
        HEADER.encode(&mut bytes);
        let good: [u8; 16] = bytes.try_into().unwrap();
        for (byte, bit) in [(5, 2), (5, 3), (5, 7), (6, 0), (7, 7)] {
            let mut bad = good;
            bad[byte] |= 1 << bit;
            assert!(Header::decode(&bad, 0x102).is_err(), "byte {byte} bit {bit}");
        }
        let mut bad = good;
        bad[4] = 0;
        assert_eq!(Header::decode(&bad, 0x102), Err(WireError::Kind(0)));
        bad[4] = 8;
        assert_eq!(Header::decode(&bad, 0x102), Err(WireError::Kind(8)));
    }

    #[test]
    fn lengths_beyond_the_limit_or_below_the_kind_are_refused() {
        let mut bytes = Vec::new();
        HEADER.encode(&mut bytes);
        let bytes: [u8; 16] = bytes.try_into().unwrap();
        assert_eq!(Header::decode(&bytes, 0x101), Err(WireError::FrameTooLong { length: 0x102, max: 0x101 }));
        for kind in [Kind::Request, Kind::Response] {
            let header = Header { length: 7, kind, flags: Header::MORE, call: 1 };
            let mut bytes = Vec::new();
            header.encode(&mut bytes);
            assert!(matches!(Header::decode(&bytes.try_into().unwrap(), 100), Err(WireError::FrameTooShort { .. })));
        }
        let header = Header { length: 1, kind: Kind::Cancel, flags: 0, call: 1 };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert!(matches!(Header::decode(&bytes.try_into().unwrap(), 100), Err(WireError::FrameTooShort { .. })));
    }
}

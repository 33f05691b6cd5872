//! The frame header and the fixed start of a request.

use crate::bulk::RegionKey;
use crate::rpc::RpcId;
use thiserror::Error;

/// What a peer did wrong on the wire. The connection cannot go on after it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The first bytes were not a handshake of this protocol.
    #[error("peer does not speak this protocol (it begins with \"{}\")", .0.escape_ascii())]
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
    /// A body of a length that its kind never has.
    #[error("frame of kind {kind} cannot have a body of {length} bytes")]
    FrameLength {
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
    /// A bulk frame that does not belong where it came.
    #[error("bulk transfer {call} is broken: {what}")]
    Transfer {
        /// The transfer.
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
    /// The sender wants data of a region of the receiver's.
    Pull = 8,
    /// The sender wants to put data into a region of the receiver's.
    Push = 9,
    /// The receiver may send the data of its push.
    PushReady = 10,
    /// Data of the sender's push.
    PushData = 11,
    /// Data of the receiver's pull.
    PullData = 12,
    /// The receiver's pull or push is over.
    TransferEnd = 13,
    /// The sender gives up its pull or push.
    TransferCancel = 14,
    /// A pull whose data may also be lent.
    Borrow = 15,
    /// A push whose data is lent.
    Lend = 16,
    /// The data of the receiver's pull is lent.
    Lent = 17,
    /// The sender has taken back what it had lent.
    LoanEnd = 18,
    /// The sender has let go of what was lent to it.
    LoanReturn = 19,
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
            8 => Kind::Pull,
            9 => Kind::Push,
            10 => Kind::PushReady,
            11 => Kind::PushData,
            12 => Kind::PullData,
            13 => Kind::TransferEnd,
            14 => Kind::TransferCancel,
            15 => Kind::Borrow,
            16 => Kind::Lend,
            17 => Kind::Lent,
            18 => Kind::LoanEnd,
            19 => Kind::LoanReturn,
            other => return Err(WireError::Kind(other)),
        })
    }

    fn flags_allowed(self) -> u8 {
        match self {
            Kind::Request => Header::MORE | Header::ONE_WAY,
            Kind::Response | Kind::RequestChunk | Kind::ResponseChunk => Header::MORE,
            _ => 0,
        }
    }

    /// Whether the body is bulk data, which goes to where its region is.
    pub fn is_bulk_data(self) -> bool {
        matches!(self, Kind::PushData | Kind::PullData)
    }

    /// The length that the body must have, for kinds of which it is always the same.
    fn exact_length(self) -> Option<usize> {
        match self {
            Kind::Cancel | Kind::ResponseAbort | Kind::GoAway | Kind::PushReady | Kind::TransferCancel => Some(0),
            Kind::LoanEnd | Kind::LoanReturn => Some(0),
            Kind::Pull | Kind::Push | Kind::Borrow => Some(TransferHead::LEN),
            Kind::Lend => Some(TransferHead::LEN + Loan::LEN),
            Kind::Lent => Some(Loan::LEN),
            Kind::TransferEnd => Some(4),
            _ => None,
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
    /// The call it belongs to; the loan, where it is about one.
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
        out.extend_from_slice(&self.to_bytes());
    }

    /// The encoded header.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[8..16].copy_from_slice(&self.call.to_le_bytes());
        bytes
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
        let empty = header.kind.is_bulk_data() && length == 0;
        if (length as usize) < header.prefix_len() || empty {
            return Err(WireError::FrameTooShort { kind, length });
        }
        if header.kind.exact_length().is_some_and(|exact| exact != length as usize) {
            return Err(WireError::FrameLength { kind, length });
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
        out.extend_from_slice(&self.to_bytes());
    }

    /// The encoded head.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&self.rpc.as_u64().to_le_bytes());
        bytes[8..12].copy_from_slice(&self.timeout_ms.to_le_bytes());
        bytes
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

/// The body of a pull or push: which region, and what of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferHead {
    /// The region.
    pub key: RegionKey,
    /// Where the range starts, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl TransferHead {
    /// Encoded size in bytes.
    pub const LEN: usize = RegionKey::LEN + 16;

    /// Appends the encoded head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
    }

    /// Decodes a head; any numbers are one. They are checked against the region, by its owner.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (mut key, mut offset, mut length) = ([0; RegionKey::LEN], [0; 8], [0; 8]);
        key.copy_from_slice(&bytes[..32]);
        offset.copy_from_slice(&bytes[32..40]);
        length.copy_from_slice(&bytes[40..48]);
        let (offset, length) = (u64::from_le_bytes(offset), u64::from_le_bytes(length));
        Self { key: RegionKey::from_bytes(&key), offset, length }
    }
}

/// A place in memory that the sender of this lends, and from which the receiver copies by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    /// Which of the sender's loans on this connection.
    pub id: u64,
    /// Where in it the data starts, in bytes.
    pub offset: u64,
}

impl Loan {
    /// Encoded size in bytes.
    pub const LEN: usize = 16;

    /// Appends the encoded loan.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
    }

    /// Decodes a loan; any numbers are one. They are checked against what was lent, by whoever borrows it.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let [i0, i1, i2, i3, i4, i5, i6, i7, offset @ ..] = *bytes;
        Self { id: u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]), offset: u64::from_le_bytes(offset) }
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
        bad[4] = 20;
        assert_eq!(Header::decode(&bad, 0x102), Err(WireError::Kind(20)));
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
        for (kind, length) in [
            (Kind::Cancel, 1),
            (Kind::Pull, 47),
            (Kind::Push, 49),
            (Kind::PushReady, 1),
            (Kind::TransferEnd, 0),
            (Kind::TransferEnd, 5),
            (Kind::TransferCancel, 1),
            (Kind::Borrow, 64),
            (Kind::Lend, 48),
            (Kind::Lent, 15),
            (Kind::LoanEnd, 8),
            (Kind::LoanReturn, 1),
        ] {
            let mut bytes = Vec::new();
            Header { length, kind, flags: 0, call: 1 }.encode(&mut bytes);
            assert!(
                matches!(Header::decode(&bytes.try_into().unwrap(), 100), Err(WireError::FrameLength { .. })),
                "{kind:?}"
            );
        }
        for kind in [Kind::PushData, Kind::PullData] {
            let mut bytes = Vec::new();
            Header { length: 0, kind, flags: 0, call: 1 }.encode(&mut bytes);
            assert!(matches!(Header::decode(&bytes.try_into().unwrap(), 100), Err(WireError::FrameTooShort { .. })));
        }
    }

    #[test]
    fn transfer_head_bytes_are_golden() {
        let key = RegionKey { instance: 1, id: 2, secret: 3 };
        let head = TransferHead { key, offset: 0x0405, length: 0x0607 };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        let mut golden = [0; TransferHead::LEN];
        (golden[0], golden[8], golden[16]) = (1, 2, 3);
        (golden[32], golden[33], golden[40], golden[41]) = (5, 4, 7, 6);
        assert_eq!(bytes, golden);
        assert_eq!(TransferHead::decode(&golden), head);
    }
    #[test]
    fn loan_bytes_are_golden() {
        let loan = Loan { id: 0x0102, offset: 0x0304 };
        let mut bytes = Vec::new();
        loan.encode(&mut bytes);
        let golden = [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, golden);
        assert_eq!(Loan::decode(&golden), loan);
    }
}

//! What engines of this crate add to Mercury's messages when both ends are of this crate: pure encoding and decoding.
//!
//! Mercury has no connections: a request names an address, and nobody learns that a client has gone, or that it no longer
//! wants an answer. So an engine that looks up another first asks for its `__identity__`, which every Margo
//! service answers, with a [`Hello`] behind the arguments, where other services look at nothing. A peer of this crate
//! answers with a [`Welcome`], and from then on requests travel in an envelope: an RPC of its own
//! ([`TUNNEL`]) whose payload starts with a [`Head`]. All others are called plainly, as Margo would.
//!
//! A response that does not fit into one of Mercury's messages goes in an envelope, too, as a request of the server's.
//! Mercury would have the server wait for a receipt under the number that the client gave its request; a call of
//! the server's to that client can have the same number, and each would get what is meant for the other.
//!
//! Numbers are little-endian, as in the frames of the built-in transports.

use crate::bulk::{Direction, RegionKey};
use crate::rpc::{ProviderId, RpcId};
use crate::transport::PeerLimits;

/// The RPC that a hello travels as.
pub(super) const HELLO: RpcId = RpcId::new("__identity__", ProviderId::DEFAULT);
/// The RPC that requests with an envelope travel as.
pub(super) const TUNNEL: RpcId = RpcId::new("__mochi_rs__", ProviderId::DEFAULT);
/// The same for what wants no answer.
pub(super) const TUNNEL_ONE_WAY: RpcId = RpcId::new("__mochi_rs_one_way__", ProviderId::DEFAULT);

/// Tells a hello from a question for the identity; the last byte is the version.
const MAGIC: [u8; 8] = *b"mochirs\x01";
/// What Margo puts in front of every input: the id of no parent.
const PARENT: [u8; 8] = crate::rpc::NO_PARENT.as_u64().to_le_bytes();
/// What Margo answers to a question for the identity of nobody: success, and a string that is NULL.
const NO_IDENTITY: [u8; 12] = [0; 12];

/// Why a hello comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To open a link.
    Open,
    /// To find out whether the link still stands.
    Ping,
}

/// The first message of a link, and its pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) purpose: Purpose,
    /// Names the link; random, so that nobody else can use it.
    pub(super) link: u64,
    pub(super) limits: PeerLimits,
}

impl Hello {
    /// Encoded size in bytes.
    pub(super) const LEN: usize = 8 + 8 + 8 + 8 + LIMITS_LEN;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&PARENT);
        bytes[8..16].copy_from_slice(&MAGIC);
        bytes[16] = match self.purpose {
            Purpose::Open => 0,
            Purpose::Ping => 1,
        };
        bytes[24..32].copy_from_slice(&self.link.to_le_bytes());
        bytes[32..].copy_from_slice(&encode_limits(self.limits));
        bytes
    }

    /// `None` if it is a plain question for the identity.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = payload.first_chunk()?;
        let (head, limits) = bytes.split_at(32);
        if head[8..16] != MAGIC {
            return None;
        }
        let purpose = match head[16] {
            0 => Purpose::Open,
            1 => Purpose::Ping,
            _ => return None,
        };
        Some(Self { purpose, link: read_u64(head, 24)?, limits: decode_limits(limits)? })
    }
}

/// The answer to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Welcome {
    /// The link stands.
    Up(PeerLimits),
    /// No link of that name; or no new links are taken.
    Refused,
}

impl Welcome {
    /// Encoded size in bytes.
    pub(super) const LEN: usize = 12 + 8 + 8 + LIMITS_LEN;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..12].copy_from_slice(&NO_IDENTITY);
        bytes[12..20].copy_from_slice(&MAGIC);
        match self {
            Welcome::Up(limits) => bytes[28..].copy_from_slice(&encode_limits(*limits)),
            Welcome::Refused => bytes[20] = 1,
        }
        bytes
    }

    /// `None` if a service that is not of this crate answered.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = payload.first_chunk()?;
        if bytes[0..12] != NO_IDENTITY || bytes[12..20] != MAGIC {
            return None;
        }
        match bytes[20] {
            0 => Some(Welcome::Up(decode_limits(&bytes[28..])?)),
            1 => Some(Welcome::Refused),
            _ => None,
        }
    }
}

/// What a message in an envelope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request {
        rpc: RpcId,
        timeout_ms: u32,
        one_way: bool,
    },
    /// The response to the receiver's call, too large for a message.
    Response,
    /// The caller no longer wants the response.
    Cancel,
    /// The sender takes no new requests.
    GoAway,
    /// The link ends.
    Bye,
    /// The sender wants to move data from or to a region of the receiver's: a [`Wish`] follows. The answer is a refusal's
    /// number, or 0; then the region's memory stays until the release.
    Grant(Direction),
    /// The sender no longer touches what it was granted under the number of its call.
    Release,
}

/// The envelope itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) link: u64,
    /// The call, numbered by its caller; 0 where no call is meant.
    pub(super) call: u64,
    pub(super) kind: Kind,
}

impl Head {
    /// Encoded size in bytes.
    pub(super) const LEN: usize = 32;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (kind, bit, timeout_ms, rpc) = match self.kind {
            Kind::Request { rpc, timeout_ms, one_way } => (0, one_way, timeout_ms, rpc.as_u64()),
            Kind::Cancel => (1, false, 0, 0),
            Kind::GoAway => (2, false, 0, 0),
            Kind::Bye => (3, false, 0, 0),
            Kind::Response => (4, false, 0, 0),
            Kind::Grant(direction) => (5, direction == Direction::Push, 0, 0),
            Kind::Release => (6, false, 0, 0),
        };
        bytes[0] = kind;
        bytes[1] = u8::from(bit);
        bytes[4..8].copy_from_slice(&timeout_ms.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.link.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.call.to_le_bytes());
        bytes[24..32].copy_from_slice(&rpc.to_le_bytes());
        bytes
    }

    /// The head of an enveloped message; what follows it is the payload.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = payload.first_chunk()?;
        let timeout_ms = u32::from_le_bytes(*bytes[4..8].first_chunk()?);
        let rpc = RpcId::from_raw(read_u64(bytes, 24)?);
        let kind = match bytes[0] {
            0 => Kind::Request { rpc, timeout_ms, one_way: bytes[1] & 1 != 0 },
            1 => Kind::Cancel,
            2 => Kind::GoAway,
            3 => Kind::Bye,
            4 => Kind::Response,
            5 => Kind::Grant(if bytes[1] & 1 != 0 { Direction::Push } else { Direction::Pull }),
            6 => Kind::Release,
            _ => return None,
        };
        Some(Self { link: read_u64(bytes, 8)?, call: read_u64(bytes, 16)?, kind })
    }
}

/// What follows the head of a [`Kind::Grant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) key: RegionKey,
    /// Offset and length in bytes of all that is to be moved in the end, which the owner must allow,
    pub(super) whole: (u64, u64),
    /// and of what this is about.
    pub(super) piece: (u64, u64),
}

impl Wish {
    /// Encoded size in bytes.
    pub(super) const LEN: usize = RegionKey::LEN + 32;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..32].copy_from_slice(&self.key.to_bytes());
        for (at, number) in [(32, self.whole.0), (40, self.whole.1), (48, self.piece.0), (56, self.piece.1)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Any numbers are a wish. They are checked against the region, by its owner.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.first_chunk()?;
        Some(Self {
            key: RegionKey::from_bytes(bytes.first_chunk()?),
            whole: (read_u64(bytes, 32)?, read_u64(bytes, 40)?),
            piece: (read_u64(bytes, 48)?, read_u64(bytes, 56)?),
        })
    }
}

/// What starts the answer to a request in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The response follows.
    Response,
    /// The caller had cancelled it.
    Cancelled,
    /// The response comes in an envelope of its own.
    Apart,
    /// The link is gone, or never was: the request was not served to its end.
    Gone,
}

impl Answer {
    /// Encoded size in bytes.
    pub(super) const LEN: usize = 4;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        match self {
            Answer::Response => [0, 0, 0, 0],
            Answer::Cancelled => [1, 0, 0, 0],
            Answer::Gone => [2, 0, 0, 0],
            Answer::Apart => [3, 0, 0, 0],
        }
    }

    /// The kind of an answer, and what follows.
    pub(super) fn decode(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (kind, rest) = payload.split_first_chunk::<{ Self::LEN }>()?;
        let kind = match kind {
            [0, 0, 0, 0] => Answer::Response,
            [1, 0, 0, 0] => Answer::Cancelled,
            [2, 0, 0, 0] => Answer::Gone,
            [3, 0, 0, 0] => Answer::Apart,
            _ => return None,
        };
        Some((kind, rest))
    }
}

const LIMITS_LEN: usize = 24;

fn encode_limits(limits: PeerLimits) -> [u8; LIMITS_LEN] {
    let mut bytes = [0; LIMITS_LEN];
    bytes[0..8].copy_from_slice(&u64::from(limits.max_in_flight).to_le_bytes());
    bytes[8..16].copy_from_slice(&limits.max_message.to_le_bytes());
    bytes[16..24].copy_from_slice(&limits.max_bytes.to_le_bytes());
    bytes
}

fn decode_limits(bytes: &[u8]) -> Option<PeerLimits> {
    Some(PeerLimits {
        max_in_flight: read_u64(bytes, 0)?.min(u32::MAX.into()) as u32,
        max_message: read_u64(bytes, 8)?,
        max_bytes: read_u64(bytes, 16)?,
    })
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: PeerLimits = PeerLimits { max_in_flight: 7, max_message: 1 << 40, max_bytes: 9 };

    #[test]
    fn a_hello_is_a_question_for_the_identity_with_more_behind_it() {
        let hello = Hello { purpose: Purpose::Ping, link: 0x0102_0304_0506_0708, limits: LIMITS };
        let bytes = hello.encode();
        assert_eq!(bytes[..24], *b"\xff\xff\0\0\0\0\0\0mochirs\x01\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[24..32], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[32..], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Hello::decode(&bytes), Some(hello));
        assert_eq!(Hello::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Hello::decode(&[0xff, 0xff, 0, 0, 0, 0, 0, 0]), None, "what Margo sends");
    }

    #[test]
    fn a_welcome_reads_as_no_identity_to_others() {
        for welcome in [Welcome::Up(LIMITS), Welcome::Refused] {
            let bytes = welcome.encode();
            assert_eq!(bytes[..12], [0; 12]);
            assert_eq!(Welcome::decode(&bytes), Some(welcome));
        }
        assert_eq!(Welcome::decode(&[0; 12]), None, "what Margo answers");
    }

    #[test]
    fn heads_have_their_bytes() {
        let kind = Kind::Request { rpc: RpcId::from_raw(0x1c88_57ad_0000_002a), timeout_ms: 1500, one_way: true };
        let head = Head { link: 3, call: 0x1_0000_0002, kind };
        let bytes = head.encode();
        assert_eq!(bytes[..16], [0, 1, 0, 0, 0xdc, 5, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..], [2, 0, 0, 0, 1, 0, 0, 0, 0x2a, 0, 0, 0, 0xad, 0x57, 0x88, 0x1c]);
        assert_eq!(Head::decode(&bytes), Some(head));
        let grants = [Kind::Grant(Direction::Pull), Kind::Grant(Direction::Push), Kind::Release];
        for kind in [Kind::Cancel, Kind::GoAway, Kind::Bye, Kind::Response].into_iter().chain(grants) {
            let head = Head { link: u64::MAX, call: 5, kind };
            assert_eq!(Head::decode(&head.encode()), Some(head));
        }
        assert_eq!(Head { link: 0, call: 0, kind: Kind::Grant(Direction::Push) }.encode()[..2], [5, 1]);
        let mut unknown = bytes;
        unknown[0] = 7;
        assert_eq!(Head::decode(&unknown), None);
    }

    #[test]
    fn wishes_have_their_bytes() {
        let key = RegionKey { instance: 1, id: 2, secret: 3 };
        let wish = Wish { key, whole: (4, 5), piece: (6, 7) };
        let bytes = wish.encode();
        assert_eq!(bytes[..32], key.to_bytes());
        assert_eq!([bytes[32], bytes[40], bytes[48], bytes[56]], [4, 5, 6, 7]);
        assert_eq!(Wish::decode(&bytes), Some(wish));
        assert_eq!(Wish::decode(&bytes[..63]), None);
    }

    #[test]
    fn answers_are_told_apart() {
        for answer in [Answer::Response, Answer::Cancelled, Answer::Gone, Answer::Apart] {
            let mut bytes = answer.encode().to_vec();
            bytes.push(9);
            assert_eq!(Answer::decode(&bytes), Some((answer, &[9][..])));
        }
        assert_eq!(Answer::decode(&[0, 0, 0]), None);
        assert_eq!(Answer::decode(&[0, 1, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Hello::decode(&bytes);
            let _ = Welcome::decode(&bytes);
            let _ = Head::decode(&bytes);
            let _ = Answer::decode(&bytes);
            let _ = Wish::decode(&bytes);
        }
    }
}

//! The handshake: each side states its version and limits before anything else.

use super::FRAME_MAX;
use super::frame::{Header, RequestHead, WireError};

/// The version that this implementation speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// Encoded size of a [`Hello`] in bytes.
pub const HELLO_LEN: usize = 64;
/// Size of [`Hello::extra`] in bytes.
pub const EXTRA_LEN: usize = 16;

const MAGIC: [u8; 8] = *b"mochi-rs";
/// A peer must accept frames of at least this size: small messages are batched without looking at its limit.
const FRAME_LIMIT_MIN: u32 = 32 * 1024;

/// The first 64 bytes each way.
///
/// ```text
///  0  8 bytes  "mochi-rs"
///  8  u16  newest version spoken      10  u16  oldest version accepted
/// 12  u32  flags, zero
/// 16  u32  max_frame                  20  u32  max_in_flight
/// 24  u64  max_message                32  u64  max_bytes
/// 40  u64  instance                   48  16 bytes, for the transport
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Largest frame body that the sender of this hello accepts, in bytes.
    pub max_frame: u32,
    /// Requests that it lets be in flight on this connection; 0 if it serves none.
    pub max_in_flight: u32,
    /// Largest request or response payload that it accepts, in bytes.
    pub max_message: u64,
    /// Payload bytes of requests that it lets be in flight on this connection.
    pub max_bytes: u64,
    /// Random number of the sending engine.
    pub instance: u64,
    /// What the transport adds. Who does not know it ignores it; zero where there is nothing to add.
    pub extra: [u8; EXTRA_LEN],
}

impl Hello {
    /// The encoded hello.
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.max_frame.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.max_in_flight.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.max_message.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.max_bytes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.instance.to_le_bytes());
        bytes[48..64].copy_from_slice(&self.extra);
        bytes
    }

    /// Decodes and checks a hello. `max_frame` is capped at [`FRAME_MAX`], which is all that we would send.
    ///
    /// # Errors
    /// [`WireError::Magic`], [`WireError::Version`], [`WireError::Limit`].
    pub fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Self, WireError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[0..8] != MAGIC {
            let mut first = [0; 8];
            first.copy_from_slice(&bytes[0..8]);
            return Err(WireError::Magic(first));
        }
        let (newest, oldest) = (u16_at(8), u16_at(10));
        if newest < PROTOCOL_VERSION || oldest > PROTOCOL_VERSION {
            return Err(WireError::Version { oldest, newest, ours: PROTOCOL_VERSION });
        }
        if u32_at(12) != 0 {
            return Err(WireError::Limit("unknown flags"));
        }
        let mut extra = [0; EXTRA_LEN];
        extra.copy_from_slice(&bytes[48..64]);
        let hello = Hello {
            max_frame: u32_at(16).min(FRAME_MAX),
            max_in_flight: u32_at(20),
            max_message: u64_at(24),
            max_bytes: u64_at(32),
            instance: u64_at(40),
            extra,
        };
        if hello.max_frame < FRAME_LIMIT_MIN {
            return Err(WireError::Limit("max_frame"));
        }
        if hello.max_message < (Header::LEN + RequestHead::LEN) as u64 {
            return Err(WireError::Limit("max_message"));
        }
        Ok(hello)
    }

    /// Whether the bytes received so far can still become a hello.
    pub fn may_begin_with(bytes: &[u8]) -> bool {
        let n = bytes.len().min(MAGIC.len());
        bytes[..n] == MAGIC[..n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        max_frame: 0x40000,
        max_in_flight: 1024,
        max_message: 1 << 26,
        max_bytes: 1 << 27,
        instance: 0x0102_0304_0506_0708,
        extra: [0; EXTRA_LEN],
    };

    #[test]
    fn hello_bytes_are_golden() {
        let mut golden = [0; 64];
        golden[0..8].copy_from_slice(b"mochi-rs");
        golden[8..12].copy_from_slice(&[1, 0, 1, 0]);
        golden[16..24].copy_from_slice(&[0, 0, 4, 0, 0, 4, 0, 0]);
        golden[24..40].copy_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
        golden[40..48].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(HELLO.encode(), golden);
        assert_eq!(Hello::decode(&golden), Ok(HELLO));
        let hello = Hello { extra: *b"sixteen bytes...", ..HELLO };
        golden[48..64].copy_from_slice(b"sixteen bytes...");
        assert_eq!(hello.encode(), golden);
        assert_eq!(Hello::decode(&golden), Ok(hello));
    }

    #[test]
    fn another_protocol_is_refused() {
        let mut bytes = HELLO.encode();
        bytes[0..4].copy_from_slice(b"GET ");
        assert!(matches!(Hello::decode(&bytes), Err(WireError::Magic(_))));
        assert!(!Hello::may_begin_with(b"GET / HTTP"));
        assert!(Hello::may_begin_with(b"moc"));
    }

    #[test]
    fn a_later_peer_that_accepts_our_version_is_welcome_and_another_is_not() {
        let mut bytes = HELLO.encode();
        bytes[8] = 9;
        assert_eq!(Hello::decode(&bytes), Ok(HELLO));
        bytes[10] = 2;
        assert_eq!(Hello::decode(&bytes), Err(WireError::Version { oldest: 2, newest: 9, ours: 1 }));
        bytes[8..12].copy_from_slice(&[0, 0, 0, 0]);
        assert!(matches!(Hello::decode(&bytes), Err(WireError::Version { .. })));
    }

    #[test]
    fn unusable_limits_are_refused() {
        let hello = Hello { max_frame: FRAME_LIMIT_MIN - 1, ..HELLO };
        assert_eq!(Hello::decode(&hello.encode()), Err(WireError::Limit("max_frame")));
        let hello = Hello { max_message: 3, ..HELLO };
        assert_eq!(Hello::decode(&hello.encode()), Err(WireError::Limit("max_message")));
    }
}

//! What a region is known by elsewhere.

use super::table::{Direction, RegionKey};
use super::transfer::{RemoteRange, range_of};
use crate::address::{ADDRESS_MAX, Address};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;
use thiserror::Error;

/// How peers may use a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// They may pull from it.
    ReadOnly,
    /// They may push into it.
    WriteOnly,
    /// They may pull and push.
    ReadWrite,
    /// They may do nothing: it is only the local end of transfers.
    Private,
}

impl Permission {
    /// Whether a peer may do this.
    pub fn allows(self, direction: Direction) -> bool {
        match direction {
            Direction::Pull => matches!(self, Permission::ReadOnly | Permission::ReadWrite),
            Direction::Push => matches!(self, Permission::WriteOnly | Permission::ReadWrite),
        }
    }

    /// The bits of the encoded form: Mercury's flags.
    fn bits(self) -> u32 {
        match self {
            Permission::ReadOnly => 1,
            Permission::WriteOnly => 2,
            Permission::ReadWrite => 3,
            Permission::Private => 0,
        }
    }

    fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            1 => Permission::ReadOnly,
            2 => Permission::WriteOnly,
            3 => Permission::ReadWrite,
            _ => Permission::Private,
        }
    }
}

/// First bytes of a descriptor of the built-in transports. Read as Mercury's length they would be more than memory can
/// hold, so that the two kinds cannot be mistaken for each other.
const MAGIC: [u8; 8] = *b"mochi\0\x01\xff";
/// Encoded size without the address, in bytes.
const FIXED: usize = 24 + RegionKey::LEN;
/// Length of the start of a descriptor of Mercury's that is looked at: length, segment count, flags.
const FOREIGN_HEAD: usize = 16;
/// Longest encoded descriptor accepted, in bytes. Mercury's may carry small data themselves.
pub const DESCRIPTOR_MAX: usize = 64 * 1024;

/// Names a region of some engine, and is the right to use it: whoever has the descriptor may do with the region what its
/// permission says, until the owner takes the region back. Send it only to whom that is meant for.
///
/// Serialisable, to travel in arguments and results of RPCs. It is encoded as one byte string (a length of 8 bytes, then
/// the bytes), which is what Mercury's bulk handles look like there too:
///
/// ```text
///  0  8 bytes  "mochi" 0 1 255
///  8  u64  length of the region     16  u32  bit 0 peers may pull, bit 1 peers may push
/// 20  u32  zero
/// 24  u64  instance of the owner    32  u64  region    40  16 bytes  secret
/// 56  address of the owner, empty if it does not listen
/// ```
///
/// Length and permission in it are for the user's convenience; the owner goes by its own.
#[derive(Clone, PartialEq, Eq)]
pub struct BulkDescriptor {
    bytes: Arc<[u8]>,
    length: u64,
    permission: Permission,
    /// `None` for one of Mercury's.
    key: Option<RegionKey>,
    owner: Option<Address>,
}

/// Why bytes are no descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed bulk descriptor: {0}")]
pub struct DescriptorError(&'static str);

impl BulkDescriptor {
    /// The descriptor of a region of a built-in transport.
    pub(crate) fn native(key: RegionKey, length: u64, permission: Permission, owner: Option<Address>) -> Self {
        let mut bytes = Vec::with_capacity(FIXED + owner.as_ref().map_or(0, |owner| owner.as_str().len()));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&permission.bits().to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&key.to_bytes());
        bytes.extend_from_slice(owner.as_ref().map_or("", |owner| owner.as_str()).as_bytes());
        Self { bytes: bytes.into(), length, permission, key: Some(key), owner }
    }

    /// Decodes a descriptor.
    ///
    /// # Errors
    /// The bytes are none: too short, too long, or with bits set that have no meaning.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DescriptorError> {
        if bytes.len() > DESCRIPTOR_MAX {
            return Err(DescriptorError("it is longer than 64 KiB"));
        }
        let Some((head, _)) = bytes.split_first_chunk::<FOREIGN_HEAD>() else {
            return Err(DescriptorError("it is shorter than any descriptor"));
        };
        let [l0, l1, l2, l3, l4, l5, l6, l7, _, _, _, _, flags @ ..] = *head;
        if [l0, l1, l2, l3, l4, l5, l6, l7] != MAGIC {
            let length = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
            if length > i64::MAX as u64 {
                return Err(DescriptorError("its length is more than memory can hold"));
            }
            let permission = Permission::from_bits(u32::from_le_bytes(flags));
            return Ok(Self { bytes: bytes.into(), length, permission, key: None, owner: None });
        }
        let Some((fixed, address)) = bytes.split_first_chunk::<FIXED>() else {
            return Err(DescriptorError("it is cut short"));
        };
        let (front, key) = fixed.split_at(24);
        let number =
            |at: usize| front[at..at + 4].iter().rev().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        let length = u64::from(number(12)) << 32 | u64::from(number(8));
        let bits = number(16);
        if bits > 3 || number(20) != 0 {
            return Err(DescriptorError("reserved bits are set"));
        }
        let Some(key) = key.first_chunk::<{ RegionKey::LEN }>() else {
            return Err(DescriptorError("it is cut short"));
        };
        if address.len() > ADDRESS_MAX {
            return Err(DescriptorError("its address is longer than 1024 bytes"));
        }
        let owner = match str::from_utf8(address) {
            Ok("") => None,
            Ok(text) => Some(text.parse().map_err(|_| DescriptorError("its address is malformed"))?),
            Err(_) => return Err(DescriptorError("its address is malformed")),
        };
        let (permission, key) = (Permission::from_bits(bits), Some(RegionKey::from_bytes(key)));
        Ok(Self { bytes: bytes.into(), length, permission, key, owner })
    }

    /// The encoded descriptor.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of the region in bytes, as the descriptor says.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether the region is empty, as the descriptor says.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What peers may do, as the descriptor says.
    pub fn permission(&self) -> Permission {
        self.permission
    }

    /// Where the owner is reached, if it listens. `None` also for descriptors of Mercury's.
    pub fn owner(&self) -> Option<&Address> {
        self.owner.as_ref()
    }

    /// The key, for the built-in transports. `None` for a descriptor of Mercury's, whose own bytes
    /// [`BulkDescriptor::as_bytes`] gives.
    pub fn key(&self) -> Option<&RegionKey> {
        self.key.as_ref()
    }

    /// A part of the region, for a transfer. That it lies within is checked when the transfer starts.
    pub fn slice(&self, range: impl RangeBounds<u64>) -> RemoteRange {
        let (offset, length) = range_of(range, self.length);
        RemoteRange { descriptor: self.clone(), offset, length }
    }
}

impl fmt::Debug for BulkDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkDescriptor")
            .field("length", &self.length)
            .field("permission", &self.permission)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl Serialize for BulkDescriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for BulkDescriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Descriptor;

        impl<'de> Visitor<'de> for Descriptor {
            type Value = BulkDescriptor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a bulk descriptor as a byte string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                BulkDescriptor::from_bytes(bytes).map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = sequence.next_element::<u8>()? {
                    if bytes.len() >= DESCRIPTOR_MAX {
                        return Err(A::Error::custom(DescriptorError("it is longer than 64 KiB")));
                    }
                    bytes.push(byte);
                }
                self.visit_bytes(&bytes)
            }
        }

        deserializer.deserialize_bytes(Descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn descriptor() -> BulkDescriptor {
        let key = RegionKey { instance: 1, id: 2, secret: 3 };
        BulkDescriptor::native(key, 0x1234, Permission::WriteOnly, Some("native+tcp://127.0.0.1:7".parse().unwrap()))
    }

    #[test]
    fn descriptor_bytes_are_golden() {
        let mut golden = b"mochi\0\x01\xff\x34\x12\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&3u128.to_le_bytes());
        golden.extend_from_slice(b"native+tcp://127.0.0.1:7");
        assert_eq!(descriptor().as_bytes(), golden);
        assert_eq!(BulkDescriptor::from_bytes(&golden), Ok(descriptor()));
        // In arguments it is a byte string, as Mercury's bulk handles are.
        let encoded = codec::to_vec(&descriptor()).unwrap();
        assert_eq!(encoded[..8], (golden.len() as u64).to_le_bytes());
        assert_eq!(encoded[8..], golden);
        assert_eq!(codec::from_slice::<BulkDescriptor>(&encoded).unwrap(), descriptor());
        assert_eq!(
            serde_json::from_str::<BulkDescriptor>(&serde_json::to_string(&descriptor()).unwrap()).unwrap(),
            descriptor()
        );
    }

    #[test]
    fn a_descriptor_of_mercurys_keeps_its_bytes() {
        let mut bytes = vec![0; 96];
        bytes[0] = 16;
        bytes[8] = 1;
        bytes[12] = 5;
        let descriptor = BulkDescriptor::from_bytes(&bytes).unwrap();
        assert_eq!((descriptor.len(), descriptor.permission()), (16, Permission::ReadOnly));
        assert_eq!((descriptor.key(), descriptor.owner(), descriptor.as_bytes()), (None, None, &bytes[..]));
    }

    #[test]
    fn damaged_descriptors_are_refused() {
        let good = descriptor().as_bytes().to_vec();
        for length in 0..FIXED {
            assert!(BulkDescriptor::from_bytes(&good[..length]).is_err(), "{length} bytes");
        }
        for (at, value) in [(16, 4), (17, 1), (20, 1), (56, b' '), (60, 0xff), (7, 0xfe)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(BulkDescriptor::from_bytes(&bad).is_err(), "byte {at}");
        }
        assert!(BulkDescriptor::from_bytes(&vec![0; DESCRIPTOR_MAX + 1]).is_err());
        let mut long = good[..FIXED].to_vec();
        long.resize(FIXED + ADDRESS_MAX + 1, b'a');
        assert!(BulkDescriptor::from_bytes(&long).is_err());
    }

    #[test]
    fn what_is_printed_does_not_open_the_region() {
        let key = RegionKey { instance: 1, id: 2, secret: u128::MAX };
        let printed = format!("{:?}", BulkDescriptor::native(key, 1, Permission::ReadOnly, None));
        assert!(!printed.contains("255") && !printed.contains("ffff") && !printed.contains(&u128::MAX.to_string()));
    }
}

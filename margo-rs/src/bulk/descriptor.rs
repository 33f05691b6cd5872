//! What a region is known by elsewhere.

use super::foreign::Foreign;
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

    pub(crate) fn from_bits(bits: u32) -> Self {
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
///
/// Over Mercury a serialised `hg_bulk_t` comes first, and this behind it, where programs in C and C++ look at nothing: they
/// read it as their own `hg_bulk_t` (Thallium: `bulk`) in the same place of the arguments. Theirs are read as this type;
/// they have nothing behind them, and so no owner and no key.
#[derive(Clone, PartialEq, Eq)]
pub struct BulkDescriptor {
    bytes: Arc<[u8]>,
    /// Bytes in front that are Mercury's.
    foreign: usize,
    length: u64,
    permission: Permission,
    /// `None` for one of a program in C.
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
        Self { bytes: bytes.into(), foreign: 0, length, permission, key: Some(key), owner }
    }

    /// The same with a handle of Mercury's in front.
    ///
    /// # Errors
    /// It is too long: the memory has too many segments.
    pub(crate) fn behind(self, foreign: &[u8]) -> Result<Self, DescriptorError> {
        let bytes = [foreign, &self.bytes].concat();
        if bytes.len() > DESCRIPTOR_MAX {
            return Err(DescriptorError("with so many segments it is longer than 64 KiB"));
        }
        Ok(Self { bytes: bytes.into(), foreign: foreign.len(), ..self })
    }

    /// Decodes a descriptor.
    ///
    /// # Errors
    /// The bytes are none: too short, too long, or with bits set that have no meaning.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DescriptorError> {
        if bytes.len() > DESCRIPTOR_MAX {
            return Err(DescriptorError("it is longer than 64 KiB"));
        }
        if bytes.starts_with(&MAGIC) {
            return Self::from_native(bytes, bytes.into());
        }
        let foreign = Foreign::read(bytes).map_err(DescriptorError)?;
        let end = foreign.end();
        if end == bytes.len() {
            let (length, permission) = (foreign.len(), foreign.permission());
            return Ok(Self { bytes: bytes.into(), foreign: end, length, permission, key: None, owner: None });
        }
        if !bytes[end..].starts_with(&MAGIC) {
            return Err(DescriptorError("there is something behind it"));
        }
        Ok(Self { foreign: end, ..Self::from_native(&bytes[end..], bytes.into())? })
    }

    /// Decodes one of the built-in transports. `all` is what the descriptor consists of.
    fn from_native(bytes: &[u8], all: Arc<[u8]>) -> Result<Self, DescriptorError> {
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
        Ok(Self { bytes: all, foreign: 0, length, permission, key, owner })
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

    /// The serialised `hg_bulk_t` in front, over Mercury.
    pub fn mercury_bytes(&self) -> Option<&[u8]> {
        (self.foreign > 0).then(|| &self.bytes[..self.foreign])
    }

    /// Where the owner is reached, if it listens. `None` also for descriptors of programs in C.
    pub fn owner(&self) -> Option<&Address> {
        self.owner.as_ref()
    }

    /// What the owner knows the region by. `None` for a descriptor of a program in C.
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
    use super::super::foreign::samples;
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
        let bytes = samples::handle(&[(0x1000, 16)], 5);
        let descriptor = BulkDescriptor::from_bytes(&bytes).unwrap();
        assert_eq!((descriptor.len(), descriptor.permission()), (16, Permission::ReadOnly));
        assert_eq!((descriptor.key(), descriptor.owner(), descriptor.as_bytes()), (None, None, &bytes[..]));
        assert_eq!(descriptor.mercury_bytes(), Some(&bytes[..]));
    }

    #[test]
    fn ours_travels_behind_mercurys() {
        let foreign = samples::handle(&[(0x1000, 0x1234)], 2);
        let both = descriptor().behind(&foreign).unwrap();
        assert_eq!(*both.as_bytes(), [&foreign, descriptor().as_bytes()].concat());
        let decoded = BulkDescriptor::from_bytes(both.as_bytes()).unwrap();
        assert_eq!(decoded, both);
        assert_eq!((decoded.key(), decoded.owner()), (descriptor().key(), descriptor().owner()));
        assert_eq!(decoded.mercury_bytes(), Some(&foreign[..]));
        for (at, value) in [(0, b'M'), (16, 4), (56, b' ')] {
            let mut bad = both.as_bytes().to_vec();
            bad[foreign.len() + at] = value;
            assert!(BulkDescriptor::from_bytes(&bad).is_err(), "byte {at}");
        }
        assert!(descriptor().behind(&vec![0; DESCRIPTOR_MAX]).is_err());
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

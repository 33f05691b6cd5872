//! Mercury's serialised bulk handles, read without Mercury: what of a peer's is accepted.
//!
//! Mercury believes such bytes. It frees addresses that stand in them, reads behind their end where a length in them says
//! so, and takes memory for as many segments as they name. So it gets none that was not read here first, to the last
//! byte, and of those only the parts that a transfer needs ([`Foreign::trimmed`]).
//!
//! Numbers are little-endian:
//!
//! ```text
//!  0  u64 length    8  u32 segments    12  u32 flags    16  per segment: u64 address, u64 length
//! then memory handles, in a form of the plugin's own: one for all segments with its length as u64 in front, or the
//! lengths of all and then one for each segment that has an address; the same again for shared memory, if flagged
//! then an address, if flagged: its length as u64, its bytes, u8 context
//! then the bytes of all segments themselves, if flagged
//! ```

use super::Permission;
use std::ops::Range;

/// Length, count and flags, in bytes.
const HEAD: usize = 16;
/// An address and a length, in bytes.
const SEGMENT: usize = 16;

/// Bits of the flags. The lowest two say what peers may do.
mod flag {
    pub(super) const MAY: u32 = 3;
    /// The data itself comes along.
    pub(super) const EAGER: u32 = 1 << 2;
    /// There are handles for shared memory, too.
    pub(super) const SHARED_MEMORY: u32 = 1 << 3;
    /// There is an address.
    pub(super) const BOUND: u32 = 1 << 5;
    /// One memory handle stands for all segments.
    pub(super) const ONE_HANDLE: u32 = 1 << 6;
    /// It was passed on by somebody who is not the owner.
    pub(super) const PASSED_ON: u32 = 1 << 7;
    /// The address lies behind a firewall.
    pub(super) const FIREWALL: u32 = 1 << 8;
    /// All that a peer may send. What is missing is bit 4: the receiver would free the segments' addresses.
    pub(super) const KNOWN: u32 = MAY | EAGER | SHARED_MEMORY | BOUND | ONE_HANDLE | PASSED_ON | FIREWALL;
    /// Those that Mercury is shown.
    pub(super) const SHOWN: u32 = MAY | EAGER | ONE_HANDLE;
}

/// The plugins whose memory handles are known from inside.
#[cfg_attr(not(mercury), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plugin {
    /// `ofi+…`
    Ofi,
    /// `ucx+…`
    Ucx,
    /// `na+sm`
    SharedMemory,
    /// Any other: its handles are not looked into.
    Other,
}

/// A handle that was read to its end, and is consistent in itself.
#[cfg_attr(not(mercury), allow(dead_code))]
#[derive(Debug)]
pub(crate) struct Foreign<'a> {
    bytes: &'a [u8],
    length: u64,
    flags: u32,
    /// Addresses and lengths.
    segments: Vec<(u64, u64)>,
    /// The plugin's memory handles, and which segments each is for.
    handles: Vec<(Range<usize>, &'a [u8])>,
    /// Where those handles end.
    handles_end: usize,
    /// The data that came along.
    data: &'a [u8],
    end: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        let (number, _) = self.take(8)?.split_first_chunk()?;
        Some(u64::from_le_bytes(*number))
    }

    fn u32(&mut self) -> Option<u32> {
        let (number, _) = self.take(4)?.split_first_chunk()?;
        Some(u32::from_le_bytes(*number))
    }

    /// The plugin's handles, each with the segments it is for.
    fn handles(&mut self, segments: &[(u64, u64)], one: bool) -> Option<Vec<(Range<usize>, &'a [u8])>> {
        if one || segments.len() == 1 {
            if !one && segments[0].0 == 0 {
                return Some(Vec::new());
            }
            let size = self.u64()?;
            return Some(vec![(0..segments.len(), self.take(size)?)]);
        }
        let sizes: Vec<u64> = segments.iter().map(|_| self.u64()).collect::<Option<_>>()?;
        let mut handles = Vec::with_capacity(segments.len());
        for (at, (size, (address, _))) in sizes.iter().zip(segments).enumerate() {
            if *address != 0 {
                handles.push((at..at + 1, self.take(*size)?));
            } else if *size != 0 {
                return None;
            }
        }
        Some(handles)
    }
}

#[cfg_attr(not(mercury), allow(dead_code))]
impl<'a> Foreign<'a> {
    /// Reads the handle that `bytes` begin with. More may follow it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is cut short";
        let mut reader = Reader { bytes, at: 0 };
        let length = reader.u64().ok_or(SHORT)?;
        let count = reader.u32().ok_or(SHORT)? as usize;
        let flags = reader.u32().ok_or(SHORT)?;
        if length > i64::MAX as u64 {
            return Err("its length is more than memory can hold");
        }
        if flags & !flag::KNOWN != 0 {
            return Err("reserved bits are set");
        }
        if count == 0 {
            return Err("it has no segments");
        }
        if count > (bytes.len() - HEAD) / SEGMENT {
            return Err("it has fewer segments than it says");
        }
        let mut segments = Vec::with_capacity(count);
        let mut sum = 0u64;
        for _ in 0..count {
            let (address, length) = (reader.u64().ok_or(SHORT)?, reader.u64().ok_or(SHORT)?);
            if (address == 0 && length > 0) || address.checked_add(length).is_none() {
                return Err("a segment of it lies nowhere");
            }
            // With data that comes along, the receiver would free the address of a segment that has none.
            if address != 0 && length == 0 && flags & flag::EAGER != 0 {
                return Err("an empty segment of it lies somewhere");
            }
            sum = sum.checked_add(length).ok_or("its segments are longer than memory can be")?;
            segments.push((address, length));
        }
        if sum != length {
            return Err("its segments are not as long as it is");
        }
        let one = flags & flag::ONE_HANDLE != 0;
        let handles = reader.handles(&segments, one).ok_or("its memory handles are cut short")?;
        let handles_end = reader.at;
        if flags & flag::SHARED_MEMORY != 0 {
            reader.handles(&segments, one).ok_or("its memory handles are cut short")?;
        }
        if flags & flag::BOUND != 0 {
            let size = reader.u64().ok_or(SHORT)?;
            reader.take(size).ok_or("its address is cut short")?;
            reader.take(1).ok_or("its address is cut short")?;
        }
        let data =
            if flags & flag::EAGER == 0 { &[][..] } else { reader.take(length).ok_or("its data is cut short")? };
        let end = reader.at;
        Ok(Self { bytes, length, flags, segments, handles, handles_end, data, end })
    }

    /// Where it ends.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Bytes of the region.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// What peers may do.
    pub(crate) fn permission(&self) -> Permission {
        Permission::from_bits(self.flags)
    }

    /// Lengths of the segments in bytes; some may be 0.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = u64> + '_ {
        self.segments.iter().map(|(_, length)| *length)
    }

    /// Whether Mercury moves any range of it in one operation of the plugin's.
    pub(crate) fn is_one_piece(&self) -> bool {
        self.segments.len() == 1 || self.flags & flag::ONE_HANDLE != 0
    }

    /// Whether the plugin's memory handles say the same as the segments. Plugins look at their own lengths only where they
    /// parse, not where they transfer.
    pub(crate) fn is_consistent(&self, plugin: Plugin) -> bool {
        self.handles.iter().all(|(segments, handle)| {
            let segments = &self.segments[segments.clone()];
            let number = |at: usize| handle.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            // Where the handle has the length and the number of its parts, and where they begin.
            let (length_at, count_at, parts_at) = match plugin {
                Plugin::Ofi => (8, 16, 32),
                Plugin::SharedMemory => (8, 0, 24),
                Plugin::Ucx => {
                    // Address, length, size of the key that follows, flags.
                    let (key, [(address, length)]) = (number(16), segments) else { return false };
                    return number(0) == Some(*address)
                        && number(8) == Some(*length)
                        && key.and_then(|key| key.checked_add(25)) == Some(handle.len() as u64);
                }
                Plugin::Other => return true,
            };
            let length: u64 = segments.iter().map(|(_, length)| length).sum();
            number(length_at) == Some(length)
                && number(count_at) == Some(segments.len() as u64)
                && handle.len() == parts_at + segments.len() * SEGMENT
                && segments.iter().enumerate().all(|(n, (address, length))| {
                    let at = parts_at + n * SEGMENT;
                    number(at) == Some(*address) && number(at + 8) == Some(*length)
                })
        })
    }

    /// The same handle without its address and without handles for shared memory, for Mercury to read.
    pub(crate) fn trimmed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.handles_end + self.data.len());
        bytes.extend_from_slice(&self.bytes[..12]);
        bytes.extend_from_slice(&(self.flags & flag::SHOWN).to_le_bytes());
        bytes.extend_from_slice(&self.bytes[HEAD..self.handles_end]);
        bytes.extend_from_slice(self.data);
        bytes
    }
}

/// Handles as Mercury would serialise them over `ofi+…`.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    fn push(bytes: &mut Vec<u8>, number: u64) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }

    /// A handle of these segments, with flags besides.
    pub(crate) fn handle(segments: &[(u64, u64)], flags: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, segments.iter().fold(0, |sum, (_, length)| sum.wrapping_add(*length)));
        bytes.extend_from_slice(&(segments.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        for (address, length) in segments {
            push(&mut bytes, *address);
            push(&mut bytes, *length);
        }
        let one = segments.len() == 1 || flags & flag::ONE_HANDLE != 0;
        for _ in 0..if flags & flag::SHARED_MEMORY == 0 { 1 } else { 2 } {
            let parts: Vec<&[(u64, u64)]> = if one { vec![segments] } else { segments.chunks(1).collect() };
            let size = |parts: &[(u64, u64)]| if parts[0].0 == 0 { 0 } else { 32 + 16 * parts.len() as u64 };
            if !(one && segments[0].0 == 0) {
                parts.iter().for_each(|part| push(&mut bytes, size(part)));
            }
            for part in parts.iter().filter(|part| part[0].0 != 0) {
                push(&mut bytes, 7);
                push(&mut bytes, part.iter().map(|(_, length)| length).sum());
                push(&mut bytes, part.len() as u64);
                push(&mut bytes, u64::from(flags & flag::MAY));
                for (address, length) in *part {
                    push(&mut bytes, *address);
                    push(&mut bytes, *length);
                }
            }
        }
        if flags & flag::BOUND != 0 {
            push(&mut bytes, 5);
            bytes.extend_from_slice(b"where\x02");
        }
        if flags & flag::EAGER != 0 {
            let length: u64 = segments.iter().map(|(_, length)| length).sum();
            bytes.extend((0..length).map(|at| at as u8));
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::samples::handle;
    use super::*;
    use proptest::prelude::*;

    const SEGMENTS: [(u64, u64); 3] = [(0x1000, 10), (0, 0), (0x8000, 300)];

    fn refusal(bytes: &[u8]) -> &'static str {
        Foreign::read(bytes).expect_err("refused")
    }

    #[test]
    fn handles_of_every_kind_are_read_to_their_end() {
        for flags in [0, flag::EAGER, flag::SHARED_MEMORY, flag::BOUND, flag::BOUND | flag::FIREWALL, flag::PASSED_ON] {
            for segments in [&SEGMENTS[..1], &SEGMENTS[1..2], &SEGMENTS] {
                let mut bytes = handle(segments, flags | 1);
                let end = bytes.len();
                bytes.extend_from_slice(b"more");
                let read = Foreign::read(&bytes).expect("a handle");
                assert_eq!((read.end(), read.permission()), (end, Permission::ReadOnly));
                assert!(read.lengths().eq(segments.iter().map(|(_, length)| *length)));
                assert!(read.is_consistent(Plugin::Ofi) && read.is_one_piece() == (segments.len() == 1));
                for short in 0..end {
                    assert!(Foreign::read(&bytes[..short]).is_err(), "{short} of {end} bytes");
                }
                let trimmed = read.trimmed();
                let read = Foreign::read(&trimmed).expect("still a handle");
                assert_eq!((read.end(), read.flags & !flag::EAGER), (trimmed.len(), 1));
            }
        }
        let one = handle(&[(1, 2), (3, 4)], flag::ONE_HANDLE | 2);
        let read = Foreign::read(&one).expect("a handle");
        assert!(read.is_one_piece() && read.is_consistent(Plugin::Ofi));
    }

    /// Each would have Mercury read or free what it should not.
    #[test]
    fn what_mercury_would_believe_is_refused() {
        let good = handle(&[(0x1000, 8)], 1);
        let with = |at: usize, number: u64| {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        assert_eq!(refusal(&handle(&[(0x1000, 8)], 1 | 1 << 4)), "reserved bits are set");
        assert_eq!(refusal(&with(0, 9)), "its segments are not as long as it is");
        assert_eq!(refusal(&with(0, u64::MAX)), "its length is more than memory can hold");
        assert_eq!(refusal(&with(8, 1 << 32)), "it has no segments");
        assert_eq!(refusal(&with(8, 1 << 32 | 0xffff_ffff)), "it has fewer segments than it says");
        assert_eq!(refusal(&with(16, 0)), "a segment of it lies nowhere");
        assert_eq!(refusal(&with(16, u64::MAX)), "a segment of it lies nowhere");
        assert_eq!(refusal(&with(32, u64::MAX)), "its memory handles are cut short");
        assert_eq!(refusal(&with(32, 49)), "its memory handles are cut short");
        assert_eq!(refusal(&handle(&[(5, 0), (6, 1)], flag::EAGER)), "an empty segment of it lies somewhere");
        assert_eq!(refusal(&handle(&[(1, 1 << 63), (1, 1 << 63)], 1)), "its segments are longer than memory can be");
        // The plugin's own numbers: length, count, address and length of its only part.
        for (at, number) in [(48, 9), (56, 0), (56, 1 << 60 | 1), (72, 0x2000), (80, 9)] {
            let bytes = with(at, number);
            assert!(!Foreign::read(&bytes).expect("for Mercury a handle").is_consistent(Plugin::Ofi), "{at}");
        }
        // Another plugin's are another's.
        let read = Foreign::read(&good).expect("a handle");
        assert!(!read.is_consistent(Plugin::SharedMemory) && !read.is_consistent(Plugin::Ucx));
        assert!(read.is_consistent(Plugin::Other));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = Foreign::read(&bytes) {
                for plugin in [Plugin::Ofi, Plugin::Ucx, Plugin::SharedMemory, Plugin::Other] {
                    let _ = read.is_consistent(plugin);
                }
                prop_assert!(Foreign::read(&read.trimmed()).is_ok());
            }
        }

        #[test]
        fn one_byte_changed_never_panics(
            at in 0usize..400,
            value in any::<u8>(),
            flags in prop::sample::select(vec![1u32, 5, 9, 33, 67]),
        ) {
            let mut bytes = handle(&[(0x1000, 10), (0, 0), (0x8000, 30)], flags);
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(read) = Foreign::read(&bytes) {
                let _ = read.is_consistent(Plugin::Ofi);
                prop_assert!(read.end() <= bytes.len());
                prop_assert!(Foreign::read(&read.trimmed()).is_ok());
            }
        }
    }
}

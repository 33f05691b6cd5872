//! The regions of an engine, and who may touch them.

use super::store::{Access, Store, Window};
use super::{Permission, Refusal};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a region and proves that its owner gave it away: 128 random bits cannot be guessed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RegionKey {
    /// Random number of the engine that owns the region: another one after a restart.
    pub(crate) instance: u64,
    /// The region in that engine. Never used twice.
    pub(crate) id: u64,
    pub(crate) secret: u128,
}

impl RegionKey {
    /// Encoded size in bytes.
    pub const LEN: usize = 32;

    /// The encoded key, little-endian: instance, id, secret.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&self.instance.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.secret.to_le_bytes());
        bytes
    }

    /// Decodes a key; any bytes are one.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().rev().fold(0u128, |number, byte| number << 8 | u128::from(*byte))
        };
        Self { instance: number(0..8) as u64, id: number(8..16) as u64, secret: number(16..32) }
    }
}

impl fmt::Debug for RegionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows the secret may use the region.
        write!(f, "RegionKey({:x}.{})", self.instance, self.id)
    }
}

/// Which way data goes, seen from whoever asks for the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the remote region to here.
    Pull,
    /// From here to the remote region.
    Push,
}

/// The regions that an engine has.
pub(crate) struct Regions {
    instance: u64,
    next: AtomicU64,
    /// `None` once the engine has let go of them.
    table: RwLock<Option<HashMap<u64, Entry>>>,
}

struct Entry {
    secret: u128,
    permission: Permission,
    store: Arc<Store>,
}

impl Regions {
    pub(crate) fn new(instance: u64) -> Self {
        Self { instance, next: AtomicU64::new(1), table: RwLock::new(Some(HashMap::new())) }
    }

    /// Lists a region. `secret` must be random. `None` once the regions are closed.
    pub(crate) fn insert(&self, secret: u128, permission: Permission, store: Arc<Store>) -> Option<RegionKey> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.table.write().as_mut()?.insert(id, Entry { secret, permission, store });
        Some(RegionKey { instance: self.instance, id, secret })
    }

    /// Forgets a region: from now on its key opens nothing.
    pub(crate) fn remove(&self, id: u64) {
        let removed = self.table.write().as_mut().and_then(|table| table.remove(&id));
        drop(removed);
    }

    /// Checks a peer's wish against what the owner of the memory allows.
    pub(crate) fn grant(
        &self,
        key: &RegionKey,
        direction: Direction,
        offset: u64,
        length: u64,
    ) -> Result<Window, Refusal> {
        if key.instance != self.instance {
            return Err(Refusal::Stale);
        }
        let table = self.table.read();
        let Some(entry) = table.as_ref().ok_or(Refusal::ShuttingDown)?.get(&key.id) else {
            let issued = (1..self.next.load(Ordering::Relaxed)).contains(&key.id);
            return Err(if issued { Refusal::Revoked } else { Refusal::Forged });
        };
        // One comparison of all bits at once: its time tells nothing about how many were right.
        if std::hint::black_box(entry.secret ^ key.secret) != 0 {
            return Err(Refusal::Forged);
        }
        if !entry.permission.allows(direction) {
            return Err(Refusal::WrongDirection);
        }
        let access = match direction {
            Direction::Pull => Access::Read,
            Direction::Push => Access::Write,
        };
        // Only memory that can be written is ever exposed for writing: what is left is the range.
        entry.store.window(access, offset, length).ok_or(Refusal::OutOfBounds)
    }

    /// Ends the use of all regions for good, because the engine ends. Their memory stays with its owners.
    pub(crate) fn close(&self) {
        let entries = self.table.write().take();
        for (_, entry) in entries.into_iter().flatten() {
            entry.store.unregister();
        }
    }

    /// Regions that exist.
    pub(crate) fn count(&self) -> usize {
        self.table.read().as_ref().map_or(0, HashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions() -> (Regions, Arc<Store>) {
        let store = Store::new::<()>(Box::new(vec![7u8; 100]), |_| Ok(None)).unwrap().unwrap();
        (Regions::new(9), Arc::new(store))
    }

    #[test]
    fn key_bytes_are_golden() {
        let key = RegionKey { instance: 0x0102, id: 3, secret: 0x0405 };
        let mut golden = [0; 32];
        (golden[0], golden[1], golden[8], golden[16], golden[17]) = (2, 1, 3, 5, 4);
        assert_eq!(key.to_bytes(), golden);
        assert_eq!(RegionKey::from_bytes(&golden), key);
        assert!(!format!("{:?}", RegionKey { secret: 0xabcdef, ..key }).contains("abcdef"));
    }

    #[test]
    fn each_wrong_key_is_told_apart() {
        let (regions, store) = regions();
        let key = regions.insert(42, Permission::ReadOnly, store).unwrap();
        let ask = |key: RegionKey| regions.grant(&key, Direction::Pull, 0, 100).map(|window| window.len());
        assert_eq!(ask(key), Ok(100));
        assert_eq!(ask(RegionKey { secret: 43, ..key }), Err(Refusal::Forged));
        assert_eq!(ask(RegionKey { secret: 42 | 1 << 127, ..key }), Err(Refusal::Forged));
        assert_eq!(ask(RegionKey { id: key.id + 1, ..key }), Err(Refusal::Forged));
        assert_eq!(ask(RegionKey { id: 0, ..key }), Err(Refusal::Forged));
        assert_eq!(ask(RegionKey { instance: 8, ..key }), Err(Refusal::Stale));
        regions.remove(key.id);
        assert_eq!(ask(key), Err(Refusal::Revoked));
    }

    #[test]
    fn ranges_and_directions_are_checked_by_the_owner() {
        let (regions, store) = regions();
        let read = regions.insert(1, Permission::ReadOnly, store.clone()).unwrap();
        let write = regions.insert(2, Permission::WriteOnly, store.clone()).unwrap();
        let both = regions.insert(3, Permission::ReadWrite, store.clone()).unwrap();
        let none = regions.insert(4, Permission::Private, store).unwrap();
        let ask = |key, direction, offset, length| {
            regions.grant(key, direction, offset, length).map(|window| window.access())
        };
        for (key, pull, push) in
            [(&read, true, false), (&write, false, true), (&both, true, true), (&none, false, false)]
        {
            let wrong = Err(Refusal::WrongDirection);
            assert_eq!(ask(key, Direction::Pull, 0, 1), if pull { Ok(Access::Read) } else { wrong });
            assert_eq!(ask(key, Direction::Push, 0, 1), if push { Ok(Access::Write) } else { wrong });
        }
        for (offset, length) in [(0, 101), (100, 1), (101, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert_eq!(ask(&both, Direction::Pull, offset, length), Err(Refusal::OutOfBounds), "{offset} {length}");
            assert_eq!(ask(&both, Direction::Push, offset, length), Err(Refusal::OutOfBounds), "{offset} {length}");
        }
        assert_eq!(ask(&both, Direction::Pull, 100, 0), Ok(Access::Read));
    }

    #[test]
    fn a_window_of_a_closed_table_is_blind() {
        let (regions, store) = regions();
        let key = regions.insert(1, Permission::ReadOnly, store).unwrap();
        let window = regions.grant(&key, Direction::Pull, 10, 5).unwrap();
        assert_eq!(window.read(0..5, |slices| slices[0].to_vec()), Ok(vec![7; 5]));
        regions.close();
        assert!(window.read(0..5, |_| ()).is_err());
        assert_eq!(regions.grant(&key, Direction::Pull, 0, 1).err(), Some(Refusal::ShuttingDown));
    }

    #[test]
    fn closed_regions_take_and_give_nothing_more() {
        let (regions, store) = regions();
        let key = regions.insert(1, Permission::ReadOnly, store.clone()).unwrap();
        regions.close();
        assert_eq!(regions.count(), 0);
        assert!(matches!(regions.grant(&key, Direction::Pull, 0, 1), Err(Refusal::ShuttingDown)));
        assert!(regions.insert(2, Permission::ReadOnly, store).is_none());
        regions.remove(key.id);
    }
}

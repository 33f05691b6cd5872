//! The RPCs that an engine serves.

use super::handler::Registration;
use crate::error::RegisterError;
use crate::rpc::{ProviderId, RpcId};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Registrations by id. Two names with one id are told apart when they are registered, since on the wire they are not.
#[derive(Default)]
pub(crate) struct Registry {
    by_id: RwLock<HashMap<RpcId, Arc<Registration>, BuildHasherDefault<IdHasher>>>,
}

/// Ids are hashes already, and only this process inserts them, so no peer can make them collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The table takes bits from both ends; a provider id alone differs in the low ones.
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

impl Registry {
    pub(crate) fn insert(&self, registration: Registration) -> Result<RpcId, RegisterError> {
        let id = registration.id;
        match self.by_id.write().entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(Arc::new(registration));
                Ok(id)
            }
            Entry::Occupied(entry) => {
                let (name, provider) = (registration.name, id.provider_id());
                let other = entry.get().name.clone();
                Err(if name == other {
                    RegisterError::Exists { name, provider }
                } else {
                    RegisterError::Collision { name, other, provider }
                })
            }
        }
    }

    pub(crate) fn find(&self, id: RpcId) -> Option<Arc<Registration>> {
        self.by_id.read().get(&id).cloned()
    }

    pub(crate) fn remove(&self, name: &str, provider: ProviderId) -> bool {
        let removed = match self.by_id.write().entry(RpcId::new(name, provider)) {
            Entry::Occupied(entry) if entry.get().name == name => Some(entry.remove()),
            _ => None,
        };
        // Dropped outside of the lock: a handler may own anything.
        removed.is_some()
    }

    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.by_id.write());
        drop(all);
    }
}

//! What Mercury knows of a region's memory.
//!
//! Memory is registered for what peers may do with it, and that alone: the local end of a transfer that goes the other way
//! gets a handle of its own, when there is one, because with every registration peers can reach the memory who guess its
//! key.

use super::bulk::{Bulk, Uses};
use super::fabric::{Code, Fabric};
use crate::bulk::{Direction, Permission, Segment};
use crate::transport::Registration;
use mochi_sys::mercury::HG_NOENTRY;
use parking_lot::Mutex;
use std::any::Any;
use std::sync::{Arc, Weak};

/// A region's registration.
pub(super) struct Registered {
    memory: Arc<Registrations>,
    serialized: Option<Box<[u8]>>,
}

/// The handles of one region's memory.
pub(super) struct Registrations {
    fabric: Weak<Fabric>,
    segments: Box<[Segment]>,
    handles: Mutex<Handles>,
}

// SAFETY: the segments are only handed to Mercury, while the region's memory is there: see `Registrations::handle`.
unsafe impl Send for Registrations {}
// SAFETY: as above.
unsafe impl Sync for Registrations {}

#[derive(Default)]
struct Handles {
    closed: bool,
    /// For peers.
    exposed: Option<(Arc<Bulk>, Uses)>,
    read: Option<Arc<Bulk>>,
    written: Option<Arc<Bulk>>,
}

impl Registered {
    /// Makes memory known. The segments stay valid until the registration is dropped or [closed](Registrations::close).
    pub(super) fn new(fabric: &Arc<Fabric>, segments: &[Segment], permission: Permission) -> Result<Self, Code> {
        let uses = match permission {
            Permission::ReadOnly => Some(Uses::READ),
            Permission::WriteOnly => Some(Uses::WRITE),
            Permission::ReadWrite => Some(Uses::BOTH),
            Permission::Private => None,
        };
        let mut handles = Handles::default();
        let mut serialized = None;
        if let Some(uses) = uses {
            // SAFETY: the handle goes with the registration, or is closed before the memory goes; who exposes memory for
            // writing gives memory that may be written.
            let bulk = unsafe { Bulk::new(fabric, segments, uses) }?;
            serialized = Some(bulk.serialize()?.into());
            handles.exposed = Some((bulk, uses));
        }
        let memory =
            Registrations { fabric: Arc::downgrade(fabric), segments: segments.into(), handles: Mutex::new(handles) };
        Ok(Self { memory: Arc::new(memory), serialized })
    }

    pub(super) fn memory(&self) -> &Arc<Registrations> {
        &self.memory
    }

    /// Lengths of the segments in bytes.
    pub(super) fn lengths(&self) -> impl Iterator<Item = u64> + '_ {
        self.memory.segments.iter().map(|segment| segment.length as u64)
    }

    /// The handle of the memory for the local end of a transfer. Only while the region was not taken back, inside of
    /// [`Window::with_registration`](crate::bulk::Window::with_registration).
    pub(super) fn local(&self, direction: Direction) -> Result<Arc<Bulk>, Code> {
        self.memory.handle(match direction {
            Direction::Pull => Uses::WRITE,
            Direction::Push => Uses::READ,
        })
    }
}

impl Registrations {
    fn handle(&self, uses: Uses) -> Result<Arc<Bulk>, Code> {
        let mut handles = self.handles.lock();
        let fabric = self.fabric.upgrade().filter(|_| !handles.closed).ok_or(HG_NOENTRY)?;
        if let Some((exposed, _)) = handles.exposed.as_ref().filter(|(_, exposed)| exposed.include(uses)) {
            return Ok(exposed.clone());
        }
        let place = if uses == Uses::READ { &mut handles.read } else { &mut handles.written };
        if let Some(bulk) = place {
            return Ok(bulk.clone());
        }
        // SAFETY: the segments are valid, because the region was not taken back, and the handle goes before they do. Only
        // windows into memory that can be written are made for writing.
        let bulk = unsafe { Bulk::new(&fabric, &self.segments, uses) }?;
        Ok(place.insert(bulk).clone())
    }

    /// Gives up all handles for good. Operations in flight keep theirs.
    pub(super) fn close(&self) {
        let handles = std::mem::replace(&mut *self.handles.lock(), Handles { closed: true, ..Handles::default() });
        drop(handles);
    }
}

impl Registration for Registered {
    fn descriptor(&self) -> Option<Vec<u8>> {
        self.serialized.as_ref().map(|bytes| bytes.to_vec())
    }

    fn is_written_unseen(&self) -> bool {
        // Also memory that is only the local end of transfers: whoever guesses its key can write it.
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.memory.close();
    }
}

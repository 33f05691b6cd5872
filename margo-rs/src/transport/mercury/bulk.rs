//! Mercury's bulk handles and transfers, made safe to hold.
//!
//! A handle holds the [`Fabric`], so that all are freed before the class ends. An operation in flight owns all that Mercury
//! and the network card use for it: both handles, the address, and the pin on the local memory. It gives them up when
//! Mercury is done with it, and not before; one that never ends leaks them.

use super::fabric::{Addr, Code, Fabric, succeed, without_panic};
use crate::bulk::{Direction, Foreign, Pinned, Segment};
use mochi_sys::mercury as hg;
use parking_lot::Mutex;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Memory that Mercury knows: ours, to be reached by peers or to be the local end of transfers, or a peer's.
pub(super) struct Bulk {
    handle: hg::hg_bulk_t,
    fabric: Arc<Fabric>,
}

// SAFETY: Mercury counts references to bulk handles atomically, and does not change them after they were made.
unsafe impl Send for Bulk {}
// SAFETY: as above.
unsafe impl Sync for Bulk {}

/// What may be done with memory: Mercury's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uses(u8);

impl Uses {
    pub(super) const READ: Self = Self(hg::HG_BULK_READ_ONLY as u8);
    pub(super) const WRITE: Self = Self(hg::HG_BULK_WRITE_ONLY as u8);
    pub(super) const BOTH: Self = Self(hg::HG_BULK_READWRITE as u8);

    pub(super) fn include(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Bulk {
    /// Makes memory known to the network. Of no segments, one that is empty.
    ///
    /// # Safety
    /// The segments are valid until the handle and the operations with it are gone, and may be read and written by
    /// others as `uses` says.
    pub(super) unsafe fn new(fabric: &Arc<Fabric>, segments: &[Segment], uses: Uses) -> Result<Arc<Self>, Code> {
        let mut starts: Vec<*mut c_void> = segments.iter().map(|segment| segment.start.as_ptr().cast()).collect();
        let mut lengths: Vec<hg::hg_size_t> = segments.iter().map(|segment| segment.length as hg::hg_size_t).collect();
        if segments.is_empty() {
            starts.push(ptr::null_mut());
            lengths.push(0);
        }
        let count = u32::try_from(starts.len()).map_err(|_| hg::HG_INVALID_ARG)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the class is alive, both arrays have `count` elements and are read during the call only, the segments
        // are the caller's promise, and the handle is written to a valid place.
        let code = unsafe {
            let class = fabric.class.as_ptr();
            hg::HG_Bulk_create(class, count, starts.as_mut_ptr(), lengths.as_ptr(), uses.0, &mut handle)
        };
        succeed(code)?;
        Ok(Arc::new(Self { handle, fabric: fabric.clone() }))
    }

    /// A peer's memory. `bytes` were read before and found to be what Mercury takes them for.
    pub(super) fn remote(fabric: &Arc<Fabric>, bytes: &[u8]) -> Result<Arc<Self>, Code> {
        let mut handle = ptr::null_mut();
        // SAFETY: the class is alive, the bytes have the length said and are read during the call only, and the handle is
        // written to a valid place.
        let code = unsafe {
            let (class, length) = (fabric.class.as_ptr(), bytes.len() as hg::hg_size_t);
            hg::HG_Bulk_deserialize(class, &mut handle, bytes.as_ptr().cast(), length)
        };
        succeed(code)?;
        Ok(Arc::new(Self { handle, fabric: fabric.clone() }))
    }

    /// Whether Mercury moves any range of it in one operation of the plugin's.
    pub(super) fn is_one_piece(&self) -> bool {
        self.serialize().is_ok_and(|bytes| Foreign::read(&bytes).is_ok_and(|read| read.is_one_piece()))
    }

    /// What peers need to reach the memory. The data itself is never in it: it may change.
    pub(super) fn serialize(&self) -> Result<Vec<u8>, Code> {
        // SAFETY: the handle is alive.
        let size = unsafe { hg::HG_Bulk_get_serialize_size(self.handle, 0) };
        let mut bytes = vec![0u8; usize::try_from(size).map_err(|_| hg::HG_OVERFLOW)?];
        // SAFETY: the handle is alive, and the buffer has the size said.
        succeed(unsafe { hg::HG_Bulk_serialize(bytes.as_mut_ptr().cast(), size, 0, self.handle) })?;
        Ok(bytes)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        // SAFETY: one reference is owned, and the class is alive.
        let code = unsafe { hg::HG_Bulk_free(self.handle) };
        if code != hg::HG_SUCCESS {
            tracing::error!(reason = super::fabric::explain(code), "memory cannot be taken from the network");
        }
    }
}

/// Takes the ends of operations. Runs inside [`Fabric::trigger`].
pub(super) trait Ended: Send + Sync {
    /// One operation has ended. It touches no memory any more, and holds none.
    fn on_ended(self: Arc<Self>, result: Result<(), Code>);
}

/// The ends of a transfer.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) direction: Direction,
    pub(super) peer: Arc<Addr>,
    pub(super) remote: Arc<Bulk>,
    pub(super) local: Arc<Bulk>,
    /// Keeps the local memory where it is.
    pub(super) _pinned: Arc<Pinned>,
}

/// What is moved: `length` bytes between these places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) remote: u64,
    pub(super) local: u64,
    pub(super) length: u64,
}

/// An operation in flight.
pub(super) struct Operation {
    state: Mutex<State>,
}

enum State {
    Begun,
    /// Mercury's name for it, which is another's as soon as its callback has returned.
    Running(hg::hg_op_id_t),
    Ended,
}

// SAFETY: the pointer is a name that Mercury gave out; it is only handed back, while the operation runs.
unsafe impl Send for State {}

/// All that Mercury and the network card use for an operation.
struct Held {
    way: Way,
    operation: Arc<Operation>,
    ended: Arc<dyn Ended>,
}

/// An operation that has ended.
pub(super) struct Over {
    held: Box<Held>,
    result: Result<(), Code>,
}

impl Over {
    /// Gives up what it held, now that Mercury holds none of it, and says that it is over.
    pub(super) fn tell(self) {
        let Held { way, operation, ended } = *self.held;
        drop((way, operation));
        without_panic(|| ended.on_ended(self.result));
    }
}

impl Operation {
    /// Begins to move bytes. On success, and only then, `ended` is told once.
    pub(super) fn begin(way: &Way, part: Part, ended: Arc<dyn Ended>) -> Result<Arc<Self>, Code> {
        let operation = Arc::new(Self { state: Mutex::new(State::Begun) });
        let held = Held { way: way.clone(), operation: operation.clone(), ended };
        let held = Box::into_raw(Box::new(held));
        let direction = match way.direction {
            Direction::Pull => hg::HG_BULK_PULL,
            Direction::Push => hg::HG_BULK_PUSH,
        };
        let fabric = &way.remote.fabric;
        fabric.moving.fetch_add(1, Ordering::AcqRel);
        let mut name = ptr::null_mut();
        // SAFETY: context, address and handles are alive and of one class, and held until the callback comes, which it
        // does once if this succeeds. The name is written to a valid place.
        let code = unsafe {
            hg::mochi_hg_bulk_transfer(
                fabric.context.as_ptr(),
                Some(on_ended),
                held.cast(),
                direction,
                way.peer.address,
                way.remote.handle,
                part.remote,
                way.local.handle,
                part.local,
                part.length,
                &mut name,
            )
        };
        succeed(code).inspect_err(|_| {
            fabric.moving.fetch_sub(1, Ordering::AcqRel);
            // SAFETY: it was made from a box just now, and no callback comes after a failure: the transfer is of one
            // piece, so that nothing of it was begun.
            drop(unsafe { Box::from_raw(held) });
        })?;
        let mut state = operation.state.lock();
        // The callback may have come on another thread.
        if matches!(*state, State::Begun) {
            *state = State::Running(name);
        }
        drop(state);
        Ok(operation)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.state.lock(), State::Ended)
    }

    /// Asks Mercury to give it up: its end comes soon, where the plugin can; else when the bytes have been moved.
    pub(super) fn cancel(&self) {
        let state = self.state.lock();
        if let State::Running(name) = *state {
            // SAFETY: the callback waits for the lock before it returns, so that the name is still this operation's.
            unsafe { hg::HG_Bulk_cancel(name) };
        }
    }
}

unsafe extern "C" fn on_ended(info: *const hg::hg_cb_info) -> Code {
    // SAFETY: Mercury hands over a valid structure for the time of the callback.
    let info = unsafe { &*info };
    // SAFETY: `Operation::begin` made it from a box, and this callback comes once.
    let held = unsafe { Box::from_raw(info.arg.cast::<Held>()) };
    let result = succeed(info.ret);
    without_panic(move || {
        *held.operation.state.lock() = State::Ended;
        // Mercury gives up its own references to the handles after this.
        let fabric = held.way.remote.fabric.clone();
        fabric.has_ended(Over { held, result });
    });
    hg::HG_SUCCESS
}

//! Mercury's class and context with their addresses and handles, made safe to hold.
//!
//! Everything that Mercury can still touch holds an [`Arc`] of the [`Fabric`]: an address, a handle, an operation in
//! flight through its callback's argument. So the class is finalized when nothing is left that it would count as busy, and
//! never earlier; an operation that never completes leaks the class instead of freeing what Mercury writes to.
//!
//! Callbacks run inside [`Fabric::trigger`], on its caller's thread. A panic in one ends there.

mod addr;
mod code;
mod incoming;
mod outgoing;
mod payload;
mod start;

pub(super) use self::addr::{Addr, c_name};
pub(super) use self::code::{Code, explain, is_network_error, succeed};
pub(super) use self::incoming::{Incoming, Receiver, answer_unserved, deliver};
pub(super) use self::outgoing::{Outgoing, Replies};

use self::start::Place;
use super::bulk::Over;
use super::given::{self, GivenContext};
use super::options::is_at_least;
use super::wire_id::on_wire;
use mochi_sys::mercury as hg;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Handles of ended calls kept for use again; making one allocates message buffers.
const SPARE_MAX: usize = 256;
/// Callbacks run in one [`Fabric::trigger`].
const TRIGGER_MAX: u32 = 256;

/// An RPC that Mercury knows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rpc {
    id: u64,
    /// Whether it is answered by nobody.
    one_way: bool,
}

/// A running Mercury: one class with one context.
pub(super) struct Fabric {
    pub(super) class: NonNull<hg::hg_class_t>,
    pub(super) context: NonNull<hg::hg_context_t>,
    this: Weak<Fabric>,
    receiver: OnceLock<Weak<dyn Receiver>>,
    /// RPCs that Mercury knows, by their ids on the wire.
    registered: RwLock<HashMap<u64, Rpc>>,
    spare: Mutex<Vec<Handle>>,
    /// To poll while waiting, where the plugin has one.
    descriptor: Option<RawFd>,
    /// Whether a thread waits, where the descriptor does not show what goes from here to here: before Mercury 2.4.
    asleep: Option<AtomicBool>,
    /// Where class and context are somebody else's.
    given: Option<GivenContext>,
    /// Where it is reached over shared memory.
    place: OnceLock<Place>,
    /// Transfers that have ended, until Mercury has let go of what they held.
    ended: Mutex<Vec<Over>>,
    /// Transfers in flight.
    pub(super) moving: AtomicUsize,
    /// Requests in flight that are to be answered.
    awaited: AtomicUsize,
}

// SAFETY: Mercury's functions may be called from any thread, since a class is never started with
// `NA_THREAD_MODE_SINGLE`; what is not thread-safe in C is behind locks here.
unsafe impl Send for Fabric {}
// SAFETY: as above.
unsafe impl Sync for Fabric {}

impl Fabric {
    /// A fabric on a class and a context that are alive.
    fn on(
        class: NonNull<hg::hg_class_t>,
        context: NonNull<hg::hg_context_t>,
        given: Option<GivenContext>,
    ) -> Arc<Self> {
        // SAFETY: the context is alive.
        let descriptor = unsafe { hg::mochi_hg_event_fd(context.as_ptr()) };
        Arc::new_cyclic(|this| Self {
            class,
            context,
            this: this.clone(),
            receiver: OnceLock::new(),
            registered: RwLock::new(HashMap::new()),
            spare: Mutex::new(Vec::new()),
            descriptor: (descriptor >= 0).then_some(descriptor),
            asleep: (!is_at_least(2, 4)).then(AtomicBool::default),
            given,
            ended: Mutex::new(Vec::new()),
            moving: AtomicUsize::new(0),
            awaited: AtomicUsize::new(0),
            place: OnceLock::new(),
        })
    }

    /// A fabric on what somebody else has started.
    pub(super) fn adopt(given: GivenContext) -> Arc<Self> {
        let fabric = Self::on(given.class, given.context, Some(given));
        given::enter(given.context, fabric.this.clone());
        fabric
    }

    /// Keeps a transfer that has ended until Mercury's callback has returned.
    pub(super) fn has_ended(&self, over: Over) {
        self.moving.fetch_sub(1, Ordering::AcqRel);
        self.ended.lock().push(over);
        // On a context that is not ours, others trigger, too.
        if self.given.is_some()
            && let Some(receiver) = self.receiver.get().and_then(Weak::upgrade)
        {
            receiver.wake();
        }
    }

    /// Whether transfers are in flight.
    pub(super) fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Acquire) > 0
    }

    /// Whether answers are to come.
    pub(super) fn is_awaiting(&self) -> bool {
        self.awaited.load(Ordering::Acquire) > 0
    }

    /// Where requests go; to be called once, before the first is registered.
    pub(super) fn set_receiver(&self, receiver: Weak<dyn Receiver>) {
        let _ = self.receiver.set(receiver);
    }

    /// Payload bytes that go with a request's message and with a response's.
    pub(super) fn eager_sizes(&self) -> (usize, usize) {
        // SAFETY: the class is alive.
        let input = unsafe { hg::mochi_hg_input_eager_size(self.class.as_ptr()) };
        // SAFETY: the class is alive.
        let output = unsafe { hg::mochi_hg_output_eager_size(self.class.as_ptr()) };
        (input, output)
    }

    /// Lets requests of this id come in and go out. One that nobody answers must be known as such on both sides.
    ///
    /// # Errors
    /// Mercury's, or that the id is taken: by the owner of a class that was given, or, where ids are short on the wire
    /// ([`on_wire`]), by another.
    pub(super) fn register(&self, id: u64, one_way: bool) -> Result<(), Code> {
        let (wire, rpc) = (on_wire(id), Rpc { id, one_way });
        if self.registered.read().get(&wire) == Some(&rpc) {
            return Ok(());
        }
        let mut registered = self.registered.write();
        match registered.get(&wire) {
            Some(other) if other.id != id => return Err(hg::HG_EXIST),
            Some(_) => {}
            None => {
                let proc: hg::hg_proc_cb_t = Some(hg::mochi_hg_proc_bytes);
                let callback: hg::hg_rpc_cb_t = match &self.given {
                    Some(given) if given.is_registered(wire) => return Err(hg::HG_EXIST),
                    Some(_) => Some(given::on_request),
                    None => Some(incoming::on_request),
                };
                // SAFETY: the class is alive, and the callbacks are functions of the types asked for.
                succeed(unsafe { hg::HG_Register(self.class.as_ptr(), wire, proc, proc, callback) })?;
            }
        }
        // SAFETY: the class is alive, and the id is registered.
        succeed(unsafe { hg::HG_Registered_disable_response(self.class.as_ptr(), wire, u8::from(one_way)) })?;
        registered.insert(wire, rpc);
        Ok(())
    }

    /// A request to be sent to `to`. The id was registered.
    pub(super) fn request(self: &Arc<Self>, to: &Addr, id: u64, one_way: bool) -> Result<Arc<Outgoing>, Code> {
        let id = on_wire(id);
        let spare = self.spare.lock().pop();
        if let Some(handle) = spare {
            // SAFETY: the handle is alive and its operation over, and the address is alive.
            if unsafe { hg::HG_Reset(handle.0, to.address, id) } == hg::HG_SUCCESS {
                return Ok(Outgoing::new(handle, self, one_way));
            }
        }
        let mut handle = ptr::null_mut();
        // SAFETY: the context and the address are alive, and the handle is written to a valid place.
        succeed(unsafe { hg::HG_Create(self.context.as_ptr(), to.address, id, &mut handle) })?;
        Ok(Outgoing::new(Handle(handle), self, one_way))
    }

    /// Looks for what has arrived or was sent, without blocking. One thread at a time.
    pub(super) fn progress(&self) -> Result<(), Code> {
        if self.given.is_some() {
            // SAFETY: the context is alive.
            return succeed(unsafe { hg::mochi_hg_progress_shared(self.context.as_ptr()) });
        }
        let mut count = 0;
        // SAFETY: the context is alive.
        succeed(unsafe { hg::mochi_hg_progress(self.context.as_ptr(), &mut count) })
    }

    /// Runs callbacks, without blocking; says how many.
    pub(super) fn trigger(&self) -> u32 {
        let mut count = 0;
        // SAFETY: the context is alive; no lock that a callback takes is held by any caller of this.
        let code = unsafe { hg::mochi_hg_trigger(self.context.as_ptr(), TRIGGER_MAX, &mut count) };
        let ended = std::mem::take(&mut *self.ended.lock());
        ended.into_iter().for_each(Over::tell);
        if code == hg::HG_SUCCESS { count } else { 0 }
    }

    /// Must be asked before [`Fabric::descriptor`] is polled: `true` if there is something to do at once.
    pub(super) fn is_ready(&self) -> bool {
        // SAFETY: the context is alive.
        unsafe { hg::mochi_hg_event_ready(self.context.as_ptr()) }
    }

    /// Has what is sent wake this thread, until what is returned is dropped. `None` where the descriptor shows all there is.
    pub(super) fn fall_asleep(&self) -> Option<Asleep<'_>> {
        let asleep = self.asleep.as_ref()?;
        asleep.store(true, Ordering::SeqCst);
        Some(Asleep(asleep))
    }

    /// Something was sent, and it may be for this process.
    fn has_sent(&self) {
        if self.asleep.as_ref().is_some_and(|asleep| asleep.load(Ordering::SeqCst))
            && let Some(receiver) = self.receiver.get().and_then(Weak::upgrade)
        {
            receiver.wake();
        }
    }

    /// Becomes readable when something arrives; `None` where the plugin has nothing of the kind.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor is Mercury's, and open as long as the context is.
        self.descriptor.map(|descriptor| unsafe { BorrowedFd::borrow_raw(descriptor) })
    }
}

/// See [`Fabric::fall_asleep`].
pub(super) struct Asleep<'a>(&'a AtomicBool);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// A handle that is owned: dropping it gives back one reference.
struct Handle(hg::hg_handle_t);

// SAFETY: Mercury counts references to handles atomically, and lets any thread forward, respond, cancel and destroy.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: one reference is owned.
        unsafe { hg::HG_Destroy(self.0) };
    }
}

pub(super) fn without_panic(callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!("a callback of Mercury panicked");
    }
}

//! Mercury's class and context with their addresses and handles, made safe to hold.
//!
//! Everything that Mercury can still touch holds an [`Arc`] of the [`Fabric`]: an address, a handle, an operation in
//! flight through its callback's argument. So the class is finalized when nothing is left that it would count as busy, and
//! never earlier; an operation that never completes leaks the class instead of freeing what Mercury writes to.
//!
//! Callbacks run inside [`Fabric::trigger`], on its caller's thread. A panic in one ends there.

use super::Inside;
use super::bulk::Over;
use super::given::{self, GivenContext};
use super::numbers::{NUMBERS, SHARED_MEMORY, number_in};
use super::options::{Options, is_at_least};
use super::wire_id::on_wire;
use mochi_sys::mercury as hg;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::os::fd::{BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Mercury's `hg_return_t`, numbered as in the headers compiled against. A peer may send any other number.
pub(super) type Code = hg::hg_return_t;

/// Handles of ended calls kept for use again; making one allocates message buffers.
const SPARE_MAX: usize = 256;
/// Callbacks run in one [`Fabric::trigger`].
const TRIGGER_MAX: u32 = 256;
/// Longest address text, in bytes.
const ADDRESS_MAX: usize = crate::address::ADDRESS_MAX;

/// Held while a class begins or ends: in one process, shared memory's directories are made and removed by all.
static BEGIN_OR_END: Mutex<()> = Mutex::new(());

/// Takes the requests that arrive.
pub(super) trait Receiver: Send + Sync {
    /// A request of an RPC that was [registered](Fabric::register). Runs inside [`Fabric::trigger`].
    fn on_request(&self, request: &Arc<Incoming>);

    /// Marks this thread as inside of a callback, until what is returned is dropped.
    fn enter(&self) -> Inside;

    /// There is something to do inside of [`Fabric::trigger`].
    fn wake(&self);
}

/// Takes the answers to requests. Runs inside [`Fabric::trigger`].
pub(super) trait Replies: Send + Sync {
    /// The request that was sent with `token` has ended; it does so once.
    fn on_reply(&self, token: u64, reply: Result<&[u8], Code>);
}

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
    /// In [`NUMBERS`], and what it is part of: the location of an address of shared memory.
    number: OnceLock<(u8, String)>,
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
    /// Starts Mercury. `None` if it refuses; it gives no reason but in its own log.
    pub(super) fn start(name: &CStr, options: &Options) -> Option<Arc<Self>> {
        let _alone = BEGIN_OR_END.lock();
        if std::env::var_os("HG_LOG_LEVEL").is_none() {
            // Its reasons are for who asks for them; programs say in one line of their own what went wrong.
            let level = options.log_level().unwrap_or(c"none");
            // SAFETY: a text that ends with NUL.
            unsafe { hg::HG_Set_log_level(level.as_ptr()) };
        }
        if let Some(parts) = options.log_subsys() {
            // SAFETY: a text that ends with NUL.
            unsafe { hg::HG_Set_log_subsys(parts.as_ptr()) };
        }
        // Also one that only makes calls listens: for the answers to it, libfabric does so in any case, and peers of this
        // crate say over it that they go away.
        // SAFETY: the name ends with NUL, the options are those of the shim, and the texts that they point to end with NUL
        // and live as long as they; all is read only during the call.
        let begin = |listen| NonNull::new(unsafe { hg::mochi_hg_init(name.as_ptr(), listen, options.raw()) });
        let is_numbered = name.to_bytes() == SHARED_MEMORY;
        while is_numbered && NUMBERS.lock().is_next_in_use()? {
            // One that does not listen takes the number and touches no memory.
            let passed = begin(false)?;
            // SAFETY: nothing else refers to the class.
            unsafe { hg::mochi_hg_finalize(passed.as_ptr()) };
            NUMBERS.lock().pass();
        }
        let class = begin(true)?;
        // SAFETY: the class is alive.
        let Some(context) = NonNull::new(unsafe { hg::HG_Context_create(class.as_ptr()) }) else {
            // SAFETY: nothing else refers to the class.
            unsafe { hg::mochi_hg_finalize(class.as_ptr()) };
            return None;
        };
        let fabric = Self::on(class, context, None);
        if is_numbered
            && let Ok(address) = fabric.address()
            && let Some(number) = number_in(&address)
        {
            NUMBERS.lock().take(number);
            let location = address.rsplit_once("//").map_or("", |(_, location)| location);
            let _ = fabric.number.set((number, location.to_owned()));
        }
        let data = Arc::as_ptr(&fabric).cast_mut().cast::<c_void>();
        // SAFETY: the class is alive, and ends before the fabric that it points to.
        unsafe { hg::mochi_hg_class_set_data(class.as_ptr(), data) };
        Some(fabric)
    }

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
            number: OnceLock::new(),
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

    /// The address that others reach this at, as Mercury prints it.
    pub(super) fn address(self: &Arc<Self>) -> Result<String, Code> {
        let mut address = ptr::null_mut();
        // SAFETY: the class is alive, and the address is written to a valid place.
        succeed(unsafe { hg::HG_Addr_self(self.class.as_ptr(), &mut address) })?;
        self.print(Addr { address, fabric: self.clone() }.address)
    }

    /// Payload bytes that go with a request's message and with a response's.
    pub(super) fn eager_sizes(&self) -> (usize, usize) {
        // SAFETY: the class is alive.
        let input = unsafe { hg::mochi_hg_input_eager_size(self.class.as_ptr()) };
        // SAFETY: the class is alive.
        let output = unsafe { hg::mochi_hg_output_eager_size(self.class.as_ptr()) };
        (input, output)
    }

    /// Whether an address is this one's own. A peer on this host may claim it to be its own, too.
    pub(super) fn is_own(&self, address: &Addr) -> bool {
        let mut own = ptr::null_mut();
        // SAFETY: the class is alive, and the address is written to a valid place.
        if unsafe { hg::HG_Addr_self(self.class.as_ptr(), &mut own) } != hg::HG_SUCCESS {
            return false;
        }
        // SAFETY: class and addresses are alive.
        let is_own = unsafe { hg::HG_Addr_cmp(self.class.as_ptr(), own, address.address) } != 0;
        // SAFETY: the address is owned and its class alive.
        unsafe { hg::HG_Addr_free(self.class.as_ptr(), own) };
        is_own
    }

    /// Finds an address. Names of hosts were resolved before: this does not block.
    pub(super) fn lookup(self: &Arc<Self>, name: &CStr) -> Result<Addr, Code> {
        let mut address = ptr::null_mut();
        // SAFETY: the class is alive, the name ends with NUL, and the address is written to a valid place.
        succeed(unsafe { hg::HG_Addr_lookup2(self.class.as_ptr(), name.as_ptr(), &mut address) })?;
        Ok(Addr { address, fabric: self.clone() })
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
                    None => Some(on_request),
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

    /// Removes what shared memory has in the file system: to be called when nobody is to come in any more.
    pub(super) fn remove_files(&self) {
        if let Some((_, location)) = self.number.get() {
            super::leftovers::remove(location);
        }
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

    fn print(&self, address: hg::hg_addr_t) -> Result<String, Code> {
        let mut text = [0u8; ADDRESS_MAX];
        let mut size = text.len() as hg::hg_size_t;
        let buffer = text.as_mut_ptr().cast();
        // SAFETY: the address is alive, and the buffer has the size said.
        succeed(unsafe { hg::HG_Addr_to_string(self.class.as_ptr(), buffer, &mut size, address) })?;
        let text = CStr::from_bytes_until_nul(&text).map_err(|_| hg::HG_OVERFLOW)?;
        Ok(text.to_string_lossy().into_owned())
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.spare.get_mut().clear();
        if let Some(given) = &self.given {
            given::leave(given.context);
            self.registered.get_mut().drain().for_each(|(wire, _)| given.deregister(wire));
            return;
        }
        match self.finalize() {
            Ok(()) => {}
            Err(code) if self.number.get().is_some() => {
                tracing::debug!(reason = explain(code), "shared memory does not end; its files are removed");
            }
            Err(code) => tracing::error!(reason = explain(code), "Mercury cannot be finalized; it is left behind"),
        }
        self.remove_files();
        if let Some((number, _)) = self.number.get() {
            NUMBERS.lock().give_back(*number);
        }
    }
}

impl Fabric {
    /// Ends the context and then the class.
    fn finalize(&mut self) -> Result<(), Code> {
        // SAFETY: all handles, addresses and operations held this fabric, so none is left.
        succeed(unsafe { hg::HG_Context_destroy(self.context.as_ptr()) })?;
        let _alone = BEGIN_OR_END.lock();
        // SAFETY: the only context is gone, and nobody else has the class.
        succeed(unsafe { hg::mochi_hg_finalize(self.class.as_ptr()) })
    }
}

/// See [`Fabric::fall_asleep`].
pub(super) struct Asleep<'a>(&'a AtomicBool);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// An address that requests can be sent to.
pub(super) struct Addr {
    pub(super) address: hg::hg_addr_t,
    fabric: Arc<Fabric>,
}

// SAFETY: Mercury counts references to addresses atomically.
unsafe impl Send for Addr {}
// SAFETY: as above.
unsafe impl Sync for Addr {}

impl Addr {
    /// Where it belongs.
    pub(super) fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }
}

impl Drop for Addr {
    fn drop(&mut self) {
        // SAFETY: the address is owned and its class alive.
        unsafe { hg::HG_Addr_free(self.fabric.class.as_ptr(), self.address) };
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

/// A request of ours.
pub(super) struct Outgoing {
    /// `None` only while it is dropped.
    handle: Option<Handle>,
    fabric: Arc<Fabric>,
    one_way: bool,
    /// It ended well: its handle is as good as new.
    ended: AtomicBool,
}

/// What the callback of a request gets.
struct Pending {
    request: Arc<Outgoing>,
    replies: Arc<dyn Replies>,
    token: u64,
}

impl Outgoing {
    fn new(handle: Handle, fabric: &Arc<Fabric>, one_way: bool) -> Arc<Self> {
        Arc::new(Self { handle: Some(handle), fabric: fabric.clone(), one_way, ended: AtomicBool::new(false) })
    }

    fn raw(&self) -> hg::hg_handle_t {
        self.handle.as_ref().map_or(ptr::null_mut(), |handle| handle.0)
    }

    /// Sends it: `head` and then `body`. On success, and only then, `replies` gets one reply with `token`.
    pub(super) fn send(
        self: &Arc<Self>,
        head: &[u8],
        body: &[u8],
        replies: Arc<dyn Replies>,
        token: u64,
    ) -> Result<(), Code> {
        let pending = Box::into_raw(Box::new(Pending { request: self.clone(), replies, token }));
        let mut bytes = parts(head, body);
        let awaited = usize::from(!self.one_way);
        self.fabric.awaited.fetch_add(awaited, Ordering::AcqRel);
        // SAFETY: the handle is alive, and the bytes are read during the call only. The callback gets the pending
        // request, and comes once if this succeeds.
        let code = unsafe { hg::mochi_hg_forward(self.raw(), Some(on_reply), pending.cast(), &mut bytes) };
        self.fabric.has_sent();
        succeed(code).inspect_err(|_| {
            self.fabric.awaited.fetch_sub(awaited, Ordering::AcqRel);
            // SAFETY: it was made from a box just now, and no callback comes after a failure.
            drop(unsafe { Box::from_raw(pending) });
        })
    }

    /// Asks Mercury to give it up: its reply comes soon, then, with an error.
    pub(super) fn cancel(&self) {
        // SAFETY: the handle is alive. One that is over or was never sent is left alone.
        unsafe { hg::HG_Cancel(self.raw()) };
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let handle = self.handle.take();
        if *self.ended.get_mut() {
            let mut spare = self.fabric.spare.lock();
            if spare.len() < SPARE_MAX {
                spare.extend(handle);
            }
        }
    }
}

/// A request of a peer's.
pub(super) struct Incoming {
    handle: Handle,
    fabric: Arc<Fabric>,
    answered: AtomicBool,
}

impl Incoming {
    fn rpc(&self) -> Option<Rpc> {
        // SAFETY: the handle is alive.
        let wire = unsafe { hg::mochi_hg_handle_id(self.handle.0) };
        self.fabric.registered.read().get(&wire).copied()
    }

    /// The RPC; 0 if it was deregistered meanwhile.
    pub(super) fn id(&self) -> u64 {
        self.rpc().map_or(0, |rpc| rpc.id)
    }

    /// Where it came from, in words.
    pub(super) fn peer(&self) -> Result<String, Code> {
        // SAFETY: the handle is alive, and the address lives as long.
        self.fabric.print(unsafe { hg::mochi_hg_handle_addr(self.handle.0) })
    }

    /// Where it came from, to send requests there.
    pub(super) fn origin(&self) -> Result<Addr, Code> {
        let mut address = ptr::null_mut();
        // SAFETY: the handle is alive, and the address lives as long.
        let origin = unsafe { hg::mochi_hg_handle_addr(self.handle.0) };
        // SAFETY: class and address are alive, and the new reference is written to a valid place.
        succeed(unsafe { hg::HG_Addr_dup(self.fabric.class.as_ptr(), origin, &mut address) })?;
        Ok(Addr { address, fabric: self.fabric.clone() })
    }

    /// Whether the id that it came in on is one that nobody answers.
    pub(super) fn is_one_way(&self) -> bool {
        self.rpc().is_some_and(|rpc| rpc.one_way)
    }

    /// Whether an answer of that length does not fit into one message.
    pub(super) fn is_large_answer(&self, len: usize) -> bool {
        // SAFETY: the class is alive.
        len > unsafe { hg::mochi_hg_output_eager_size(self.fabric.class.as_ptr()) }
    }

    /// Answers it with `head` and then `body`. To be called once at most.
    pub(super) fn respond(&self, head: &[u8], body: &[u8]) -> Result<(), Code> {
        self.answered.store(true, Ordering::Relaxed);
        let fabric = Arc::into_raw(self.fabric.clone());
        let mut bytes = parts(head, body);
        // SAFETY: the handle is alive, and the bytes are read during the call only. The callback gets a reference to
        // the fabric, and comes once if this succeeds.
        let code = unsafe {
            let fabric = fabric.cast_mut().cast::<c_void>();
            hg::mochi_hg_respond(self.handle.0, Some(on_sent), fabric, &mut bytes)
        };
        self.fabric.has_sent();
        succeed(code).inspect_err(|_| {
            // SAFETY: it was made from an `Arc` just now, and no callback comes after a failure.
            drop(unsafe { Arc::from_raw(fabric) });
        })
    }

    /// The payload as long as it was sent, and whether Mercury had to fetch it. Only for the callback that the request
    /// comes with: nobody may have answered it before.
    fn payload(&self) -> Result<(&[u8], bool), Code> {
        let mut payload = EMPTY;
        // SAFETY: the handle is alive, and the payload is written to a valid place.
        succeed(unsafe { hg::mochi_hg_input(self.handle.0, &mut payload) })?;
        // SAFETY: the bytes stay until the handle is answered with a response that does not fit into a message (for what
        // was fetched), is released, or is destroyed; the callers see to it that this is later.
        Ok((unsafe { slice(&payload) }, payload.fetched))
    }

    /// Hands the payload to `read`; a payload that was fetched as a copy, because an answer may free it under the reader.
    pub(super) fn read<T>(&self, read: impl FnOnce(crate::buffer::Payload<'_>) -> T) -> Result<T, Code> {
        use crate::buffer::{Buffer, Payload};
        let (bytes, fetched) = self.payload()?;
        if fetched {
            return Ok(read(Payload::Owned(Buffer::copy_from(bytes))));
        }
        Ok(read(Payload::Borrowed(bytes)))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !*self.answered.get_mut() && !self.is_one_way() {
            refuse(&self.handle);
        }
    }
}

/// Answers a request that nobody serves to its end. Mercury keeps the handle of a request until it was answered, and does
/// not end before; whether the answer arrives matters to nobody.
fn refuse(handle: &Handle) {
    // SAFETY: the handle is alive.
    let id = unsafe { hg::mochi_hg_handle_id(handle.0) };
    let answer = super::unserved(id);
    let mut bytes = parts(&answer, &[]);
    // SAFETY: the handle is alive, the bytes are read during the call only, and no callback is asked for.
    unsafe { hg::mochi_hg_respond(handle.0, None, ptr::null_mut(), &mut bytes) };
}

const EMPTY: hg::mochi_hg_payload = hg::mochi_hg_payload { data: ptr::null_mut(), size: 0, fetched: false };

/// # Safety
/// The payload is one that Mercury gave out, and it lives for `'a`.
unsafe fn slice<'a>(payload: &hg::mochi_hg_payload) -> &'a [u8] {
    if payload.data.is_null() || payload.size == 0 {
        return &[];
    }
    // SAFETY: Mercury says that so many bytes are there, which it has received or, for the rest of a buffer that was
    // posted, allocated and initialised; the lifetime is the caller's promise.
    unsafe { std::slice::from_raw_parts(payload.data.cast::<u8>(), payload.size) }
}

fn parts(head: &[u8], body: &[u8]) -> hg::mochi_hg_bytes {
    hg::mochi_hg_bytes {
        head: head.as_ptr().cast(),
        head_size: head.len(),
        body: body.as_ptr().cast(),
        body_size: body.len(),
    }
}

pub(super) fn succeed(code: Code) -> Result<(), Code> {
    if code == hg::HG_SUCCESS { Ok(()) } else { Err(code) }
}

/// A code in Mercury's words.
pub(super) fn explain(code: Code) -> String {
    // SAFETY: any number may be asked for; unknown ones give NULL.
    let text = unsafe { hg::HG_Error_to_string(code) };
    if text.is_null() {
        return format!("Mercury's error {code}");
    }
    // SAFETY: a constant text that ends with NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A name for Mercury; addresses have no NUL, so that only a mistake of ours gives `None`.
pub(super) fn c_name(name: &str) -> Option<CString> {
    CString::new(name).ok()
}

pub(super) fn without_panic(callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!("a callback of Mercury panicked");
    }
}

unsafe extern "C" fn on_request(handle: hg::hg_handle_t) -> Code {
    // SAFETY: Mercury hands over a valid handle.
    let class = unsafe { hg::mochi_hg_handle_class(handle) };
    // SAFETY: the class is alive.
    let data = unsafe { hg::mochi_hg_class_data(class) };
    // SAFETY: `Fabric::start` put it there; the class is alive, and ends before the fabric.
    let fabric = unsafe { data.cast::<Fabric>().as_ref() };
    // One that is being dropped takes nothing in any more.
    match fabric.and_then(|fabric| fabric.this.upgrade()) {
        // SAFETY: the handle comes with the callback, and is handed on once.
        Some(fabric) => unsafe { deliver(handle, fabric) },
        // SAFETY: as above.
        None => unsafe { answer_unserved(handle) },
    }
    hg::HG_SUCCESS
}

/// Hands a request to its receiver.
///
/// # Safety
/// The handle is valid, and comes with a reference that the caller has and does not use any more.
pub(super) unsafe fn deliver(handle: hg::hg_handle_t, fabric: Arc<Fabric>) {
    let handle = Handle(handle);
    without_panic(move || {
        let receiver = fabric.receiver.get().and_then(Weak::upgrade);
        // Others may trigger on a context that is not ours.
        let _inside = fabric.given.and(receiver.as_ref()).map(|receiver| receiver.enter());
        let request = Arc::new(Incoming { handle, fabric, answered: AtomicBool::new(false) });
        if let Some(receiver) = receiver {
            receiver.on_request(&request);
        }
        if Arc::strong_count(&request) > 1 {
            // Others wait for the buffer, and nobody reads from it after this.
            // SAFETY: the handle is alive, and the payload is read in this callback only.
            unsafe { hg::mochi_hg_release_input(request.handle.0) };
        }
    });
}

/// Answers a request that comes when the fabric is going.
///
/// # Safety
/// As for [`deliver`].
pub(super) unsafe fn answer_unserved(handle: hg::hg_handle_t) {
    // Where nobody wants an answer, Mercury refuses to send one.
    refuse(&Handle(handle));
}

unsafe extern "C" fn on_reply(info: *const hg::hg_cb_info) -> Code {
    // SAFETY: Mercury hands over a valid structure for the time of the callback.
    let info = unsafe { &*info };
    // SAFETY: `Outgoing::send` made it from a box, and this callback comes once.
    let pending = unsafe { Box::from_raw(info.arg.cast::<Pending>()) };
    without_panic(move || {
        let Pending { request, replies, token } = *pending;
        request.fabric.awaited.fetch_sub(usize::from(!request.one_way), Ordering::AcqRel);
        let receiver = request.fabric.given.and_then(|_| request.fabric.receiver.get()?.upgrade());
        let _inside = receiver.as_ref().map(|receiver| receiver.enter());
        if info.ret != hg::HG_SUCCESS {
            return replies.on_reply(token, Err(info.ret));
        }
        request.ended.store(true, Ordering::Release);
        if request.one_way {
            return replies.on_reply(token, Ok(&[]));
        }
        let mut payload = EMPTY;
        // SAFETY: the handle is alive, and the payload is written to a valid place.
        match succeed(unsafe { hg::mochi_hg_output(request.raw(), &mut payload) }) {
            // SAFETY: the bytes stay until the handle is reset or destroyed; `request` holds it.
            Ok(()) => replies.on_reply(token, Ok(unsafe { slice(&payload) })),
            Err(code) => replies.on_reply(token, Err(code)),
        }
    });
    hg::HG_SUCCESS
}

unsafe extern "C" fn on_sent(info: *const hg::hg_cb_info) -> Code {
    // SAFETY: Mercury hands over a valid structure for the time of the callback.
    let fabric = unsafe { (*info).arg }.cast::<Fabric>().cast_const();
    // SAFETY: `Incoming::respond` made it from an `Arc`, and this callback comes once.
    let fabric = unsafe { Arc::from_raw(fabric) };
    without_panic(move || drop(fabric));
    hg::HG_SUCCESS
}

/// Whether the peer or the way to it is gone, rather than that one operation failed.
pub(super) fn is_network_error(code: Code) -> bool {
    // SAFETY: a pure function of a number.
    unsafe { hg::mochi_hg_is_network_error(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_starts_more_often_than_it_has_numbers_while_one_lives() {
        let options = Options::new(&crate::config::MercuryConfig::default()).expect("nothing is asked for");
        let Some(lives) = Fabric::start(c"na+sm", &options) else {
            return println!("Mercury has no shared memory here");
        };
        let address = lives.address().expect("it has one");
        for _ in 0..300 {
            let other = Fabric::start(c"na+sm", &options).expect("a number is free");
            assert_ne!(other.address().expect("it has one"), address);
        }
    }
}

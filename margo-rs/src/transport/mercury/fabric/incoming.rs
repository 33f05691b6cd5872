//! Requests that come in, and the answers to them.

use super::addr::Addr;
use super::payload::{EMPTY, parts, slice};
use super::{Code, Fabric, Handle, Rpc, succeed, without_panic};
use crate::buffer::{Buffer, Payload};
use crate::transport::mercury::peers::unserved;
use crate::transport::mercury::progress::Inside;
use mochi_sys::mercury as hg;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Takes the requests that arrive.
pub(in super::super) trait Receiver: Send + Sync {
    /// A request of an RPC that was [registered](Fabric::register). Runs inside [`Fabric::trigger`].
    fn on_request(&self, request: &Arc<Incoming>);

    /// Marks this thread as inside of a callback, until what is returned is dropped.
    fn enter(&self) -> Inside;

    /// There is something to do inside of [`Fabric::trigger`].
    fn wake(&self);
}

/// A request of a peer's.
pub(in super::super) struct Incoming {
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
    pub(in super::super) fn id(&self) -> u64 {
        self.rpc().map_or(0, |rpc| rpc.id)
    }

    /// Where it came from, in words.
    pub(in super::super) fn peer(&self) -> Result<String, Code> {
        // SAFETY: the handle is alive, and the address lives as long.
        self.fabric.print(unsafe { hg::mochi_hg_handle_addr(self.handle.0) })
    }

    /// Where it came from, to send requests there.
    pub(in super::super) fn origin(&self) -> Result<Addr, Code> {
        let mut address = ptr::null_mut();
        // SAFETY: the handle is alive, and the address lives as long.
        let origin = unsafe { hg::mochi_hg_handle_addr(self.handle.0) };
        // SAFETY: class and address are alive, and the new reference is written to a valid place.
        succeed(unsafe { hg::HG_Addr_dup(self.fabric.class.as_ptr(), origin, &mut address) })?;
        Ok(Addr { address, fabric: self.fabric.clone() })
    }

    /// Whether the id that it came in on is one that nobody answers.
    pub(in super::super) fn is_one_way(&self) -> bool {
        self.rpc().is_some_and(|rpc| rpc.one_way)
    }

    /// Whether an answer of that length does not fit into one message.
    pub(in super::super) fn is_large_answer(&self, len: usize) -> bool {
        // SAFETY: the class is alive.
        len > unsafe { hg::mochi_hg_output_eager_size(self.fabric.class.as_ptr()) }
    }

    /// Answers it with `head` and then `body`. To be called once at most.
    pub(in super::super) fn respond(&self, head: &[u8], body: &[u8]) -> Result<(), Code> {
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
    pub(in super::super) fn read<T>(&self, read: impl FnOnce(Payload<'_>) -> T) -> Result<T, Code> {
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
    let answer = unserved(id);
    let mut bytes = parts(&answer, &[]);
    // SAFETY: the handle is alive, the bytes are read during the call only, and no callback is asked for.
    unsafe { hg::mochi_hg_respond(handle.0, None, ptr::null_mut(), &mut bytes) };
}

pub(super) unsafe extern "C" fn on_request(handle: hg::hg_handle_t) -> Code {
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
pub(in super::super) unsafe fn deliver(handle: hg::hg_handle_t, fabric: Arc<Fabric>) {
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
pub(in super::super) unsafe fn answer_unserved(handle: hg::hg_handle_t) {
    // Where nobody wants an answer, Mercury refuses to send one.
    refuse(&Handle(handle));
}

unsafe extern "C" fn on_sent(info: *const hg::hg_cb_info) -> Code {
    // SAFETY: Mercury hands over a valid structure for the time of the callback.
    let fabric = unsafe { (*info).arg }.cast::<Fabric>().cast_const();
    // SAFETY: `Incoming::respond` made it from an `Arc`, and this callback comes once.
    let fabric = unsafe { Arc::from_raw(fabric) };
    without_panic(move || drop(fabric));
    hg::HG_SUCCESS
}

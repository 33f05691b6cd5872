//! Requests that go out, and their answers.

use super::payload::{EMPTY, parts, slice};
use super::{Code, Fabric, Handle, SPARE_MAX, succeed, without_panic};
use mochi_sys::mercury as hg;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes the answers to requests. Runs inside [`Fabric::trigger`].
pub(in super::super) trait Replies: Send + Sync {
    /// The request that was sent with `token` has ended; it does so once.
    fn on_reply(&self, token: u64, reply: Result<&[u8], Code>);
}

/// A request of ours.
pub(in super::super) struct Outgoing {
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
    pub(super) fn new(handle: Handle, fabric: &Arc<Fabric>, one_way: bool) -> Arc<Self> {
        Arc::new(Self { handle: Some(handle), fabric: fabric.clone(), one_way, ended: AtomicBool::new(false) })
    }

    fn raw(&self) -> hg::hg_handle_t {
        self.handle.as_ref().map_or(ptr::null_mut(), |handle| handle.0)
    }

    /// Sends it: `head` and then `body`. On success, and only then, `replies` gets one reply with `token`.
    pub(in super::super) fn send(
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
    pub(in super::super) fn cancel(&self) {
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

//! A class and a context of Mercury's that somebody else has started, and keeps.

use super::fabric::{Fabric, answer_unserved, deliver};
use mochi_sys::mercury as hg;
use parking_lot::RwLock;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

pub use mochi_sys::mercury::{hg_class_t, hg_context_t};

/// A running Mercury for [`Builder::mercury_context`](crate::Builder::mercury_context): of a C or C++ service that embeds
/// an engine, or of a program that sets up Mercury in a way of its own.
///
/// The engine never finalizes either. Whoever owns them does, after the engine has ended
/// ([`Engine::shutdown`](crate::Engine::shutdown)): nothing of the engine is left then that `HG_Finalize` would call
/// busy, unless an operation could not be ended within two seconds, which is logged.
///
/// **Progress.** The engine makes progress on the context from its own threads, as on one that it has started itself; the
/// owner need not. The owner may, too, from any thread, with `HG_Progress` and `HG_Trigger`. Callbacks of the owner's can
/// then run on the engine's threads, and handlers of the engine's be polled for the first time on the owner's. While both
/// trigger, the requests of one peer can overtake each other.
///
/// **RPCs.** They are the class's. The engine registers those that it serves and calls, and three for itself: Margo's
/// `__identity__`, `__mochi_rs__` and `__mochi_rs_one_way__`. All are deregistered at its end. An id that is registered
/// already stays the owner's, and is an error for the engine: so a class that Margo uses cannot be given, nor one to two
/// engines. Engines with classes of their own, and Margo with its own, live in one process without knowing each other.
///
/// **Releases.** Before Mercury 2.4 a class that was started elsewhere is refused: the length of a received message is
/// found out there by functions that this crate has to put in place before the class has a context.
#[derive(Clone, Copy)]
pub struct GivenContext {
    pub(super) class: NonNull<hg_class_t>,
    pub(super) context: NonNull<hg_context_t>,
}

// SAFETY: whoever made it has promised that any thread may use both.
unsafe impl Send for GivenContext {}
// SAFETY: as above.
unsafe impl Sync for GivenContext {}

impl GivenContext {
    /// `None` if either pointer is null.
    ///
    /// # Safety
    /// Until the engine that gets it has ended, and for as long as an operation of the engine's is left behind after that:
    /// both are alive, of the Mercury that this crate links, and the context is one of the class. The class was not started
    /// with `NA_THREAD_MODE_SINGLE` or its relatives.
    pub unsafe fn new(class: *mut hg_class_t, context: *mut hg_context_t) -> Option<Self> {
        Some(Self { class: NonNull::new(class)?, context: NonNull::new(context)? })
    }

    /// Whether the class listens.
    pub(super) fn is_listening(&self) -> bool {
        // SAFETY: the class is alive, by the promise of `new`.
        unsafe { hg::mochi_hg_class_is_listening(self.class.as_ptr()) }
    }

    /// Whether Mercury tells how long messages are that come in over it.
    pub(super) fn tells_lengths(&self) -> bool {
        // SAFETY: the class is alive, by the promise of `new`.
        unsafe { hg::mochi_hg_class_tells_lengths(self.class.as_ptr()) }
    }

    /// Whether that id is registered on the class, by whomever.
    pub(super) fn is_registered(&self, id: u64) -> bool {
        let mut is_registered = 0;
        // SAFETY: the class is alive, and the answer is written to a valid place.
        let code = unsafe { hg::HG_Registered(self.class.as_ptr(), id, &mut is_registered) };
        code == hg::HG_SUCCESS && is_registered != 0
    }

    /// Lets go of an id that the engine had registered.
    pub(super) fn deregister(&self, id: u64) {
        // SAFETY: the class is alive.
        unsafe { hg::HG_Deregister(self.class.as_ptr(), id) };
    }
}

impl fmt::Debug for GivenContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenContext")
    }
}

/// Fabrics on given contexts. A class that is ours has its fabric as its data, which here is the owner's to use.
static FABRICS: RwLock<Vec<(usize, Weak<Fabric>)>> = RwLock::new(Vec::new());

pub(super) fn enter(context: NonNull<hg_context_t>, fabric: Weak<Fabric>) {
    FABRICS.write().push((context.addr().get(), fabric));
}

pub(super) fn leave(context: NonNull<hg_context_t>) {
    FABRICS.write().retain(|(at, _)| *at != context.addr().get());
}

fn find(context: *mut hg_context_t) -> Option<Arc<Fabric>> {
    let fabrics = FABRICS.read();
    fabrics.iter().find(|(at, _)| *at == context.addr())?.1.upgrade()
}

/// The callback of requests on given contexts.
pub(super) unsafe extern "C" fn on_request(handle: hg::hg_handle_t) -> hg::hg_return_t {
    // SAFETY: Mercury hands over a valid handle.
    let context = unsafe { hg::mochi_hg_handle_context(handle) };
    match find(context) {
        // SAFETY: the handle comes with the callback, and is handed on once.
        Some(fabric) => unsafe { deliver(handle, fabric) },
        // SAFETY: as above.
        None => unsafe { answer_unserved(handle) },
    }
    hg::HG_SUCCESS
}

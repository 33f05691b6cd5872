//! Argobots itself: initialised once for all pools of the process, and finalized with the last of them.
//!
//! Whoever initialises Argobots first becomes its primary work unit, and only that may finalize it. So a thread is kept
//! for both and does nothing in between. Where Argobots is initialised already, by a C or C++ service that embeds this
//! crate, it is used as it is and left alone.

use super::call;
use crate::error::PoolError;
use mochi_sys::argobots as abt;
use parking_lot::Mutex;
use std::ffi::c_int;
use std::ptr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// The pools that use Argobots, and who finalizes it.
struct Users {
    count: usize,
    /// `None`: it was initialised before the first of them came.
    keeper: Option<Keeper>,
}

static USERS: Mutex<Users> = Mutex::new(Users { count: 0, keeper: None });

/// Argobots is initialised until [`Session::end`].
pub(super) struct Session(());

impl Session {
    /// Initialises Argobots, unless it is.
    pub(super) fn begin() -> Result<Self, PoolError> {
        let mut users = USERS.lock();
        if users.count == 0 && !is_initialized() {
            users.keeper = Some(Keeper::start()?);
        }
        users.count += 1;
        Ok(Self(()))
    }

    /// Finalizes Argobots if this was the last session and the first began by initialising it. Blocks until that is done.
    pub(super) fn end(self) {
        let mut users = USERS.lock();
        users.count -= 1;
        if users.count == 0
            && let Some(keeper) = users.keeper.take()
        {
            keeper.end();
        }
    }
}

pub(super) fn is_initialized() -> bool {
    // SAFETY: may be called at any time.
    let code = unsafe { abt::ABT_initialized() };
    code as u32 == abt::ABT_SUCCESS
}

/// The thread that is Argobots' primary execution stream.
struct Keeper {
    thread: JoinHandle<()>,
    /// Dropped when Argobots is to be finalized.
    stop: Sender<()>,
    /// Says whether Argobots is gone.
    stopped: Receiver<bool>,
}

impl Keeper {
    fn start() -> Result<Self, PoolError> {
        let (stop, wait) = channel();
        let (says, started) = channel();
        let (ends, stopped) = channel();
        let thread = thread::Builder::new()
            .name("margo-argobots".to_owned())
            .spawn(move || keep(&says, &wait, &ends))
            .map_err(|error| PoolError::Refused { what: "start a thread", reason: error.to_string() })?;
        // A thread that ended without a word panicked.
        let code = started.recv().unwrap_or(c_int::MAX);
        call("initialise Argobots", code)?;
        Ok(Self { thread, stop, stopped })
    }

    fn end(self) {
        drop(self.stop);
        if self.stopped.recv() == Ok(true) {
            let _ = self.thread.join();
        }
    }
}

fn keep(says: &Sender<c_int>, stop: &Receiver<()>, ends: &Sender<bool>) {
    // SAFETY: Argobots does not look at its arguments.
    let code = unsafe { abt::ABT_init(0, ptr::null_mut()) };
    let _ = says.send(code);
    if code as u32 != abt::ABT_SUCCESS {
        return;
    }
    let _ = stop.recv();
    // SAFETY: called by whom `ABT_init` was called, after the last pool of ours has ended.
    unsafe { abt::ABT_finalize() };
    let gone = !is_initialized();
    let _ = ends.send(gone);
    if gone {
        return;
    }
    // Others initialised it as well, and are not done: this thread is their primary execution stream.
    loop {
        thread::park();
    }
}

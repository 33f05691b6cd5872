//! Helper threads for calls into libraries that block: bounded in threads, in waiting calls and in
//! time.
//!
//! A library like libmunge cannot be interrupted, so a deadline is kept by the caller's side: at
//! the deadline the [`Task`] fails while its helper stays busy until the library returns. Such a
//! helper counts as stuck; the bound on helpers holds all the same, and every error says how many
//! are stuck.

mod pool;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use pool::{HelperPool, Limits};
pub(crate) use task::Task;

use std::io;
use std::time::Duration;

/// How the pool stood when a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Calls that wait for a helper.
    pub(crate) waiting: usize,
    /// The most helpers the pool may have.
    pub(crate) helpers: usize,
    /// Helpers that are still inside a call whose deadline is past.
    pub(crate) stuck: usize,
}

/// Why the pool has no result for a call.
#[derive(Debug)]
pub(crate) enum HelperError {
    /// As many calls wait as are allowed.
    Overloaded(Load),
    /// The deadline came first; `started` tells whether a helper had taken the call.
    TimedOut { timeout: Duration, started: bool, load: Load },
    /// The system gave no thread.
    NoThread(io::Error),
    /// The process was forked since the pool was made; threads do not survive that.
    Forked,
    /// The call panicked.
    Panicked,
}

//! What the tests of this workspace share: processes and programs that a test starts, waits that say what they wait for, watchdogs,
//! and what a process holds.
//!
//! All times here guard against hangs. None of them is a claim about how long something takes: they end nothing but a test
//! that has failed.

mod holdings;
mod patience;
mod process;
mod program;
mod watchdog;

pub use holdings::{Descriptors, Mapping, Task, descriptors, mappings, tasks};
pub use patience::{Awaited, PATIENCE, Patience, comes_to, eventually};
pub use process::{Process, role, say, spawn};
pub use program::{Ended, Program};
pub use watchdog::Watchdog;

//! Open files: many clients need many.

use mochi_rs::program::Outcome;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::case::Case;

/// Open files of one client: its engine has a few, and its connection.
const PER_CLIENT: u64 = 8;
/// Open files aside from those.
const OTHERS: u64 = 64;

/// Raises the number of files that this process, and those it starts, may have open as far as it may itself.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Whoever needs more than there is then, is told by `suffice`.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Whether the case can have as many as it needs.
///
/// # Errors
/// It cannot; says what to do.
pub(super) fn suffice(case: &Case) -> Outcome {
    let needed = case.clients() as u64 * PER_CLIENT + OTHERS;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => Err(format!(
            "{case} needs {needed} open files and this process may have {limit}; raise the limit with `ulimit -n {needed}`, \
             or choose other cases with --cases"
        )
        .into()),
        _ => Ok(()),
    }
}

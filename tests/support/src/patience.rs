//! Waiting for what has no event to wait for, and saying where and for what.

use std::fmt::{self, Debug, Display};
use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long [`eventually`] and [`comes_to`] wait before they fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The most that one look takes off a patience: a process that was stopped, or a machine that slept, has not waited.
const TURN_MAX: Duration = Duration::from_secs(1);

/// Time that runs out only while somebody looks at it, at least once a second.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    /// A patience of `time`.
    pub fn of(time: Duration) -> Self {
        Self { left: time, looked: Instant::now() }
    }

    /// Whether the time has run out.
    pub fn is_over(&mut self) -> bool {
        let now = Instant::now();
        self.left = self.left.saturating_sub((now - self.looked).min(TURN_MAX));
        self.looked = now;
        self.left.is_zero()
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::of(PATIENCE)
    }
}

/// Waits until something is so that comes about by itself, soon.
///
/// # Panics
/// At the caller's line, with `what` was awaited, after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    comes_to(what, || is_so().then_some(()), Option::is_some);
}

/// Waits until what `look` sees is as `is_so` says, and returns it.
///
/// # Panics
/// At the caller's line, with `what` was awaited and what was seen last, after [`PATIENCE`].
#[track_caller]
pub fn comes_to<S: Debug>(what: &str, mut look: impl FnMut() -> S, mut is_so: impl FnMut(&S) -> bool) -> S {
    let awaited = Awaited::here(what);
    let mut patience = Patience::default();
    loop {
        let seen = look();
        if is_so(&seen) {
            return seen;
        }
        assert!(!patience.is_over(), "not within {PATIENCE:?}: {what}; last seen: {seen:?}");
        awaited.saw(&seen);
        thread::sleep(Duration::from_millis(1));
    }
}

/// A wait under way, which a [`Watchdog`](crate::Watchdog) of this process prints should it bark.
pub struct Awaited {
    number: u64,
}

struct Entry {
    number: u64,
    what: String,
    place: &'static Location<'static>,
    thread: String,
    begun: Instant,
    saw: Option<String>,
}

struct Entries {
    last: u64,
    waits: Vec<Entry>,
}

fn entries() -> MutexGuard<'static, Entries> {
    static ENTRIES: Mutex<Entries> = Mutex::new(Entries { last: 0, waits: Vec::new() });
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Awaited {
    /// A wait for `what` at the caller's line, which ends when this is dropped.
    #[track_caller]
    pub fn here(what: impl Into<String>) -> Self {
        let (place, thread) = (Location::caller(), thread::current().name().unwrap_or("unnamed").to_owned());
        let mut entries = entries();
        entries.last += 1;
        let number = entries.last;
        entries.waits.push(Entry { number, what: what.into(), place, thread, begun: Instant::now(), saw: None });
        Self { number }
    }

    /// What was seen last.
    pub fn saw(&self, state: &dyn Debug) {
        let state = format!("{state:?}");
        if let Some(entry) = entries().waits.iter_mut().find(|entry| entry.number == self.number) {
            entry.saw = Some(state);
        }
    }

    /// All waits that are under way in this process, a line each.
    pub(crate) fn all() -> String {
        entries().waits.iter().map(|entry| format!("{entry}\n")).collect()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        entries().waits.retain(|entry| entry.number != self.number);
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, place, thread, begun, saw, .. } = self;
        write!(f, "{place}: thread {thread} has waited for {:?}: {what}", begun.elapsed())?;
        saw.iter().try_for_each(|saw| write!(f, "; last seen: {saw}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patience_does_not_run_out_while_nobody_looks() {
        let mut patience = Patience::of(3 * TURN_MAX);
        patience.looked -= 100 * TURN_MAX;
        assert!(!patience.is_over());
        patience.looked -= 100 * TURN_MAX;
        assert!(!patience.is_over());
        patience.looked -= 100 * TURN_MAX;
        assert!(patience.is_over());
    }

    #[test]
    fn a_wait_is_listed_with_its_line_and_what_it_saw_until_it_ends() {
        let awaited = Awaited::here("the tide to turn");
        let line = line!() - 1;
        awaited.saw(&["ebb"]);
        let listed = Awaited::all();
        let own = listed.lines().find(|line| line.contains("the tide to turn")).expect("it is listed");
        assert!(own.starts_with(&format!("{}:{line}:", file!())), "{own}");
        assert!(own.ends_with("last seen: [\"ebb\"]"), "{own}");
        drop(awaited);
        assert!(!Awaited::all().contains("the tide to turn"));
    }

    #[test]
    fn what_comes_about_is_returned() {
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            looks
        };
        assert_eq!(comes_to("three looks", &mut look, |looks| *looks == 3), 3);
        eventually("five looks", || look() == 5);
    }
}

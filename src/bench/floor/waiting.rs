//! Waiting without sleep.

use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

/// Silence of the other side after which waiting is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Spinning, though not for ever.
pub(super) struct Waiting {
    polite: bool,
    idle_turns: u64,
    idle_since: Option<Instant>,
}

impl Waiting {
    /// Looks in vain between two looks at the clock.
    const CLOCK: u64 = 1 << 16;

    pub(super) fn new(polite: bool) -> Self {
        Self { polite, idle_turns: 0, idle_since: None }
    }

    /// To be called after each look.
    pub(super) fn turn(&mut self, moved: bool) -> io::Result<()> {
        if moved {
            (self.idle_turns, self.idle_since) = (0, None);
            return Ok(());
        }
        if self.polite {
            thread::yield_now();
        }
        self.idle_turns += 1;
        if self.idle_turns.is_multiple_of(Self::CLOCK)
            && self.idle_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE
        {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

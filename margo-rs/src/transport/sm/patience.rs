//! How often a poll looks before it finds nothing.
//!
//! Looking on is right while the peer runs on another processor: it answers within a microsecond, and giving the processor
//! away costs as much. Where both share one, nothing can come before it is given away. Which processors this process may
//! use does not tell: one that is kept on a single processor has its peers elsewhere, most often. So it is learned from
//! where things are found.

/// Looks in one poll in which nothing is found: a few microseconds, since a peer that is at work answers within that, and
/// everything else costs more.
const LOOKS: u32 = 128;
/// After so many finds in a row right after the processor was given away, it is given away at once...
const LATE_MAX: u32 = 8;
/// ...except in one of so many polls.
const TRY_EVERY: u32 = 64;

/// What was learned so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The last poll found nothing.
    missed: bool,
    /// Finds in a row that came while the processor was given away.
    late: u32,
    /// Polls that did not look on since one tried.
    untried: u32,
}

impl Patience {
    /// How often the next poll looks.
    pub(super) fn looks(&mut self) -> u32 {
        if self.late < LATE_MAX {
            return LOOKS;
        }
        self.untried += 1;
        if self.untried < TRY_EVERY {
            return 1;
        }
        self.untried = 0;
        LOOKS
    }

    /// Something was found, after so many looks that found nothing.
    pub(super) fn found(&mut self, before: u32) {
        if before > 0 {
            self.late = 0;
        } else if self.missed {
            self.late = (self.late + 1).min(LATE_MAX);
        }
        self.missed = false;
    }

    /// Nothing was found.
    pub(super) fn missed(&mut self) {
        self.missed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_looking_is_looked_for_longer() {
        let mut patience = Patience::default();
        for _ in 0..1000 {
            assert_eq!(patience.looks(), LOOKS);
            patience.found(5);
        }
    }

    #[test]
    fn what_comes_only_when_the_processor_is_given_away_is_not_looked_for() {
        let mut patience = Patience::default();
        let mut looks = 0;
        for _ in 0..1000 {
            looks += patience.looks();
            patience.missed();
            looks += patience.looks().min(1);
            patience.found(0);
        }
        assert!(looks < 1000 * LOOKS / 8, "{looks} looks");
    }

    #[test]
    fn one_find_while_looking_brings_the_patience_back() {
        let mut patience = Patience::default();
        for _ in 0..LATE_MAX {
            patience.missed();
            patience.found(0);
        }
        let first = (1..=TRY_EVERY).find(|_| patience.looks() > 1);
        assert_eq!(first, Some(TRY_EVERY), "it tries again, rarely");
        patience.found(3);
        assert_eq!(patience.looks(), LOOKS);
    }
}

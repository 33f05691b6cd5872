//! What can be measured, and its names: the one place that makes them.

use std::fmt;
use std::str::FromStr;

use super::sample::Sample;

/// Payload sizes of calls, in bytes.
const CALL_SIZES: [usize; 4] = [0, 64, 1 << 10, 64 << 10];
/// Sizes of bulk transfers, in bytes.
const BULK_SIZES: [usize; 3] = [64 << 10, 1 << 20, 16 << 20];
/// Calls in flight.
const DEPTHS: [usize; 2] = [1, 64];

/// One row of the results. Its name is `call/64B/1`: what is done, with how many bytes, how many of it in flight. Bulk
/// transfers come one after the other: `pull/16MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) kind: Kind,
    /// Payload in bytes.
    pub(super) size: usize,
    pub(super) in_flight: usize,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An RPC that echoes its argument.
    Call,
    /// The same in an authenticated session.
    Sealed,
    /// The making of a session.
    Handshake,
    /// A bulk transfer from the server's memory.
    Pull,
    /// A bulk transfer into the server's memory.
    Push,
}

/// What a case is about, and so what its ratio compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aspect {
    /// The median time of one.
    Latency,
    /// How many a second.
    Rate,
}

impl Aspect {
    /// What a ratio compares.
    pub(super) fn of(self, sample: &Sample) -> f64 {
        match self {
            Aspect::Latency => sample.p50_us,
            Aspect::Rate => sample.per_s,
        }
    }

    pub(super) fn better(self, one: Sample, other: Sample) -> Sample {
        let one_is_higher = self.of(&one) > self.of(&other);
        if one_is_higher == (self == Aspect::Rate) { one } else { other }
    }
}

impl Case {
    pub(super) fn all() -> impl Iterator<Item = Case> {
        let echoes = |kind| {
            DEPTHS
                .into_iter()
                .flat_map(move |in_flight| CALL_SIZES.into_iter().map(move |size| Case { kind, size, in_flight }))
        };
        let moves = |kind| BULK_SIZES.into_iter().map(move |size| Case { kind, size, in_flight: 1 });
        let handshake = Case { kind: Kind::Handshake, size: 0, in_flight: 1 };
        let plain = echoes(Kind::Call).chain(moves(Kind::Pull)).chain(moves(Kind::Push));
        plain.chain(echoes(Kind::Sealed)).chain([handshake])
    }

    /// Whether it is about authenticated sessions.
    pub(super) fn is_of_auth(&self) -> bool {
        matches!(self.kind, Kind::Sealed | Kind::Handshake)
    }

    /// The case without a session that it is compared with.
    pub(super) fn plain(self) -> Case {
        Case { kind: Kind::Call, ..self }
    }

    pub(super) fn aspect(&self) -> Aspect {
        match self.kind {
            Kind::Pull | Kind::Push => Aspect::Rate,
            _ if self.in_flight == 1 => Aspect::Latency,
            _ => Aspect::Rate,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { kind, size, in_flight } = *self;
        let size = Size(size);
        f.pad(&match kind {
            Kind::Call => format!("call/{size}/{in_flight}"),
            Kind::Sealed => format!("sealed/{size}/{in_flight}"),
            Kind::Handshake => return f.pad("handshake"),
            Kind::Pull => format!("pull/{size}"),
            Kind::Push => format!("push/{size}"),
        })
    }
}

/// Bytes in the largest binary unit that leaves no rest.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            size if size % (1 << 20) == 0 => write!(f, "{}MiB", size >> 20),
            size if size % (1 << 10) == 0 => write!(f, "{}KiB", size >> 10),
            size => write!(f, "{size}B"),
        }
    }
}

/// Part of the names of the wanted cases, whose end is written `$`; at least one case has it.
#[derive(Clone, Debug)]
pub(super) struct Filter(String);

impl Filter {
    /// Whether one of `filters` wants `case`, or there is none.
    pub(super) fn any(filters: &[Filter], case: &Case) -> bool {
        let name = format!("{case}$");
        filters.is_empty() || filters.iter().any(|filter| name.contains(&filter.0))
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let filter = [Filter(text.to_owned())];
        if Case::all().any(|case| Filter::any(&filter, &case)) {
            let [filter] = filter;
            return Ok(filter);
        }
        let names: Vec<String> = Case::all().map(|case| case.to_string()).collect();
        Err(format!("no case has that in its name; there are {}", names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_how_large_and_how_many() {
        let case = |size, in_flight| Case { kind: Kind::Call, size, in_flight }.to_string();
        assert_eq!(case(0, 1), "call/0B/1");
        assert_eq!(case(64, 64), "call/64B/64");
        assert_eq!(case(1500, 1), "call/1500B/1");
        assert_eq!(case(64 << 10, 1), "call/64KiB/1");
        assert_eq!(case(16 << 20, 1), "call/16MiB/1");
        assert_eq!(Case { kind: Kind::Pull, size: 16 << 20, in_flight: 1 }.to_string(), "pull/16MiB");
        assert_eq!(Case { kind: Kind::Push, size: 64 << 10, in_flight: 1 }.to_string(), "push/64KiB");
    }

    #[test]
    fn a_filter_that_no_case_has_is_an_error_that_names_the_cases() {
        assert!("64B/1".parse::<Filter>().is_ok());
        let deep = ["/64$".parse().unwrap()];
        assert_eq!(Case::all().filter(|case| Filter::any(&deep, case)).count(), 2 * CALL_SIZES.len());
        assert!("nothing".parse::<Filter>().unwrap_err().contains("call/64KiB/64"));
    }
}

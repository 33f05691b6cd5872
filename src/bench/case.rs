//! What can be measured, and its names: the one place that makes them.

use std::fmt;
use std::str::FromStr;

use mochi_auth::bulk::Level;

use super::sample::Sample;

/// Payload sizes of calls, in bytes.
const CALL_SIZES: [usize; 4] = [0, 64, 1 << 10, 64 << 10];
/// Sizes of bulk transfers, in bytes.
const BULK_SIZES: [usize; 3] = [64 << 10, 1 << 20, 16 << 20];
/// Size of bulk transfers in sessions, in bytes.
const PROTECTED: usize = 16 << 20;
/// Calls in flight.
const DEPTHS: [usize; 2] = [1, 64];
/// Connected clients.
const CROWDS: [usize; 3] = [10, 100, 1000];
/// Open sessions.
const SESSIONS: [usize; 2] = [1000, 100_000];
/// Payload of calls of which something else than the size is the point, in bytes.
const SMALL: usize = 64;

/// One row of the results. Its name is `call/64B/1`: what is done, with how many bytes, how many of it in flight. Bulk
/// transfers come one after the other: `pull/16MiB`, and in a session `sealed-pull/16MiB/private`. Where it is clients or sessions that are many, the number is theirs:
/// `crowd/64B/1000`, `sessions/100000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) kind: Kind,
    /// In an authenticated session.
    pub(super) sealed: bool,
    /// Payload in bytes.
    pub(super) size: usize,
    /// Calls in flight; clients or sessions of the cases that are about these.
    pub(super) count: usize,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An RPC that echoes its argument.
    Call,
    /// The same by one client, while others are connected.
    Crowd,
    /// The same by all clients at once.
    Fair,
    /// The making of a session.
    Handshake,
    /// Calls in one session after the other of many.
    Sessions,
    /// A bulk transfer from the server's memory.
    Pull,
    /// A bulk transfer into the server's memory.
    Push,
    /// Bulk data that the server's handler pulls and checks, in a session.
    Protected(Level),
    /// As `Pull`, from and to vectors.
    PullVec,
    /// As `Push`, from and to vectors.
    PushVec,
}

impl Kind {
    /// Whether bulk data is moved.
    pub(super) fn moves(self) -> bool {
        self.is_pull() || matches!(self, Kind::Push | Kind::PushVec)
    }

    pub(super) fn is_pull(self) -> bool {
        matches!(self, Kind::Pull | Kind::PullVec)
    }

    /// Whether that is between vectors, instead of memory of the engines'.
    pub(super) fn is_of_vectors(self) -> bool {
        matches!(self, Kind::PullVec | Kind::PushVec)
    }
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
        let case = |kind, sealed, size, count| Case { kind, sealed, size, count };
        let echoes = move |sealed| {
            DEPTHS
                .into_iter()
                .flat_map(move |depth| CALL_SIZES.into_iter().map(move |size| case(Kind::Call, sealed, size, depth)))
        };
        let moves = move |kind| BULK_SIZES.into_iter().map(move |size| case(kind, false, size, 1));
        let crowds = move |sealed| {
            let of = move |kind| CROWDS.into_iter().map(move |clients| case(kind, sealed, SMALL, clients));
            of(Kind::Crowd).chain(of(Kind::Fair))
        };
        let sessions = SESSIONS.into_iter().map(move |sessions| case(Kind::Sessions, true, SMALL, sessions));
        let own = moves(Kind::Pull).chain(moves(Kind::Push));
        let vectors = moves(Kind::PullVec).chain(moves(Kind::PushVec));
        let plain = echoes(false).chain(own).chain(vectors).chain(crowds(false));
        let handshake = case(Kind::Handshake, true, 0, 1);
        let levels = [Level::None, Level::Integrity, Level::Private];
        let protected = levels.into_iter().map(move |level| case(Kind::Protected(level), true, PROTECTED, 1));
        plain.chain(echoes(true)).chain([handshake]).chain(protected).chain(crowds(true)).chain(sessions)
    }

    /// Whether it takes long to set up, so that it is measured on request alone, in one round.
    pub(super) fn is_long(&self) -> bool {
        self.kind == Kind::Sessions
    }

    /// How many clients it needs.
    pub(super) fn clients(&self) -> usize {
        if matches!(self.kind, Kind::Crowd | Kind::Fair) { self.count } else { 1 }
    }

    /// Calls with the same payload, so many in flight.
    pub(super) fn calls(self, in_flight: usize) -> Case {
        Case { kind: Kind::Call, count: in_flight, ..self }
    }

    /// The network's own transfer of as much data.
    pub(super) fn bare_pull(self) -> Case {
        Case { kind: Kind::Pull, sealed: false, ..self }
    }

    /// Calls with the same payload, without a session.
    pub(super) fn plain(self) -> Case {
        Case { kind: Kind::Call, sealed: false, ..self }
    }

    pub(super) fn aspect(&self) -> Aspect {
        match self.kind {
            Kind::Protected(_) | Kind::Fair => Aspect::Rate,
            kind if kind.moves() => Aspect::Rate,
            Kind::Call if self.count > 1 => Aspect::Rate,
            _ => Aspect::Latency,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { kind, sealed, size, count } = *self;
        let size = Size(size);
        let what = match (kind, sealed) {
            (Kind::Handshake, _) => return f.pad("handshake"),
            (Kind::Sessions, _) => return f.pad(&format!("sessions/{count}")),
            (Kind::Pull, _) => return f.pad(&format!("pull/{size}")),
            (Kind::Push, _) => return f.pad(&format!("push/{size}")),
            (Kind::Protected(Level::None), _) => return f.pad(&format!("sealed-pull/{size}/none")),
            (Kind::Protected(Level::Integrity), _) => return f.pad(&format!("sealed-pull/{size}/integrity")),
            (Kind::Protected(Level::Private), _) => return f.pad(&format!("sealed-pull/{size}/private")),
            (Kind::PullVec, _) => return f.pad(&format!("pull-vec/{size}")),
            (Kind::PushVec, _) => return f.pad(&format!("push-vec/{size}")),
            (Kind::Call, false) => "call",
            (Kind::Call, true) => "sealed",
            (Kind::Crowd, false) => "crowd",
            (Kind::Crowd, true) => "sealed-crowd",
            (Kind::Fair, false) => "fair",
            (Kind::Fair, true) => "sealed-fair",
        };
        f.pad(&format!("{what}/{size}/{count}"))
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

/// Part of the names of the wanted cases, whose beginning is written `^` and whose end `$`; at least one case has it.
#[derive(Clone, Debug)]
pub(super) struct Filter(String);

impl Filter {
    /// Whether one of `filters` names `case`.
    pub(super) fn any(filters: &[Filter], case: &Case) -> bool {
        let name = format!("^{case}$");
        filters.iter().any(|filter| name.contains(&filter.0))
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
        let name = |kind, sealed, size, count| Case { kind, sealed, size, count }.to_string();
        assert_eq!(name(Kind::Call, false, 0, 1), "call/0B/1");
        assert_eq!(name(Kind::Call, true, 64, 64), "sealed/64B/64");
        assert_eq!(name(Kind::Call, false, 1500, 1), "call/1500B/1");
        assert_eq!(name(Kind::Call, false, 64 << 10, 1), "call/64KiB/1");
        assert_eq!(name(Kind::Crowd, false, 64, 1000), "crowd/64B/1000");
        assert_eq!(name(Kind::Fair, true, 64, 10), "sealed-fair/64B/10");
        assert_eq!(name(Kind::Sessions, true, 64, 100_000), "sessions/100000");
        assert_eq!(name(Kind::Pull, false, 16 << 20, 1), "pull/16MiB");
        assert_eq!(name(Kind::Push, false, 64 << 10, 1), "push/64KiB");
        assert_eq!(name(Kind::Protected(Level::Private), true, 16 << 20, 1), "sealed-pull/16MiB/private");
        assert_eq!(name(Kind::PullVec, false, 64 << 10, 1), "pull-vec/64KiB");
    }

    #[test]
    fn no_two_cases_share_a_name() {
        let mut names: Vec<String> = Case::all().map(|case| case.to_string()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_filter_that_no_case_has_is_an_error_that_names_the_cases() {
        assert!("64B/1".parse::<Filter>().is_ok());
        let deep = ["/64$".parse().unwrap()];
        assert_eq!(Case::all().filter(|case| Filter::any(&deep, case)).count(), 2 * CALL_SIZES.len());
        let plain = ["^crowd".parse().unwrap()];
        assert_eq!(Case::all().filter(|case| Filter::any(&plain, case)).count(), CROWDS.len());
        assert!("nothing".parse::<Filter>().unwrap_err().contains("call/64KiB/64"));
    }
}

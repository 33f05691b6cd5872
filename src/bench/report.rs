//! The table and the JSON.

use std::fmt;

use serde::{Serialize, Serializer};

use super::case::{Aspect, Case};
use super::machine::{Machine, Pins};
use super::{Options, Waiting};

/// All that one run found.
#[derive(Serialize)]
pub(super) struct Report {
    version: &'static str,
    machine: Machine,
    progress: Waiting,
    pin: Option<Pins>,
    duration_s: f64,
    rounds: u32,
    rows: Vec<Row>,
}

/// Medians over the rounds of one case.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) transport: String,
    #[serde(serialize_with = "by_name")]
    pub(super) case: Case,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) per_s: f64,
    /// Payload, one way.
    pub(super) bytes_per_s: f64,
    /// The floor's `p50_us` or `per_s`, by the case's aspect.
    pub(super) floor: f64,
    /// Figure over floor.
    pub(super) ratio: f64,
}

fn by_name<S: Serializer>(case: &Case, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(case)
}

impl Report {
    pub(super) fn new(options: &Options, machine: Machine, rows: Vec<Row>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            machine,
            progress: options.progress,
            pin: options.pin,
            duration_s: options.duration.as_secs_f64(),
            rounds: options.rounds,
            rows,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, machine, progress, pin, duration_s, rounds, rows } = self;
        writeln!(f, "Mochi for Rust {version} on {machine}")?;
        write!(f, "{duration_s} s a case in {rounds} rounds, progress {}", progress.name())?;
        if let Some(Pins { client, server }) = pin {
            write!(f, ", client on processor {client}, server on {server}")?;
        }
        write!(
            f,
            "\n\n{:<10} {:<16} {:>10} {:>10} {:>10} {:>10} {:>12} {:>7}",
            "transport", "case", "p50 µs", "p99 µs", "calls/s", "B/s", "floor", "ratio"
        )?;
        for row in rows {
            let floor = match row.case.aspect() {
                Aspect::Latency => format!("{} µs", Micros(row.floor)),
                Aspect::Rate => format!("{} /s", Short(row.floor)),
            };
            let [p50, p99] = [row.p50_us, row.p99_us].map(|micros| Micros(micros).to_string());
            let [per_s, bytes_per_s] = [row.per_s, row.bytes_per_s].map(|count| Short(count).to_string());
            write!(
                f,
                "\n{:<10} {:<16} {p50:>10} {p99:>10} {per_s:>10} {bytes_per_s:>10} {floor:>12} {:>7.2}",
                row.transport, row.case, row.ratio
            )?;
        }
        Ok(())
    }
}

/// With three digits or more.
struct Micros(f64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0 {
            micros if micros < 10.0 => 2,
            micros if micros < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{:.decimals$}", self.0)
    }
}

/// A count with three digits and a decimal prefix.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, prefix) = match self.0 {
            count if count >= 1e9 => (count / 1e9, " G"),
            count if count >= 1e6 => (count / 1e6, " M"),
            count if count >= 1e3 => (count / 1e3, " k"),
            count => (count, ""),
        };
        let decimals = match value {
            value if prefix.is_empty() || value >= 100.0 => 0,
            value if value >= 10.0 => 1,
            _ => 2,
        };
        write!(f, "{value:.decimals$}{prefix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let counts = [0.0, 999.0, 1234.0, 56_789.0, 2_345_678.0, 9.5e9].map(|count| Short(count).to_string());
        assert_eq!(counts, ["0", "999", "1.23 k", "56.8 k", "2.35 M", "9.50 G"]);
        assert_eq!([7.126, 71.26, 712.6].map(|micros| Micros(micros).to_string()), ["7.13", "71.3", "713"]);
    }
}

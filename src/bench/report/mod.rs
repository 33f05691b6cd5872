//! The table and the JSON.

mod markdown;
pub(super) mod number;
mod table;

use serde::{Serialize, Serializer};

use self::number::{Bytes, Micros, Short};
use super::calls::Mechanism;
use super::case::{Aspect, Case, Kind};
use super::machine::{Machine, Pins};
use super::{Handlers, Options, Waiting};

/// All that one run found.
#[derive(Serialize)]
pub(super) struct Report {
    version: &'static str,
    machine: Machine,
    /// The address of a server that was there before, maybe on another host.
    server: Option<String>,
    progress: Waiting,
    handlers: Handlers,
    /// Of sessions, if there were any.
    mechanism: Option<Mechanism>,
    pin: Option<Pins>,
    duration_s: f64,
    rounds: u32,
    rows: Vec<Row>,
}

/// What was found of one case: the round with the median ratio.
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
    pub(super) floor: Option<f64>,
    /// What the floor is, where that depends on what is installed.
    pub(super) floor_of: Option<String>,
    /// Figure over floor.
    pub(super) ratio: Option<f64>,
    /// Memory that the server took for each client or session, in bytes.
    pub(super) bytes_each: Option<f64>,
    /// What the slowest client got done, as a part of what each would have got if all were equal.
    pub(super) slowest: Option<f64>,
    /// What the cipher alone takes of a sealed call, both ends together.
    pub(super) cipher_us: Option<f64>,
}

fn by_name<S: Serializer>(case: &Case, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(case)
}

impl Report {
    pub(super) fn new(options: &Options, machine: Machine, rows: Vec<Row>) -> Self {
        let sealed = rows.iter().any(|row| row.case.sealed);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            machine,
            server: options.server.clone(),
            progress: options.progress,
            handlers: options.handlers,
            mechanism: sealed.then(|| options.auth.unwrap_or(Mechanism::Key)),
            pin: options.pin,
            duration_s: options.duration.as_secs_f64(),
            rounds: options.rounds,
            rows,
        }
    }

    /// What ran where.
    fn title(&self) -> String {
        format!("Mochi for Rust {} on {}", self.version, self.machine)
    }

    /// How it was measured.
    fn manner(&self) -> String {
        let mut text =
            format!("{} s a case in {} rounds, progress {}", self.duration_s, self.rounds, self.progress.name());
        if let Some(Pins { client, server }) = self.pin {
            text += &format!(", client on processor {client}, server on {server}");
        }
        if self.handlers != Handlers::Primary {
            text += &format!(", handlers {}", self.handlers.name());
        }
        if let Some(mechanism) = self.mechanism {
            text += &format!(", sessions by {}", mechanism.name());
        }
        if let Some(server) = &self.server {
            text += &format!(", server {server}");
        }
        text
    }
}

impl Row {
    const HEADS: [&'static str; 9] =
        ["transport", "case", "p50 µs", "p99 µs", "calls/s", "B/s", "floor", "ratio", "notes"];

    /// What a table shows; a `-` is for what there is not.
    fn cells(&self) -> [String; 9] {
        let none = || "-".to_owned();
        let floor = self.floor.map(|floor| match self.case.aspect() {
            Aspect::Latency => format!("{} µs", Micros(floor)),
            Aspect::Rate => format!("{} /s", Short(floor)),
        });
        let ratio = self.ratio.map(|ratio| format!("{ratio:.2}"));
        [
            self.transport.clone(),
            self.case.to_string(),
            Micros(self.p50_us).to_string(),
            Micros(self.p99_us).to_string(),
            Short(self.per_s).to_string(),
            Short(self.bytes_per_s).to_string(),
            floor.unwrap_or_else(none),
            ratio.unwrap_or_else(none),
            self.notes(),
        ]
    }

    fn notes(&self) -> String {
        let one = if self.case.kind == Kind::Sessions { "session" } else { "client" };
        let bytes = self.bytes_each.map(|bytes| format!("{} a {one}", Bytes(bytes)));
        let slowest = self.slowest.map(|part| format!("slowest client {part:.2}"));
        let cipher = self.cipher_us.map(|time| format!("cipher {} µs", Micros(time)));
        let floor = self.floor_of.as_ref().map(|floor| format!("floor: {floor}"));
        let notes: Vec<String> = bytes.into_iter().chain(slowest).chain(cipher).chain(floor).collect();
        notes.join(", ")
    }
}

//! Keeps what is logged, to count audit events and to search for secrets.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

/// The target of audit events.
const AUDIT: &str = "mochi_auth::audit";

static LOG: Mutex<Vec<Line>> = Mutex::new(Vec::new());
static EVERYTHING: AtomicBool = AtomicBool::new(false);

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) target: &'static str,
    /// Name and value of each field, values as they would be printed.
    pub(crate) fields: Vec<(&'static str, String)>,
}

impl Line {
    /// A field's value, or nothing.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| *field == name).map_or("", |(_, value)| value)
    }

    /// Whether it is an audit event that somebody was refused.
    pub(crate) fn is_refusal(&self) -> bool {
        self.target == AUDIT && matches!(self.field("event"), "handshake refused" | "request refused" | "call denied")
    }
}

fn log() -> MutexGuard<'static, Vec<Line>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts with an empty log. `everything`: at all levels and of all crates, not only audit events.
pub(crate) fn restart(everything: bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Recorder).expect("nobody else sets one here"));
    EVERYTHING.store(everything, Ordering::SeqCst);
    log().clear();
}

/// What was logged since.
pub(crate) fn lines() -> Vec<Line> {
    log().clone()
}

/// Refusals among them.
pub(crate) fn refusals() -> Vec<Line> {
    log().iter().filter(|line| line.is_refusal()).cloned().collect()
}

/// How many those are.
pub(crate) fn refusal_count() -> usize {
    log().iter().filter(|line| line.is_refusal()).count()
}

struct Recorder;

struct Fields<'a>(&'a mut Vec<(&'static str, String)>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("a string takes it");
        self.0.push((field.name(), text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }
}

fn keep(metadata: &Metadata<'static>, visit: impl FnOnce(&mut Fields<'_>)) {
    let mut fields = Vec::new();
    visit(&mut Fields(&mut fields));
    log().push(Line { target: metadata.target(), fields });
}

impl Subscriber for Recorder {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes() // what is kept changes from test to test
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == AUDIT || EVERYTHING.load(Ordering::Relaxed)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        keep(span.metadata(), |fields| span.record(fields));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut fields = Vec::new();
        values.record(&mut Fields(&mut fields));
        log().push(Line { target: "", fields });
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        keep(event.metadata(), |fields| event.record(fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

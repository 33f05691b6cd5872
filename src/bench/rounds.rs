//! The order of measurements, and the round in the middle of them.

use std::time::Duration;

use mochi_rs::program::Outcome;

use super::case::{Case, Kind};
use super::report::Row;
use super::sample::Sample;
use super::{Setup, bulk, calls, floor};

/// What the case is compared with; `None` if there is nothing.
fn floor_of(setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Option<Sample>> {
    let calls = |case| calls::measure(setup, case, span).map(Some);
    match case.kind {
        Kind::Call if case.sealed => calls(case.plain()),
        Kind::Call | Kind::Pull | Kind::Push | Kind::PullVec | Kind::PushVec => floor::measure(setup, case, span),
        Kind::Handshake => {
            let mut plain = calls::measure(setup, case.plain(), span)?;
            plain.p50_us += calls::daemon_time(setup, span)?.as_secs_f64() * 1e6;
            Ok(Some(plain))
        }
        Kind::Crowd | Kind::Sessions => calls(case.calls(1)),
        Kind::Protected(_) => bulk::measure(setup, case.bare_pull(), span).map(Some),
        Kind::Fair => calls(case.calls(case.count)),
    }
}

/// How long one measurement of one round takes.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// A case and its floor, next to each other in time.
struct Pair {
    figure: Sample,
    floor: Option<Sample>,
}

impl Pair {
    /// Figure over floor.
    fn ratio(&self, case: Case) -> Option<f64> {
        let aspect = |sample| case.aspect().of(sample);
        self.floor.as_ref().map(|floor| aspect(&self.figure) / aspect(floor))
    }
}

fn figure_of(setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Sample> {
    match case.kind {
        kind if kind.moves() => bulk::measure(setup, case, span),
        Kind::Protected(level) => bulk::measure_protected(setup, case, level, span),
        _ => calls::measure(setup, case, span),
    }
}

/// Measures a case and its floor in turns; every other round begins with the case, so that a steady drift cancels.
pub(super) fn measure(setup: &Setup<'_>, case: Case, show: impl Fn(u32)) -> Outcome<Row> {
    let options = setup.options;
    let rounds = if case.is_long() { 1 } else { options.rounds };
    let span = Span { warmup: options.warmup, duration: options.duration / rounds };
    let mut pairs = Vec::new();
    for round in 1..=rounds {
        show(round);
        let pair = if round % 2 == 1 {
            let floor = floor_of(setup, case, span)?;
            Pair { figure: figure_of(setup, case, span)?, floor }
        } else {
            let figure = figure_of(setup, case, span)?;
            Pair { figure, floor: floor_of(setup, case, span)? }
        };
        pairs.push(pair);
    }

    // The figures are those of one round, the one with the median ratio: medians of each figure by itself could come from
    // rounds that saw different machines, and their quotient would mean nothing.
    let rank = |pair: &Pair| pair.ratio(case).unwrap_or_else(|| case.aspect().of(&pair.figure));
    // A server that serves all rounds has the memory of the first one still.
    let bytes_each = pairs.iter().filter_map(|pair| pair.figure.bytes_each).max_by(f64::total_cmp);
    pairs.sort_by(|one, other| rank(one).total_cmp(&rank(other)));
    let middle = &pairs[pairs.len() / 2];
    let Pair { figure, floor } = middle;
    let cipher_us = (case.kind == Kind::Call && case.sealed).then(|| floor::cipher::measure(case.size)).transpose()?;
    Ok(Row {
        transport: setup.transport.to_owned(),
        case,
        p50_us: figure.p50_us,
        p99_us: figure.p99_us,
        per_s: figure.per_s,
        bytes_per_s: figure.per_s * case.size as f64,
        floor: floor.as_ref().map(|floor| case.aspect().of(floor)),
        ratio: middle.ratio(case),
        bytes_each,
        slowest: figure.slowest,
        cipher_us,
        floor_of: floor.as_ref().and_then(|_| floor::name(setup, case)),
    })
}

//! The order of measurements, and the round in the middle of them.

use std::time::Duration;

use mochi_rs::program::Outcome;

use super::case::{Case, Kind};
use super::report::Row;
use super::sample::Sample;
use super::{Options, bulk, calls, floor, stream};

/// What the case is compared with.
fn floor_of(options: &Options, case: Case, span: Span) -> Outcome<Sample> {
    match case.kind {
        Kind::Call => floor::measure(options, case, span),
        Kind::Pull | Kind::Push => stream::measure(options, case, span),
        Kind::Sealed => calls::measure(options, case.plain(), span),
        Kind::Handshake => {
            let mut plain = calls::measure(options, case.plain(), span)?;
            plain.p50_us += calls::daemon_time(options, span)?.as_secs_f64() * 1e6;
            Ok(plain)
        }
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
    floor: Sample,
}

fn figure_of(options: &Options, case: Case, span: Span) -> Outcome<Sample> {
    match case.kind {
        Kind::Pull | Kind::Push => bulk::measure(options, case, span),
        _ => calls::measure(options, case, span),
    }
}

/// Measures a case and its floor in turns; every other round begins with the case, so that a steady drift cancels.
pub(super) fn measure(options: &Options, case: Case, show: impl Fn(u32)) -> Outcome<Row> {
    let span = Span { warmup: options.warmup, duration: options.duration / options.rounds };
    let mut pairs = Vec::new();
    for round in 1..=options.rounds {
        show(round);
        let pair = if round % 2 == 1 {
            let floor = floor_of(options, case, span)?;
            Pair { figure: figure_of(options, case, span)?, floor }
        } else {
            let figure = figure_of(options, case, span)?;
            Pair { figure, floor: floor_of(options, case, span)? }
        };
        pairs.push(pair);
    }

    // The figures are those of one round, the one with the median ratio: medians of each figure by itself could come from
    // rounds that saw different machines, and their quotient would mean nothing.
    let aspect = |sample: &Sample| case.aspect().of(sample);
    let ratio = |pair: &Pair| aspect(&pair.figure) / aspect(&pair.floor);
    pairs.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
    let Pair { figure, floor } = &pairs[pairs.len() / 2];
    Ok(Row {
        transport: options.transport.to_string(),
        case,
        p50_us: figure.p50_us,
        p99_us: figure.p99_us,
        per_s: figure.per_s,
        bytes_per_s: figure.per_s * case.size as f64,
        floor: aspect(floor),
        ratio: aspect(figure) / aspect(floor),
    })
}

//! The order of measurements, and medians over them.

use std::time::Duration;

use mochi_rs::program::Outcome;

use super::case::Case;
use super::report::Row;
use super::sample::{Sample, median};
use super::{Options, calls, floor};

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

/// Measures a case and its floor in turns; every other round begins with the case, so that a steady drift cancels.
pub(super) fn measure(options: &Options, case: Case, show: impl Fn(u32)) -> Outcome<Row> {
    let span = Span { warmup: options.warmup, duration: options.duration / options.rounds };
    let mut pairs = Vec::new();
    for round in 1..=options.rounds {
        show(round);
        let pair = if round % 2 == 1 {
            let floor = floor::measure(options, case, span)?;
            Pair { figure: calls::measure(options, case, span)?, floor }
        } else {
            let figure = calls::measure(options, case, span)?;
            Pair { figure, floor: floor::measure(options, case, span)? }
        };
        pairs.push(pair);
    }

    let over = |value: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(value).collect());
    let aspect = |sample: &Sample| case.aspect().of(sample);
    let per_s = over(&|pair| pair.figure.per_s);
    Ok(Row {
        transport: options.transport.clone(),
        case,
        p50_us: over(&|pair| pair.figure.p50_us),
        p99_us: over(&|pair| pair.figure.p99_us),
        per_s,
        bytes_per_s: per_s * case.size as f64,
        floor: over(&|pair| aspect(&pair.floor)),
        // Of each round, so that figure and floor saw the same machine.
        ratio: over(&|pair| aspect(&pair.figure) / aspect(&pair.floor)),
    })
}

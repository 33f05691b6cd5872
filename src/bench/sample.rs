//! Times of one measurement.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mochi_rs::program::Outcome;

/// Collects times while a measurement runs.
pub(super) struct Recorder {
    histogram: Histogram<u64>,
    count: u64,
}

impl Recorder {
    pub(super) fn new() -> Outcome<Self> {
        // Three digits; it grows with the times that it sees.
        Ok(Self { histogram: Histogram::new(3)?, count: 0 })
    }

    /// Counts `count` round trips.
    pub(super) fn count(&mut self, count: u64) {
        self.count += count;
    }

    /// Notes how long each of `count` round trips took, which counts them only if [`Recorder::count`] does.
    pub(super) fn record(&mut self, took: Duration, count: u64) -> Outcome {
        let nanos = u64::try_from(took.as_nanos())?;
        Ok(self.histogram.record_n(nanos, count)?)
    }

    pub(super) fn merge(&mut self, other: &Recorder) -> Outcome {
        self.count += other.count;
        Ok(self.histogram.add(&other.histogram)?)
    }

    pub(super) fn sample(&self, since: Instant) -> Sample {
        self.sample_of(since.elapsed())
    }

    /// Where some of the time did not count.
    pub(super) fn sample_of(&self, took: Duration) -> Sample {
        let micros = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1e3;
        let per_s = self.count as f64 / took.as_secs_f64();
        Sample { p50_us: micros(0.5), p99_us: micros(0.99), per_s, bytes_each: None, slowest: None }
    }
}

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) per_s: f64,
    /// Memory that the server took for each client or session, in bytes.
    pub(super) bytes_each: Option<f64>,
    /// What the slowest client got done, as a part of what each would have got if all were equal.
    pub(super) slowest: Option<f64>,
}

//! The floor of bulk transfers through shared memory: one copy, within one process, from a buffer of the transfer's size
//! to another.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mochi_rs::program::Outcome;

use super::super::case::Case;
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};

pub(super) fn measure(case: Case, span: Span) -> Outcome<Sample> {
    let (from, mut to) = (vec![0x5a; case.size], vec![0; case.size]);
    copy_for(&from, &mut to, span.warmup)?;
    copy_for(&from, &mut to, span.duration)
}

fn copy_for(from: &[u8], to: &mut [u8], duration: Duration) -> Outcome<Sample> {
    let mut recorder = Recorder::new()?;
    let begin = Instant::now();
    let mut start = begin;
    loop {
        to.copy_from_slice(black_box(from));
        black_box(&*to);
        let now = Instant::now();
        recorder.record(now - start, 1)?;
        recorder.count(1);
        start = now;
        if now - begin >= duration {
            return Ok(recorder.sample(begin));
        }
    }
}

//! The side that moves the data.

use std::time::{Duration, Instant};

use margo_rs::bulk::{BulkDescriptor, Region};
use margo_rs::{Endpoint, Engine};
use mochi_rs::program::Outcome;

use super::super::Options;
use super::super::case::{Case, Kind};
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::REGION;

pub(super) fn measure(options: &Options, address: &str, case: Case, span: Span) -> Outcome<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = Engine::builder(address).progress(options.progress.progress()).connect()?;
        let server = engine.lookup(address).await?;
        let remote = server.call(REGION, &(case.size as u64)).await?;
        let here = engine.stage(vec![0x5a; case.size])?;
        move_for(&server, case, &remote, &here, span.warmup).await?;
        move_for(&server, case, &remote, &here, span.duration).await
    })
}

/// Transfers, one after the other, until the time is up.
async fn move_for(
    server: &Endpoint,
    case: Case,
    remote: &BulkDescriptor,
    here: &Region,
    duration: Duration,
) -> Outcome<Sample> {
    let mut recorder = Recorder::new()?;
    let begin = Instant::now();
    let mut start = begin;
    loop {
        match case.kind {
            Kind::Push => server.push(here, remote).await?,
            _ => server.pull(remote, here).await?,
        }
        let now = Instant::now();
        recorder.record(now - start, 1)?;
        recorder.count(1);
        start = now;
        if now - begin >= duration {
            return Ok(recorder.sample(begin));
        }
    }
}

//! One-sided transfers: what a user of `pull` and `push` gets, one after the other.

use std::time::{Duration, Instant};

use margo_rs::bulk::{BulkDescriptor, Region};
use margo_rs::{Endpoint, Engine};
use mochi_rs::program::Outcome;

use super::Setup;
use super::case::{Case, Kind};
use super::rounds::Span;
use super::sample::{Recorder, Sample};
use super::serve::REGION;
use super::target::Target;

/// Measures the case.
pub(super) fn measure(setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Sample> {
    let mut target = Target::start(setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let address = target.address();
        let engine = Engine::builder(address).progress(setup.options.progress.progress()).connect()?;
        let server = engine.lookup(address).await?;
        let remote = server.call(REGION, &(case.size as u64)).await?;
        let here = engine.stage(vec![0x5a; case.size])?;
        move_for(&server, case, &remote, &here, span.warmup).await?;
        move_for(&server, case, &remote, &here, span.duration).await
    });
    measured.map_err(|error| target.blame(case, error).into())
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

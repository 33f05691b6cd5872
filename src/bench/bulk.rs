//! One-sided transfers: what a user of `pull` and `push` gets, one after the other, and what one of sessions gets.

use std::time::{Duration, Instant};

use margo_rs::bulk::{BulkDescriptor, Memory, Region};
use margo_rs::{Endpoint, Engine};
use mochi_auth::Connection;
use mochi_auth::bulk::Level;
use mochi_rs::program::Outcome;

use super::Setup;
use super::calls::auth::{self, STORE};
use super::case::Case;
use super::rounds::Span;
use super::sample::{Recorder, Sample};
use super::serve::{self, REGION};
use super::target::{self, Target};

/// Measures the case.
pub(super) fn measure(setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Sample> {
    let mut target = Target::start(setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let address = target.address();
        let builder = || Engine::builder(address).progress(setup.options.progress.progress());
        let (engine, server) = target::reach(setup, address, false, builder).await?;
        let is_of_vectors = case.kind.is_of_vectors();
        let remote = server.call(REGION, &(case.size as u64, is_of_vectors)).await?;
        let here = engine.stage(serve::memory(&engine, case.size, is_of_vectors || case.kind.is_pull()))?;
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
    here: &Region<Box<dyn Memory>>,
    duration: Duration,
) -> Outcome<Sample> {
    let mut recorder = Recorder::new()?;
    let begin = Instant::now();
    let mut start = begin;
    loop {
        if case.kind.is_pull() {
            server.pull(remote, here).await?;
        } else if case.kind.is_of_vectors() {
            server.push(here, remote).await?;
        } else {
            server.push(here.lend(), remote).await?;
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

/// Measures data that is offered in a session: from protecting it, over the handler's pull and check of it, to the answer.
/// Not counted is the making of the data, for which each time a buffer is filled.
pub(super) fn measure_protected(setup: &Setup<'_>, case: Case, level: Level, span: Span) -> Outcome<Sample> {
    let mut target = Target::start(setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let address = target.address();
        let builder = || Engine::builder(address).progress(setup.options.progress.progress());
        let (engine, _server) = target::reach(setup, address, false, builder).await?;
        let server = auth::connect(setup, &engine, address).await?;
        offer_for(&server, case, level, span.warmup).await?;
        offer_for(&server, case, level, span.duration).await
    });
    measured.map_err(|error| target.blame(case, error).into())
}

/// Offers data, one buffer after the other, until the time is up.
async fn offer_for(server: &Connection, case: Case, level: Level, duration: Duration) -> Outcome<Sample> {
    let mut recorder = Recorder::new()?;
    let mut busy = Duration::ZERO;
    let begin = Instant::now();
    loop {
        let data = vec![0x5a; case.size];
        let start = Instant::now();
        let offer = server.offer(data, level)?;
        let stored = server.call(STORE, offer.ticket()).await?;
        let took = start.elapsed();
        if stored != case.size as u64 {
            return Err(format!("{stored} bytes arrived of {}", case.size).into());
        }
        recorder.record(took, 1)?;
        recorder.count(1);
        busy += took;
        if begin.elapsed() >= duration {
            return Ok(recorder.sample_of(busy));
        }
    }
}

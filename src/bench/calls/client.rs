//! The caller.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use margo_rs::codec::Blob;
use margo_rs::{Endpoint, Engine};
use mochi_auth::Connection;
use mochi_rs::program::Outcome;
use tokio::task::{JoinSet, LocalSet};

use super::super::Options;
use super::super::case::{Case, Kind};
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::{ECHO, auth};

/// With several calls in flight, one of so many is timed: reading the clock would cost the others time.
const TIMED_EVERY: u32 = 16;

/// How a client has several calls in flight. Which is fastest is lost in the noise of a small machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// A task for each, of a `LocalSet`
    #[default]
    Local,
    /// A task for each
    Spawn,
    /// One task that polls all of them
    Join,
}

pub(super) fn measure(options: &Options, address: &str, case: Case, span: Span) -> Outcome<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = Engine::builder(address).progress(options.progress.progress()).connect()?;
        match case.kind {
            Kind::Sealed => {
                let server = auth::connect(options, &engine, address).await?;
                call_for(&server, options.client, case, span).await
            }
            Kind::Handshake => {
                let server = auth::connect(options, &engine, address).await?;
                shake_hands_for(&server, span.warmup).await?;
                shake_hands_for(&server, span.duration).await
            }
            _ => {
                let server = engine.lookup(address).await?;
                call_for(&server, options.client, case, span).await
            }
        }
    })
}

/// What echoes.
trait Echo: Clone + 'static {
    fn echo(&self, payload: &Blob) -> impl Future<Output = Outcome<Blob>> + Send;
}

impl Echo for Endpoint {
    async fn echo(&self, payload: &Blob) -> Outcome<Blob> {
        Ok(self.call(ECHO, payload).await?)
    }
}

impl Echo for Connection {
    async fn echo(&self, payload: &Blob) -> Outcome<Blob> {
        Ok(self.call(auth::SEALED_ECHO, payload).await?)
    }
}

async fn shake_hands_for(server: &Connection, duration: Duration) -> Outcome<Sample> {
    let mut recorder = Recorder::new()?;
    let start = Instant::now();
    let mut now = start;
    while now - start < duration {
        server.reauthenticate().await?;
        let then = std::mem::replace(&mut now, Instant::now());
        recorder.record(now - then, 1)?;
        recorder.count(1);
    }
    Ok(recorder.sample(start))
}

async fn call_for<E: Echo + Send + Sync>(server: &E, shape: Shape, case: Case, span: Span) -> Outcome<Sample> {
    echo_for(server, shape, case, span.warmup).await?;
    echo_for(server, shape, case, span.duration).await
}

async fn echo_for<E: Echo + Send + Sync>(server: &E, shape: Shape, case: Case, duration: Duration) -> Outcome<Sample> {
    let start = Instant::now();
    let end = start + duration;
    let recorder = if case.in_flight == 1 {
        caller(server.clone(), case.size, end, 1).await?
    } else {
        let caller = || caller(server.clone(), case.size, end, TIMED_EVERY);
        let callers = std::iter::repeat_with(caller).take(case.in_flight);
        match shape {
            Shape::Spawn => join(callers.collect::<JoinSet<_>>()).await?,
            Shape::Local => {
                let local = LocalSet::new();
                let mut tasks = JoinSet::new();
                for caller in callers {
                    tasks.spawn_local_on(caller, &local);
                }
                local.run_until(join(tasks)).await?
            }
            Shape::Join => poll_all(callers).await?,
        }
    };
    Ok(recorder.sample(start))
}

/// Calls, one after the other, until `end`.
async fn caller<E: Echo>(server: E, size: usize, end: Instant, timed_every: u32) -> Outcome<Recorder> {
    let mut recorder = Recorder::new()?;
    let payload = Blob(vec![0x5a; size]);
    let mut start = Instant::now();
    loop {
        for number in 1..=timed_every {
            let answer = server.echo(&payload).await?;
            if answer.len() != size {
                return Err(format!("{} bytes came back of {size}", answer.len()).into());
            }
            if number == 1 {
                let now = Instant::now();
                recorder.record(now - start, 1)?;
                start = now;
            }
        }
        recorder.count(timed_every.into());
        if timed_every > 1 {
            start = Instant::now();
        }
        if start >= end {
            return Ok(recorder);
        }
    }
}

async fn join(mut tasks: JoinSet<Outcome<Recorder>>) -> Outcome<Recorder> {
    let mut all = Recorder::new()?;
    while let Some(recorder) = tasks.join_next().await {
        all.merge(&recorder??)?;
    }
    Ok(all)
}

/// A simple join, as of the `futures` crate for few futures: each wake-up polls all.
async fn poll_all(futures: impl Iterator<Item = impl Future<Output = Outcome<Recorder>>>) -> Outcome<Recorder> {
    let mut futures: Vec<Pin<Box<_>>> = futures.map(Box::pin).collect();
    let mut all = Recorder::new()?;
    poll_fn(|cx| {
        let mut at = 0;
        while at < futures.len() {
            match futures[at].as_mut().poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(recorder) => {
                    all.merge(&recorder?)?;
                    drop(futures.swap_remove(at));
                }
            }
        }
        if futures.is_empty() { Poll::Ready(Outcome::Ok(())) } else { Poll::Pending }
    })
    .await?;
    Ok(all)
}

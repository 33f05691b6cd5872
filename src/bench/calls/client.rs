//! The caller.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use margo_rs::codec::Blob;
use margo_rs::{Endpoint, Engine};
use mochi_auth::Connection;
use mochi_rs::program::Outcome;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, LocalSet};

use super::super::case::{Case, Kind};
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::super::serve::{ECHO, State};
use super::super::{Setup, Waiting, target};
use super::auth;

/// With several calls in flight, one of so many is timed: reading the clock would cost the others time.
const TIMED_EVERY: u32 = 16;
/// Payloads for which that does not matter, in bytes; there, few calls may take long.
const LARGE: usize = 16 << 10;

/// How several calls are in flight. Which of the ways with tasks is fastest is lost in the noise of a small machine;
/// threads cost the kernel a switch for each call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// A task for each, of a `LocalSet`
    #[default]
    Local,
    /// A task for each
    Spawn,
    /// One task that polls all of them
    Join,
    /// A thread for each, which blocks
    Threads,
}

pub(super) async fn measure(setup: &Setup<'_>, address: &str, case: Case, span: Span) -> Outcome<Sample> {
    let client = Client::connect(setup, address, case, setup.options.progress).await?;
    match (&client.server, case.kind) {
        (Server::Session(server), Kind::Handshake) => {
            shake_hands_for(server, span.warmup).await?;
            shake_hands_for(server, span.duration).await
        }
        _ => call_for(&client, setup.options.client, case, span).await,
    }
}

/// A client with an engine and a connection of its own.
#[derive(Clone)]
pub(crate) struct Client {
    engine: Engine,
    endpoint: Endpoint,
    server: Server,
}

/// What echoes.
#[derive(Clone)]
enum Server {
    Plain,
    Session(Connection),
}

impl Client {
    /// Connects, and opens a session if the case is about that.
    pub(in super::super) async fn connect(
        setup: &Setup<'_>,
        address: &str,
        case: Case,
        progress: Waiting,
    ) -> Outcome<Self> {
        let here = Handle::current();
        let builder = || Engine::builder(address).progress(progress.progress()).runtime(here.clone());
        let (engine, endpoint) = target::reach(setup, address, case.clients() > 1, builder).await?;
        let server = match case.sealed {
            true => Server::Session(auth::connect(setup, &engine, address).await?),
            false => Server::Plain,
        };
        Ok(Self { engine, endpoint, server })
    }

    /// The same with a session of its own, over the same connection.
    pub(super) async fn with_session(&self, setup: &Setup<'_>, address: &str) -> Outcome<Self> {
        let session = auth::connect(setup, &self.engine, address).await?;
        Ok(Self { server: Server::Session(session), ..self.clone() })
    }

    /// The server, without a session.
    pub(in super::super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(in super::super) fn session(&self) -> Option<&Connection> {
        match &self.server {
            Server::Plain => None,
            Server::Session(session) => Some(session),
        }
    }

    /// Begins an echo, and takes no answer.
    pub(in super::super) fn abandon_echo(&self, payload: &Blob) {
        match &self.server {
            Server::Plain => drop(self.endpoint.call(ECHO, payload).start()),
            Server::Session(session) => drop(session.call(auth::SEALED_ECHO, payload).start()),
        }
    }

    pub(super) async fn state(&self) -> Outcome<State> {
        target::state(&self.endpoint).await
    }

    /// Ends the client, and with it the threads and files that it has.
    pub(in super::super) async fn shutdown(self) {
        self.engine.shutdown().await;
    }

    pub(in super::super) async fn echo(&self, payload: &Blob) -> Outcome {
        let answer = match &self.server {
            Server::Plain => self.endpoint.call(ECHO, payload).await?,
            Server::Session(session) => session.call(auth::SEALED_ECHO, payload).await?,
        };
        check(&answer, payload)
    }

    /// The same, blocking the thread.
    pub(super) fn echo_blocking(&self, payload: &Blob) -> Outcome {
        let answer = match &self.server {
            Server::Plain => self.endpoint.call(ECHO, payload).wait()?,
            Server::Session(session) => session.call(auth::SEALED_ECHO, payload).wait()?,
        };
        check(&answer, payload)
    }
}

fn check(answer: &Blob, payload: &Blob) -> Outcome {
    if answer.len() != payload.len() {
        return Err(format!("{} bytes came back of {}", answer.len(), payload.len()).into());
    }
    Ok(())
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

pub(super) async fn call_for(client: &Client, shape: Shape, case: Case, span: Span) -> Outcome<Sample> {
    echo_for(client, shape, case, span.warmup).await?;
    echo_for(client, shape, case, span.duration).await
}

async fn echo_for(client: &Client, shape: Shape, case: Case, duration: Duration) -> Outcome<Sample> {
    let start = Instant::now();
    let end = start + duration;
    let in_flight = if case.kind == Kind::Call { case.count } else { 1 };
    let recorder = if in_flight == 1 {
        caller(client.clone(), case.size, end, 1).await?
    } else {
        let timed_every = if case.size < LARGE { TIMED_EVERY } else { 1 };
        let caller = || caller(client.clone(), case.size, end, timed_every);
        let callers = std::iter::repeat_with(caller).take(in_flight);
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
            Shape::Join => merge(join_all(callers).await?)?,
            Shape::Threads => {
                let client = client.clone();
                let in_threads = move || call_in_threads(&client, in_flight, case.size, end, timed_every);
                tokio::task::spawn_blocking(in_threads).await??
            }
        }
    };
    Ok(recorder.sample(start))
}

/// Calls, one after the other, until `end`.
async fn caller(client: Client, size: usize, end: Instant, timed_every: u32) -> Outcome<Recorder> {
    let mut recorder = Recorder::new()?;
    let payload = Blob(vec![0x5a; size]);
    let mut start = Instant::now();
    loop {
        for number in 1..=timed_every {
            client.echo(&payload).await?;
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

/// As many callers, each in a thread of its own.
fn call_in_threads(client: &Client, callers: usize, size: usize, end: Instant, timed_every: u32) -> Outcome<Recorder> {
    let caller = || {
        let mut recorder = Recorder::new()?;
        let payload = Blob(vec![0x5a; size]);
        while Instant::now() < end {
            let start = Instant::now();
            client.echo_blocking(&payload)?;
            recorder.record(start.elapsed(), 1)?;
            (1..timed_every).try_for_each(|_| client.echo_blocking(&payload))?;
            recorder.count(timed_every.into());
        }
        Outcome::Ok(recorder)
    };
    merge(thread::scope(|scope| {
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        threads.into_iter().map(joined).collect::<Outcome<_>>()
    })?)
}

/// What a caller in a thread of its own has found.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, Outcome<T>>) -> Outcome<T> {
    thread.join().map_err(|_| "a caller panicked")?
}

async fn join(mut tasks: JoinSet<Outcome<Recorder>>) -> Outcome<Recorder> {
    let mut all = Recorder::new()?;
    while let Some(recorder) = tasks.join_next().await {
        all.merge(&recorder??)?;
    }
    Ok(all)
}

fn merge(recorders: Vec<Recorder>) -> Outcome<Recorder> {
    let mut all = Recorder::new()?;
    for recorder in &recorders {
        all.merge(recorder)?;
    }
    Ok(all)
}

/// A simple join, as of the `futures` crate for few futures: each wake-up polls all.
pub(crate) async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = Outcome<T>>>) -> Outcome<Vec<T>> {
    let mut futures: Vec<Pin<Box<_>>> = futures.map(Box::pin).collect();
    let mut all = Vec::with_capacity(futures.len());
    poll_fn(|cx| {
        let mut at = 0;
        while at < futures.len() {
            match futures[at].as_mut().poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(outcome) => {
                    all.push(outcome?);
                    drop(futures.swap_remove(at));
                }
            }
        }
        if futures.is_empty() { Poll::Ready(Outcome::Ok(())) } else { Poll::Pending }
    })
    .await?;
    Ok(all)
}

//! Many clients: one that calls while the others are connected, and all that call at once.
//!
//! Each has an engine of its own, since an engine has one connection to a peer. They are in one process, and wait parked, so
//! that those that do nothing take nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use margo_rs::codec::Blob;
use mochi_rs::program::Outcome;
use parking_lot::Mutex;
use tokio::task::{JoinSet, LocalSet};

use super::super::case::Case;
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::super::{Setup, Waiting, files};
use super::client::{self, Client, Shape};

/// With fewer clients, the memory of one is lost in what a server takes for itself.
const WEIGHED_MIN: usize = 100;

/// All clients of a case, the first of which is there before the others.
struct Crowd {
    clients: Vec<Client>,
    /// What the server took for each of the others, in bytes.
    each: Option<f64>,
}

impl Crowd {
    /// Connects them, and has each call once.
    async fn connect(setup: &Setup<'_>, address: &str, case: Case, first: Waiting) -> Outcome<Self> {
        files::suffice(&case)?;
        let payload = Blob(vec![0x5a; case.size]);
        let first = Client::connect(setup, address, case.calls(1), first).await?;
        first.echo(&payload).await?;
        let before = first.state().await?.resident;
        let mut clients = vec![first];
        while clients.len() < case.count {
            let number = clients.len() + 1;
            let refused = |error| format!("client {number} cannot connect: {error}");
            let client = Client::connect(setup, address, case, Waiting::Park).await.map_err(refused)?;
            client.echo(&payload).await?;
            clients.push(client);
        }
        let after = clients[0].state().await?.resident;
        let others = clients.len() - 1;
        let each = (case.count >= WEIGHED_MIN).then(|| after.saturating_sub(before) as f64 / others as f64);
        Ok(Self { clients, each })
    }

    async fn disconnect(self) {
        let mut ends: JoinSet<()> = self.clients.into_iter().map(Client::shutdown).collect();
        while ends.join_next().await.is_some() {}
    }
}

/// One calls, the others are there.
pub(super) async fn measure(setup: &Setup<'_>, address: &str, case: Case, span: Span) -> Outcome<Sample> {
    let crowd = Crowd::connect(setup, address, case, setup.options.progress).await?;
    let sample = client::call_for(&crowd.clients[0], setup.options.client, case, span).await?;
    let each = crowd.each;
    crowd.disconnect().await;
    Ok(Sample { bytes_each: each, ..sample })
}

/// All call, each one call after the other.
pub(super) async fn measure_all(setup: &Setup<'_>, address: &str, case: Case, span: Span) -> Outcome<Sample> {
    let crowd = Crowd::connect(setup, address, case, Waiting::Park).await?;
    let all_call = async |duration| match setup.options.client {
        Shape::Threads => {
            let clients = crowd.clients.clone();
            tokio::task::spawn_blocking(move || call_in_threads_for(&clients, case, duration)).await?
        }
        _ => call_in_tasks_for(&crowd.clients, case, duration).await,
    };
    all_call(span.warmup).await?;
    let sample = all_call(span.duration).await?;
    let each = crowd.each;
    crowd.disconnect().await;
    Ok(Sample { bytes_each: each, ..sample })
}

async fn call_in_tasks_for(clients: &[Client], case: Case, duration: Duration) -> Outcome<Sample> {
    // One for all: a thousand histograms would take more memory than everything else.
    let recorder = Rc::new(RefCell::new(Recorder::new()?));
    let local = LocalSet::new();
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for client in clients {
        let (client, recorder) = (client.clone(), recorder.clone());
        let calls = async move {
            let payload = Blob(vec![0x5a; case.size]);
            let mut count = 0_u64;
            let mut now = start;
            while now - start < duration || count == 0 {
                let sent = Instant::now();
                client.echo(&payload).await?;
                now = Instant::now();
                recorder.borrow_mut().record(now - sent, 1)?;
                count += 1;
            }
            Outcome::Ok(count)
        };
        tasks.spawn_local_on(calls, &local);
    }
    let counts = local.run_until(tasks.join_all()).await;
    let counts: Vec<u64> = counts.into_iter().collect::<Outcome<_>>()?;
    recorder.borrow_mut().count(counts.iter().sum());
    let sample = recorder.borrow().sample(start);
    Ok(Sample { slowest: slowest_of(&counts), ..sample })
}

/// A thread for each.
fn call_in_threads_for(clients: &[Client], case: Case, duration: Duration) -> Outcome<Sample> {
    let recorder = Mutex::new(Recorder::new()?);
    let all_are_there = Barrier::new(clients.len() + 1);
    let calls = |client: &Client| {
        let payload = Blob(vec![0x5a; case.size]);
        let mut count = 0_u64;
        all_are_there.wait();
        let start = Instant::now();
        let mut now = start;
        while now - start < duration || count == 0 {
            let sent = Instant::now();
            client.echo_blocking(&payload)?;
            now = Instant::now();
            recorder.lock().record(now - sent, 1)?;
            count += 1;
        }
        Outcome::Ok(count)
    };
    let (start, counts) = thread::scope(|scope| {
        let threads: Vec<_> = clients.iter().map(|client| scope.spawn(|| calls(client))).collect();
        all_are_there.wait();
        let start = Instant::now();
        (start, threads.into_iter().map(client::joined).collect::<Outcome<Vec<u64>>>())
    });
    let counts = counts?;
    let mut recorder = recorder.into_inner();
    recorder.count(counts.iter().sum());
    Ok(Sample { slowest: slowest_of(&counts), ..recorder.sample(start) })
}

/// The fewest calls of one client, as a part of what each would have made if all were equal.
fn slowest_of(counts: &[u64]) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let fair = all as f64 / counts.len() as f64;
    counts.iter().min().map(|&count| count as f64 / fair)
}

//! Many sessions: what the server takes for each, and what a call costs that must find its own among them.

use std::time::{Duration, Instant};

use margo_rs::codec::Blob;
use mochi_rs::program::Outcome;

use super::super::Setup;
use super::super::case::Case;
use super::super::rounds::Span;
use super::super::sample::{Recorder, Sample};
use super::client::{self, Client};

/// Sessions that are opened at a time.
const AT_ONCE: usize = 64;
/// From one session to the next that is used: far enough that nothing is near in memory. It is prime, and so comes by all.
const STRIDE: usize = 7919;

/// Opens the sessions over one connection, uses each once, and then calls in one after the other.
pub(super) async fn measure(setup: &Setup<'_>, address: &str, case: Case, span: Span) -> Outcome<Sample> {
    let first = Client::connect(setup, address, case, setup.options.progress).await?;
    let payload = Blob(vec![0x5a; case.size]);
    first.echo(&payload).await?;
    let before = first.state().await?;
    let wanted = case.count - 1;
    let mut clients = open(setup, address, &first, wanted).await?;
    let after = first.state().await?;
    let opened = after.sessions.saturating_sub(before.sessions);
    if opened < wanted as u64 {
        return Err(format!("the server has {opened} sessions of the {wanted} that were opened").into());
    }
    let each = after.resident.saturating_sub(before.resident) as f64 / opened.max(1) as f64;
    clients.push(first);
    call_for(&clients, &payload, span.warmup).await?;
    let sample = call_for(&clients, &payload, span.duration).await?;
    Ok(Sample { bytes_each: (wanted > 0).then_some(each), ..sample })
}

async fn open(setup: &Setup<'_>, address: &str, first: &Client, wanted: usize) -> Outcome<Vec<Client>> {
    let payload = &Blob(vec![0x5a; 1]);
    let shares = (0..AT_ONCE).map(|number| wanted / AT_ONCE + usize::from(number < wanted % AT_ONCE));
    let opened = client::join_all(shares.map(|share| async move {
        let mut clients = Vec::with_capacity(share);
        for _ in 0..share {
            let client = first.with_session(setup, address).await?;
            client.echo(payload).await?;
            clients.push(client);
        }
        Outcome::Ok(clients)
    }));
    Ok(opened.await?.into_iter().flatten().collect())
}

async fn call_for(clients: &[Client], payload: &Blob, duration: Duration) -> Outcome<Sample> {
    let mut recorder = Recorder::new()?;
    let begin = Instant::now();
    let mut start = begin;
    let mut at = 0;
    loop {
        clients[at].echo(payload).await?;
        let now = Instant::now();
        recorder.record(now - start, 1)?;
        recorder.count(1);
        start = now;
        if now - begin >= duration {
            return Ok(recorder.sample(begin));
        }
        at = (at + STRIDE) % clients.len();
    }
}

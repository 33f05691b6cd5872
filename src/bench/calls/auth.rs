//! The same echo in authenticated sessions.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use margo_rs::codec::Blob;
use margo_rs::{Engine, Rpc};
use mochi_auth::bulk::{BulkTicket, Level};
use mochi_auth::mechanism::key_file::{Key, KeyRing};
use mochi_auth::munge::{EncodeOptions, Munge};
use mochi_auth::protocol::Secret;
use mochi_auth::session::{Quota, Rate};
use mochi_auth::{AuthServer, Caller, Connection, Identity, OpenError, Rule};
use mochi_rs::program::Outcome;

use super::super::Setup;
use super::super::rounds::Span;

pub(super) const SEALED_ECHO: Rpc<Blob, Blob> = Rpc::new("bench_sealed_echo");
/// Pulls what is offered, and says how much came.
pub(crate) const STORE: Rpc<BulkTicket, u64> = Rpc::new("bench_store");

/// How the client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mechanism {
    /// A key that both know
    Key,
    /// MUNGE
    Munge,
}

impl Mechanism {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mechanism::Key => "key",
            Mechanism::Munge => "munge",
        }
    }
}

/// The servers of benches do nothing that they do not do for strangers as well: their key is no secret.
fn key() -> Key {
    Key::new(Secret::new(|bytes: &mut [u8; 32]| bytes.fill(0x42)))
}

fn munge(socket: Option<&Path>) -> Outcome<Munge> {
    let mut builder = Munge::builder();
    if let Some(socket) = socket {
        builder = builder.socket(socket);
    }
    Ok(builder.build()?)
}

/// Adds the sealed echo to a server, with room for clients that do nothing but shake hands.
pub(crate) async fn serve(engine: &Engine, mechanism: Mechanism, socket: Option<&Path>) -> Outcome<AuthServer> {
    let many = 1 << 20;
    let quota = Quota { sessions: many, reserve: 0, half_open: many, half_open_per_node: many, ..Quota::default() };
    let builder = AuthServer::builder()
        .quota(quota)
        .handshakes(Rate { per_second: 1_000_000, burst: 1_000_000 })
        .bulk_level(Level::None)
        .rule(Rule::anyone());
    let builder = match mechanism {
        Mechanism::Key => {
            let mut keys = KeyRing::new();
            keys.add(key(), Identity::own())?;
            builder.key_ring(keys)
        }
        Mechanism::Munge => builder.munge(munge(socket)?),
    };
    let auth = builder.install(engine).await?;
    auth.register(SEALED_ECHO, |_caller, payload| async move { Ok(payload) })?;
    auth.register(STORE, |caller: Caller, ticket| async move { Ok(caller.pull(&ticket).await?.len() as u64) })?;
    Ok(auth)
}

pub(crate) async fn connect(setup: &Setup<'_>, engine: &Engine, address: &str) -> Outcome<Connection> {
    let builder = match setup.auth {
        Some(Mechanism::Munge) => Connection::builder().munge(munge(setup.options.munge_socket.as_deref())?),
        _ => Connection::builder().key(key()),
    };
    builder.open(engine, address).await.map_err(|error| match error {
        OpenError::NotAuthenticating(_) => {
            format!("{address} takes no sessions; start `mochi bench serve --auth` there, or measure without them")
                .into()
        }
        error => error.into(),
    })
}

/// What the daemon of the mechanism takes for one handshake, in the median.
pub(crate) fn daemon_time(setup: &Setup<'_>, span: Span) -> Outcome<Duration> {
    if setup.auth != Some(Mechanism::Munge) {
        return Ok(Duration::ZERO);
    }
    let munge = munge(setup.options.munge_socket.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let end = Instant::now() + span.duration;
        let mut times = Vec::new();
        while times.is_empty() || Instant::now() < end {
            let start = Instant::now();
            let wanted = EncodeOptions::new().payload([1; 65].to_vec()).restrict_uid(Identity::own().uid);
            let credential = munge.encode(wanted).await?;
            munge.decode(&credential).await?;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    })
}

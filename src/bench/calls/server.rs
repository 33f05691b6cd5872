//! The process that echoes calls.

use std::future;
use std::path::PathBuf;

use margo_rs::Engine;
use mochi_rs::program::Outcome;

use super::super::{Waiting, machine, process};
use super::ECHO;
use super::auth::{self, Mechanism};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    address: String,
    #[arg(long, value_enum)]
    progress: Waiting,
    #[arg(long)]
    pin: Option<usize>,
    #[arg(long, value_enum)]
    auth: Option<Mechanism>,
    #[arg(long)]
    munge_socket: Option<PathBuf>,
}

/// Serves until the parent goes away. The engine and its pool are started on this thread, so they stay where it is
/// pinned.
pub(crate) fn run(arguments: &Arguments) -> Outcome {
    process::end_with_parent()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = runtime.block_on(start(arguments));
    let _engine = process::announce(started, |engine| engine.address().to_string());
    runtime.block_on(future::pending())
}

async fn start(arguments: &Arguments) -> Outcome<Engine> {
    if let Some(cpu) = arguments.pin {
        machine::pin(cpu)?;
    }
    let engine = Engine::builder(&arguments.address).progress(arguments.progress.progress()).listen().await?;
    engine.register(ECHO, |_request, payload| async move { Ok(payload) })?;
    if let Some(mechanism) = arguments.auth {
        auth::serve(&engine, mechanism, arguments.munge_socket.as_deref()).await?;
    }
    Ok(engine)
}

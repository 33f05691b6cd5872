//! The process that owns the region.

use std::future;
use std::sync::Mutex;

use margo_rs::Engine;
use margo_rs::bulk::Permission;
use mochi_rs::program::Outcome;

use super::super::{Waiting, machine, process};
use super::REGION;

/// Largest region that is exposed, in bytes.
const REGION_MAX: u64 = 1 << 30;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    address: String,
    #[arg(long, value_enum)]
    progress: Waiting,
    #[arg(long)]
    pin: Option<usize>,
}

/// Serves until the parent goes away.
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
    let here = engine.clone();
    let exposed = Mutex::new(None);
    engine.register(REGION, move |_request, size: u64| {
        let region = match size {
            0..=REGION_MAX => here.expose(vec![0xa5; size as usize], Permission::ReadWrite).map_err(Into::into),
            _ => Err("too large a region".into()),
        };
        let descriptor = region.map(|region| {
            let descriptor = region.descriptor().clone();
            // Of the one client; a region of before goes.
            *exposed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(region);
            descriptor
        });
        async move { descriptor }
    })?;
    Ok(engine)
}

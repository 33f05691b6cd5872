//! Echo by RPC: what a user of typed calls gets.

pub(super) mod auth;
pub(super) mod client;
mod crowd;
mod sessions;

use mochi_rs::program::Outcome;

use super::Setup;
use super::case::{Case, Kind};
use super::rounds::Span;
use super::sample::Sample;
use super::target::Target;

pub(super) use self::auth::{Mechanism, daemon_time};

/// Measures the case.
pub(super) fn measure(setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Sample> {
    let mut target = Target::start(setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = target.address();
    let measured = runtime.block_on(async {
        match case.kind {
            Kind::Crowd => crowd::measure(setup, address, case, span).await,
            Kind::Fair => crowd::measure_all(setup, address, case, span).await,
            Kind::Sessions => sessions::measure(setup, address, case, span).await,
            _ => client::measure(setup, address, case, span).await,
        }
    });
    measured.map_err(|error| target.blame(case, error).into())
}

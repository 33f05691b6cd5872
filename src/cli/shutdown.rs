//! `mochi shutdown`: Margo's remote shutdown.

use margo_rs::{Address, Engine};
use mochi_rs::program::{Outcome, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server, as it printed it
    address: Address,
}

pub(crate) async fn run(arguments: &Arguments) -> Outcome {
    let engine = Engine::connect(&arguments.address)?;
    let server = engine.lookup(&arguments.address).await?;
    server.shutdown_remote().await?;
    print(format_args!("{} is shutting down", server.address()))?;
    Ok(())
}

//! Stage 1, client: here is my credential. `simple_auth_server.rs` says what the stage teaches and what it lacks.
//!
//! Usage: `simple_auth_client ADDRESS`, with the address that the server printed.

use std::process::ExitCode;

use margo_rs::Engine;
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::simple_auth::AUTHENTICATE;
use mochi_rs::stages::{ALLOWED, ClientArguments, Credentials, NOT_AUTHENTICATED};

#[tokio::main]
async fn main() -> ExitCode {
    program::log_to_stderr();
    program::finish(run(ClientArguments::read()).await)
}

async fn run(arguments: ClientArguments) -> Outcome {
    let engine = Engine::connect(&arguments.address)?;
    let server = engine.lookup(&arguments.address).await?;

    let credential = Credentials::from_environment()?.encode(b"", arguments.server_uid).await?;
    if server.call(AUTHENTICATE, &credential).await? != ALLOWED {
        return Err(NOT_AUTHENTICATED.into());
    }
    say(format_args!("Authenticated at {}", server.address()));
    Ok(())
}

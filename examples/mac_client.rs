//! Stage 2, client: a key in the credential, a token in each call. `mac_server.rs` says what the stage teaches and
//! what it lacks.
//!
//! Usage: `mac_client ADDRESS`, with the address that the server printed.

use std::process::ExitCode;

use margo_rs::{Endpoint, Engine};
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::mac::{AUTHENTICATE, HELLO};
use mochi_rs::stages::{ALLOWED, ClientArguments, Credentials, Key, NOT_AUTHENTICATED, Token};
use rustix::process::getuid;

struct Client {
    server: Endpoint,
    key: Key,
    next_sequence: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    program::log_to_stderr();
    program::finish(run(ClientArguments::read()).await)
}

async fn run(arguments: ClientArguments) -> Outcome {
    let engine = Engine::connect(&arguments.address)?;
    let server = engine.lookup(&arguments.address).await?;
    let mut client = Client { server, key: Key::random()?, next_sequence: 0 };

    if client.hello("Matthieu").await? {
        return Err("the server greeted us although we had not authenticated".into());
    }
    say("Refused before authentication, as it should be");

    client.authenticate(arguments.server_uid).await?;
    say(format_args!("Authenticated at {}", client.server.address()));

    if !client.hello("Matthieu").await? {
        return Err("the server refused to greet us although we had authenticated".into());
    }
    say("Greeted after authentication");
    Ok(())
}

impl Client {
    async fn authenticate(&self, server_uid: Option<u32>) -> Outcome {
        let credential = Credentials::from_environment()?.encode(self.key.payload(), server_uid).await?;
        match self.server.call(AUTHENTICATE, &credential).await? {
            ALLOWED => Ok(()),
            _ => Err(NOT_AUTHENTICATED.into()),
        }
    }

    /// Whether the server greets `name` on our behalf.
    async fn hello(&mut self, name: &str) -> Outcome<bool> {
        let token = Token::new(&self.key, u64::from(getuid().as_raw()), self.next_sequence);
        let allowed = self.server.call(HELLO, &(token, name.into())).await? == ALLOWED;
        if allowed {
            self.next_sequence += 1;
        }
        Ok(allowed)
    }
}

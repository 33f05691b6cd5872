//! Stage 3, client: as stage 2, with tokens that name a session. `mac_session_server.rs` says what the stage teaches
//! and what it lacks.
//!
//! Usage: `mac_session_client ADDRESS`, with the address that the server printed.

use std::process::ExitCode;

use margo_rs::{Endpoint, Engine};
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::mac_session::{AUTHENTICATE, HELLO};
use mochi_rs::stages::{ALLOWED, ClientArguments, Credentials, Key, NOT_AUTHENTICATED, Token};

/// A session that the server has opened for us.
struct Session<'a> {
    server: &'a Endpoint,
    key: Key,
    id: u64,
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

    let mut invented = Session { server: &server, key: Key::random()?, id: 0, next_sequence: 0 };
    if invented.hello("Matthieu").await? {
        return Err("the server greeted us although we had no session".into());
    }
    say("Refused without a session, as it should be");

    let mut session = Session::open(&server, arguments.server_uid).await?;
    say(format_args!("Authenticated at {}", server.address()));
    for name in ["Matthieu", "Phil", "Rob"] {
        if !session.hello(name).await? {
            return Err("the server refused to greet us although we have a session".into());
        }
        say(format_args!("Greeted as {name}"));
    }
    Ok(())
}

impl<'a> Session<'a> {
    async fn open(server: &'a Endpoint, server_uid: Option<u32>) -> Outcome<Self> {
        let key = Key::random()?;
        let credential = Credentials::from_environment()?.encode(key.payload(), server_uid).await?;
        match server.call(AUTHENTICATE, &credential).await? {
            (id, ALLOWED) => Ok(Self { server, key, id, next_sequence: 0 }),
            _ => Err(NOT_AUTHENTICATED.into()),
        }
    }

    /// Whether the server greets `name` on our behalf.
    async fn hello(&mut self, name: &str) -> Outcome<bool> {
        let token = Token::new(&self.key, self.id, self.next_sequence);
        let allowed = self.server.call(HELLO, &(token, name.into())).await? == ALLOWED;
        if allowed {
            self.next_sequence += 1;
        }
        Ok(allowed)
    }
}

//! Stage 1, server: who is calling?
//!
//! The client asks its munged for a credential and sends it; the server has its own munged decode it and learns the
//! uid and gid of the client's process. No password, no certificate: both munged share a key, and they vouch.
//!
//! What it teaches: an RPC with a string argument, a handler that awaits something slow without holding up the
//! engine, and that a uid from MUNGE is a fact while anything else in a message is a claim.
//!
//! What it still lacks: the next call is anonymous again, since nothing ties it to this one (stage 2). Whoever sees
//! the credential can present it elsewhere until it expires, and the client does not learn who the server is.
//!
//! Usage: `simple_auth_server PROTOCOL`, for example `simple_auth_server tcp://127.0.0.1`.

use std::process::ExitCode;

use margo_rs::{Engine, HgString};
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::simple_auth::AUTHENTICATE;
use mochi_rs::stages::{ALLOWED, Credentials, REFUSED, ServerArguments};

#[tokio::main]
async fn main() -> ExitCode {
    program::log_to_stderr();
    program::finish(serve(ServerArguments::read()).await)
}

async fn serve(arguments: ServerArguments) -> Outcome {
    let credentials = Credentials::from_environment()?;
    let engine = Engine::listen(&arguments.protocol).await?;
    engine.register(AUTHENTICATE, move |_request, credential| {
        let credentials = credentials.clone();
        async move { Ok(authenticate(&credentials, &credential).await) }
    })?;
    program::serve_until_stopped(&engine).await
}

async fn authenticate(credentials: &Credentials, credential: &HgString) -> i32 {
    match credentials.decode(credential).await {
        Ok(decoded) => {
            let user = decoded.user;
            say(format_args!("Authenticated with uid={} ({user}) and gid={}", user.uid, user.gid));
            ALLOWED
        }
        Err(reason) => {
            say(format_args!("Authentication refused: {reason}"));
            REFUSED
        }
    }
}

//! Stage 2, server: authenticate once, then recognise the user in every call.
//!
//! The payload of the client's MUNGE credential is a fresh key. From then on each call carries a token: the client's
//! uid, the number of the call, and an HMAC of the two under that key. MUNGE takes part once; a token costs a
//! microsecond.
//!
//! What it teaches: state behind handlers, a key for each user that exists only after that user has authenticated,
//! and the rule that the server goes by the uid it authenticated. The uid in a token only says which key to check it
//! with. A token counts once and in order, so a replayed one is refused.
//!
//! What it still lacks: a user has one key, so a second client of the same user takes the place of the first (stage
//! 3). The token covers neither the arguments nor the answer, which can be changed on the way; nothing is encrypted;
//! one lost answer leaves the two sides at different numbers for good; and without `--server-uid` at the client,
//! anyone in the MUNGE realm who sees the credential can open it and read the key.
//!
//! Usage: `mac_server PROTOCOL`, for example `mac_server tcp://127.0.0.1`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use margo_rs::{Engine, HgString};
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::mac::{AUTHENTICATE, HELLO};
use mochi_rs::stages::{ALLOWED, AuthenticatedUser, Credentials, Key, Quoted, REFUSED, ServerArguments, Token};

/// A user who has authenticated.
struct Client {
    user: AuthenticatedUser,
    key: Key,
    next_sequence: u64,
}

/// What all handlers share.
struct Server {
    credentials: Credentials,
    /// By uid, as MUNGE gave it.
    clients: Mutex<HashMap<u32, Client>>,
}

#[tokio::main]
async fn main() -> ExitCode {
    program::log_to_stderr();
    program::finish(serve(ServerArguments::read()).await)
}

async fn serve(arguments: ServerArguments) -> Outcome {
    let server = Arc::new(Server { credentials: Credentials::from_environment()?, clients: Mutex::default() });
    let engine = Engine::listen(&arguments.protocol).await?;

    let authenticator = Arc::clone(&server);
    engine.register(AUTHENTICATE, move |_request, credential| {
        let server = Arc::clone(&authenticator);
        async move { Ok(server.authenticate(&credential).await) }
    })?;
    engine.register(HELLO, move |_request, (token, name)| {
        let server = Arc::clone(&server);
        async move { Ok(server.hello(&token, &name)) }
    })?;

    program::serve_until_stopped(&engine).await
}

impl Server {
    async fn authenticate(&self, credential: &HgString) -> i32 {
        let (user, key) = match self.credentials.decode(credential).await.and_then(|decoded| decoded.with_key()) {
            Ok(user_and_key) => user_and_key,
            Err(reason) => {
                say(format_args!("Authentication refused: {reason}"));
                return REFUSED;
            }
        };
        say(format_args!("Authenticated with uid={} ({user}) and gid={}", user.uid, user.gid));
        let client = Client { key, next_sequence: 0, user };
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(client.user.uid, client);
        ALLOWED
    }

    fn hello(&self, token: &Token, name: &HgString) -> i32 {
        match self.check(token) {
            Ok(user) => {
                say(format_args!("Hello {} (username {user})", Quoted(name.as_str().unwrap_or_default())));
                ALLOWED
            }
            Err(reason) => {
                say(format_args!("Unauthorized attempt to call the hello RPC: {reason}"));
                REFUSED
            }
        }
    }

    /// The user whose next token this is.
    fn check(&self, token: &Token) -> Result<AuthenticatedUser, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = u32::try_from(token.claimed_caller()).ok();
        let client = claimed.and_then(|uid| clients.get_mut(&uid)).ok_or("this user has not authenticated")?;
        let sequence = token.check(&client.key).ok_or("the token was not made with this user's key")?;
        if sequence != client.next_sequence {
            return Err(format!("call number {sequence}, where {} comes next", client.next_sequence));
        }
        client.next_sequence += 1;
        Ok(client.user.clone())
    }
}

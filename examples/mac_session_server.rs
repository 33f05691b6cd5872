//! Stage 3, server: a session for each authentication.
//!
//! As stage 2, but the answer to `authenticate` is the id of a new session, and tokens name that instead of a uid. One
//! user can have any number of clients at once, each with its own key and its own count.
//!
//! What it teaches: session ids are random and come from the server; the user of a call is the one its session
//! was opened by; and a table that peers can make grow has a limit.
//!
//! What it still lacks: sessions end only with the server, so a user who opens his share of them is out until then. As
//! in stage 2 the token covers neither arguments nor answers, nothing is encrypted, calls of one session have to come
//! in order, and the client cannot tell who the server is. The id in the answer is not protected either: changed on the
//! way, it makes the session useless, but never someone else's. Stage 4 leaves all that to `mochi-auth`.
//!
//! Usage: `mac_session_server PROTOCOL`, for example `mac_session_server tcp://127.0.0.1`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use margo_rs::{Engine, HgString};
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::mac_session::{AUTHENTICATE, HELLO};
use mochi_rs::stages::{
    ALLOWED, AuthenticatedUser, Credentials, Key, Quoted, REFUSED, ServerArguments, Token, random_id,
};

/// Sessions that can be open at once.
const SESSIONS_MAX: usize = 10_000;

/// Sessions that one user can have open, so that nobody can take all of them.
const SESSIONS_PER_USER_MAX: usize = 1_000;

/// What the failed `authenticate` returns in place of a session id; no session has it.
const NO_SESSION: u64 = 0;

/// An open session.
struct Session {
    user: AuthenticatedUser,
    key: Key,
    next_sequence: u64,
}

/// What all handlers share.
struct Server {
    credentials: Credentials,
    /// By session id.
    sessions: Mutex<HashMap<u64, Session>>,
}

#[tokio::main]
async fn main() -> ExitCode {
    program::log_to_stderr();
    program::finish(serve(ServerArguments::read()).await)
}

async fn serve(arguments: ServerArguments) -> Outcome {
    let server = Arc::new(Server { credentials: Credentials::from_environment()?, sessions: Mutex::default() });
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
    async fn authenticate(&self, credential: &HgString) -> (u64, i32) {
        match self.open_session(credential).await {
            Ok(id) => (id, ALLOWED),
            Err(reason) => {
                say(format_args!("Authentication refused: {reason}"));
                (NO_SESSION, REFUSED)
            }
        }
    }

    async fn open_session(&self, credential: &HgString) -> Outcome<u64> {
        let (user, key) = self.credentials.decode(credential).await?.with_key()?;
        let greeting = format!("Authenticated with uid={} ({user}) and gid={}", user.uid, user.gid);
        let session = Session { user, key, next_sequence: 0 };

        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= SESSIONS_MAX {
            return Err(format!("{SESSIONS_MAX} sessions are open already").into());
        }
        let of_user = sessions.values().filter(|other| other.user.uid == session.user.uid).count();
        if of_user >= SESSIONS_PER_USER_MAX {
            return Err(format!("{} has {SESSIONS_PER_USER_MAX} sessions open already", session.user).into());
        }
        let id = loop {
            let id = random_id()?;
            if let Entry::Vacant(free) = sessions.entry(id)
                && id != NO_SESSION
            {
                free.insert(session);
                break id;
            }
        };
        say(greeting);
        Ok(id)
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

    /// The user of the session whose next token this is.
    fn check(&self, token: &Token) -> Result<AuthenticatedUser, String> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get_mut(&token.claimed_caller()).ok_or("there is no such session")?;
        let sequence = token.check(&session.key).ok_or("the token was not made with this session's key")?;
        if sequence != session.next_sequence {
            return Err(format!("call number {sequence}, where {} comes next", session.next_sequence));
        }
        session.next_sequence += 1;
        Ok(session.user.clone())
    }
}

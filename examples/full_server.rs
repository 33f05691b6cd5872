//! Stage 4, server: a service with users.
//!
//! One handshake proves to the server who the client is, and to the client who the server is; MUNGE or a key file has the
//! first word in it. From then on every call and every answer is sealed: nobody on the way can read it, change it, move it
//! to another call, or send it a second time. Handlers get the verified [`Caller`], and a rule per RPC says who may call.
//!
//! What it teaches: `AuthServer` in front of handlers; three kinds of callers (all who authenticated, users, operators);
//! sessions that end by themselves; and the audit log on standard error, the only place where a refusal has its reason.
//! What stages 2 and 3 did by hand is gone: no token, no count and no key is in sight.
//!
//! What it still lacks: a store of users and rules that changes while it runs, and limits of what one user may do. Those
//! belong to the service.
//!
//! Usage: `full_server PROTOCOL [options]`, for example `full_server tcp://127.0.0.1`; `--help` has the options.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use margo_rs::HandlerError;
use mochi_auth::{Caller, Rule};
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::Quoted;
use mochi_rs::stages::full::{FullServerArguments, GREET, GREETED, Me, NAP, NAP_MAX_MS, OpenSession, SESSIONS, WHOAMI};

/// Greetings that are remembered.
const BOOK_MAX: usize = 1000;

/// Bytes of a name.
const NAME_MAX: usize = 200;

/// The last greetings: the uid of the caller, and the name greeted.
#[derive(Default)]
struct Book(Mutex<VecDeque<(u32, String)>>);

#[tokio::main]
async fn main() -> ExitCode {
    program::log_with_audit();
    program::finish(serve(FullServerArguments::read()).await)
}

async fn serve(arguments: FullServerArguments) -> Outcome {
    // Before the port is open: with a key file that cannot be used there is no server.
    let auth = arguments.auth()?;
    let engine = arguments.engine()?.listen().await?;
    let auth = auth.install(&engine).await?;

    // All who have authenticated may ask who they are.
    auth.allow(Rule::anyone()).register(WHOAMI, |caller: Caller, ()| async move { Ok(Me::from(&caller)) })?;

    // Under the rule of the server, which is that of `--allow-uid` and its like: its users.
    let book = Arc::new(Book::default());
    let greeted = Arc::clone(&book);
    auth.register(GREET, move |caller, name| {
        let book = Arc::clone(&book);
        async move { book.greet(&caller, name) }
    })?;
    auth.register(GREETED, move |caller: Caller, name| {
        let times = greeted.times(caller.uid(), &name);
        async move { Ok(times) }
    })?;
    auth.register(NAP, |_caller, ms: u64| async move {
        tokio::time::sleep(Duration::from_millis(ms.min(NAP_MAX_MS))).await;
        Ok(())
    })?;

    // Operators only.
    let admin = auth.admin();
    auth.allow(arguments.operators()).register(SESSIONS, move |_caller, ()| {
        let sessions = admin.sessions().iter().map(OpenSession::from).collect();
        async move { Ok(sessions) }
    })?;

    program::serve_until_stopped(&engine).await
}

impl Book {
    fn greet(&self, caller: &Caller, name: String) -> Result<String, HandlerError> {
        if name.len() > NAME_MAX {
            return Err(format!("a name has at most {NAME_MAX} bytes").into());
        }
        say(format_args!("Hello {} ({})", Quoted(&name), caller.identity()));
        let greeting = format!("Hello {name}");
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.len() >= BOOK_MAX {
            book.pop_front();
        }
        book.push_back((caller.uid(), name));
        Ok(greeting)
    }

    fn times(&self, uid: u32, name: &str) -> u64 {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.iter().filter(|(greeted, as_whom)| *greeted == uid && as_whom == name).count() as u64
    }
}

//! Stage 4, client: one session, many calls in it, and everything that is refused. `full_server.rs` says what the stage
//! teaches and what it lacks.
//!
//! Usage: `full_client ADDRESS [options]`, with the address that the server printed; `--help` has the options.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use margo_rs::{Endpoint, Engine};
use mochi_auth::protocol::{BareError, Terms};
use mochi_auth::{CallError, Connection};
use mochi_rs::program::{self, Outcome, say};
use mochi_rs::stages::full::{FullClientArguments, GREET, GREETED, NAP, Recorder, SESSIONS, WHOAMI};
use mochi_rs::stages::{Quoted, random_id};

/// Greetings in flight at a time, in one session.
const IN_FLIGHT: usize = 8;

/// How long a call takes that others overtake.
const NAP_TIME: Duration = Duration::from_millis(300);

/// How long to wait for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(300);

/// The longest life of a session that this program waits for.
const LIFE_MAX: Duration = Duration::from_secs(5);

/// A server ends a session that was never used after this time, or whatever longer one it was given.
const UNUSED: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    program::log_to_stderr();
    program::finish(run(FullClientArguments::read()).await)
}

async fn run(arguments: FullClientArguments) -> Outcome {
    // Before anything is sent: with a key file that cannot be used there is no client.
    let connection = arguments.connection()?;
    let engine = Engine::connect(&arguments.address)?;
    let plain = engine.lookup(&arguments.address).await?;
    without_authentication(&plain).await?;

    let server = connection.open(&engine, &arguments.address).await.map_err(|error| arguments.explain(&error))?;
    let me = server.call(WHOAMI, &()).await?;
    let protection = if me.encrypted { "encrypted" } else { "integrity only" };
    say(format_args!(
        "Authenticated at {} as uid {} gid {}, by {}, {protection}",
        plain.address(),
        me.uid,
        me.gid,
        me.mechanism
    ));

    for name in ["Matthieu", "Phil", "Rob"] {
        let greeting = server.call(GREET, &name.to_owned()).await.map_err(|error| match error {
            CallError::Denied(_) => {
                format!("the server does not greet uid {}; whoever runs it can allow that with --allow-uid {0}", me.uid)
            }
            other => other.to_string(),
        })?;
        say(format_args!("Greeted: {}", Quoted(&greeting)));
    }
    many_at_once(&server).await?;
    not_authorised(&server).await?;
    replayed_and_expired(&arguments, plain, &server).await?;

    server.close().await?;
    match server.call(WHOAMI, &()).await {
        Err(CallError::Closed) => say("Closed"),
        other => return Err(format!("a call after the close gave {other:?}").into()),
    }
    Ok(())
}

/// A plain call, as if the server were one without users.
async fn without_authentication(server: &Endpoint) -> Outcome {
    if let Ok(greeting) = server.call(GREET, &"Matthieu".to_owned()).await {
        return Err(format!("the server greeted us although we had not authenticated: {}", Quoted(&greeting)).into());
    }
    say("Refused without authentication, as it should be");
    Ok(())
}

/// Calls of one session do not wait for each other.
async fn many_at_once(server: &Connection) -> Outcome {
    let begun = Instant::now();
    let nap = server.call(NAP, &(NAP_TIME.as_millis() as u64)).start();
    let greetings: Vec<_> = (1..=IN_FLIGHT).map(|n| server.call(GREET, &format!("number {n}")).start()).collect();
    for greeting in greetings {
        greeting.await?;
    }
    let greeted = begun.elapsed();
    nap.await?;
    say(format_args!(
        "{IN_FLIGHT} greetings and a slow call in flight at once: greeted after {greeted:.1?}, all done after {:.1?}",
        begun.elapsed()
    ));
    Ok(())
}

/// A call that needs more than being a user.
async fn not_authorised(server: &Connection) -> Outcome {
    match server.call(SESSIONS, &()).await {
        Ok(sessions) => say(format_args!("Allowed to list the sessions, as an operator: {} open", sessions.len())),
        Err(CallError::Denied(_)) => say("Not authorised to list the sessions, as it should be"),
        Err(other) => return Err(other.into()),
    }
    Ok(())
}

/// What comes of messages that somebody on the path recorded.
async fn replayed_and_expired(arguments: &FullClientArguments, plain: Endpoint, server: &Connection) -> Outcome {
    // It is reached by another address than the server's, so the service has to be named.
    let service = arguments.service().unwrap_or_else(|| plain.address().as_str()).to_owned();
    let recorder = Recorder::start(plain.clone()).await?;
    let engine = Engine::connect(recorder.address())?;
    let recorded = arguments.connection()?.service(service).open(&engine, recorder.address()).await?;

    let name = format!("Rob {:016x}", random_id()?);
    recorded.call(GREET, &name).await?;
    let message = recorder.last().ok_or("nothing was recorded")?;
    let replayed = message.send(&plain).timeout(SILENCE).await;
    let times = server.call(GREETED, &name).await?;
    if replayed.is_ok() || times != 1 {
        return Err(format!("a replayed message was not refused: greeted {times} times").into());
    }
    say("Replayed: a recorded call sent again got no answer, and nobody was greeted twice");

    let Terms { idle, absolute, .. } = recorded.terms().ok_or("the recorded session is gone")?;
    let life = idle.min(absolute);
    if life > LIFE_MAX {
        say(format_args!(
            "Expired: not shown, as sessions last {life:?} here; start the server with --idle 2 to see it"
        ));
        recorded.close().await?;
        return Ok(());
    }
    recorder.hold_back(true);
    let late = format!("Rob {:016x}", random_id()?);
    if recorded.call(GREET, &late).timeout(SILENCE).await.is_ok() {
        return Err("a call was answered that had been held back".into());
    }
    let held_back = recorder.last().ok_or("nothing was recorded")?;
    // On a very slow machine the session may have been replaced meanwhile, by one that is still unused.
    let same = held_back.session() == message.session();
    tokio::time::sleep(if same { life } else { life.max(UNUSED) }).await;
    let answer = held_back.send(&plain).await?;
    // Our own session has ended as well by now: the connection makes a new one for this call.
    let times = server.call(GREETED, &late).await?;
    if !matches!(BareError::parse(&answer), Ok(BareError::No { .. })) || times != 0 {
        return Err(format!("a message of an expired session was not refused: greeted {times} times").into());
    }
    say(format_args!("Expired: a call that arrived {life:?} late, after its session had ended, was refused"));
    say("The connection made a new session for its next call by itself");
    Ok(())
}

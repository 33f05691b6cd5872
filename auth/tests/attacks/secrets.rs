//! A search for secrets: in all that is logged, at every level and of every crate, and in what `Debug` shows.

use std::fmt::Write;

use margo_rs::{Rpc, Wait};
use mochi_auth::mechanism::key_file::{Key, KeyRing};
use mochi_auth::protocol::Secret;
use mochi_auth::{AuthServer, CallError, Connection, OpenError, Rule};

use crate::record;
use crate::stage::*;
use crate::tap::Tap;

const ARGUMENT: &str = "an-argument-that-nobody-may-see-in-logs";
const RESULT: &str = "and-a-result-just-as-private";

fn key_bytes() -> [u8; 32] {
    std::array::from_fn(|at| (at as u8).wrapping_mul(37).wrapping_add(0xB1))
}

/// The forms in which bytes could be shown.
fn forms(name: &str, bytes: &[u8]) -> Vec<(String, String)> {
    let joined = |separator: &str, byte: fn(&u8) -> String| {
        // Half of them will do: nothing shows these by accident.
        bytes[..bytes.len() / 2].iter().map(byte).collect::<Vec<_>>().join(separator)
    };
    let raw = String::from_utf8_lossy(bytes).into_owned();
    let forms = [
        ("raw", raw),
        ("escaped", bytes[..8].escape_ascii().to_string()),
        ("hex", joined("", |byte| format!("{byte:02x}"))),
        ("upper-case hex", joined("", |byte| format!("{byte:02X}"))),
        ("a list", joined(", ", u8::to_string)),
        ("a list in hex", joined(", ", |byte| format!("{byte:#04x}"))),
    ];
    forms.into_iter().map(|(form, text)| (format!("{name} as {form}"), text)).collect()
}

#[test]
fn no_secret_is_in_a_log_or_in_debug_output() {
    let stage = Stage::enter();
    record::restart(true);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    Key::new(Secret::new(|bytes| *bytes = key_bytes())).create(&path).unwrap();
    let file = std::fs::read_to_string(&path).unwrap();
    let key = || Key::load(&path).unwrap();

    let mut shown = String::new();
    let mut keys = KeyRing::new();
    keys.add(key(), ALICE).unwrap();
    keys.add(key_of(BOB), BOB).unwrap();
    write!(shown, "{:?} {:?}", key().id(), keys.add(key(), BOB).unwrap_err()).unwrap();
    let options = AuthServer::builder().key_ring(keys).service(SERVICE).rule(Rule::anyone());
    write!(shown, "{options:?}").unwrap();
    let site = stage.serve(options);
    const TELL: Rpc<String, String> = Rpc::new("tell");
    const FAIL: Rpc<String, ()> = Rpc::new("fail");
    let tell = |caller, text: String| async move {
        assert_eq!(text, ARGUMENT);
        Ok(format!("{RESULT} {caller:?}"))
    };
    site.auth.register(TELL, tell).unwrap();
    site.auth.register(FAIL, |_, _| async { Err("words of a handler".into()) }).unwrap();
    let later = |_, _: String, responder: mochi_auth::Responder<String>| async move {
        let shown = format!("{responder:?}");
        responder.respond(&shown);
    };
    site.auth.register_deferred(Rpc::<String, String>::new("later"), later).unwrap();
    write!(shown, "{:?} {:?}", site.auth.allow(Rule::anyone()), site.auth.provider(crate::stage::PROVIDER)).unwrap();

    // All that a session does, with a man in the middle who does no harm, and with some that goes wrong.
    let tap = Tap::before(&stage, &site);
    let options = Connection::builder().key(key()).service(SERVICE);
    write!(shown, "{options:?}").unwrap();
    let engine = stage.client();
    let server = options.open(&engine, site.address()).wait().unwrap();
    let call = server.call(TELL, &ARGUMENT.to_owned());
    write!(shown, "{call:?} {server:?} {:?}", server.provider(crate::stage::PROVIDER)).unwrap();
    let told = call.wait().unwrap();
    assert!(told.starts_with(RESULT));
    shown += told.strip_prefix(RESULT).unwrap();
    shown += &server.call(Rpc::<String, String>::new("later"), &ARGUMENT.to_owned()).wait().unwrap();
    let sessions = site.auth.sessions();
    write!(shown, "{sessions:?} {:?} {:?}", site.auth, site.auth.counts()).unwrap();
    write!(shown, "{:?}", site.auth.engine()).unwrap();
    let mut errors: Vec<CallError> = vec![
        server.call(FAIL, &ARGUMENT.to_owned()).wait().unwrap_err(),
        server.call(Rpc::<String, u64>::new("tell"), &ARGUMENT.to_owned()).wait().unwrap_err(),
        server.call(Rpc::<u8, String>::new("tell"), &1).wait().unwrap_err(),
        server.call(Rpc::<String, ()>::new("no such"), &ARGUMENT.to_owned()).wait().unwrap_err(),
    ];
    site.auth.revoke_all();
    errors.push(server.call(TELL, &ARGUMENT.to_owned()).wait().unwrap_err());
    server.reauthenticate().wait().unwrap();
    let second = site.auth.sessions();
    server.call(TELL, &ARGUMENT.to_owned()).wait().unwrap();
    tap.plan(|seen| crate::tap::Fate::Replace(crate::wire::flipped(&seen.bytes, seen.bytes.len() * 8 - 1)));
    let harmed: OpenError =
        Connection::builder().key(key()).service(SERVICE).open(&engine, tap.address()).wait().unwrap_err();
    let stranger: OpenError =
        Connection::builder().key(key()).service("another").open(&engine, site.address()).wait().unwrap_err();
    server.close().wait().unwrap();
    errors.push(server.call(TELL, &ARGUMENT.to_owned()).wait().unwrap_err());
    for error in &errors {
        write!(shown, "{error} {error:?} {error:#?}").unwrap();
    }
    write!(shown, "{harmed} {harmed:?} {stranger} {stranger:?}").unwrap();
    engine.shutdown().wait();

    let lines = record::lines();
    assert!(lines.iter().any(|line| line.target.starts_with("margo_rs")), "all crates are recorded");
    for line in lines {
        write!(shown, "{line:?} ").unwrap();
        line.fields.iter().for_each(|(_, value)| shown.push_str(value));
    }
    record::restart(false);
    assert!(shown.contains("session opened") && shown.contains("Responder"), "there is something to search");

    let mut secrets = forms("the key", &key_bytes());
    secrets.push(("the key file".to_owned(), file.trim_end()[11..43].to_owned()));
    assert!(!sessions.is_empty() && !second.is_empty());
    for session in sessions.iter().chain(&second) {
        secrets.extend(forms("a session id", session.id.as_bytes()));
    }
    secrets.push(("an argument".to_owned(), ARGUMENT.to_owned()));
    secrets.extend(forms("an argument", ARGUMENT.as_bytes()));
    secrets.push(("a result".to_owned(), RESULT.to_owned()));
    secrets.extend(forms("a result", RESULT.as_bytes()));
    for (name, secret) in secrets {
        assert!(!shown.contains(&secret), "{name} is shown: {secret}");
    }
}

//! A munged that hangs, crashes or comes back under a running server.

use std::os::unix::fs::symlink;
use std::time::Duration;

use margo_rs::Wait;
use mochi_auth::OpenError;
use mochi_auth::munge::Munge;
use mochi_auth::testing::{MungeRealm, Munged};
use mochi_test_support::eventually;

use crate::munge::{by_both, by_munge, handle, own};
use crate::stage::*;

/// What a munged that works keeps to, also on a busy machine.
const SHORT: Duration = Duration::from_secs(3);

fn impatient(munged: &Munged) -> Munge {
    Munge::builder().socket(munged.socket()).timeout(SHORT).build().expect("a handle")
}

#[test]
fn a_hung_munged_delays_only_new_logins_and_only_to_their_deadline() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let (mut here, there) = (realm.start().expect("munged"), realm.start().expect("munged"));
    let site = stage.serve(by_both(impatient(&here)));
    let server = by_munge(handle(&there)).open(&stage.client(), site.address()).wait().expect("a session");
    assert_eq!(server.call(WHO, &()).wait().unwrap(), own());
    here.pause();
    let before = site.before();
    let engine = stage.client();
    // More than there are helpers; the last ones are turned away while they wait for one.
    let (logins, calls) = std::thread::scope(|scope| {
        let login = || by_munge(handle(&there)).open(&engine, site.address()).wait().unwrap_err();
        let logins: Vec<_> = (0..8).map(|_| scope.spawn(login)).collect();
        let mut calls = 0;
        while calls < 100 || logins.iter().any(|login| !login.is_finished()) {
            assert_eq!(server.call(WHO, &()).wait().unwrap(), own());
            calls += 1;
        }
        (logins.into_iter().map(|login| login.join().unwrap()).collect::<Vec<_>>(), calls)
    });
    assert!(logins.iter().all(|error| matches!(error, OpenError::Refused(_))), "{logins:?}");
    // Honest log-ins by key go on, too.
    let found = before.ran(&stage, &site, 8, calls);
    assert!(found.iter().all(|line| line.field("reason").contains("munged")), "{found:?}");
    here.resume();
    let again = || by_munge(handle(&there)).open(&engine, site.address()).wait().ok();
    eventually("it serves again", || again().is_some_and(|server| server.call(WHO, &()).wait().unwrap() == own()));
}

#[test]
fn a_hung_munged_of_the_client_is_its_own_error() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let (here, mut there) = (realm.start().expect("munged"), realm.start().expect("munged"));
    let site = stage.serve(by_both(handle(&here)));
    there.pause();
    let before = site.before();
    let error = by_munge(impatient(&there)).open(&stage.client(), site.address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::Mechanism(_)), "{error}");
    // And with less time for the whole handshake than for munged.
    let hasty = by_munge(handle(&there)).handshake_timeout(SHORT);
    let error = hasty.open(&stage.client(), site.address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::Timeout { .. }), "{error}");
    before.unharmed(&stage, &site, 0);
    there.resume();
    by_munge(handle(&there)).open(&stage.client(), site.address()).wait().expect("all is well again");
}

#[test]
fn a_munged_that_crashed_is_used_again_after_its_restart() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let (mut here, there) = (realm.start().expect("munged"), realm.start().expect("munged"));
    // A new daemon here gets a new socket; this is the name that the server knows.
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("munge");
    symlink(here.socket(), &socket).unwrap();
    let site = stage.serve(by_both(Munge::builder().socket(&socket).timeout(LONG).build().expect("a handle")));
    let engine = stage.client();
    let login = || by_munge(handle(&there)).open(&engine, site.address()).wait();
    let server = login().expect("a session");
    assert_eq!(server.call(WHO, &()).wait().unwrap(), own());

    here.crash();
    let before = site.before();
    let error = login().unwrap_err();
    assert!(matches!(error, OpenError::Refused(_)), "{error}");
    assert_eq!(server.call(WHO, &()).wait().unwrap(), own(), "open sessions do not notice");
    let found = before.ran(&stage, &site, 1, 1);
    assert!(found[0].field("reason").contains("start munged"), "{found:?}");

    let again = realm.start().expect("munged");
    std::fs::remove_file(&socket).unwrap();
    symlink(again.socket(), &socket).unwrap();
    assert_eq!(login().expect("a session").call(WHO, &()).wait().unwrap(), own());
}

#[test]
fn a_server_without_its_munged_does_not_start() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let mut munged = realm.start().expect("munged");
    munged.crash();
    let engine = stage.listen();
    let error = by_both(handle(&munged)).install(&engine).wait().unwrap_err();
    assert!(error.to_string().contains("start munged"), "{error}");
}

//! MUNGE with several users of a host: threads of this process that act as other uids, where it runs as root.

use std::thread;

use margo_rs::Wait;
use mochi_auth::mechanism::ServerIdentity;
use mochi_auth::munge::{EncodeOptions, MungeError};
use mochi_auth::testing::{MungeRealm, Munged, skipped};
use mochi_auth::{CallError, Identity, OpenError, Rule};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::munge::{by_both, by_munge, handle};
use crate::stage::*;

/// Of the daemon, of servers, of somebody else's server, of a client.
const DAEMON: u32 = 1501;
const SERVER: u32 = 2003;
const OTHER: u32 = 2004;
const USER: u32 = 2005;

/// Runs `act` as another user. Threads that it starts (of an engine, of a MUNGE handle) are that user's, too: on Linux,
/// credentials are a thread's, and munged asks the kernel for those of the thread that connects.
fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
            set_thread_groups(&[]).expect("root may");
            set_thread_res_gid(group, group, group).expect("root may");
            set_thread_res_uid(user, user, user).expect("root may");
            assert_eq!(Identity::own(), Identity { uid, gid: uid });
            act()
        });
        thread.join().expect("no panic")
    })
}

/// A realm with a daemon of its own user, where all this can be done.
fn realm() -> Option<(MungeRealm, Munged)> {
    if transport() == "na+sm" {
        skipped("na+sm reaches only the processes of one user");
        return None;
    }
    if Identity::own().uid != 0 {
        skipped("only root can be several users");
        return None;
    }
    let realm = MungeRealm::for_test()?;
    let munged = realm.daemon().uid(DAEMON).start().expect("munged");
    Some((realm, munged))
}

#[test]
fn each_user_is_seen_as_himself_and_gets_what_he_may() {
    let Some((_realm, munged)) = realm() else { return };
    let stage = Stage::enter();
    let site = as_user(SERVER, || stage.serve(by_both(handle(&munged)).rule(Rule::uid(USER).or(Rule::uid(0)))));
    for (uid, may) in [(USER, true), (OTHER, false), (0, true)] {
        let outcome = as_user(uid, || {
            let options = by_munge(handle(&munged)).server_uid(SERVER);
            let server = options.open(&stage.client(), site.address()).wait().expect("a session");
            server.call(WHO, &()).wait()
        });
        match outcome {
            Ok(who) => assert_eq!((who, may), ((uid, uid), true)),
            Err(error) => assert!(matches!(error, CallError::Denied(_)) && !may, "{error}"),
        }
    }
}

/// Without a word about the server's uid, a client means one of its own.
#[test]
fn a_server_of_another_uid_than_was_meant_is_not_talked_to() {
    let Some((_realm, munged)) = realm() else { return };
    let stage = Stage::enter();
    let rogue = as_user(OTHER, || stage.serve(by_both(handle(&munged))));
    for expected in [None, Some(SERVER), Some(0)] {
        let before = rogue.before();
        let error = as_user(USER, || {
            let options = by_munge(handle(&munged));
            let options = expected.map(|uid| by_munge(handle(&munged)).server_uid(uid)).unwrap_or(options);
            options.open(&stage.client(), rogue.address()).wait().unwrap_err()
        });
        assert!(matches!(error, OpenError::Refused(_)), "{error}");
        before.unharmed(&stage, &rogue, 1);
    }
    let known = by_munge(handle(&munged)).server_uid(OTHER);
    let server = known.open(&stage.client(), rogue.address()).wait().expect("whoever means it gets it");
    assert_eq!(server.server_identity(), Some(ServerIdentity::User(OTHER)), "and can say who it was");
}

/// What a rogue would need is in the credential: munged gives it to nobody but the uid it is restricted to, not to root
/// and not to the user who made it.
#[test]
fn nobody_but_the_server_reads_the_secret_in_a_credential() {
    let Some((_realm, munged)) = realm() else { return };
    let _stage = Stage::enter();
    let credential = as_user(USER, || {
        let options = EncodeOptions::new().payload(vec![7; 65]).restrict_uid(SERVER);
        handle(&munged).encode(options).wait().expect("a credential")
    });
    for uid in [OTHER, USER, DAEMON, 0] {
        let error = as_user(uid, || handle(&munged).decode(&credential).wait().expect_err("not for him"));
        assert!(matches!(error, MungeError::Unauthorized(_)) && error.status() == Some(18), "{error}");
    }
    let decoded = as_user(SERVER, || handle(&munged).decode(&credential).wait().expect("for him"));
    assert_eq!((decoded.payload(), decoded.identity().uid), (&[7; 65][..], USER));
}

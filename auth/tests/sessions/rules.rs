//! Who may call what.

use margo_rs::{Rpc, Wait};
use mochi_auth::protocol::MechanismId;
use mochi_auth::{AuthServer, CallError, InstallError, Rule};

use crate::support::*;

const ASK: Rpc<(), ()> = Rpc::new("ask");

/// Whether Alice and Bob may.
fn allowed(rule: Rule) -> (bool, bool) {
    let auth = serve(builder());
    auth.allow(rule).register(ASK, |_, ()| async { Ok(()) }).unwrap();
    let may = |user| {
        let (_engine, server) = connect(&auth, user);
        match server.call(ASK, &()).wait() {
            Ok(()) => true,
            Err(CallError::Denied(_)) => false,
            Err(other) => panic!("{other}"),
        }
    };
    (may(ALICE), may(BOB))
}

#[test]
fn rules_by_uid_gid_mechanism_and_closure_decide() {
    assert_eq!(allowed(Rule::anyone()), (true, true));
    assert_eq!(allowed(Rule::default()), (false, false));
    assert_eq!(allowed(Rule::uid(ALICE.uid)), (true, false));
    assert_eq!(allowed(Rule::gid(BOB.gid)), (false, true));
    assert_eq!(allowed(Rule::uid(ALICE.uid).or(Rule::gid(BOB.gid))), (true, true));
    assert_eq!(allowed(Rule::uid(ALICE.uid).and(Rule::gid(BOB.gid))), (false, false));
    assert_eq!(allowed(Rule::anyone().except(Rule::uid(ALICE.uid))), (false, true));
    assert_eq!(allowed(Rule::mechanism(MechanismId::KeyFile)), (true, true));
    assert_eq!(allowed(Rule::mechanism(MechanismId::Munge)), (false, false));
    assert_eq!(allowed(Rule::when(|caller| caller.uid() % 2 == 0)), (false, true));
}

#[test]
fn a_group_has_those_with_its_gid_and_those_listed() {
    // Group 0 is root's on every host; nobody here has it.
    assert_eq!(allowed(Rule::group("root").unwrap()), (false, false));
    let error = Rule::group("no such group").unwrap_err();
    assert!(error.to_string().contains("no such group"), "{error}");
}

#[test]
fn without_a_rule_nobody_may() {
    let engine = listen();
    let mut keys = mochi_auth::mechanism::key_file::KeyRing::new();
    keys.add(key_of(ALICE), ALICE).unwrap();
    let auth = AuthServer::builder().key_ring(keys).install(&engine).wait().unwrap();
    auth.register(ASK, |_, ()| async { Ok(()) }).unwrap();
    let (_engine, server) = connect(&auth, ALICE);
    assert!(matches!(server.call(ASK, &()).wait(), Err(CallError::Denied(_))));
}

#[test]
fn a_server_that_nobody_could_use_is_not_installed() {
    let engine = listen();
    assert!(matches!(AuthServer::builder().install(&engine).wait(), Err(InstallError::NoMechanism)));
    let quiet = client();
    assert!(matches!(builder().install(&quiet).wait(), Err(InstallError::NotListening)));
    let option = |builder: mochi_auth::AuthServerBuilder| match builder.install(&engine).wait() {
        Err(InstallError::Option { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    let ms = std::time::Duration::from_millis;
    assert_eq!(option(builder().idle(ms(1500))), "idle");
    assert_eq!(option(builder().lifetime(ms(0))), "lifetime");
    assert_eq!(option(builder().half_open(ms(4999))), "half_open");
    assert_eq!(option(builder().window(100)), "window");
    assert_eq!(option(builder().max_in_flight(1025)), "max_in_flight");
    assert_eq!(option(builder().max_message(100)), "max_message");
    assert_eq!(option(builder().max_message(u32::MAX)), "max_message");
    assert_eq!(option(builder().suites(&[])), "suites");
    assert_eq!(option(builder().protections(&[])), "protections");
    let _auth = serve_on(&engine, builder());
    assert!(matches!(builder().install(&engine).wait(), Err(InstallError::Register(_))), "twice");
}

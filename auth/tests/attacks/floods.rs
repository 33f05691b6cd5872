//! Somebody who wants all of it: sessions, handshakes, places.

use std::time::Duration;

use margo_rs::ProviderId;
use mochi_auth::protocol::{BareError, Protection};
use mochi_auth::session::{Quota, Rate};
use mochi_test_support::comes_to;

use crate::record;
use crate::stage::*;
use crate::stand_in::{StandIn, hello};

/// One user may have what is not kept for others, and then only in exchange for older sessions of his own.
#[test]
fn a_table_filled_by_one_user_has_room_for_others() {
    let stage = Stage::enter();
    let quota = Quota { sessions: 40, reserve: 10, few: 8, ..AMPLE };
    let site = stage.serve(builder().quota(quota));
    let attacker = stage.attacker(&site);
    let early = stage.connect(&site, BOB);
    early.call(WHO, &()).wait().unwrap();
    let greedy: Vec<_> = (0..100).map(|_| StandIn::open(&attacker, ALICE)).collect();
    for session in &greedy {
        session.call::<_, (u32, u32)>(&attacker, WHO, &());
    }
    assert_eq!(site.open_sessions(), 30);
    let later: Vec<_> = (0..5).map(|_| stage.connect(&site, BOB)).collect();
    for server in later.iter().chain([&early]) {
        assert_eq!(server.call(WHO, &()).wait().unwrap(), (BOB.uid, BOB.gid));
    }
    let of_bob = site.auth.sessions().iter().filter(|session| session.principal.identity == BOB).count();
    assert_eq!((of_bob, record::refusals().len()), (6, 0), "none of his was ended for hers");
    // She still has her newest ones.
    let newest = greedy.last().expect("a hundred");
    assert_eq!(newest.call::<_, (u32, u32)>(&attacker, WHO, &()), (ALICE.uid, ALICE.gid));
}

/// HELLOs that nobody follows up, replayed by somebody who could not. Those who come meanwhile are asked to wait, and get
/// in when the first of these sessions have ended.
#[test]
fn half_open_sessions_do_not_keep_others_out() {
    const PLACES: usize = 20;
    let stage = Stage::enter();
    let quota = Quota { half_open: 1000, half_open_per_node: PLACES, ..AMPLE };
    let site = stage.serve(builder().quota(quota).half_open(Duration::from_secs(5)));
    let attacker = stage.attacker(&site);
    let early = stage.connect(&site, BOB);
    early.call(WHO, &()).wait().unwrap();
    let (hello, _) = hello(ALICE, SERVICE, Protection::Sealed);
    let answers: Vec<_> = (0..PLACES + 30).map(|_| attacker.ask(AUTHENTICATE, &hello)).collect();
    let opened = answers.iter().filter(|answer| BareError::parse(answer).is_err()).count();
    let asked_to_wait =
        answers.iter().filter(|answer| matches!(BareError::parse(answer), Ok(BareError::Retry { .. }))).count();
    assert!(opened >= PLACES, "{opened}");
    assert_eq!(opened + asked_to_wait, PLACES + 30, "nobody is told that he is not known");
    assert_eq!(early.call(WHO, &()).wait().unwrap(), (BOB.uid, BOB.gid));
    honest_call(&stage, &site);
    assert_eq!(record::refusals().len(), 0);
    assert_eq!(site.open_sessions(), 1);
}

#[test]
fn too_many_handshakes_are_slowed_down_and_open_sessions_do_not_notice() {
    const BURST: usize = 20;
    let stage = Stage::enter();
    let site = stage.serve(builder().handshakes(Rate { per_second: 1, burst: BURST as u32 }));
    let early = stage.connect(&site, ALICE);
    early.call(WHO, &()).wait().unwrap();
    let attacker = stage.attacker(&site);
    let before = site.before();
    let (hello, _) = hello(BOB, "another service", Protection::Sealed);
    let mut nos = 0;
    for _ in 0..10 * BURST {
        match BareError::parse(&attacker.ask(AUTHENTICATE, &hello)) {
            Ok(BareError::No { .. }) => nos += 1,
            Ok(BareError::Retry { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(early.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
    }
    assert!((BURST - 1..5 * BURST).contains(&nos), "{nos} were looked at");
    let retries = record::lines().iter().filter(|line| line.field("event") == "retry asked for").count();
    assert_eq!(nos + retries, 10 * BURST, "each left one event");
    // An honest client waits for its turn, and gets in.
    before.ran(&stage, &site, nos, 10 * BURST);
}

/// Calls beyond those agreed are not served, and cost the session nothing.
#[test]
fn more_calls_at_once_than_agreed_are_told_to_wait() {
    const HANG: margo_rs::Rpc<(), ()> = margo_rs::Rpc::new("hang");
    const AGREED: usize = 2;
    /// A session bears this many more: they may have been cancelled.
    const BORNE: usize = AGREED + 64;
    let stage = Stage::enter();
    let site = stage.serve(builder().max_in_flight(AGREED as u32));
    site.auth.register(HANG, |_, ()| std::future::pending()).unwrap();
    let attacker = stage.attacker(&site);
    let alice = StandIn::open(&attacker, ALICE);
    alice.call::<_, (u32, u32)>(&attacker, WHO, &());
    let hang = |_| attacker.send(HANG.id(ProviderId::DEFAULT), &alice.request(HANG, &()).0);
    let hanging: Vec<_> = (0..BORNE).map(hang).collect();
    comes_to(
        "BORNE handlers of the session run",
        || site.auth.sessions()[0].running,
        |running| *running as usize == BORNE,
    );
    let before = site.before();
    for _ in 0..50 {
        let (request, call) = alice.request(WHO, &());
        let mut reply = attacker.ask(WHO.id(ProviderId::DEFAULT), &request);
        let reply = alice.session.open(call, &mut reply, mochi_auth::protocol::Tick(0)).unwrap();
        let mochi_auth::session::Reply::Error(mochi_auth::protocol::SealedError::Busy { retry_ms }) = reply else {
            panic!("{reply:?}")
        };
        assert!(retry_ms > 0);
    }
    before.unharmed(&stage, &site, 0);
    drop(hanging);
    comes_to("0 handlers of the session run", || site.auth.sessions()[0].running, |running| *running == 0);
    alice.call::<_, (u32, u32)>(&attacker, WHO, &());
}

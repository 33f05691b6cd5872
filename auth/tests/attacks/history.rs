//! What hit others, tried here, whole. Those that concern one part alone are tests of that part: `cve_2018_1128` in
//! `protocol/handshake_tests.rs`, `cve_2019_13132` in `protocol/hello_tests.rs`, `cve_2020_1759`, `cve_2023_48795` and
//! `cve_2023_49933` in `session/server_tests.rs`, `cve_2020_15166` in `session/table_tests.rs`, `cve_2023_49935` in
//! `mechanism/key_file_tests.rs`.

use margo_rs::ProviderId;
use mochi_auth::protocol::{BareError, Protection};
use mochi_auth::session::Quota;
use mochi_test_support::comes_to;

use crate::stage::*;
use crate::stand_in::{StandIn, hello};
use crate::tap::{Fate, Tap, Way};
use crate::wire;

fn echo_id() -> margo_rs::RpcId {
    ECHO.id(ProviderId::DEFAULT)
}

/// Ceph CVE-2018-1128: whoever had seen an authorizer could use it himself.
#[test]
fn cve_2018_1128_who_sees_a_handshake_cannot_use_it() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    server.call(ECHO, &"seen".to_owned()).wait().unwrap();
    let seen = tap.take();
    let attacker = stage.attacker(&site);
    let before = site.before();
    let answer = attacker.ask(AUTHENTICATE, &seen[0].bytes);
    // A session, half-open: he lacks the client's key for it, and what he has seen was sealed with others.
    let session = &answer[wire::REPLY_SESSION];
    let requests = seen.iter().filter(|seen| seen.way == Way::ToServer && seen.rpc == echo_id());
    let moved: Vec<_> = requests.map(|request| wire::with(&request.bytes, wire::SESSION, session)).collect();
    let count = attacker.send_all(echo_id(), moved);
    assert_eq!(count, 1);
    before.unharmed(&stage, &site, count);
}

/// Ceph CVE-2018-1129: the signature of a message did not cover all of it.
#[test]
fn cve_2018_1129_what_is_readable_is_under_the_tag_too() {
    let stage = Stage::enter();
    let site = stage.serve(builder().protections(&[Protection::IntegrityOnly]));
    let attacker = stage.attacker(&site);
    let alice = StandIn::open_with(&attacker, ALICE, Protection::IntegrityOnly);
    alice.call::<_, String>(&attacker, ECHO, &String::new());
    let long = "pay 100 to Bob; ".repeat(200);
    let (request, call) = alice.request(ECHO, &long);
    let body = request.windows(3).position(|part| part == b"100").expect("readable");
    let refused = (body..request.len() - 16).step_by(16).map(|at| {
        let mut changed = request.clone();
        changed[at] ^= 1;
        changed
    });
    let count = attacker.send_all(echo_id(), refused);
    // Alice calls by integrity alone here, so the honest call is this one.
    assert_eq!((crate::record::refusal_count(), site.runs()), (count, 1));
    let reply = attacker.ask(echo_id(), &request);
    assert_eq!(alice.read::<String>(call, reply).unwrap(), long);
}

/// Ceph CVE-2021-20288: whoever was known could claim the id of another's session when he authenticated again.
#[test]
fn cve_2021_20288_nobody_gets_a_session_id_of_his_choice() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let (hers, his) = (stage.attacker(&site), stage.attacker(&site));
    let alice = StandIn::open(&hers, ALICE);
    alice.call::<_, String>(&hers, ECHO, &String::new());
    // The server makes ids, a new one each time; nothing in a HELLO names one.
    let again: Vec<_> = (0..10).map(|_| StandIn::open(&his, BOB)).collect();
    assert!(again.iter().all(|bob| bob.session.id() != alice.session.id()));
    for bob in &again {
        bob.call::<_, String>(&his, ECHO, &String::new());
    }
    let before = site.before();
    let claims = again.iter().map(|bob| {
        wire::with(&bob.request(ECHO, &"as Alice".to_owned()).0, wire::SESSION, alice.session.id().as_bytes())
    });
    let count = his.send_all(echo_id(), claims);
    before.unharmed(&stage, &site, count);
    assert_eq!(alice.call::<_, (u32, u32)>(&hers, WHO, &()), (ALICE.uid, ALICE.gid));
}

/// libzmq CVE-2020-15166: connections that never ended their handshake kept all others out.
#[test]
fn cve_2020_15166_connections_that_never_authenticate_keep_nobody_out() {
    let stage = Stage::enter();
    let count = many(200);
    let room = count / 3;
    let site = stage.serve(builder().quota(Quota { half_open: room, half_open_per_node: room, ..AMPLE }));
    let silent: Vec<_> = (0..count).map(|_| stage.attacker(&site)).collect();
    let (mut halves, _) = hello(ALICE, SERVICE, Protection::Sealed);
    halves.truncate(100);
    let before = site.before();
    for attacker in &silent {
        assert!(matches!(BareError::parse(&attacker.ask(AUTHENTICATE, &halves)), Ok(BareError::No { .. })));
    }
    assert_eq!(site.auth.counts().sessions, 0, "nothing is remembered of them");
    before.unharmed(&stage, &site, silent.len());
}

/// SSH CVE-2023-48795 (Terrapin): messages taken out at the start shifted the numbers of the others unnoticed.
#[test]
fn cve_2023_48795_messages_taken_out_at_the_start_are_missed() {
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let tap = Tap::before(&stage, &site);
    let server = tap.connect(&stage, ALICE);
    tap.take();
    let mut requests = 0;
    tap.plan(move |seen| {
        requests += usize::from(seen.way == Way::ToServer);
        if requests == 1 { Fate::Drop } else { Fate::Pass }
    });
    let lost = server.call(ECHO, &"first".to_owned()).start();
    comes_to("one message is seen", || tap.seen(), |seen| *seen == 1);
    assert_eq!(server.call(ECHO, &"second".to_owned()).wait().unwrap(), "second");
    let numbers: Vec<_> = tap.take().into_iter().map(|seen| (seen.way, seen.bytes[wire::SEQ][0])).collect();
    assert_eq!(numbers, [(Way::ToServer, 0), (Way::ToServer, 1), (Way::ToClient, 1)], "numbers are said, not counted");
    drop(lost);
    assert_eq!(site.runs(), 1);
    honest_call(&stage, &site);
}

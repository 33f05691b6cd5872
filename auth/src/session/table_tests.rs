use super::*;
use crate::fixtures::{PROTECTIONS, Pair, established, table};
use crate::protocol::Suite;
use crate::session::CallRefused;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

const NOW: Tick = Tick(0);

fn node(number: u32) -> NodeAddress {
    IpAddr::from(Ipv4Addr::from(number)).into()
}

fn insert(table: &Table, established: Established, node: NodeAddress) -> Result<Arc<Session>, InsertRefused> {
    table.insert(established, table.generation(), node, NOW)
}

/// Sessions that were used once; gives how many there was room for.
fn fill(table: &Table, uid: u32, from: u64, count: u64) -> u64 {
    let add = |number| match insert(table, established(number, uid), node(number as u32)) {
        Ok(session) => table.make_open(&session).is_ok() && session.state() == State::Open, // as if it were used
        Err(_) => false,
    };
    (from..from + count).filter(|number| add(*number)).count() as u64
}

fn small() -> Table {
    let quota = Quota { sessions: 100, reserve: 25, few: 5, half_open: 20, half_open_per_node: 4 };
    Table::new(quota, Lifetimes::default(), NOW)
}

#[test]
fn the_defaults_are_those_of_the_specification_but_for_half_open_places() {
    let quota = Quota::default();
    assert_eq!((quota.sessions, quota.reserve), (131_072, 131_072 / 4));
    assert_eq!((quota.half_open, quota.half_open_per_node), (4096, 512));
    assert_eq!(Lifetimes::default().half_open, Duration::from_secs(5));
}

#[test]
fn the_first_request_makes_a_session_open() {
    let pair = Pair::new();
    assert_eq!(pair.table.counts(), Counts { sessions: 1, half_open: 1 });
    assert!(pair.works(Tick(4999)));
    assert_eq!(pair.table.counts(), Counts { sessions: 1, half_open: 0 });
    assert!(pair.works(Tick(4999)));
    assert_eq!(pair.session.state(), State::Open);
}

#[test]
fn a_half_open_session_ends_after_five_seconds_by_the_clock_or_the_sweep() {
    let pair = Pair::new();
    let (mut wire, _call) = pair.call(b"late");
    assert!(matches!(pair.open(&mut wire, Tick(5000)).err(), Some(RequestRefused::Ended(State::HalfOpen))));
    assert_eq!(pair.table.expire(Tick(4999)), 0);
    assert_eq!(pair.table.expire(Tick(6000)), 1);
    assert_eq!(pair.table.counts(), Counts { sessions: 0, half_open: 0 });
    assert!(!pair.works(Tick(6000)));
}

#[test]
fn an_idle_session_ends_and_a_used_one_does_not() {
    let (idle, used) = (Pair::new(), Pair::new());
    assert!(idle.works(NOW) && used.works(NOW));
    for step in 1..100 {
        let now = Tick(step * 60_000);
        assert!(used.works(now), "{step}");
        assert_eq!(used.table.expire(now), 0);
        assert_eq!(
            idle.table.expire(now),
            usize::from(step == 15 || (step == 16 && idle.table.counts().sessions == 1))
        );
    }
    assert!(!idle.works(Tick(60 * 60_000)));
}

#[test]
fn a_running_call_keeps_a_session_from_being_idle() {
    let pair = Pair::new();
    let (mut wire, call) = pair.call(b"slow");
    let request = pair.open(&mut wire, NOW).expect("opened");
    for minute in 1..60 {
        assert_eq!(pair.table.expire(Tick(minute * 60_000)), 0);
    }
    let now = Tick(3_600_000);
    let body = crate::protocol::message::Draft::copy_of(b"done");
    let mut reply = request.responder.reply(Default::default(), body, now).expect("sealed");
    assert!(pair.client.open(call, &mut reply, now).is_ok());
}

#[test]
fn every_session_ends_at_its_absolute_end() {
    let pair = Pair::new();
    let twelve_hours = 43_200_000;
    for step in 0..720 {
        assert!(pair.works(Tick(step * 60_000)));
        pair.table.expire(Tick(step * 60_000));
    }
    let refused = pair.client.call(
        crate::fixtures::TARGET,
        Default::default(),
        crate::protocol::message::Draft::copy_of(b"x"),
        Tick(twelve_hours),
    );
    assert_eq!(refused.err(), Some(CallRefused::Ended));
    let (mut wire, _call) = pair.call(b"by a client whose clock stands");
    assert!(matches!(pair.open(&mut wire, Tick(twelve_hours)).err(), Some(RequestRefused::Ended(_))));
    assert_eq!(pair.table.expire(Tick(twelve_hours + 1000)), 1);
    assert_eq!(pair.session.state(), State::Draining);
}

#[test]
fn half_open_sessions_are_few_per_address_and_in_all() {
    let table = small();
    let insert = |number: u64, from: u32| insert(&table, established(number, number as u32), node(from)).err();
    for number in 0..4 {
        assert_eq!(insert(number, 1), None);
    }
    assert_eq!(insert(4, 1), Some(QuotaExceeded::HalfOpenOfNode.into()));
    for number in 4..20 {
        assert_eq!(insert(number, number as u32), None);
    }
    assert_eq!(insert(20, 20), Some(QuotaExceeded::HalfOpen.into()));
    assert_eq!(table.expire(Tick(6000)), 20);
    assert_eq!(insert(21, 1), None);
    assert_eq!(table.counts(), Counts { sessions: 1, half_open: 1 });
}

#[test]
fn an_id_is_never_given_twice() {
    let table = small();
    assert!(insert(&table, established(1, 1), node(1)).is_ok());
    let again = insert(&table, established(1, 2), node(2)).err();
    assert_eq!(again, Some(QuotaExceeded::DuplicateId.into()));
    assert_eq!(table.counts().sessions, 1);
}

#[test]
fn one_uid_or_some_together_leave_room_for_others() {
    let table = small();
    fill(&table, 1, 0, 200);
    assert_eq!(table.count_of(1), 75, "three quarters while alone");
    fill(&table, 2, 1000, 200);
    assert_eq!(table.count_of(2), 5, "no more than a few in the reserve");
    assert_eq!(table.count_of(1), 75);
    for uid in 3..7 {
        assert_eq!(fill(&table, uid, 2000 + u64::from(uid) * 100, 5), 5);
    }
    assert_eq!(table.counts().sessions, 100);
    assert_eq!(fill(&table, 9, 9000, 1), 0, "full, and none of its own to end");
    assert_eq!(table.count_of(1), 75, "nobody else's was ended");
}

#[test]
fn eviction_takes_the_longest_idle_of_the_own_uid_and_none_that_runs() {
    let quota = Quota { sessions: 8, reserve: 4, few: 0, ..Quota::default() };
    let table = Arc::new(Table::new(quota, Lifetimes::default(), NOW));
    let pairs: Vec<_> = (0..4).map(|_| Pair::of(&table, Suite::Aes256Gcm, PROTECTIONS[0], 1)).collect();
    for (at, pair) in pairs.iter().enumerate() {
        assert!(pair.works(Tick(4000 - 1000 * at as u64)));
    }
    // The last is the longest idle; but one of its calls runs.
    let (mut wire, _call) = pairs[3].call(b"slow");
    let request = pairs[3].open(&mut wire, Tick(1000)).expect("opened");
    let fifth = Pair::of(&table, Suite::Aes256Gcm, PROTECTIONS[0], 1);
    assert!(
        pairs.iter().all(|pair| pair.session.state() == State::Open),
        "a handshake alone, replayed perhaps, ends none"
    );
    assert!(fifth.works(Tick(4000)));
    assert_eq!(
        pairs.iter().map(|pair| pair.session.state() == State::Draining).collect::<Vec<_>>(),
        [false, false, true, false]
    );
    assert_eq!((table.count_of(1), table.counts().half_open), (4, 0));
    drop(request);
    // With calls running in all of them there is no room.
    let mut wires: Vec<_> = [&pairs[0], &pairs[1], &pairs[3], &fifth].map(|pair| pair.call(b"slow").0).into();
    let _requests: Vec<_> = wires.iter_mut().map(|wire| fifth.open(wire, Tick(4000)).expect("opened")).collect();
    let sixth = Pair::of(&table, Suite::Aes256Gcm, PROTECTIONS[0], 1);
    let mut wire = sixth.call(b"x").0;
    assert_eq!(sixth.open(&mut wire, Tick(4000)).err(), Some(RequestRefused::NoRoom));
    assert_eq!((table.counts(), sixth.session.state()), (Counts { sessions: 4, half_open: 0 }, State::Dead));
}

#[test]
fn a_full_table_refuses_the_handshake_of_a_user_with_nothing_to_end() {
    let table = small();
    for uid in 0..15 {
        assert_eq!(fill(&table, uid, u64::from(uid) * 100, 5), 5);
    }
    for uid in 15..20 {
        assert_eq!(fill(&table, uid, u64::from(uid) * 100, 5), 5, "from the reserve");
    }
    assert_eq!(insert(&table, established(9999, 77), node(1)).err(), Some(QuotaExceeded::Sessions.into()));
    assert!(insert(&table, established(9999, 7), node(1)).is_ok(), "one that may end one of its own");
}

/// libzmq CVE-2020-15166: clients that never authenticate kept all others out.
#[test]
fn cve_2020_15166_handshakes_without_a_request_do_not_keep_others_out_for_long() {
    let table = small();
    let pair = Pair::of(&Arc::new(table), Suite::Aes256Gcm, PROTECTIONS[0], 1);
    assert!(pair.works(NOW));
    for number in 0..100 {
        let _ = insert(&pair.table, established(number, 2), node(7));
    }
    assert_eq!(pair.table.counts().half_open, 4, "one address has its few");
    assert!(insert(&pair.table, established(200, 3), node(8)).is_ok(), "another address comes in");
    assert!(pair.works(NOW), "open sessions do not notice");
    assert_eq!(pair.table.expire(Tick(6000)), 5);
}

#[test]
fn first_requests_race_with_revocation_and_quota_and_lose_no_count() {
    for round in 0..20u32 {
        let quota = Quota { sessions: 6, reserve: 0, few: 0, ..Quota::default() };
        let table = Arc::new(Table::new(quota, Lifetimes::default(), NOW));
        let pairs: Vec<_> =
            (0..12).map(|at| Pair::of(&table, Suite::Aes256Gcm, PROTECTIONS[0], 1 + at % (1 + round % 3))).collect();
        std::thread::scope(|scope| {
            for pair in &pairs {
                scope.spawn(|| pair.works(Tick(100)));
            }
            for pair in pairs.iter().step_by(3) {
                table.revoke(&pair.client.id());
            }
        });
        let counts = table.counts();
        assert!(counts.sessions - counts.half_open <= 6, "{counts:?}");
        assert_eq!(table.sessions().len(), counts.sessions);
        assert_eq!((1..4).map(|uid| table.count_of(uid)).sum::<usize>(), counts.sessions - counts.half_open);
        table.revoke_all();
        assert_eq!(table.counts(), Counts { sessions: 0, half_open: 0 });
    }
}

#[test]
fn sessions_are_revoked_by_id_user_generation_and_all() {
    let table = small();
    fill(&table, 1, 0, 10);
    fill(&table, 2, 100, 10);
    let id = established(100, 2).session();
    assert!(table.revoke(&id) && !table.revoke(&id));
    assert_eq!(table.revoke_uid(1), 10);
    assert_eq!((table.count_of(1), table.count_of(2), table.revoke_uid(1)), (0, 9, 0));
    let generation = table.next_generation();
    fill(&table, 3, 200, 10);
    assert_eq!(table.revoke_before(generation), 9);
    assert_eq!((table.count_of(2), table.count_of(3)), (0, 10));
    assert!(table.sessions().iter().all(|session| session.state() == State::Open));
    assert_eq!(table.revoke_all(), 10);
    assert_eq!(table.counts(), Counts { sessions: 0, half_open: 0 });
    assert!(table.sessions().is_empty());
}

/// A client that was being verified when its user was revoked has no session afterwards.
#[test]
fn handshakes_at_work_are_revoked_with_the_sessions_of_their_user() {
    let revocations: [fn(&Table) -> usize; 3] =
        [|table| table.revoke_uid(1), Table::revoke_all, |table| table.revoke_before(table.next_generation())];
    for (round, revoke) in revocations.into_iter().enumerate() {
        let table = small();
        let come = |number, uid, generation| {
            table.insert(established(number, uid), generation, node(number as u32), NOW).map(|_| ())
        };
        let before = table.generation();
        assert_eq!(come(1, 1, before), Ok(()));
        assert_eq!(revoke(&table), 1);
        let during = table.generation();
        assert_eq!(come(2, 1, before), Err(InsertRefused::Revoked));
        let of_another = if round == 0 { Ok(()) } else { Err(InsertRefused::Revoked) };
        assert_eq!(come(3, 2, before), of_another, "{round}");
        assert_eq!(come(4, 1, during), Ok(()), "one that began after it");
        assert_eq!(table.next_generation(), during + 1);
        assert_eq!(come(5, 1, during), Ok(()), "nothing is revoked by a generation alone");
        assert_eq!(revoke(&table), if round == 0 { 2 } else { 3 - usize::from(of_another.is_err()) });
    }
}

#[test]
fn remembered_revocations_are_bounded_and_none_is_forgotten() {
    let table = small();
    let before = table.generation();
    for uid in 0..10_000 {
        table.revoke_uid(uid);
    }
    for uid in [0, 4096, 9999] {
        let refused = table.insert(established(1, uid), before, node(1), NOW).err();
        assert_eq!(refused, Some(InsertRefused::Revoked), "{uid}");
    }
    assert!(table.book.lock().revoked.len() <= 4096);
    assert!(insert(&table, established(1, 0), node(1)).is_ok());
}

/// Whatever a revocation runs beside: what began before it is gone after it.
#[test]
fn a_revocation_that_races_with_handshakes_leaves_none_of_their_sessions() {
    for round in 0..50 {
        let table = small();
        std::thread::scope(|scope| {
            let comers: Vec<_> = (0..3)
                .map(|thread| {
                    let generation = table.generation();
                    let table = &table;
                    scope.spawn(move || {
                        for number in 0..6 {
                            let number = thread * 6 + number;
                            let _ = table.insert(established(number, 1), generation, node(number as u32), NOW);
                        }
                    })
                })
                .collect();
            if round % 2 == 0 {
                table.revoke_uid(1)
            } else {
                table.revoke_all()
            };
            comers.into_iter().for_each(|comer| comer.join().expect("no panic"));
        });
        assert_eq!(table.counts(), Counts { sessions: 0, half_open: 0 }, "{round}");
    }
}

#[test]
fn the_order_of_a_uid_does_not_grow_with_sessions_that_come_and_go() {
    let table = small();
    for number in 0..10_000 {
        let session = insert(&table, established(number, 1), node(1)).expect("room");
        assert!(table.close(&session.id()));
        if number == 0 {
            fill(&table, 1, 1 << 40, 1);
        }
    }
    assert!(table.book.lock().order_len(1) < 100);
    assert_eq!(table.counts(), Counts { sessions: 1, half_open: 0 });
}

#[test]
fn no_more_than_4096_sessions_hold_expanded_keys() {
    let table = Table::new(Quota { half_open: 10_000, ..Quota::default() }, Lifetimes::default(), NOW);
    let sessions: Vec<_> =
        (0..5000).map(|number| insert(&table, established(number, 1), node(number as u32)).expect("room")).collect();
    for session in &sessions {
        if !session.warm.swap(true, Ordering::AcqRel) {
            table.keep_warm(session, NOW);
        }
    }
    assert_eq!(sessions.iter().filter(|session| session.is_warm()).count(), WARM_MAX);
    table.expire(Tick(10_000));
    assert_eq!(sessions.iter().filter(|session| session.is_warm()).count(), 0);
}

#[test]
fn expiry_looks_at_what_is_due_and_not_at_all_there_is() {
    let table = Table::new(Quota::default(), Lifetimes::default(), NOW);
    assert_eq!(fill(&table, 1, 0, 90_000), 90_000);
    // The look at each after the half-open time puts it off to its idle time.
    assert_eq!(table.expire(Tick(6000)), 0);
    let waiting = |table: &Table| table.wheel.lock().take(Tick(0), usize::MAX).len();
    assert_eq!(waiting(&table), 0);
    let before = Instant::now();
    for second in 7..800 {
        assert_eq!(table.expire(Tick(second * 1000)), 0);
    }
    println!("793 sweeps with 90,000 idle sessions took {:?}", before.elapsed());
    assert_eq!(table.expire(Tick(901_000)), 90_000);
    assert_eq!(table.counts().sessions, 0);
}

#[test]
fn closing_and_revoking_race_with_calls_and_lose_no_count() {
    for round in 0..20 {
        let table = table();
        let pairs: Vec<_> = (0..8).map(|uid| Pair::of(&table, Suite::Aes256Gcm, PROTECTIONS[0], uid)).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for half in pairs.chunks(4) {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        for pair in half {
                            pair.works(Tick(100));
                        }
                    }
                });
            }
            for (at, pair) in pairs.iter().enumerate() {
                match (at + round) % 3 {
                    0 => assert!(table.close(&pair.client.id())),
                    1 => assert!(table.revoke(&pair.client.id())),
                    _ => assert_eq!(table.revoke_uid(at as u32), 1),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(table.counts(), Counts { sessions: 0, half_open: 0 });
        assert!(pairs.iter().all(|pair| pair.session.running() == 0 && !pair.works(Tick(100))));
    }
}

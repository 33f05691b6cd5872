//! Calls of a session against what an attacker makes of them. After each attack an honest call works.

use super::*;
use crate::fixtures::{PROTECTIONS, Pair, TARGET, established, table, tampered};
use crate::protocol::{Protection, SEQ_END, Suite};
use crate::session::{Call, CallRefused, Reply, ReplyRefused};
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Waker};

const NOW: Tick = Tick(0);

fn reply(pair: &Pair, wire: &mut [u8], body: &[u8]) -> Vec<u8> {
    let request = pair.open(wire, NOW).expect("opened");
    request.responder.reply(Content::default(), Draft::copy_of(body), NOW).expect("sealed")
}

fn refusal(pair: &Pair, call: Call, wire: &mut [u8]) -> Option<ReplyRefused> {
    pair.client.open(call, wire, NOW).err()
}

#[test]
fn a_call_goes_there_and_back_in_every_suite_and_protection() {
    for pair in Pair::each() {
        for body in [&b""[..], b"x", &[7; 64], &[9; 5000]] {
            let (mut wire, call) = pair.call(body);
            let filled = match pair.session.terms().protection {
                Protection::Sealed => body.len().next_multiple_of(16),
                Protection::IntegrityOnly => body.len(),
            };
            assert_eq!(wire.len(), filled + 64);
            let request = pair.open(&mut wire, NOW).expect("opened");
            assert_eq!(request.body(), body);
            assert_eq!((request.target(), request.kind()), (TARGET, Kind::Request));
            let session = request.responder.session();
            assert_eq!((session.principal().identity.uid, session.running()), (1000, 1));
            let mut wire = request.responder.reply(Content::default(), Draft::copy_of(body), NOW).expect("sealed");
            assert!(
                matches!(pair.client.open(call, &mut wire, NOW), Ok(Reply::Result { body: got, .. }) if got == body)
            );
            assert_eq!(pair.session.running(), 0);
        }
    }
}

#[test]
fn a_sealed_body_is_not_readable_and_an_integrity_only_one_is() {
    for pair in Pair::each() {
        let (wire, _call) = pair.call(b"find these bytes");
        let readable = wire.windows(16).any(|part| part == b"find these bytes");
        assert_eq!(readable, pair.session.terms().protection == Protection::IntegrityOnly);
    }
}

#[test]
fn an_error_goes_back_sealed() {
    let pair = Pair::new();
    let (mut wire, call) = pair.call(b"ping");
    let request = pair.open(&mut wire, NOW).expect("opened");
    let mut wire = request.responder.refuse(&SealedError::Busy { retry_ms: 7 }, NOW).expect("sealed");
    let reply = pair.client.open(call, &mut wire, NOW).expect("opened");
    assert!(matches!(reply, Reply::Error(SealedError::Busy { retry_ms: 7 })));
}

#[test]
fn every_changed_request_is_refused_and_the_original_still_works() {
    for pair in Pair::each() {
        let (wire, _call) = pair.call(b"transfer 100");
        for mut changed in tampered(&wire) {
            let Ok(incoming) = Incoming::parse(&mut changed) else {
                continue;
            };
            assert!(pair.table.open(incoming, NOW).is_err());
        }
        assert_eq!(pair.session.state(), State::HalfOpen, "no forgery opens a session");
        assert!(pair.open(&mut wire.clone(), NOW).is_ok());
        assert!(pair.works(NOW));
    }
}

#[test]
fn every_changed_reply_is_refused() {
    for pair in Pair::each() {
        let (mut wire, call) = pair.call(b"balance?");
        let good = reply(&pair, &mut wire, b"100");
        for mut changed in tampered(&good) {
            assert!(pair.client.open(copy(&call), &mut changed, NOW).is_err());
        }
        assert!(pair.client.open(call, &mut good.clone(), NOW).is_ok());
        assert!(pair.works(NOW));
    }
}

/// Tests open one call's reply several times; nobody else can.
fn copy(call: &Call) -> Call {
    crate::session::client::copy_of(call)
}

#[test]
fn a_replayed_request_is_refused_however_late() {
    let pair = Pair::new();
    let (wire, _call) = pair.call(b"once");
    assert!(pair.open(&mut wire.clone(), NOW).is_ok());
    let replayed = |expected| {
        let refused = pair.open(&mut wire.clone(), NOW).err();
        assert_eq!(refused, Some(RequestRefused::Window(expected)));
        assert!(!refused.is_some_and(|refused| refused.is_answered()), "dropped in silence");
    };
    replayed(WindowError::Replayed);
    for _ in 0..2100 {
        assert!(pair.works(NOW));
    }
    replayed(WindowError::Old);
}

#[test]
fn a_forged_number_far_ahead_does_not_move_the_window() {
    let pair = Pair::new();
    let (good, _call) = pair.call(b"early");
    let mut forged = good.clone();
    forged[24..32].copy_from_slice(&(SEQ_END - 1).to_le_bytes());
    assert_eq!(pair.open(&mut forged, NOW).err(), Some(RequestRefused::Open(OpenError::BadTag)));
    assert!(pair.open(&mut good.clone(), NOW).is_ok());
}

#[test]
fn requests_may_come_in_any_order_within_the_window() {
    let pair = Pair::new();
    let wires: Vec<_> = (0..2049).map(|_| pair.call(b"x").0).collect();
    for (seq, wire) in wires.iter().enumerate().rev() {
        let refused = pair.open(&mut wire.clone(), NOW).err();
        assert_eq!(refused, (seq == 0).then_some(RequestRefused::Window(WindowError::Old)), "{seq}");
    }
}

#[test]
fn messages_do_not_pass_for_those_of_the_other_direction() {
    for pair in Pair::each() {
        let (wire, call) = pair.call(b"mirror");
        assert_eq!(refusal(&pair, copy(&call), &mut wire.clone()), Some(ReplyRefused::Kind(Kind::Request)));
        let good = reply(&pair, &mut wire.clone(), b"mirror");
        assert_eq!(pair.open(&mut good.clone(), NOW).err(), Some(RequestRefused::Kind(Kind::Reply)));
        // With the type rewritten, too.
        let mut as_reply = wire.clone();
        as_reply[1] = Kind::Reply as u8;
        assert_eq!(refusal(&pair, call, &mut as_reply), Some(ReplyRefused::Open(OpenError::BadTag)));
        let mut as_request = good;
        as_request[1] = Kind::Request as u8;
        as_request[24] = 9;
        assert_eq!(pair.open(&mut as_request, NOW).err(), Some(RequestRefused::Open(OpenError::BadTag)));
    }
}

#[test]
fn replies_cannot_be_swapped_between_calls() {
    let pair = Pair::new();
    let ((mut first, call_1), (mut second, call_2)) = (pair.call(b"1"), pair.call(b"2"));
    let (reply_1, reply_2) = (reply(&pair, &mut first, b"1"), reply(&pair, &mut second, b"2"));
    assert_eq!(refusal(&pair, copy(&call_1), &mut reply_2.clone()), Some(ReplyRefused::OtherCall));
    let mut renumbered = reply_2;
    renumbered[24..32].copy_from_slice(&reply_1[24..32]);
    assert_eq!(refusal(&pair, copy(&call_1), &mut renumbered), Some(ReplyRefused::Open(OpenError::BadTag)));
    assert_eq!(refusal(&pair, call_2, &mut reply_1.clone()), Some(ReplyRefused::OtherCall));
    assert!(pair.client.open(call_1, &mut reply_1.clone(), NOW).is_ok());
}

/// The reply to a request that the attacker changed (and that was refused), or to the same number of another request.
#[test]
fn a_reply_is_bound_to_the_request_it_answers() {
    let table = table();
    let (one, other) = (Pair::new(), Pair::of(&table, Suite::Aes256Gcm, Protection::Sealed, 1000));
    let (mut wire, call) = one.call(b"what?");
    let good = reply(&one, &mut wire, b"that");
    let (_, call_of_other) = other.call(b"what?");
    assert_eq!(refusal(&other, call_of_other, &mut good.clone()), Some(ReplyRefused::OtherCall));
    let mut other_tag = copy(&call);
    crate::session::client::flip_tag(&mut other_tag);
    assert_eq!(refusal(&one, other_tag, &mut good.clone()), Some(ReplyRefused::Open(OpenError::BadTag)));
    assert!(one.client.open(call, &mut good.clone(), NOW).is_ok());
}

#[test]
fn messages_cannot_be_moved_between_sessions_and_users() {
    let table = table();
    let alice = Pair::of(&table, Suite::Aes256Gcm, Protection::Sealed, 1000);
    let bob = Pair::of(&table, Suite::Aes256Gcm, Protection::Sealed, 1001);
    let (wire, _call) = alice.call(b"mine");
    let mut moved = wire.clone();
    moved[8..24].copy_from_slice(bob.client.id().as_bytes());
    assert_eq!(bob.open(&mut moved, NOW).err(), Some(RequestRefused::Open(OpenError::BadTag)));
    let request = bob
        .table
        .open(Incoming::parse(&mut wire.clone()).expect("a message"), NOW)
        .map(|request| request.responder.session().principal().identity.uid);
    assert_eq!(request, Ok(1000), "whoever delivers it, it is of the user who sealed it");
    assert!(bob.works(NOW) && alice.works(NOW));
}

#[test]
fn a_request_is_refused_by_another_server() {
    let (here, there) = (Pair::new(), Pair::new());
    let (mut wire, _call) = here.call(b"x");
    let refused = there.open(&mut wire, NOW).err();
    assert_eq!(refused, Some(RequestRefused::UnknownSession));
    assert!(refused.is_some_and(|refused| refused.is_answered()));
}

#[test]
fn target_flags_type_and_epoch_are_covered() {
    for pair in Pair::each() {
        let (wire, _call) = pair.call(b"x");
        for (at, flip) in [(1, 9), (2, 2), (2, 4), (3, 1), (3, 0xff), (32, 1), (39, 0x80), (40, 1), (41, 0x80)] {
            let mut changed = wire.clone();
            changed[at] ^= flip;
            let Ok(incoming) = Incoming::parse(&mut changed) else {
                continue;
            };
            assert!(pair.table.open(incoming, NOW).is_err(), "byte {at}");
        }
    }
}

#[test]
fn the_agreed_protection_cannot_be_left() {
    for protection in PROTECTIONS {
        let pair = Pair::of(&table(), Suite::Aes256Gcm, protection, 1000);
        // As long as a block, a body is as long in both forms.
        let (wire, call) = pair.call(&[1; 16]);
        let good = reply(&pair, &mut wire.clone(), &[2; 16]);
        let (mut request, mut answer) = (pair.call(&[1; 16]).0, good);
        request[2] ^= 1;
        answer[2] ^= 1;
        assert_eq!(pair.open(&mut request, NOW).err(), Some(RequestRefused::Protection));
        assert_eq!(refusal(&pair, call, &mut answer), Some(ReplyRefused::Protection));
    }
}

#[test]
fn bodies_past_the_limit_are_refused_on_both_sides_before_any_crypto() {
    let pair = Pair::new();
    let max = pair.session.terms().max_message;
    let too_long = || Draft::copy_of(&vec![0; max as usize + 1]);
    let refused = pair.client.call(TARGET, Content::default(), too_long(), NOW).err();
    assert_eq!(refused, Some(CallRefused::TooLarge { len: max as usize + 1, max }));
    let mut wire = pair.call(&[0; 10]).0;
    wire[44..48].copy_from_slice(&(max + 1).to_le_bytes());
    wire.resize((max as usize + 1).next_multiple_of(16) + 64, 0);
    assert_eq!(pair.open(&mut wire, NOW).err(), Some(RequestRefused::TooLarge(max + 1)));

    let (mut wire, call) = pair.call(b"x");
    let request = pair.open(&mut wire, NOW).expect("opened");
    let refused = request.responder.reply(Content::default(), too_long(), NOW).expect_err("too long");
    let RespondError::TooLarge { responder, .. } = refused else { panic!("{refused}") };
    let mut wire = responder.refuse(&SealedError::TooLarge, NOW).expect("sealed");
    let reply = pair.client.open(call, &mut wire, NOW).expect("opened");
    assert!(matches!(reply, Reply::Error(SealedError::TooLarge)));
}

#[test]
fn numbers_are_used_up_at_2_to_the_63() {
    let pair = Pair::new();
    pair.client.skip_to(SEQ_END - 2);
    assert!(pair.works(NOW) && pair.works(NOW));
    for _ in 0..3 {
        let refused = pair.client.call(TARGET, Content::default(), Draft::copy_of(b"x"), NOW).err();
        assert_eq!(refused, Some(CallRefused::Exhausted));
    }
}

#[test]
fn more_calls_than_agreed_are_told_apart() {
    let pair = Pair::new();
    let mut wires: Vec<_> = (0..2049).map(|_| pair.call(b"x").0).collect();
    let requests: Vec<_> = wires.iter_mut().map(|wire| pair.open(wire, NOW).expect("authentic")).collect();
    let over = requests.iter().filter(|request| request.is_over_limit()).count();
    assert_eq!((over, pair.session.running()), (1, 2049));
    drop(requests);
    assert_eq!(pair.session.running(), 0);
}

#[test]
fn a_closed_session_answers_what_runs_and_takes_nothing_new() {
    let pair = Pair::new();
    let (mut running, call) = pair.call(b"slow");
    let request = pair.open(&mut running, NOW).expect("opened");
    let (late, _late_call) = pair.call(b"late");
    let (mut close, _) = pair.client.close(NOW).expect("sealed");
    let closing = pair.open(&mut close, NOW).expect("authentic");
    assert_eq!(closing.kind(), Kind::Close);
    assert!(pair.table.close(&closing.responder.session().id()));
    assert!(!pair.table.close(&pair.client.id()), "once");
    assert_eq!(pair.session.state(), State::Draining);

    assert_eq!(pair.open(&mut late.clone(), NOW).err(), Some(RequestRefused::UnknownSession));
    let refused =
        Arc::clone(&pair.session).open(Incoming::parse(&mut late.clone()).expect("a message"), NOW, |_| Ok(())).err();
    assert_eq!(refused, Some(RequestRefused::Ended(State::Draining)));
    let sealed = pair.client.call(TARGET, Content::default(), Draft::copy_of(b"x"), NOW).err();
    assert_eq!(sealed, Some(CallRefused::Ended));
    assert!(pair.client.close(NOW).is_ok(), "for whoever does not know whether the first was sent");

    let mut wire = request.responder.reply(Content::default(), Draft::copy_of(b"done"), NOW).expect("still answers");
    assert!(pair.client.open(call, &mut wire, NOW).is_ok());
}

#[test]
fn two_that_close_at_once_wait_for_what_runs_and_not_for_each_other() {
    let pair = Pair::new();
    let (mut running, _call) = pair.call(b"slow");
    let running = pair.open(&mut running, NOW).expect("opened");
    let closes = [0, 1].map(|_| pair.client.close(NOW).expect("sealed").0);
    let [first, second] = closes.map(|mut wire| pair.open(&mut wire, NOW).expect("opened").responder);
    assert!(pair.table.close(&first.session().id()));
    assert!(!pair.table.close(&second.session().id()), "the other was first");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    {
        let (mut one, mut other) = (Box::pin(Session::drained(&first)), Box::pin(Session::drained(&second)));
        assert!(one.as_mut().poll(&mut cx).is_pending() && other.as_mut().poll(&mut cx).is_pending());
        drop(running);
        assert!(woken.0.load(Ordering::SeqCst) > 0, "nobody was woken");
        assert!(one.as_mut().poll(&mut cx).is_ready() && other.as_mut().poll(&mut cx).is_ready());
    }
    // The one that is left when the other was answered waits for nothing.
    let mut last = Box::pin(Session::drained(&second));
    drop(first);
    assert!(last.as_mut().poll(&mut cx).is_ready());
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_revoked_session_answers_nothing() {
    let pair = Pair::new();
    let (mut wire, _call) = pair.call(b"slow");
    let request = pair.open(&mut wire, NOW).expect("opened");
    assert!(pair.table.revoke(&pair.client.id()));
    let refused = request.responder.reply(Content::default(), Draft::copy_of(b"x"), NOW).err();
    assert!(matches!(refused, Some(RespondError::Revoked)));
    assert!(!pair.works(NOW));
}

#[test]
fn the_last_user_of_a_closed_session_takes_its_keys_along() {
    let pair = Pair::new();
    let (mut wire, _call) = pair.call(b"slow");
    let responder = pair.open(&mut wire, NOW).expect("opened").responder;
    pair.table.close(&pair.client.id());
    let weak = Arc::downgrade(&pair.session);
    drop(pair);
    assert!(weak.upgrade().is_some());
    drop(responder);
    assert!(weak.upgrade().is_none());
}

#[test]
fn eight_threads_share_a_session_with_each_call_answered_once() {
    for protection in PROTECTIONS {
        let pair = Pair::of(&table(), Suite::Aes256Gcm, protection, 1000);
        let (opened, numbers) = (AtomicUsize::new(0), Mutex::new(std::collections::HashSet::new()));
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let (pair, opened, numbers) = (&pair, &opened, &numbers);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let (wire, call) = pair.call(&[thread; 64]);
                        let mut twice = wire.clone();
                        let request = pair.open(&mut twice, NOW).expect("first");
                        assert!(pair.open(&mut wire.clone(), NOW).is_err());
                        let body = Draft::copy_of(request.body());
                        let mut reply = request.responder.reply(Content::default(), body, NOW).expect("sealed");
                        assert!(numbers.lock().insert(wire[24..32].to_vec()), "a number was used twice");
                        let reply = pair.client.open(call, &mut reply, NOW).expect("opened");
                        assert!(matches!(reply, Reply::Result { body, .. } if body == [thread; 64]));
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(opened.into_inner(), 1600);
        assert_eq!(pair.session.running(), 0);
    }
}

/// Many threads deliver the same request at once: one gets it.
#[test]
fn a_request_delivered_by_many_threads_is_taken_once() {
    let pair = Pair::new();
    for _ in 0..100 {
        let (wire, _call) = pair.call(b"once");
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    taken.fetch_add(usize::from(pair.open(&mut wire.clone(), NOW).is_ok()), Ordering::Relaxed)
                });
            }
        });
        assert_eq!(taken.into_inner(), 1);
    }
}

#[test]
fn rekeying_goes_unnoticed_by_many_threads() {
    let pair = Pair::new();
    // By age: each thread's clock runs through the hours, so that both directions change keys under way.
    let hours = 3_600_000;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for step in 0..40u64 {
                    let now = Tick(step * hours / 8);
                    let sealed = pair.client.call(TARGET, Content::default(), Draft::copy_of(b"ping"), now);
                    let (mut wire, call) = sealed.expect("sealed");
                    // Another thread may have gone ahead by more than an epoch; never by more than the receiver follows.
                    let Ok(request) = pair.open(&mut wire, NOW) else {
                        continue;
                    };
                    let reply = request.responder.reply(Content::default(), Draft::copy_of(b"pong"), now);
                    let _ = pair.client.open(call, &mut reply.expect("sealed"), NOW);
                }
            });
        }
    });
    let (sealing, _) = pair.client.halves();
    assert!(sealing.epoch() >= 4, "{}", sealing.epoch());
    assert!(pair.works(NOW), "both ends are still together");
}

/// Ceph CVE-2020-1759: a nonce was used for two messages.
#[test]
fn cve_2020_1759_no_two_messages_of_a_direction_share_key_and_number() {
    let pair = Pair::new();
    let mut seen = std::collections::HashSet::new();
    for step in 0..200 {
        let now = Tick(step);
        if step % 10 == 0 {
            pair.session.cool(now);
            pair.client.cool(now);
        }
        let (mut wire, call) = pair.call(b"ping");
        assert!(seen.insert((1, wire[3], wire[24..32].to_vec())));
        let request = pair.open(&mut wire, now).expect("opened");
        let answer = match step % 2 {
            0 => request.responder.reply(Content::default(), Draft::copy_of(b"pong"), now),
            _ => request.responder.refuse(&SealedError::Denied, now),
        };
        let mut answer = answer.expect("sealed");
        assert!(seen.insert((2, answer[3], answer[24..32].to_vec())));
        assert!(pair.client.open(call, &mut answer, now).is_ok());
    }
}

/// SSH CVE-2023-48795 (Terrapin): messages taken out at the start went unnoticed, because numbers were only counted.
#[test]
fn cve_2023_48795_taking_out_a_message_renumbers_no_other() {
    let pair = Pair::new();
    let ((first, call_1), (mut second, call_2)) = (pair.call(b"first"), pair.call(b"second"));
    let mut answer = reply(&pair, &mut second, b"to the second");
    assert_eq!(refusal(&pair, call_1, &mut answer.clone()), Some(ReplyRefused::OtherCall));
    assert!(pair.client.open(call_2, &mut answer, NOW).is_ok());
    assert!(pair.open(&mut first.clone(), NOW).is_ok(), "late, and still itself");
}

/// Slurm CVE-2023-49933: messages could be extended behind what was authenticated.
#[test]
fn cve_2023_49933_nothing_can_be_put_behind_or_into_a_message() {
    for pair in Pair::each() {
        let (wire, _call) = pair.call(b"job");
        for at in [48, 50, wire.len() - 16, wire.len()] {
            for restate in [false, true] {
                let mut longer = wire.clone();
                longer.splice(at..at, *b"more");
                if restate {
                    longer[44..48].copy_from_slice(&7u32.to_le_bytes());
                }
                let Ok(incoming) = Incoming::parse(&mut longer) else { continue };
                assert_eq!(pair.table.open(incoming, NOW).err(), Some(RequestRefused::Open(OpenError::BadTag)));
            }
        }
        assert!(pair.works(NOW));
    }
}

/// The zero key and sequence number 0 of a server that nobody logged in to (weakness W2).
#[test]
fn w2_without_a_session_no_key_opens_anything() {
    let table = table();
    let pair = Pair::new();
    let (wire, _call) = pair.call(b"x");
    for id in [[0; 16], [0xff; 16]] {
        let mut forged = wire.clone();
        forged[8..24].copy_from_slice(&id);
        let refused = table.open(Incoming::parse(&mut forged).expect("a message"), NOW).err();
        assert_eq!(refused, Some(RequestRefused::UnknownSession));
    }
}

#[test]
fn an_idle_session_holds_no_expanded_key_after_a_late_reply() {
    let pair = Pair::new();
    let (mut wire, call) = pair.call(b"slow");
    let request = pair.open(&mut wire, NOW).expect("opened");
    assert!(pair.session.is_warm());
    pair.table.expire(Tick(10_000));
    assert!(!pair.session.is_warm());
    let mut wire = request.responder.reply(Content::default(), Draft::copy_of(b"x"), Tick(11_000)).expect("sealed");
    assert!(!pair.session.is_warm());
    assert!(pair.client.open(call, &mut wire, NOW).is_ok());
    assert!(pair.works(Tick(12_000)));
}

#[test]
fn debug_output_has_no_session_id_and_no_body() {
    let pair = Pair::new();
    let (mut wire, call) = pair.call(b"secret-arguments");
    let header = *Incoming::parse(&mut wire).expect("a message").header();
    let mut shown = format!("{:?} {header:?} {call:?}", pair.client.id());
    let mut answer = reply(&pair, &mut wire, b"secret-result");
    let opened = pair.client.open(call, &mut answer, NOW).expect("opened");
    shown += &format!("{opened:?} {:?} {:?}", pair.session.principal(), pair.session.terms());
    let id = pair.client.id();
    for secret in [&b"secret-arguments"[..], b"secret-result", id.as_bytes()] {
        let list = format!("{secret:?}");
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(secret);
        for form in [list.trim_matches(['[', ']']), &hex, &text] {
            assert!(!shown.contains(form), "{shown}");
        }
    }
}

#[test]
fn a_session_takes_less_than_1_kib() {
    let session = Session::new(established(1, 1000), NodeAddress::LOCAL, 0, Duration::from_secs(5), NOW);
    let window = usize::from(session.terms().window_bits / 64 + 1) * 8;
    let arc = 2 * size_of::<usize>();
    // A hash table at its emptiest: 16/7 buckets an entry, each with a byte of control. A wheel slot and a place in the
    // order of the uid, each in a vector at its emptiest.
    let tables = (size_of::<SessionId>() + size_of::<usize>() + 1) * 16 / 7 + 2 * 2 * size_of::<SessionId>();
    // 4096 sessions at most hold two expanded keys, and one of the epoch before.
    let warm = 3 * 600 * 4096 / 100_000;
    let each = size_of::<Session>() + window + arc + tables + warm;
    println!("{each} bytes a session, {} in the session itself", size_of::<Session>());
    assert!(each < 1024, "{each} bytes: {} in the session itself", size_of::<Session>());
}

//! A day of sessions, while threads call in them: keys are renewed, sessions are closed and expire, all at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::fixtures::{Pair, TARGET, table};
use crate::protocol::message::{Content, Draft, Incoming};
use crate::protocol::{Protection, Suite, Tick};

const CALLERS: usize = 4;
/// Calls of each caller in each session at a time of the day.
const CALLS: usize = 10;
/// How far the clock goes at a time, in ms; twice that is less than an idle session lives. It goes once while all call.
const STEP: u64 = 400_000;

/// What threads share: the clock, and how far they are.
struct Day {
    now: AtomicU64,
    answered: AtomicUsize,
    refused: AtomicUsize,
}

impl Day {
    fn now(&self) -> Tick {
        Tick(self.now.load(Ordering::SeqCst))
    }

    /// One call: it is answered, or refused because its session is over.
    fn call(&self, pair: &Pair, body: &[u8]) {
        let outcome = match self.try_call(pair, body) {
            true => &self.answered,
            false => &self.refused,
        };
        outcome.fetch_add(1, Ordering::SeqCst);
    }

    fn try_call(&self, pair: &Pair, body: &[u8]) -> bool {
        let sealed = pair.client.call(TARGET, Content::default(), Draft::copy_of(body), self.now());
        let (mut wire, call) = match sealed {
            Ok(sealed) => sealed,
            Err(CallRefused::Ended) => return false,
            Err(other) => panic!("{other}"),
        };
        let request = match pair.table.open(Incoming::parse(&mut wire).expect("a message"), self.now()) {
            Ok(request) => request,
            Err(RequestRefused::UnknownSession | RequestRefused::Ended(_)) => return false,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(request.body(), body);
        let responder = request.responder;
        let mut reply = responder.reply(Content::default(), Draft::copy_of(body), self.now()).expect("it was let in");
        match pair.client.open(call, &mut reply, self.now()) {
            Ok(Reply::Result { body: answer, .. }) => assert_eq!(answer, body),
            other => panic!("{other:?}"),
        }
        true
    }
}

#[test]
fn closing_expiry_and_new_keys_race_with_calls_and_none_is_garbled() {
    let table = table();
    let of = |uid| Pair::of(&table, Suite::Aes256Gcm, Protection::Sealed, uid);
    // To be closed under way, to reach their end, and one that nobody uses after its first call.
    let (closed, old, idle) = ([of(1), of(2)], [of(3), of(4)], of(5));
    let zero = || AtomicUsize::new(0);
    let day = Day { now: AtomicU64::new(0), answered: zero(), refused: zero() };
    closed.iter().chain(&old).chain([&idle]).for_each(|pair| day.call(pair, b"first"));
    let steps = old[0].client.ends().0 / STEP + 2;
    let (step_begins, failures) = (Barrier::new(CALLERS + 1), zero());
    let calls_of = |caller: usize| {
        for _ in 1..=steps {
            step_begins.wait();
            // Whoever fails must not leave the others waiting.
            let round = || {
                for (at, pair) in closed.iter().chain(&old).enumerate().cycle().take(CALLS * 4) {
                    day.call(pair, &[(caller * 16 + at) as u8; 40]);
                }
            };
            failures.fetch_add(usize::from(catch_unwind(AssertUnwindSafe(round)).is_err()), Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let calls_of = &calls_of;
            scope.spawn(move || calls_of(caller));
        }
        for step in 1..=steps {
            step_begins.wait();
            // While all of them call:
            let now = Tick(step * STEP);
            day.now.store(now.0, Ordering::SeqCst);
            table.expire(now);
            let closes = closed.iter().enumerate().find(|(at, _)| step == 20 * (*at as u64 + 1));
            if let Some((_, pair)) = closes {
                let (mut wire, _) = pair.client.close(now).expect("it is open");
                let closing = table.open(Incoming::parse(&mut wire).expect("a message"), now).expect("authentic");
                assert!(table.close(&closing.responder.session().id()));
            }
        }
    });
    assert_eq!(failures.into_inner(), 0);
    table.expire(Tick(day.now().0 + STEP));
    assert_eq!(table.counts(), Counts { sessions: 0, half_open: 0 });
    assert!(day.answered.load(Ordering::SeqCst) > 1000 && day.refused.load(Ordering::SeqCst) > 1000);
    for pair in closed.iter().chain(&old).chain([&idle]) {
        assert_eq!(pair.session.running(), 0);
        assert!(!day.try_call(pair, b"late"));
    }
    for pair in &old {
        let (sealing, opening) = pair.client.halves();
        assert!(sealing.epoch() >= 10 && opening.epoch() >= 10, "{} {}", sealing.epoch(), opening.epoch());
    }
}

#[test]
fn no_request_is_let_in_once_its_sessions_close_was_answered() {
    const ROUNDS: usize = 1000;
    let table = table();
    let (let_in, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for round in 0..ROUNDS {
        let pair = Pair::of(&table, Suite::Aes256Gcm, Protection::Sealed, 1);
        let day = Day { now: AtomicU64::new(0), answered: AtomicUsize::new(0), refused: AtomicUsize::new(0) };
        day.call(&pair, b"first");
        let (ready, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Without sleep: both are to begin at the same moment.
        let begins = || {
            ready.fetch_add(1, Ordering::SeqCst);
            (0..1_000_000).take_while(|_| ready.load(Ordering::SeqCst) < 2).for_each(|_| std::hint::spin_loop());
        };
        let sealed = pair.client.call(TARGET, Content::default(), Draft::copy_of(&[7; 60_000]), Tick(0));
        let (mut request, _call) = sealed.unwrap_or_else(|error| panic!("{error}"));
        let (mut close, _) = pair.client.close(Tick(0)).expect("it is open");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begins();
                match table.open(Incoming::parse(&mut request).expect("a message"), Tick(0)) {
                    Ok(request) => {
                        let_in.fetch_add(1, Ordering::SeqCst);
                        // Whoever closes waits for this request as long as it is here.
                        assert_eq!(answered.load(Ordering::SeqCst), 0, "round {round}");
                        drop(request);
                    }
                    Err(RequestRefused::UnknownSession | RequestRefused::Ended(_)) => {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(other) => panic!("{other}"),
                }
            });
            begins();
            // Both orders should come up.
            (0..(round % 8) * 100).for_each(|_| std::hint::spin_loop());
            let closing = table.open(Incoming::parse(&mut close).expect("a message"), Tick(0)).expect("authentic");
            assert!(table.close(&closing.responder.session().id()));
            while closing.responder.session().running() > 1 {
                std::thread::yield_now();
            }
            answered.store(1, Ordering::SeqCst);
        });
    }
    assert_eq!(let_in.into_inner() + refused.into_inner(), ROUNDS);
}

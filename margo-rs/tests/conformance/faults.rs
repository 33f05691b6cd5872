//! Storms: whatever a network does to messages, every call ends, with an error that names the right culprit.

use crate::support::*;
use margo_rs::codec::Blob;
use margo_rs::transport::fault::{Faults, Injector};
use margo_rs::{Blame, CallError, Rpc};
use std::time::Duration;

conformance! {
    dropped_messages_cost_only_time,
    delayed_messages_change_no_result,
    doubled_messages_change_no_result,
    damaged_messages_hurt_only_their_call,
    lost_connections_are_noticed_and_made_again,
    everything_at_once_ends,
}

/// Answers from a pool, after a moment that depends on the argument.
const SLOW: Rpc<u64, u64> = Rpc::new("slow");

/// What one call came to.
struct Ended {
    /// `Some` if there was a result, whether it was the right one.
    right: Option<bool>,
    error: Option<CallError>,
}

fn ended<T>(outcome: Result<T, CallError>, right: impl FnOnce(T) -> bool) -> Ended {
    match outcome {
        Ok(value) => Ended { right: Some(right(value)), error: None },
        Err(error) => Ended { right: None, error: Some(error) },
    }
}

/// Makes some hundreds of calls under faults on both sides, then ends the storm and looks for damage.
fn storm(setup: Setup, seed: u64, faults: Faults, check: impl Fn(&Ended)) {
    let both = [Injector::new(seed, Faults::default()), Injector::new(!seed, Faults::default())];
    let setup = Setup { layered: false, ..setup };
    let pair = setup.pair_of(both[1].layer(setup.server()), both[0].layer(setup.client()));
    pair.server
        .register(SLOW, |_, n| async move {
            tokio::time::sleep(Duration::from_millis(n % 5)).await;
            Ok(n + 1)
        })
        .unwrap();
    both.iter().for_each(|injector| injector.set(faults));
    in_tokio(async {
        let tasks: Vec<_> = (0..12u64)
            .map(|task| {
                let to = pair.to.clone();
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    for n in 0..25u64 {
                        let timeout = Duration::from_millis(60);
                        let n = task * 1000 + n;
                        all.push(match n % 4 {
                            0 | 1 => {
                                ended(to.call(SUM, &(n as i64, 1)).timeout(timeout).await, |sum| sum == n as i64 + 1)
                            }
                            2 => ended(to.call(SLOW, &n).timeout(timeout).await, |got| got == n + 1),
                            _ => {
                                let size = (n as usize * 7919) % 400_000;
                                let call = to.call(ECHO, &Blob(pattern(size))).timeout(timeout * 4);
                                ended(call.await, |blob| blob.0 == pattern(size))
                            }
                        });
                        // Some are given up at once, or on the way.
                        drop(to.call(SLOW, &n).start());
                        let _ = tokio::time::timeout(Duration::from_millis(n % 3), to.call(SLOW, &3)).await;
                    }
                    all
                })
            })
            .collect();
        let mut total = 0;
        for task in tasks {
            for ended in task.await.expect("no call panics") {
                check(&ended);
                total += 1;
            }
        }
        assert_eq!(total, 300);
    });
    for injector in &both {
        let injected = injector.injected();
        assert!(
            injected.passed
                < injected.passed
                    + injected.dropped
                    + injected.delayed
                    + injected.duplicated
                    + injected.truncated
                    + injected.corrupted
                    + injected.disconnected,
            "nothing happened: {injected:?}"
        );
        injector.set(Faults::default());
    }
    // A call that is made before the client knows that its connection was cut last fails with it.
    while let Err(CallError::ConnectionLost { .. }) = pair.to.call(SUM, &(1, 2)).wait() {}
    pair.assert_healthy();
}

fn right_or(blames: &[Blame]) -> impl Fn(&Ended) + use<'_> {
    move |ended| {
        assert_ne!(ended.right, Some(false), "a wrong result");
        if let Some(error) = &ended.error {
            assert!(blames.contains(&error.blame()), "{error:?}");
        }
    }
}

fn dropped_messages_cost_only_time(setup: Setup) {
    storm(setup, 11, Faults { drop: 0.1, ..Faults::default() }, right_or(&[Blame::Time]));
}

fn delayed_messages_change_no_result(setup: Setup) {
    storm(setup, 12, Faults { delay: 0.4, ..Faults::default() }, right_or(&[Blame::Time]));
}

fn doubled_messages_change_no_result(setup: Setup) {
    storm(setup, 13, Faults { duplicate: 0.4, ..Faults::default() }, right_or(&[Blame::Time]));
}

fn damaged_messages_hurt_only_their_call(setup: Setup) {
    // A changed number is still a number: only authenticated calls can tell.
    storm(setup, 14, Faults { truncate: 0.1, corrupt: 0.1, ..Faults::default() }, |ended| {
        if let Some(error) = &ended.error {
            assert!(matches!(error.blame(), Blame::Server | Blame::Time), "{error:?}");
        }
    });
}

fn lost_connections_are_noticed_and_made_again(setup: Setup) {
    storm(setup, 15, Faults { disconnect: 0.05, ..Faults::default() }, right_or(&[Blame::Network, Blame::Time]));
}

fn everything_at_once_ends(setup: Setup) {
    for seed in 100..103 {
        let faults = Faults {
            drop: 0.03,
            delay: 0.1,
            duplicate: 0.1,
            truncate: 0.03,
            corrupt: 0.03,
            disconnect: 0.02,
            ..Faults::default()
        };
        storm(setup, seed, faults, |_| ());
    }
}

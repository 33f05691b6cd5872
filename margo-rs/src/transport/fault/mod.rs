//! A fault injector for tests: loses, delays, doubles and damages what an engine sends.
//!
//! It stands between an engine and its transport ([`Builder::layer`](crate::Builder::layer)) and decides for every
//! request, response and cancel that the engine *sends* what becomes of it. Put it into both engines of a test to
//! have faults both ways. All decisions come from one seed, so that a run that went wrong can be repeated as far as
//! the scheduling of threads allows.
//!
//! ```
//! use margo_rs::transport::fault::{Faults, Injector};
//! use margo_rs::{Engine, Rpc, Wait};
//! use std::time::Duration;
//!
//! const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
//!
//! let server = Engine::listen("tcp://127.0.0.1").wait()?;
//! server.register(SUM, |_request, (a, b)| async move { Ok(a + b) })?;
//!
//! let faults = Injector::new(7, Faults { drop: 0.5, ..Faults::default() });
//! let client = faults.layer(Engine::builder("tcp")).connect()?;
//! let endpoint = client.lookup(server.address()).wait()?;
//! let (mut answered, mut lost) = (0, 0);
//! for _ in 0..20 {
//!     match endpoint.call(SUM, &(1, 2)).timeout(Duration::from_millis(20)).wait() {
//!         Ok(sum) => answered += u64::from(sum == 3),
//!         Err(_) => lost += 1,
//!     }
//! }
//! assert_eq!(answered + lost, 20);
//! assert!(faults.injected().dropped >= lost);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An injector breaks the contract of [`transport`](super) on purpose: a dropped request never gets its response, a
//! doubled one is delivered twice, delayed ones overtake each other. Calls of an engine to itself do not pass through
//! it, and bulk transfers pass it unharmed but for the cancels and the connections.

mod held;
mod layer;

use self::held::Held;
use self::layer::{FaultyAcceptor, FaultyTransport};
use crate::buffer::Buffer;
use crate::engine::Builder;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How probable each fault is, from 0 to 1, for each request, response and cancel that is sent. At most one happens
/// to a message; the probabilities add up, and what exceeds 1 in sum never happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// It is not sent.
    pub drop: f64,
    /// It is held back for a random part of [`Faults::delay_max`].
    pub delay: f64,
    /// Longest delay.
    pub delay_max: Duration,
    /// It is sent twice, if it is at most 16 KiB long. Larger ones, which transports cut into pieces, pass as they are.
    pub duplicate: f64,
    /// A random number of bytes at its end is missing. A cancel, which has none, is sent as it is.
    pub truncate: f64,
    /// One byte is changed. A cancel, which has none, is sent as it is.
    pub corrupt: f64,
    /// The connection is closed instead.
    pub disconnect: f64,
}

impl Default for Faults {
    /// No faults; delays, where they are asked for, of up to 20 ms.
    fn default() -> Self {
        Self {
            drop: 0.0,
            delay: 0.0,
            delay_max: Duration::from_millis(20),
            duplicate: 0.0,
            truncate: 0.0,
            corrupt: 0.0,
            disconnect: 0.0,
        }
    }
}

/// What was injected so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injected {
    /// Messages that passed unharmed.
    pub passed: u64,
    /// Messages that were not sent.
    pub dropped: u64,
    /// Messages that were held back.
    pub delayed: u64,
    /// Messages that were sent twice.
    pub duplicated: u64,
    /// Messages that lost bytes.
    pub truncated: u64,
    /// Messages of which a byte was changed.
    pub corrupted: u64,
    /// Connections that were closed.
    pub disconnected: u64,
}

/// Decides what becomes of messages. Cheap to clone; all clones share the seed's sequence and the counters.
///
/// One injector may stand in several engines.
#[derive(Clone)]
pub struct Injector {
    shared: Arc<Shared>,
}

struct Shared {
    faults: Mutex<Faults>,
    random: AtomicU64,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    passed: AtomicU64,
    dropped: AtomicU64,
    delayed: AtomicU64,
    duplicated: AtomicU64,
    truncated: AtomicU64,
    corrupted: AtomicU64,
    disconnected: AtomicU64,
}

impl Injector {
    /// An injector whose decisions follow from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let shared = Shared { faults: Mutex::new(faults), random: AtomicU64::new(seed), counters: Counters::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Puts the injector into an engine that is being set up.
    pub fn layer(&self, engine: Builder) -> Builder {
        let (outer, inner) = (self.clone(), self.clone());
        // The links that peers open need the store of delayed messages too, which lives in the transport.
        let held = Arc::new(Held::default());
        let theirs = held.clone();
        engine.layer(
            move |transport| {
                held.belongs_to(&transport);
                Arc::new(FaultyTransport::new(transport, outer, held))
            },
            move |acceptor| Arc::new(FaultyAcceptor::new(acceptor, inner, theirs)),
        )
    }

    /// Changes the probabilities from now on: `Faults::default()` ends a storm.
    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock() = faults;
    }

    /// What was injected so far.
    pub fn injected(&self) -> Injected {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        Injected {
            passed: count(&counters.passed),
            dropped: count(&counters.dropped),
            delayed: count(&counters.delayed),
            duplicated: count(&counters.duplicated),
            truncated: count(&counters.truncated),
            corrupted: count(&counters.corrupted),
            disconnected: count(&counters.disconnected),
        }
    }

    /// The next number of the sequence: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.shared.random.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, not including, `end`; 0 if `end` is 0.
    fn below(&self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    fn decide(&self) -> Fate {
        let faults = *self.shared.faults.lock();
        let counters = &self.shared.counters;
        let mut at = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        let choices = [
            (faults.drop, Fate::Drop, &counters.dropped),
            (faults.delay, Fate::Delay(Duration::ZERO), &counters.delayed),
            (faults.duplicate, Fate::Duplicate, &counters.duplicated),
            (faults.truncate, Fate::Truncate, &counters.truncated),
            (faults.corrupt, Fate::Corrupt, &counters.corrupted),
            (faults.disconnect, Fate::Disconnect, &counters.disconnected),
        ];
        for (probability, fate, counter) in choices {
            if at < probability {
                counter.fetch_add(1, Ordering::Relaxed);
                let part = self.below(1000) as u32 + 1;
                return if let Fate::Delay(_) = fate { Fate::Delay(faults.delay_max * part / 1000) } else { fate };
            }
            at -= probability;
        }
        counters.passed.fetch_add(1, Ordering::Relaxed);
        Fate::Pass
    }

    fn truncated(&self, payload: Buffer) -> Buffer {
        Buffer::copy_from(&payload[..self.below(payload.len())])
    }

    fn corrupted(&self, payload: Buffer) -> Buffer {
        let mut bytes = payload.into_vec();
        if !bytes.is_empty() {
            let at = self.below(bytes.len());
            bytes[at] ^= 1 << self.below(8);
        }
        bytes.into()
    }
}

impl fmt::Debug for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injector")
            .field("faults", &*self.shared.faults.lock())
            .field("injected", &self.injected())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Delay(Duration),
    Duplicate,
    Truncate,
    Corrupt,
    Disconnect,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_splitmix64() {
        let injector = Injector::new(1_234_567, Faults::default());
        let numbers = [injector.next(), injector.next(), injector.next()];
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let faults = Faults { drop: 0.2, delay: 0.2, duplicate: 0.2, corrupt: 0.1, ..Faults::default() };
        let decide = |seed| {
            let injector = Injector::new(seed, faults);
            (0..200).map(|_| injector.decide()).collect::<Vec<_>>()
        };
        assert_eq!(decide(5), decide(5));
        assert_ne!(decide(5), decide(6));
    }

    #[test]
    fn faults_come_as_often_as_asked() {
        let injector = Injector::new(1, Faults { drop: 0.25, disconnect: 0.5, ..Faults::default() });
        for _ in 0..10_000 {
            injector.decide();
        }
        let injected = injector.injected();
        assert!((2_300..2_700).contains(&injected.dropped), "{injected:?}");
        assert!((4_700..5_300).contains(&injected.disconnected), "{injected:?}");
        assert_eq!(injected.passed + injected.dropped + injected.disconnected, 10_000);
    }
}

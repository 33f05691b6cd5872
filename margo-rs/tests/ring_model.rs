//! Models of the shared-memory ring: loom runs each of them under every order in which the two sides may see each
//! other's writes, as far as it knows them. The same source runs on the heap in `transport::sm::ring`'s own tests.

// The models use part of what the transport does.
#![allow(dead_code)]

mod memory {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};

    /// As small as the layout allows: each word costs loom time.
    pub(super) const CONTROL_WORDS: usize = 4;
}

// Its `Arc` only carries words from thread to thread, which happens before anything that is modelled.
#[path = "../src/transport/sm/ring.rs"]
mod ring;

use loom::thread;
use memory::{AtomicU64, CONTROL_WORDS, Ordering, fence};
use ring::{Bell, Consumer, Lookout, Producer, Words};
use std::sync::Arc;

/// Words of a line.
const LINE: usize = 8;

struct Heap(Vec<AtomicU64>);

impl Words for Heap {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn segment(lines: usize) -> Arc<Heap> {
    Arc::new(Heap((0..CONTROL_WORDS + lines * LINE).map(|_| AtomicU64::new(0)).collect()))
}

/// Bounded: every record costs loom many orders.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn what_is_read_is_what_was_written_in_order_and_whole() {
    model(|| {
        let (ours, theirs) = (segment(1), segment(1));
        let mut producer = Producer::new(ours.clone(), theirs.clone());
        let writer = thread::spawn(move || {
            // The ring has room for one at a time: the second waits for the first to be read, and comes around the end.
            for number in [7u8, 9] {
                while producer.room(16) != Ok(16) {
                    thread::yield_now();
                }
                producer.put([&[number; 8], &[number + 1; 8]]);
            }
        });
        let mut consumer = Consumer::new(theirs, ours);
        let mut bytes = [0; 16 * 1024];
        for number in [7u8, 9] {
            let read = loop {
                match consumer.read(&mut bytes) {
                    Ok(0) => thread::yield_now(),
                    read => break read,
                }
            };
            assert_eq!(read, Ok(16));
            assert_eq!((bytes[0], bytes[7], bytes[8], bytes[15]), (number, number, number + 1, number + 1));
        }
        assert_eq!(consumer.read(&mut bytes), Ok(0));
        writer.join().unwrap();
    });
}

/// A sleeper that looks once more after it has armed its bell either finds what was written, or is rung.
#[test]
fn whoever_goes_to_sleep_finds_the_record_or_is_rung() {
    model(|| {
        let (ours, theirs) = (segment(1), segment(1));
        let mut producer = Producer::new(ours.clone(), theirs.clone());
        let writers_bell = Bell::new(ours.clone(), theirs.clone());
        let writer = thread::spawn(move || {
            producer.put([&[1], &[]]);
            writers_bell.must_ring()
        });
        let bell = Bell::new(theirs, ours.clone());
        bell.arm(false);
        fence(Ordering::SeqCst);
        let found = Lookout::new(ours.words()).has_record(ours.words());
        let rung = writer.join().unwrap();
        assert!(found || rung, "asleep for ever");
    });
}

/// A writer that waits for room finds it after it has armed its bell, or the reader finds out that it waits: in its
/// next look, whose fence a parking reader makes.
#[test]
fn whoever_waits_for_room_finds_it_or_is_rung() {
    model(|| {
        let (ours, theirs) = (segment(1), segment(1));
        let mut producer = Producer::new(ours.clone(), theirs.clone());
        producer.put([&[1], &[]]);
        assert_eq!(producer.room(1), Ok(0));
        let mut consumer = Consumer::new(theirs.clone(), ours.clone());
        let readers_bell = Bell::new(theirs.clone(), ours.clone());
        let reader = thread::spawn(move || {
            let mut bytes = [0; 16 * 1024];
            assert_eq!(consumer.read(&mut bytes), Ok(1));
            let early = readers_bell.must_ring_for_room();
            // On the way to sleep.
            readers_bell.arm(false);
            fence(Ordering::SeqCst);
            early || readers_bell.must_ring_for_room()
        });
        let bell = Bell::new(ours, theirs);
        bell.arm(true);
        fence(Ordering::SeqCst);
        let found = producer.room(1) != Ok(0);
        let rung = reader.join().unwrap();
        assert!(found || rung, "asleep for ever");
    });
}

/// Each turn of the bell is answered once.
#[test]
fn a_bell_is_rung_once_a_turn() {
    model(|| {
        let (ours, theirs) = (segment(4), segment(4));
        let bell = Bell::new(ours.clone(), theirs.clone());
        let peers = Bell::new(theirs, ours);
        assert!(!peers.must_ring());
        for _ in 0..2 {
            bell.arm(false);
            assert!(peers.must_ring() && !peers.must_ring() && !peers.must_ring_for_room());
        }
        bell.arm(true);
        assert!(peers.must_ring_for_room() && !peers.must_ring());
        bell.disarm();
        assert!(!peers.must_ring());
    });
}

//! The ring on the heap, without a system call, so that it runs under Miri as well (which `cargo xtask test` does where Miri
//! is). Its orders of memory have models of their own, in `tests/ring_model.rs`.

use super::memory::{AtomicU64, CONTROL_WORDS, Ordering};
use super::ring::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

/// The secret of every ring here.
const KEY: u64 = 0x1234_5678_9abc_def0;

#[derive(Debug)]
struct Heap(Vec<AtomicU64>);

impl Words for Heap {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn segment(ring: usize) -> Arc<Heap> {
    let segment = Heap((0..CONTROL_WORDS + ring / WORD).map(|_| AtomicU64::new(0)).collect());
    prepare(segment.words(), KEY);
    Arc::new(segment)
}

/// Both ends of a ring, and its segments: the writer's and the reader's.
type Ring = (Producer<Arc<Heap>>, Consumer<Arc<Heap>>, [Arc<Heap>; 2]);

/// A ring of so many bytes.
fn ring(bytes: usize) -> Ring {
    let segments = [segment(bytes), segment(bytes)];
    let [ours, theirs] = segments.clone();
    (Producer::new(ours.clone(), theirs.clone()), Consumer::new(theirs, ours), segments)
}

fn read(consumer: &mut Consumer<Arc<Heap>>) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_MAX];
    let count = consumer.read(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn a_record_lies_in_the_ring_as_documented() {
    let (mut producer, mut consumer, [ours, theirs]) = ring(4096);
    producer.put([b"12345678", b"abc"]);
    let words: Vec<u64> = ours.0[CONTROL_WORDS..].iter().map(|word| word.load(Ordering::Relaxed)).take(3).collect();
    assert_eq!(
        words[..3],
        [0x9234_5678_9abc_c000 | 11, u64::from_le_bytes(*b"12345678"), u64::from_le_bytes(*b"abc\0\0\0\0\0")]
    );
    assert_eq!(read(&mut consumer), b"12345678abc");
    assert_eq!(theirs.0[HEAD].load(Ordering::Relaxed), 64);
}

#[test]
fn what_was_in_the_ring_before_is_no_record() {
    let (mut producer, mut consumer, _) = ring(4096);
    // Looks like the first word of the next record, which will come to lie on one of its copies.
    for _ in 0..if cfg!(miri) { 4 } else { 50 } {
        let trap = (tag(KEY, 0) | 1).to_le_bytes().repeat(300);
        assert_eq!(producer.write(&trap), Ok(trap.len()));
        assert_eq!(read(&mut consumer), trap);
        assert_eq!(consumer.read(&mut [0; RECORD_MAX]), Ok(0));
        producer.put([&[1], &[]]);
        assert_eq!(read(&mut consumer), [1]);
        assert_eq!(consumer.read(&mut [0; RECORD_MAX]), Ok(0));
    }
}

#[test]
fn a_full_ring_takes_nothing_until_something_was_read() {
    let (mut producer, mut consumer, _) = ring(4096);
    let written = producer.write(&[5; 10_000]).unwrap();
    assert_eq!((written, producer.room(1)), (4096 - WORD, Ok(0)));
    assert_eq!(read(&mut consumer).len(), written);
    assert_eq!(producer.room(1), Ok(1));
}

#[test]
fn an_impossible_length_breaks_the_ring() {
    for length in [0, 4096 - 7, RECORD_MAX as u64 - 1] {
        let (_, mut consumer, [ours, _]) = ring(4096);
        ours.0[CONTROL_WORDS].store(tag(KEY, 0) | length, Ordering::Relaxed);
        assert!(consumer.read(&mut [0; RECORD_MAX]).is_err(), "{length:x}");
    }
}

#[test]
fn a_record_of_another_place_or_secret_is_none() {
    for first in [0, 1, 1 << 63 | 1, u64::MAX, tag(KEY, 64) | 1, tag(KEY, 4096) | 1, tag(KEY ^ 1 << 40, 0) | 1] {
        let (_, mut consumer, [ours, _]) = ring(4096);
        ours.0[CONTROL_WORDS].store(first, Ordering::Relaxed);
        assert_eq!(consumer.read(&mut [0; RECORD_MAX]), Ok(0), "{first:x}");
        assert!(!Lookout::new(ours.words()).has_record(ours.words()), "{first:x}");
    }
}

#[test]
fn a_reader_that_claims_too_much_breaks_the_ring() {
    for head in [u64::MAX, 1 << 63, 64 + 128, 63, 1] {
        let (mut producer, _, [_, theirs]) = ring(4096);
        producer.put([&[1], &[]]);
        theirs.0[HEAD].store(head, Ordering::Relaxed);
        assert!(producer.room(4088).is_err(), "{head:x}");
    }
    // One that takes back what it has said only gets less.
    let (mut producer, mut consumer, [_, theirs]) = ring(4096);
    for _ in 0..10 {
        producer.write(&[1; 1000]).unwrap();
        read(&mut consumer);
    }
    theirs.0[HEAD].store(64, Ordering::Relaxed);
    assert!(producer.room(4088).is_err());
}

#[test]
fn two_threads_pass_records_whole_and_in_order() {
    let records: usize = if cfg!(miri) { 60 } else { 20_000 };
    let bytes_of = |number: usize| (0..number * 37 % 300 + 1).map(move |at| (at + number) as u8).collect::<Vec<_>>();
    // Room for a few at a time: both come around its end often, and wait for each other.
    let (mut producer, mut consumer, [ours, theirs]) = ring(1024);
    let bell = Bell::new(theirs, ours);
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..records {
                let bytes = bytes_of(number);
                while producer.room(bytes.len()) != Ok(bytes.len()) {
                    thread::yield_now();
                }
                let (words, rest) = bytes.split_at(bytes.len() / WORD * WORD);
                producer.put(if words.is_empty() { [rest, &[]] } else { [words, rest] });
            }
        });
        for number in 0..records {
            let record = loop {
                match &read(&mut consumer)[..] {
                    [] => thread::yield_now(),
                    record => break record.to_vec(),
                }
            };
            assert_eq!(record, bytes_of(number), "record {number}");
            bell.arm(number % 2 == 0);
        }
    });
}

/// How many cases, and of what size: Miri is a thousand times slower.
const CASES: u32 = if cfg!(miri) { 4 } else { 256 };
const LENGTH_MAX: usize = if cfg!(miri) { 500 } else { 3000 };
const LENGTHS_MAX: usize = if cfg!(miri) { 12 } else { 60 };
const WORDS_MAX: usize = if cfg!(miri) { 20 } else { 200 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn bytes_arrive_unchanged_whatever_their_lengths(lengths in prop::collection::vec(1..LENGTH_MAX, 1..LENGTHS_MAX)) {
        let (mut producer, mut consumer, _) = ring(8192);
        let mut expected = VecDeque::new();
        let mut arrived = VecDeque::new();
        for (number, length) in lengths.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                rest = &rest[producer.write(rest).unwrap()..];
                if !rest.is_empty() {
                    arrived.extend(read(&mut consumer));
                }
            }
            expected.extend(bytes);
        }
        while let more @ [_, ..] = &read(&mut consumer)[..] {
            arrived.extend(more);
        }
        prop_assert!(arrived == expected);
    }

    /// Whatever a peer writes into its segment: an error or bytes, never a panic or a read beyond.
    #[test]
    fn no_words_of_a_peer_do_harm(words in prop::collection::vec((0usize..512, prop_oneof![any::<u64>(), (0u64..64, 0u64..16_384).prop_map(|(line, length)| tag(KEY, line * 64) | length)]), 0..WORDS_MAX)) {
        let (mut producer, mut consumer, [ours, theirs]) = ring(4096);
        for (at, word) in words {
            ours.0[CONTROL_WORDS + at].store(word, Ordering::Relaxed);
            theirs.0[HEAD].store(word, Ordering::Relaxed);
            let mut into = [0; RECORD_MAX];
            if consumer.read(&mut into).is_err() || producer.write(&into[..at]).is_err() {
                break;
            }
        }
    }
}

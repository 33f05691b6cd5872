//! Tests of the sending half, against the receiving half.

use super::*;
use crate::rpc::RpcId;
use crate::wire::{Budget, Event, Inbound, InboundLimits};
use proptest::prelude::*;
use std::sync::Arc;

const FRAME: u32 = 32 * 1024;

fn head(one_way: bool) -> RequestHead {
    RequestHead { rpc: RpcId::from_raw(5), timeout_ms: 0, one_way }
}

fn inbound() -> Inbound {
    let limits = InboundLimits { max_frame: FRAME, max_message: 1 << 30, max_bytes: 1 << 30, max_messages: 1000 };
    Inbound::new(limits, Arc::new(Budget::new(1 << 30)))
}

/// Writes everything out, `step` bytes at a time.
fn drain(outbound: &mut Outbound, step: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut job = WriteJob::default();
    while outbound.next_write(&mut job) {
        while !job.is_done() {
            let bytes: Vec<u8> = job.slices().concat().into_iter().take(step).collect();
            job.advance(bytes.len());
            wire.extend(bytes);
        }
        outbound.written(&mut job);
    }
    wire
}

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Request(u64, bool, Vec<u8>),
    Response(u64, Vec<u8>),
    Cancel(u64),
    GoAway,
}

fn receive(inbound: &mut Inbound, bytes: &[u8], step: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    for part in bytes.chunks(step.max(1)) {
        inbound
            .handle(part, &mut |event| {
                seen.push(match event {
                    Event::Request(call, head, payload) => Seen::Request(call, head.one_way, payload.bytes().to_vec()),
                    Event::Response(call, payload) => Seen::Response(call, payload.bytes().to_vec()),
                    Event::Cancel(call) => Seen::Cancel(call),
                    Event::GoAway => Seen::GoAway,
                    Event::ResponseBegins(_, wanted) => {
                        *wanted = true;
                        return;
                    }
                    other => panic!("{other:?}"),
                });
            })
            .unwrap();
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_sent_arrives_once_and_unchanged(
        messages in prop::collection::vec((any::<bool>(), any::<bool>(), prop_oneof![0usize..200, 16_000usize..100_000]), 1..20),
        write_step in 1usize..70_000,
        read_step in 1usize..70_000,
    ) {
        let mut outbound = Outbound::new(FRAME);
        let mut expected = Vec::new();
        for (call, (is_request, one_way, size)) in messages.into_iter().enumerate() {
            let call = call as u64;
            let bytes: Vec<u8> = (0..size).map(|i| (i as u64 ^ call) as u8).collect();
            if is_request {
                outbound.request(call, head(one_way), bytes.clone().into());
                expected.push(Seen::Request(call, one_way, bytes));
            } else {
                outbound.response(call, bytes.clone().into());
                expected.push(Seen::Response(call, bytes));
            }
        }
        let wire = drain(&mut outbound, write_step);
        prop_assert!(outbound.is_empty() && outbound.queued() == 0 && outbound.response_memory() == 0);
        let mut seen = receive(&mut inbound(), &wire, read_step);
        let key = |seen: &Seen| match seen {
            Seen::Request(call, ..) | Seen::Response(call, ..) | Seen::Cancel(call) => *call,
            Seen::GoAway => u64::MAX,
        };
        seen.sort_by_key(key);
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), step in 1usize..2000) {
        let mut inbound = inbound();
        for part in bytes.chunks(step) {
            if inbound.handle(part, &mut |_| ()).is_err() {
                break;
            }
        }
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0usize..90_000, to in any::<u8>(), step in 1usize..70_000) {
        let mut outbound = Outbound::new(FRAME);
        outbound.request(1, head(false), vec![1; 50].into());
        outbound.request(2, head(false), vec![2; 80_000].into());
        outbound.response(3, vec![3; 50].into());
        let mut wire = drain(&mut outbound, 1 << 20);
        let at = at % wire.len();
        wire[at] = to;
        let mut inbound = inbound();
        for part in wire.chunks(step) {
            if inbound.handle(part, &mut |_| ()).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_small_call_waits_for_one_chunk_of_a_large_one_at_most() {
    let mut outbound = Outbound::new(FRAME);
    outbound.request(1, head(false), vec![1; 1 << 20].into());
    let mut job = WriteJob::default();
    assert!(outbound.next_write(&mut job));
    outbound.request(2, head(false), vec![2; 64].into());
    let bytes = job.slices().concat();
    assert!(bytes.len() <= FRAME as usize + 16);
    job.advance(bytes.len());
    outbound.written(&mut job);
    assert!(outbound.next_write(&mut job));
    let mut inbound = inbound();
    receive(&mut inbound, &bytes, usize::MAX);
    assert_eq!(receive(&mut inbound, &job.slices().concat(), usize::MAX), [Seen::Request(2, false, vec![2; 64])]);
}

#[test]
fn a_few_large_messages_take_turns_and_the_others_wait() {
    let mut outbound = Outbound::new(FRAME);
    for call in 0..20 {
        outbound.response(call, vec![call as u8; 200_000].into());
    }
    let limits = InboundLimits { max_frame: FRAME, max_message: 1 << 30, max_bytes: 0, max_messages: INTERLEAVED_MAX };
    let mut inbound = Inbound::new(limits, Arc::new(Budget::new(0)));
    let seen = receive(&mut inbound, &drain(&mut outbound, usize::MAX), usize::MAX);
    assert_eq!(seen.len(), 20);
    assert!(!inbound.is_mid_message());
}

#[test]
fn large_messages_take_turns() {
    let mut outbound = Outbound::new(FRAME);
    outbound.request(1, head(false), vec![1; 1 << 20].into());
    outbound.request(2, head(false), vec![2; 40_000].into());
    let seen = receive(&mut inbound(), &drain(&mut outbound, usize::MAX), usize::MAX);
    assert!(matches!(seen[0], Seen::Request(2, ..)));
}

#[test]
fn a_cancelled_large_request_sends_no_further_chunk() {
    let mut outbound = Outbound::new(FRAME);
    let mut inbound = inbound();
    outbound.request(1, head(false), vec![1; 1 << 20].into());
    let mut job = WriteJob::default();
    assert!(outbound.next_write(&mut job));
    outbound.cancel(1);
    let first = job.slices().concat();
    job.advance(first.len());
    outbound.written(&mut job);
    let rest = drain(&mut outbound, usize::MAX);
    assert_eq!(rest.len(), Header::LEN);
    assert!(receive(&mut inbound, &first, usize::MAX).is_empty());
    assert_eq!(receive(&mut inbound, &rest, usize::MAX), [Seen::Cancel(1)]);
    assert!(!inbound.is_mid_message());
    assert_eq!((outbound.queued(), outbound.response_memory()), (0, 0));
}

#[test]
fn a_large_request_cancelled_before_its_first_chunk_leaves_no_trace() {
    let mut outbound = Outbound::new(FRAME);
    outbound.request(1, head(false), vec![1; 1 << 20].into());
    outbound.cancel(1);
    assert!(outbound.is_empty() && outbound.queued() == 0 && outbound.response_memory() == 0);
}

#[test]
fn an_aborted_response_is_forgotten_by_the_receiver() {
    for queued_behind_another in [false, true] {
        let mut outbound = Outbound::new(FRAME);
        let mut inbound = inbound();
        outbound.response(1, vec![1; 1 << 20].into());
        let mut job = WriteJob::default();
        assert!(outbound.next_write(&mut job));
        let mut wire = job.slices().concat();
        job.advance(wire.len());
        if queued_behind_another {
            outbound.written(&mut job);
            outbound.abort_response(1);
        } else {
            outbound.abort_response(1);
            outbound.written(&mut job);
        }
        assert_eq!(outbound.response_memory(), 0);
        wire.extend(drain(&mut outbound, usize::MAX));
        assert!(receive(&mut inbound, &wire, usize::MAX).is_empty());
        assert!(!inbound.is_mid_message());
    }
}

#[test]
fn go_away_and_cancel_of_a_small_request_reach_the_peer() {
    let mut outbound = Outbound::new(FRAME);
    outbound.request(1, head(false), vec![1; 10].into());
    outbound.cancel(1);
    outbound.go_away();
    let seen = receive(&mut inbound(), &drain(&mut outbound, usize::MAX), usize::MAX);
    assert_eq!(seen, [Seen::Request(1, false, vec![1; 10]), Seen::Cancel(1), Seen::GoAway]);
}

#[test]
fn a_queue_forgotten_during_a_write_stays_empty() {
    let mut outbound = Outbound::new(FRAME);
    outbound.request(1, head(false), vec![1; 1 << 20].into());
    let mut job = WriteJob::default();
    assert!(outbound.next_write(&mut job));
    outbound.clear();
    let length = job.slices().concat().len();
    job.advance(length);
    outbound.written(&mut job);
    assert!(outbound.is_empty() && outbound.queued() == 0 && outbound.response_memory() == 0);
    assert!(!outbound.next_write(&mut job));
}

#[test]
fn requests_do_not_count_as_responses_that_pile_up() {
    let mut outbound = Outbound::new(FRAME);
    outbound.request(1, head(false), vec![1; 1 << 20].into());
    outbound.request(2, head(false), vec![1; 10_000].into());
    assert!(!outbound.has_responses_beyond(1000));
    outbound.response(3, vec![1; 900].into());
    assert!(!outbound.has_responses_beyond(1000));
    outbound.response(4, vec![1; 20_000].into());
    assert!(outbound.has_responses_beyond(20_000) && !outbound.has_responses_beyond(21_000));
    drain(&mut outbound, usize::MAX);
    assert!(!outbound.has_responses_beyond(0));
}

#[test]
fn a_large_response_takes_its_memory_until_all_of_it_was_written() {
    let mut outbound = Outbound::new(FRAME);
    outbound.request(1, head(false), vec![1; 1 << 20].into());
    outbound.response(2, vec![1; 1 << 20].into());
    outbound.response(3, vec![1; 100].into());
    assert_eq!(outbound.response_memory(), (1 << 20) + 116);
    let mut job = WriteJob::default();
    while outbound.next_write(&mut job) {
        job.advance(job.slices().iter().map(|slice| slice.len()).sum());
        assert!([0, 1 << 20].contains(&outbound.response_memory()));
        outbound.written(&mut job);
    }
    assert_eq!(outbound.response_memory(), 0);
}

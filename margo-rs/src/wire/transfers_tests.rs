//! Tests of bulk transfers between two sides that share nothing but bytes.

use super::*;
use crate::bulk::{BulkDescriptor, Permission, Regions, RemoteRange, Store};
use crate::wire::{Budget, DataPart, Event, Inbound, InboundLimits, WriteJob};
use proptest::prelude::*;
use std::sync::Arc;

const FRAME: u32 = 32 * 1024;

/// One side of a connection.
struct Side {
    out: Outbound,
    job: WriteJob,
    transfers: Transfers,
    inbound: Inbound,
    regions: Regions,
    requests: Vec<u64>,
    ended: Vec<(u64, Outcome)>,
    wrong: Option<&'static str>,
}

impl Side {
    fn new() -> Self {
        let limits = InboundLimits { max_frame: FRAME, max_message: 1 << 20, max_bytes: 1 << 20, max_messages: 4 };
        Self {
            out: Outbound::new(FRAME),
            job: WriteJob::default(),
            transfers: Transfers::new(8),
            inbound: Inbound::new(limits, Arc::new(Budget::new(1 << 20))),
            regions: Regions::new(7),
            requests: Vec::new(),
            ended: Vec::new(),
            wrong: None,
        }
    }

    fn begin(&mut self, call: u64, direction: Direction, local: &Arc<Store>, remote: &BulkDescriptor) {
        let access = if direction == Direction::Pull { crate::bulk::Access::Write } else { crate::bulk::Access::Read };
        let window = local.window(access, 0, local.len()).unwrap();
        let remote = RemoteRange { descriptor: remote.clone(), offset: 0, length: local.len() };
        let transfer = Transfer { direction, local: window, remote, whole: 0..local.len(), lent: false };
        self.transfers.begin(call, transfer, &mut self.out).unwrap();
    }

    fn expose(&self, store: &Arc<Store>) -> BulkDescriptor {
        let key = self.regions.insert(5, Permission::ReadWrite, store.clone()).unwrap();
        BulkDescriptor::native(key, store.len(), Permission::ReadWrite, None)
    }

    /// Up to `most` bytes of what is to be written.
    fn write(&mut self, most: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        while wire.len() < most {
            if self.job.is_done() {
                self.out.written(&mut self.job);
                if !self.out.next_write(&mut self.job) {
                    break;
                }
            }
            let [head, rest] = self.job.slices();
            let room = most - wire.len();
            let data = match self.job.data() {
                _ if !head.is_empty() => Some(head.to_vec()),
                None => Some(rest.to_vec()),
                Some(DataPart::Zeros(count)) => Some(vec![0; count as usize]),
                Some(DataPart::Region(window, start, end)) => {
                    window.read(start..end, |slices| slices.iter().flat_map(|slice| slice.to_vec()).collect()).ok()
                }
            };
            let Some(mut data) = data else {
                self.job.data_withdrawn();
                continue;
            };
            data.truncate(room);
            self.job.advance(data.len());
            wire.extend(data);
        }
        wire
    }

    fn read(&mut self, bytes: &[u8], step: usize) {
        let Side { out, transfers, inbound, regions, requests, ended, wrong, .. } = self;
        let mut sink = |event: Event<'_>| match event {
            Event::Request(call, ..) => requests.push(call),
            Event::Transfer(call, direction, head) => match transfers.handle_wish(call, out) {
                Ok(true) => {
                    let granted = regions.grant(&head.key, direction, head.offset, head.length);
                    transfers.serve(call, direction, granted, out);
                }
                Ok(false) => {}
                Err(what) => *wrong = Some(what),
            },
            Event::DataBegins(direction, call, length, target) => match transfers.target(direction, call, length) {
                Ok(found) => *target = found,
                Err(what) => *wrong = Some(what),
            },
            Event::DataEnds(direction, call, length, in_place) => {
                ended.extend(
                    transfers.handle_data(direction, call, length, in_place, out).map(|outcome| (call, outcome)),
                );
            }
            Event::TransferEnd(call, code) => match transfers.handle_end(call, code, out) {
                Ok(outcome) => ended.extend(outcome.map(|outcome| (call, outcome))),
                Err(what) => *wrong = Some(what),
            },
            Event::PushReady(call) => transfers.handle_ready(call, out),
            Event::TransferCancel(call) => transfers.handle_cancel(call, out),
            other => panic!("{other:?}"),
        };
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let now = step.min(bytes.len());
            // As a transport does: data that is expected goes straight to its place.
            if let Some((window, at, missing)) = inbound.direct_data() {
                let now = now.min(missing);
                let (part, rest) = bytes.split_at(now);
                let done = window.write(at..at + now as u64, |slices| {
                    let mut part = part;
                    for slice in slices {
                        let (here, later) = part.split_at(slice.len().min(part.len()));
                        slice[..here.len()].copy_from_slice(here);
                        part = later;
                    }
                    assert!(part.is_empty());
                });
                match done {
                    Ok(()) => {
                        inbound.data_done(now, &mut sink);
                        bytes = rest;
                    }
                    Err(_) => inbound.data_withdrawn(),
                }
            } else {
                inbound.handle(&bytes[..now], &mut sink).unwrap();
                bytes = &bytes[now..];
            }
        }
    }
}

/// Lets the two sides talk until neither has anything to say.
fn talk(one: &mut Side, other: &mut Side, write_step: usize, read_step: usize) {
    loop {
        let (there, back) = (one.write(write_step), other.write(write_step));
        other.read(&there, read_step);
        one.read(&back, read_step);
        if there.is_empty() && back.is_empty() {
            return;
        }
    }
}

fn store(bytes: Vec<u8>) -> Arc<Store> {
    let segments: Vec<Vec<u8>> = bytes.chunks(bytes.len() / 3 + 1).map(<[u8]>::to_vec).collect();
    Arc::new(Store::new::<()>(Box::new(segments), |_| Ok(None)).unwrap().unwrap())
}

fn contents(store: &Arc<Store>) -> Vec<u8> {
    let mut bytes = vec![0; store.len() as usize];
    store.window(crate::bulk::Access::Read, 0, store.len()).unwrap().copy_out(0, &mut bytes).unwrap();
    bytes
}

fn pattern(size: usize, salt: usize) -> Vec<u8> {
    (0..size).map(|at| (at ^ (at >> 8) ^ salt) as u8).collect()
}

fn frame(kind: Kind, call: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { length: body.len() as u32, kind, flags: 0, call }.encode(&mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

fn wish(descriptor: &BulkDescriptor, offset: u64, length: u64) -> Vec<u8> {
    let mut body = Vec::new();
    TransferHead { key: *descriptor.key().unwrap(), offset, length }.encode(&mut body);
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn transfers_in_both_directions_arrive_whole_however_the_bytes_are_cut(
        transfers in prop::collection::vec(
            (any::<bool>(), any::<bool>(), prop_oneof![0usize..200, 30_000usize..70_000, 262_000usize..270_000]), 1..6),
        write_step in prop_oneof![1usize..100, 1000usize..300_000],
        read_step in prop_oneof![1usize..100, 1000usize..300_000],
    ) {
        let (mut one, mut other) = (Side::new(), Side::new());
        // Not byte by byte where there are very many.
        let least = transfers.iter().map(|(_, _, size)| size).sum::<usize>() / 300;
        let (write_step, read_step) = (write_step.max(least), read_step.max(least));
        let mut expected = Vec::new();
        for (call, (by_one, pull, size)) in transfers.iter().enumerate() {
            let (mine, theirs) = if *by_one { (&mut one, &other) } else { (&mut other, &one) };
            let (from, to) = (store(pattern(*size, call)), store(vec![0; *size]));
            let descriptor = theirs.expose(if *pull { &from } else { &to });
            let direction = if *pull { Direction::Pull } else { Direction::Push };
            mine.begin(call as u64, direction, if *pull { &to } else { &from }, &descriptor);
            expected.push((to, pattern(*size, call)));
        }
        talk(&mut one, &mut other, write_step, read_step);
        prop_assert_eq!(one.wrong.or(other.wrong), None);
        prop_assert_eq!(one.ended.len() + other.ended.len(), transfers.len());
        prop_assert!(one.ended.iter().chain(&other.ended).all(|(_, outcome)| outcome.is_ok()));
        for (call, (to, bytes)) in expected.into_iter().enumerate() {
            prop_assert!(contents(&to) == bytes, "transfer {}", call);
        }
        one.transfers.forget_sent(&mut one.out);
        other.transfers.forget_sent(&mut other.out);
        prop_assert!(!one.transfers.expects_data() && !other.transfers.expects_data(), "nothing is left");
    }
}

#[test]
fn the_bytes_of_a_pull_and_of_a_push_are_golden() {
    let (mut one, mut other) = (Side::new(), Side::new());
    let source = store(vec![1, 2, 3, 4, 5]);
    let descriptor = other.expose(&source);
    let (here, from) = (store(vec![0; 5]), store(vec![6; 5]));
    one.begin(0x0a, Direction::Pull, &here, &descriptor);
    one.begin(0x0b, Direction::Push, &from, &descriptor);
    let there = one.write(usize::MAX);
    let mut golden = vec![48, 0, 0, 0, 8, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0];
    golden.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    let mut push = golden.clone();
    (push[4], push[8]) = (9, 0x0b);
    golden.extend(push);
    golden.extend([5, 0, 0, 0, 11, 0, 0, 0, 0x0b, 0, 0, 0, 0, 0, 0, 0, 6, 6, 6, 6, 6]);
    assert_eq!(there, golden);
    other.read(&there[..64], 64);
    let back = other.write(usize::MAX);
    let mut golden = vec![5, 0, 0, 0, 12, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5];
    golden.extend([4, 0, 0, 0, 13, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(back, golden);
    other.read(&there[64..], 64);
    assert_eq!(other.write(usize::MAX), frame(Kind::TransferEnd, 0x0b, &[0; 4]));
    assert_eq!(contents(&source), [6; 5]);
    one.transfers.cancel(0x0b, &mut one.out);
    assert_eq!(one.write(usize::MAX), [0, 0, 0, 0, 14, 0, 0, 0, 0x0b, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_long_push_waits_for_the_owner() {
    let (mut one, mut other) = (Side::new(), Side::new());
    let size = EAGER_MAX as usize + 1;
    let (from, to) = (store(pattern(size, 1)), store(vec![0; size]));
    let descriptor = other.expose(&to);
    one.begin(1, Direction::Push, &from, &descriptor);
    let there = one.write(usize::MAX);
    assert_eq!(there.len(), Header::LEN + TransferHead::LEN);
    other.read(&there, 1000);
    let back = other.write(usize::MAX);
    assert_eq!(back, frame(Kind::PushReady, 1, &[]));
    one.read(&back, 1000);
    // Said twice, it is not sent twice.
    one.read(&back, 1000);
    talk(&mut one, &mut other, 10_000, 10_000);
    assert!(contents(&to) == pattern(size, 1));
    assert_eq!((one.wrong, other.wrong, &one.ended[..]), (None, None, &[(1, Ok(()))][..]));
}

#[test]
fn a_region_taken_back_in_the_middle_of_a_frame_gives_zeros_and_a_refusal() {
    // In the first, a middle and the last frame.
    for cut in [20_000, 50_000, 69_000] {
        let (mut one, mut other) = (Side::new(), Side::new());
        let (source, here) = (store(vec![9; 70_000]), store(vec![1; 70_000]));
        let descriptor = other.expose(&source);
        one.begin(1, Direction::Pull, &here, &descriptor);
        other.read(&one.write(usize::MAX), 100);
        let begun = other.write(cut);
        source.withdraw();
        one.read(&begun, 1000);
        other.out.request(
            8,
            crate::wire::RequestHead { rpc: crate::RpcId::from_raw(1), timeout_ms: 0, one_way: true },
            vec![0].into(),
        );
        talk(&mut one, &mut other, 5000, 5000);
        assert_eq!(one.ended, [(1, Err(Refusal::Revoked.into()))]);
        assert_eq!((one.wrong, &one.requests[..]), (None, &[8][..]), "what follows is understood");
        let seen = contents(&here);
        assert_eq!(
            seen.iter().filter(|byte| **byte == 9).count(),
            begun.len() - Header::LEN * begun.len().div_ceil(FRAME as usize + Header::LEN)
        );
    }
}

#[test]
fn a_push_whose_own_region_is_taken_back_is_given_up() {
    let (mut one, mut other) = (Side::new(), Side::new());
    let (from, to) = (store(vec![9; 200_000]), store(vec![1; 200_000]));
    let descriptor = other.expose(&to);
    one.begin(1, Direction::Push, &from, &descriptor);
    other.read(&one.write(50_000), 1000);
    from.withdraw();
    other.read(&one.write(usize::MAX), 1000);
    assert_eq!(one.out.take_withdrawn(), [1]);
    assert!(one.transfers.cancel(1, &mut one.out));
    talk(&mut one, &mut other, 1000, 1000);
    assert!(one.ended.is_empty() && !other.transfers.expects_data());
    assert_eq!((one.wrong, other.wrong), (None, None));
}

#[test]
fn a_local_region_taken_back_ends_a_pull_and_stops_its_data() {
    let (mut one, mut other) = (Side::new(), Side::new());
    let (source, here) = (store(vec![9; 1_000_000]), store(vec![1; 1_000_000]));
    let descriptor = other.expose(&source);
    one.begin(1, Direction::Pull, &here, &descriptor);
    other.read(&one.write(usize::MAX), 100);
    one.read(&other.write(100_000), 1000);
    here.withdraw();
    let mut sent = 100_000;
    loop {
        let (there, back) = (one.write(40_000), other.write(40_000));
        sent += back.len();
        other.read(&there, 1000);
        one.read(&back, 1000);
        if there.is_empty() && back.is_empty() {
            break;
        }
    }
    assert_eq!(one.ended, [(1, Err(TransferError::LocalRevoked))]);
    assert!(sent < 300_000, "{sent} bytes were sent");
    assert_eq!((one.wrong, other.wrong), (None, None));
}

#[test]
fn a_cancelled_transfer_leaves_nothing_and_disturbs_nobody() {
    for direction in [Direction::Pull, Direction::Push] {
        let (mut one, mut other) = (Side::new(), Side::new());
        let (local, remote) = (store(vec![1; 600_000]), store(vec![2; 600_000]));
        let descriptor = other.expose(&remote);
        one.begin(1, direction, &local, &descriptor);
        for _ in 0..3 {
            let there = one.write(20_000);
            other.read(&there, 1000);
            let back = other.write(20_000);
            one.read(&back, 1000);
        }
        assert!(one.transfers.cancel(1, &mut one.out));
        assert!(!one.transfers.cancel(1, &mut one.out));
        let (more, there) = (store(vec![0; 1000]), store(vec![3; 1000]));
        let descriptor = other.expose(&there);
        one.begin(2, Direction::Pull, &more, &descriptor);
        talk(&mut one, &mut other, 20_000, 1000);
        assert_eq!(one.ended, [(2, Ok(()))]);
        assert_eq!(contents(&more), [3; 1000]);
        other.transfers.forget_sent(&mut other.out);
        assert!(!one.transfers.expects_data() && !other.transfers.expects_data());
        assert_eq!((one.wrong, other.wrong), (None, None));
    }
}

#[test]
fn data_that_nobody_asked_for_goes_nowhere() {
    let mut side = Side::new();
    let memory = store(vec![1; 100]);
    let descriptor = side.expose(&memory);
    side.read(&frame(Kind::PullData, 5, &[9; 50]), 7);
    side.read(&frame(Kind::PushData, 5, &[9; 50]), 7);
    // Nor do data of a push that was refused, or of a pull in the wrong direction.
    side.read(&frame(Kind::Push, 6, &wish(&descriptor, 90, 11)), 7);
    side.read(&frame(Kind::PushData, 6, &[9; 11]), 7);
    side.read(&frame(Kind::Pull, 7, &wish(&descriptor, 0, 100)), 7);
    side.read(&frame(Kind::PushData, 7, &[9; 100]), 7);
    for kind in [Kind::PushReady, Kind::TransferCancel] {
        side.read(&frame(kind, 99, &[]), 7);
    }
    side.read(&frame(Kind::TransferEnd, 99, &[0; 4]), 7);
    assert_eq!((side.wrong, side.ended.len()), (None, 0));
    assert_eq!(contents(&memory), [1; 100]);
}

#[test]
fn lies_about_lengths_end_the_connection() {
    let memory = store(vec![1; 100]);
    // More data than a push announced, in one frame or after it.
    for sizes in [&[101][..], &[50, 51]] {
        let mut side = Side::new();
        let descriptor = side.expose(&memory);
        side.read(&frame(Kind::Push, 1, &wish(&descriptor, 0, 100)), 9);
        sizes.iter().for_each(|size| side.read(&frame(Kind::PushData, 1, &vec![1; *size]), 9));
        assert_eq!(side.wrong, Some("more data than was asked for"), "{sizes:?}");
    }
    // More data than a pull asked for; its end before its data.
    let mut side = Side::new();
    let descriptor = side.expose(&memory);
    side.begin(1, Direction::Pull, &memory, &descriptor);
    side.read(&frame(Kind::PullData, 1, &[1; 101]), 9);
    assert_eq!(side.wrong, Some("more data than was asked for"));
    let mut side = Side::new();
    side.begin(1, Direction::Pull, &memory, &descriptor);
    side.read(&frame(Kind::PullData, 1, &[1; 99]), 9);
    side.read(&frame(Kind::TransferEnd, 1, &[0; 4]), 9);
    assert_eq!(side.wrong, Some("ended before its data was here"));
    let mut side = Side::new();
    side.begin(1, Direction::Push, &memory, &descriptor);
    side.read(&frame(Kind::TransferEnd, 1, &[0; 4]), 9);
    assert_eq!(side.wrong, Some("ended before its data was sent"));
    let mut side = Side::new();
    side.begin(1, Direction::Push, &memory, &descriptor);
    side.read(&frame(Kind::TransferEnd, 1, &77u32.to_le_bytes()), 9);
    assert!(matches!(&side.ended[..], [(1, Err(TransferError::Failed(_)))]), "{:?}", side.ended);
}

#[test]
fn a_peer_has_no_more_transfers_at_a_time_than_are_borne() {
    let mut side = Side::new();
    let descriptor = side.expose(&store(vec![1; 100]));
    for call in 0..8 {
        let kind = if call % 2 == 0 { Kind::Pull } else { Kind::Push };
        side.read(&frame(kind, call, &wish(&descriptor, 0, 100)), 100);
    }
    side.read(&frame(Kind::Pull, 8, &wish(&descriptor, 0, 100)), 100);
    side.read(&frame(Kind::Push, 3, &wish(&descriptor, 0, 100)), 100);
    assert_eq!(side.wrong, Some("begun twice"));
    // The pulls go out, and make room.
    let said = side.write(usize::MAX);
    assert!(said.ends_with(&frame(Kind::TransferEnd, 6, &[0; 4])));
    let refused = frame(Kind::TransferEnd, 8, &Refusal::Overloaded.code().to_le_bytes());
    assert!(said.starts_with(&refused));
    side.out.written(&mut side.job);
    side.read(&frame(Kind::Pull, 9, &wish(&descriptor, 0, 100)), 100);
    assert!(side.write(usize::MAX).starts_with(&frame(Kind::PullData, 9, &[1; 100])));
}

#[test]
fn a_small_message_waits_for_one_frame_of_data_at_most() {
    let (mut one, mut other) = (Side::new(), Side::new());
    let (source, here) = (store(vec![9; 1_000_000]), store(vec![1; 1_000_000]));
    let descriptor = other.expose(&source);
    one.begin(1, Direction::Pull, &here, &descriptor);
    other.read(&one.write(usize::MAX), 100);
    one.read(&other.write(100), 100);
    other.out.request(
        8,
        crate::wire::RequestHead { rpc: crate::RpcId::from_raw(1), timeout_ms: 0, one_way: true },
        vec![0; 10].into(),
    );
    one.read(&other.write(FRAME as usize + 100), 1000);
    assert_eq!(one.requests, [8]);
}

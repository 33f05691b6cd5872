//! Frames that are wrong, break off, lie about their size, or are about nothing.

use crate::scene::{Scene, body, frame, request, resident, status};
use margo_rs::ProviderId;
use margo_rs::wire::{FRAME_MAX, Header, Kind, RequestHead};
use mochi_test_support::{comes_to, descriptors};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[test]
fn every_wrong_frame_costs_its_sender_the_connection() {
    let scene = Scene::new("every_wrong_frame_costs_its_sender_the_connection");
    let chunked =
        |call, total, first: &[u8]| frame(Kind::Request, Header::MORE, call, &body("keep", Some(total), first));
    let mut unknown_kind = request(1, "sum", &[0; 16]);
    unknown_kind[4] = 200;
    let mut reserved = request(1, "sum", &[0; 16]);
    reserved[6] = 1;
    let mut reserved_flag = request(1, "sum", &[0; 16]);
    reserved_flag[5] = 0x80;
    let mut too_long = request(1, "sum", &[0; 16]);
    too_long[0..4].copy_from_slice(&(FRAME_MAX + 1).to_le_bytes());
    let mut endless = too_long.clone();
    endless[0..4].fill(0xff);
    let mut head_reserved = request(1, "sum", &[0; 16]);
    head_reserved[Header::LEN + 12] = 1;
    let mut twice = chunked(1, 100, b"abc");
    twice.extend(chunked(1, 100, b"abc"));
    let mut over = chunked(1, 20, b"abc");
    over.extend(frame(Kind::RequestChunk, 0, 1, &[0; 200]));
    let mut under = chunked(1, 200, b"abc");
    under.extend(frame(Kind::RequestChunk, 0, 1, &[0; 5]));
    let mut empty_chunk = chunked(1, 200, b"abc");
    empty_chunk.extend(frame(Kind::RequestChunk, Header::MORE, 1, &[]));
    // More messages begun than the limit of twice 64.
    let many: Vec<u8> = (0..200).flat_map(|call| chunked(call, 100, b"abc")).collect();
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        ("unknown kind", unknown_kind),
        ("reserved field", reserved),
        ("reserved flag", reserved_flag),
        ("too long", too_long),
        ("endless", endless),
        ("reserved field in the head", head_reserved),
        ("no room for a head", frame(Kind::Request, 0, 1, &[0; 5])),
        ("a cancel with a body", frame(Kind::Cancel, 0, 1, &[1])),
        ("chunk of nothing", frame(Kind::RequestChunk, 0, 7, &[0; 10])),
        ("response chunk of nothing", frame(Kind::ResponseChunk, 0, 7, &[0; 10])),
        ("begun twice", twice),
        ("more than announced", over),
        ("less than announced", under),
        ("empty chunk", empty_chunk),
        ("too many begun", many),
    ];
    for (what, bytes) in &wrong {
        let mut raw = scene.greet();
        raw.send(bytes);
        raw.read_to_close();
        println!("{what}: closed");
        // The same a byte at a time, as far as the server takes it.
        let mut raw = scene.greet();
        for byte in bytes.iter().take(2000) {
            raw.send(&[*byte]);
        }
        if bytes.len() <= 2000 {
            raw.read_to_close();
        }
    }
    scene.end();
}

#[test]
fn frames_that_break_off_leave_nothing() {
    let scene = Scene::new("frames_that_break_off_leave_nothing");
    let whole = request(1, "sum", &[0; 16]);
    for end in 0..whole.len() {
        let mut raw = scene.greet();
        raw.send(&whole[..end]);
    }
    let mut large = frame(Kind::Request, Header::MORE, 1, &body("keep", Some(1 << 20), &[1; 60_000]));
    large.extend(frame(Kind::RequestChunk, Header::MORE, 1, &[1; 60_000]));
    for end in [10, 40, 9_000, 59_000, 60_500, 61_000, 100_000, large.len()] {
        let mut raw = scene.greet();
        raw.send(&large[..end]);
    }
    scene.end();
}

#[test]
fn announced_bytes_are_not_allocated() {
    let scene = Scene::with("announced_bytes_are_not_allocated", |limits| {
        limits.max_message = 1 << 40;
        limits.max_bytes = 1 << 40;
        limits.max_bytes_total = 1 << 40;
    });
    let before = resident();
    let peers: Vec<_> = (0..32)
        .map(|_| {
            let mut raw = scene.greet();
            for call in 0..16 {
                raw.send(&frame(Kind::Request, Header::MORE, call, &body("keep", Some(1 << 38), b"abc")));
            }
            // And a frame that is announced and does not come.
            let mut half = Vec::new();
            Header { length: FRAME_MAX, kind: Kind::Request, flags: 0, call: 99 }.encode(&mut half);
            half.extend(body("keep", None, &[1; 9000]));
            raw.send(&half);
            raw
        })
        .collect();
    // The honest client's next answer shows that all of it was read.
    let seen = scene.answered.load(Ordering::Relaxed);
    comes_to("honest calls are answered", || scene.answered.load(Ordering::Relaxed), |count| *count > seen + 10);
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    drop(peers);
    scene.end();
}

#[test]
fn an_oversized_message_is_refused_and_the_connection_lives() {
    let scene = Scene::new("an_oversized_message_is_refused_and_the_connection_lives");
    let mut raw = scene.greet();
    let total = (2u64 << 20) + 8;
    raw.send(&frame(Kind::Request, Header::MORE, 5, &body("keep", Some(total), &[])));
    let (header, answer) = raw.read_response();
    assert_eq!((header.kind, header.call, status(&answer)), (Kind::Response, 5, 14));
    let mut left = total - 8;
    while left > 0 {
        let now = left.min(200_000);
        left -= now;
        let flags = if left > 0 { Header::MORE } else { 0 };
        raw.send(&frame(Kind::RequestChunk, flags, 5, &vec![0; now as usize]));
    }
    let mut sum = 3i64.to_le_bytes().to_vec();
    sum.extend(4i64.to_le_bytes());
    raw.send(&request(6, "sum", &sum));
    let (header, answer) = raw.read_response();
    assert_eq!((header.call, status(&answer)), (6, 0));
    assert_eq!(answer[4..], 7i64.to_le_bytes());
    drop(raw);
    scene.end();
}

#[test]
fn a_call_id_used_twice_leaves_no_request_behind() {
    let scene = Scene::new("a_call_id_used_twice_leaves_no_request_behind");
    let mut raw = scene.greet();
    for _ in 0..40 {
        raw.send(&request(1, "hang", &[]));
        raw.send(&request(1, "keep", &[1, 2, 3]));
    }
    comes_to("there is a request", || scene.server.load(), |load| load.requests >= 1);
    raw.send(&frame(Kind::Cancel, 0, 1, &[]));
    comes_to("there are 1 requests at the most", || scene.server.load(), |load| load.requests <= 1);
    for _ in 0..40 {
        raw.send(&request(1, "hang", &[]));
    }
    drop(raw);
    scene.end();
}

#[test]
fn frames_about_nothing_are_ignored() {
    let scene = Scene::new("frames_about_nothing_are_ignored");
    let mut raw = scene.greet();
    for call in [0, 1, u64::MAX, 1 << 32] {
        raw.send(&frame(Kind::Cancel, 0, call, &[]));
        raw.send(&frame(Kind::Response, 0, call, &[0; 12]));
        raw.send(&frame(Kind::Response, 0, call, &[]));
        raw.send(&frame(Kind::ResponseAbort, 0, call, &[]));
        raw.send(&frame(Kind::GoAway, 0, 0, &[]));
        // A large response to a call that was never made.
        let mut first = 100_000u64.to_le_bytes().to_vec();
        first.extend([0; 50_000]);
        raw.send(&frame(Kind::Response, Header::MORE, call, &first));
        raw.send(&frame(Kind::ResponseChunk, 0, call, &[0; 50_000]));
    }
    // Requests that are too short for Margo's header, and to nobody.
    raw.send(&frame(Kind::Request, 0, 7, &body("sum", None, &[])[..RequestHead::LEN + 3]));
    let (header, answer) = raw.read_response();
    assert_eq!((header.call, status(&answer)), (7, 11));
    raw.send(&request(8, "nobody", &[]));
    let (header, answer) = raw.read_response();
    assert_eq!((header.call, status(&answer)), (8, 2));
    drop(raw);
    scene.end();
}

#[test]
fn a_lost_connection_gives_its_descriptor_back_while_its_requests_live_on() {
    let scene = Scene::new("a_lost_connection_gives_its_descriptor_back_while_its_requests_live_on");
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = held.clone();
    let kept = move |request, _, responder| {
        keep.lock().unwrap().push((request, responder));
        std::future::ready(())
    };
    scene.server.register_raw("hold", ProviderId::DEFAULT, kept).unwrap();
    let before = descriptors("self").len();
    for _ in 0..500 {
        let mut raw = scene.greet();
        let so_far = held.lock().unwrap().len();
        raw.send(&request(1, "hold", &[]));
        comes_to("it is held", || held.lock().unwrap().len(), |held| *held > so_far);
    }
    // What other tests of this process hold comes and goes; five hundred would show.
    comes_to("few descriptors are left", || descriptors("self"), |now| now.len() < before + 200);
    held.lock().unwrap().clear();
    scene.end();
}

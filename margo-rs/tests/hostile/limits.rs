//! Peers that take more than they may, or keep the server waiting.

use crate::scene::{Scene, body, frame, request, resident, status};
use margo_rs::wire::{Header, Kind};
use mochi_test_support::comes_to;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// It may be that its cancel overtook the request, or stands behind bytes that are not read.
#[test]
fn a_request_that_is_never_cancelled_ends_at_its_callers_deadline() {
    let scene = Scene::new("a_request_that_is_never_cancelled_ends_at_its_callers_deadline");
    let mut raw = scene.greet();
    let mut ends = body("hang", None, &[]);
    ends[8..12].copy_from_slice(&50u32.to_le_bytes());
    for (call, never) in [(1, 0), (2, u32::MAX)] {
        let mut lasts = body("hang", None, &[]);
        lasts[8..12].copy_from_slice(&never.to_le_bytes());
        raw.send(&frame(Kind::Request, 0, call, &lasts));
    }
    comes_to("there are 2 requests", || scene.server.load(), |load| load.requests == 2);
    raw.send(&frame(Kind::Request, 0, 3, &ends));
    raw.send(&request(4, "sum", &[0; 16]));
    // In order: the third has arrived, too.
    raw.read_response();
    comes_to("there are 2 requests", || scene.server.load(), |load| load.requests == 2);
    drop(raw);
    scene.end();
}

#[test]
fn a_peer_that_ignores_the_limits_is_told_overloaded() {
    let scene = Scene::new("a_peer_that_ignores_the_limits_is_told_overloaded");
    let mut raw = scene.greet();
    // 64 are stated, 1024 more are borne.
    for call in 0..3000 {
        raw.send(&request(call, "hang", &[]));
    }
    let (_, answer) = raw.read_response();
    assert_eq!(status(&answer), 8);
    assert!(scene.server.load().requests < 1200);
    drop(raw);
    comes_to("there are 1 requests at the most", || scene.server.load(), |load| load.requests <= 1);
    // Bytes: 4 MiB are stated, twice as many are borne.
    let mut raw = scene.greet();
    for call in 0..40 {
        raw.send(&request(call, "keep", &[1; 240_000]));
    }
    let (_, answer) = raw.read_response();
    assert_eq!(status(&answer), 8);
    drop(raw);
    scene.end();
}

#[test]
fn a_peer_that_reads_nothing_is_read_no_further() {
    let scene = Scene::new("a_peer_that_reads_nothing_is_read_no_further");
    let before = resident();
    let mut raw = scene.greet();
    // Each asks for a hundred thousand bytes; two thousand million in all.
    raw.0.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let one = |call| request(call, "fetch", &100_000u64.to_le_bytes());
    let mut sent = 0u64;
    let batch: Vec<u8> = (0..20_000).flat_map(one).collect();
    // Whether all of it is taken by the sockets' buffers or not does not matter: it is not answered.
    if raw.0.write_all(&batch).is_ok() {
        sent += batch.len() as u64;
    }
    let seen = scene.answered.load(Ordering::Relaxed);
    comes_to("honest calls are answered", || scene.answered.load(Ordering::Relaxed), |count| *count > seen + 100);
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MiB after {sent} bytes", grown >> 20);
    drop(raw);
    scene.end();
}

#[test]
fn thousands_of_requests_without_reading_end_with_the_connection() {
    let scene = Scene::new("thousands_of_requests_without_reading_end_with_the_connection");
    for _ in 0..5 {
        let mut raw = scene.greet();
        raw.0.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut sum = 3i64.to_le_bytes().to_vec();
        sum.extend(4i64.to_le_bytes());
        let batch: Vec<u8> = (0..5000).flat_map(|call| request(call, "sum", &sum)).collect();
        for _ in 0..20 {
            if raw.0.write_all(&batch).is_err() {
                break;
            }
        }
    }
    scene.end();
}

#[test]
fn a_peer_that_stops_in_the_middle_of_a_message_is_cut_off() {
    let scene = Scene::with("a_peer_that_stops_in_the_middle_of_a_message_is_cut_off", |limits| {
        limits.stall_timeout = Duration::from_millis(100);
    });
    let mut chunked = scene.greet();
    chunked.send(&frame(Kind::Request, Header::MORE, 1, &body("sum", Some(100_000), &[0; 10])));
    let mut cut = scene.greet();
    cut.send(&request(1, "sum", &[0; 16])[..20]);
    chunked.read_to_close();
    cut.read_to_close();
    scene.end();
}

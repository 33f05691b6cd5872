//! Peers that say something else than hello, or nothing.

use crate::scene::{Scene, hello, request};
use margo_rs::wire::{HELLO_LEN, PROTOCOL_VERSION};
use mochi_test_support::{comes_to, descriptors};
use std::net::Shutdown;
use std::time::Duration;

#[test]
fn whatever_is_no_hello_is_closed_at_once() {
    let scene = Scene::new("whatever_is_no_hello_is_closed_at_once");
    let mut later = hello().encode();
    later[8..12].copy_from_slice(&[9, 0, 9, 0]);
    let mut older = hello().encode();
    older[8..12].copy_from_slice(&[(PROTOCOL_VERSION - 1) as u8, 0, 0, 0]);
    let mut flags = hello().encode();
    flags[12] = 1;
    let mut frame = hello().encode();
    frame[16..20].copy_from_slice(&100u32.to_le_bytes());
    let mut message = hello().encode();
    message[24..32].fill(0);
    let firsts: [&[u8]; 9] = [
        b"\0",
        &[0xff; 1000],
        b"GET / HTTP/1.1\r\nHost: node7\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &later,
        &older,
        &flags,
        &frame,
        &message,
    ];
    for first in firsts {
        let mut raw = scene.connect();
        raw.send(first);
        // Our hello may come first: it is sent before anything is read.
        let said = raw.read_to_close();
        assert!(said.is_empty() || said.len() == HELLO_LEN, "{said:?}");
    }
    scene.end();
}

#[test]
fn silence_is_closed_after_the_handshake_timeout() {
    let scene = Scene::with("silence_is_closed_after_the_handshake_timeout", |limits| {
        limits.handshake_timeout = Duration::from_millis(50);
    });
    let mut silent: Vec<_> = (0..20).map(|_| scene.connect()).collect();
    for (at, raw) in silent.iter_mut().enumerate() {
        // Some begin a hello and stop.
        raw.send(&hello().encode()[..at]);
        raw.read_to_close();
    }
    scene.end();
}

#[test]
fn a_peer_that_leaves_after_its_hello_leaves_nothing() {
    let scene = Scene::new("a_peer_that_leaves_after_its_hello_leaves_nothing");
    for _ in 0..50 {
        let mut raw = scene.greet();
        raw.0.shutdown(Shutdown::Write).unwrap();
        raw.read_to_close();
        drop(scene.greet());
    }
    // In the middle of requests, half-closed: its requests are cancelled.
    let mut raw = scene.greet();
    raw.send(&request(1, "hang", &[]));
    comes_to("there is a request", || scene.server.load(), |load| load.requests >= 1);
    raw.0.shutdown(Shutdown::Write).unwrap();
    raw.read_to_close();
    scene.end();
}

#[test]
fn ten_thousand_connections_leave_no_descriptor() {
    let scene = Scene::new("ten_thousand_connections_leave_no_descriptor");
    let before = descriptors("self").len();
    for round in 0..20 {
        let mut open: Vec<_> = (0..500).map(|_| scene.connect()).collect();
        if round % 2 == 0 {
            open.iter_mut().for_each(|raw| raw.send(&hello().encode()));
        }
    }
    // What other tests of this process hold comes and goes; ten thousand would show.
    comes_to("few descriptors are left", || descriptors("self"), |now| now.len() < before + 200);
    scene.end();
}

//! Peers that lie about bulk transfers.

use crate::scene::{PATIENCE, Raw, Scene, frame, hello};
use margo_rs::bulk::{BulkDescriptor, BulkError, Permission, Refusal, Region};
use margo_rs::wire::{HELLO_LEN, Header, Kind, TransferHead};
use margo_rs::{Engine, Wait};
use mochi_test_support::eventually;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

/// The body of a pull or push.
fn wish(descriptor: &BulkDescriptor, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    TransferHead { key: *descriptor.key().unwrap(), offset, length }.encode(&mut bytes);
    bytes
}

/// A frame of a bulk transfer.
fn bulk(kind: Kind, call: u64, body: &[u8]) -> Vec<u8> {
    frame(kind, 0, call, body)
}

/// A region of the server's, whose contents no peer of these tests may change.
fn guarded(scene: &Scene, size: usize, permission: Permission) -> Region {
    scene.server.expose(vec![0x11; size], permission).unwrap()
}

fn assert_untouched(region: Region) {
    assert!(region.into_inner().wait().iter().all(|byte| *byte == 0x11));
}

#[test]
fn wishes_that_no_key_opens_are_refused_one_by_one() {
    let scene = Scene::new("wishes_that_no_key_opens_are_refused_one_by_one");
    let region = guarded(&scene, 1000, Permission::ReadWrite);
    let mut raw = scene.greet();
    let good = wish(region.descriptor(), 0, 1000);
    let mut call = 0;
    for at in 0..32 {
        for kind in [Kind::Pull, Kind::Push] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            call += 1;
            raw.send(&bulk(kind, call, &bad));
            let (header, body) = raw.read_response();
            assert_eq!((header.kind, header.call, body.len()), (Kind::TransferEnd, call, 4));
            let refusal = Refusal::from_code(u32::from_le_bytes(*body.first_chunk().unwrap()));
            let expected = if at < 8 { Refusal::Stale } else { Refusal::Forged };
            assert_eq!(refusal, Some(expected), "byte {at}");
        }
    }
    drop(raw);
    assert_untouched(region);
    scene.end();
}

#[test]
fn ranges_that_overflow_are_out_of_bounds() {
    let scene = Scene::new("ranges_that_overflow_are_out_of_bounds");
    let region = guarded(&scene, 1000, Permission::ReadWrite);
    let mut raw = scene.greet();
    let max = u64::MAX;
    for (offset, length) in
        [(0, 1001), (1, 1000), (1000, 1), (max, 1), (max, max), (1, max), (max - 999, 1000), (1 << 63, 1 << 63)]
    {
        for kind in [Kind::Pull, Kind::Push] {
            raw.send(&bulk(kind, 7, &wish(region.descriptor(), offset, length)));
            let (header, body) = raw.read_response();
            assert_eq!((header.kind, &body[..]), (Kind::TransferEnd, &Refusal::OutOfBounds.code().to_le_bytes()[..]));
            // Data of a refused push, or of none, goes nowhere.
            raw.send(&bulk(Kind::PushData, 7, &[0xee; 1000]));
        }
    }
    raw.send(&bulk(Kind::Pull, 8, &wish(region.descriptor(), 1000, 0)));
    assert_eq!(raw.read_response().1, [0; 4]);
    drop(raw);
    assert_untouched(region);
    scene.end();
}

#[test]
fn data_against_the_direction_of_a_region_goes_nowhere() {
    let scene = Scene::new("data_against_the_direction_of_a_region_goes_nowhere");
    let (readable, writable) =
        (guarded(&scene, 1000, Permission::ReadOnly), guarded(&scene, 1000, Permission::WriteOnly));
    let mut raw = scene.greet();
    for (kind, region) in [(Kind::Push, &readable), (Kind::Pull, &writable)] {
        raw.send(&bulk(kind, 1, &wish(region.descriptor(), 0, 1000)));
        raw.send(&bulk(Kind::PushData, 1, &[0xee; 1000]));
        let (header, body) = raw.read_response();
        assert_eq!((header.kind, &body[..]), (Kind::TransferEnd, &Refusal::WrongDirection.code().to_le_bytes()[..]));
    }
    // A pull that is being served takes no data either.
    raw.send(&bulk(Kind::Pull, 2, &wish(readable.descriptor(), 0, 1000)));
    raw.send(&bulk(Kind::PushData, 2, &[0xee; 1000]));
    raw.send(&bulk(Kind::PullData, 2, &[0xee; 1000]));
    let (header, body) = raw.read_response();
    assert_eq!((header.kind, body), (Kind::PullData, vec![0x11; 1000]));
    drop(raw);
    assert_untouched(readable);
    assert_untouched(writable);
    scene.end();
}

#[test]
fn more_data_than_a_push_announced_costs_the_connection_and_nothing_else() {
    let scene = Scene::new("more_data_than_a_push_announced_costs_the_connection_and_nothing_else");
    for (length, sizes) in [(500, &[501][..]), (500, &[499, 2]), (0, &[]), (300_000, &[200_000, 100_001])] {
        let region = guarded(&scene, 400_000, Permission::WriteOnly);
        let mut raw = scene.greet();
        raw.send(&bulk(Kind::Push, 1, &wish(region.descriptor(), 0, length)));
        for size in sizes {
            raw.send(&bulk(Kind::PushData, 1, &vec![0xee; *size]));
        }
        if sizes.is_empty() {
            assert_eq!(raw.read_response().1, [0; 4]);
            raw.send(&bulk(Kind::PushReady, 1, &[1]));
        }
        raw.read_to_close();
        let memory = region.into_inner().wait();
        assert!(memory[length as usize..].iter().all(|byte| *byte == 0x11), "nothing behind the range");
    }
    scene.end();
}

#[test]
fn a_push_that_never_ends_holds_no_memory_back() {
    let scene = Scene::new("a_push_that_never_ends_holds_no_memory_back");
    let region = guarded(&scene, 1 << 20, Permission::WriteOnly);
    let mut raw = scene.greet();
    raw.send(&bulk(Kind::Push, 1, &wish(region.descriptor(), 0, 1 << 20)));
    assert_eq!(raw.read_response().0.kind, Kind::PushReady);
    // In the middle of a frame it stops.
    let data = bulk(Kind::PushData, 1, &[0xee; 100_000]);
    raw.send(&data[..50_000]);
    eventually("the first byte has come", || {
        let mut first = [0];
        region.read_at(0, &mut first).unwrap();
        first == [0xee]
    });
    let memory = region.into_inner().wait();
    let before: u64 = memory.iter().map(|byte| u64::from(*byte)).sum();
    // The rest of the frame comes when the memory is somebody else's.
    raw.send(&data[50_000..]);
    let (header, body) = raw.read_response();
    assert_eq!((header.kind, &body[..]), (Kind::TransferEnd, &Refusal::Revoked.code().to_le_bytes()[..]));
    assert_eq!(memory.iter().map(|byte| u64::from(*byte)).sum::<u64>(), before);
    drop(raw);
    scene.end();
}

#[test]
fn pulls_whose_data_nobody_reads_are_bounded() {
    let scene = Scene::new("pulls_whose_data_nobody_reads_are_bounded");
    let region = guarded(&scene, 8 << 20, Permission::ReadOnly);
    let mut raw = scene.greet();
    // More than are borne; the first ones fill the socket, whose data is not read.
    for call in 0..3000 {
        raw.send(&bulk(Kind::Pull, call, &wish(region.descriptor(), 0, 8 << 20)));
    }
    raw.0.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut refused = 0;
    while refused == 0 {
        let (header, body) = raw.read_response();
        match header.kind {
            Kind::PullData => {}
            Kind::TransferEnd if body == Refusal::Overloaded.code().to_le_bytes() => refused += 1,
            other => panic!("{other:?} {body:?}"),
        }
    }
    drop(raw);
    assert_untouched(region);
    scene.end();
}

#[test]
fn a_lying_owner_costs_the_connection_and_gets_nothing_into_other_memory() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("native+tcp://{}", listener.local_addr().unwrap());
    // What the owner answers to a pull of 1000 bytes.
    let answers = [
        bulk(Kind::PullData, 0, &[0xee; 1001]),
        [bulk(Kind::PullData, 0, &[0xee; 999]), bulk(Kind::TransferEnd, 0, &[0; 4])].concat(),
        [bulk(Kind::PullData, 0, &[0xee; 999]), bulk(Kind::PullData, 0, &[0xee; 2])].concat(),
        bulk(Kind::TransferEnd, 0, &[0; 4]),
    ];
    let count = answers.len();
    let owner = thread::spawn(move || {
        for answer in answers {
            let mut raw = Raw(listener.accept().unwrap().0);
            let mut theirs = [0; HELLO_LEN];
            raw.0.read_exact(&mut theirs).unwrap();
            raw.send(&hello().encode());
            let (header, _) = raw.read_response();
            assert_eq!(header.kind, Kind::Pull);
            // The frames' call number is the first eight bytes from the eighth on.
            let mut answer = answer;
            let mut at = 0;
            while at < answer.len() {
                answer[at + 8..at + 16].copy_from_slice(&header.call.to_le_bytes());
                at += Header::LEN + u32::from_le_bytes(*answer[at..].first_chunk().unwrap()) as usize;
            }
            raw.send(&answer);
            raw.read_to_close();
        }
    });
    let server = Engine::listen("native+tcp://127.0.0.1").wait().unwrap();
    let region = server.expose(vec![0; 1000], Permission::ReadOnly).unwrap();
    for _ in 0..count {
        let client = Engine::connect("native+tcp").unwrap();
        let here = client.stage(vec![0x11; 3000]).unwrap();
        let to = client.lookup(&address).wait().unwrap();
        let error = to.pull(region.descriptor(), here.slice(1000..2000)).wait().unwrap_err();
        assert!(matches!(&error, BulkError::ConnectionLost { reason, .. } if reason.contains("protocol")), "{error}");
        let memory = here.into_inner().wait();
        assert!(memory[..1000].iter().chain(&memory[2000..]).all(|byte| *byte == 0x11));
    }
    owner.join().unwrap();
}

#[test]
fn wishes_whose_refusals_nobody_reads_are_read_no_further() {
    let scene = Scene::new("wishes_whose_refusals_nobody_reads_are_read_no_further");
    let region = guarded(&scene, 100, Permission::ReadOnly);
    let mut raw = scene.greet();
    raw.0.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let batch: Vec<u8> =
        (0..10_000).flat_map(|call| bulk(Kind::Pull, call, &wish(region.descriptor(), 0, 101))).collect();
    // The answers to all of this would be 100 MB.
    let stopped = (0..500).any(|_| raw.0.write_all(&batch).is_err());
    assert!(stopped, "it reads on without end");
    drop(raw);
    assert_untouched(region);
    scene.end();
}

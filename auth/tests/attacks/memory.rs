//! A search for arguments and results in this process's memory, after the call is over.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use margo_rs::Rpc;
use margo_rs::codec::Blob;
use serde::{Serialize, Serializer};
use zeroize::Zeroize;

use crate::stage::*;

/// Bytes that are looked for: nothing else has so many in this order.
const LEN: usize = 64;

/// The byte at a place of what is looked for, so that it lies nowhere but where a call has put it.
fn byte(at: usize) -> u8 {
    (at as u8).wrapping_mul(151) ^ 0x5a
}

/// How often it is in the writable memory of this process.
fn found() -> usize {
    let memory = File::open("/proc/self/mem").expect("one's own memory");
    let maps = fs::read_to_string("/proc/self/maps").expect("a list of it");
    let mut chunk = vec![0; 1 << 16];
    let zeros = vec![0; chunk.len()];
    let mut found = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let parse = |address| u64::from_str_radix(address, 16).expect("an address");
        let (from, to) = (parse(from), parse(to));
        // What was read is not looked through again.
        let own = chunk.as_ptr().addr() as u64;
        let behind = own + chunk.len() as u64;
        for (mut from, to) in [(from, to.min(own)), (from.max(behind), to)] {
            while from < to {
                let len = chunk.len().min((to - from) as usize);
                let Ok(read) = memory.read_at(&mut chunk[..len], from) else { break };
                // Most of it is empty, which is seen faster so.
                if chunk[..read] != zeros[..read] {
                    let is_it = |window: &&[u8]| (0..LEN).all(|at| window[at] == byte(at));
                    found += chunk[..read].windows(LEN).filter(is_it).count();
                }
                if read < len || from + len as u64 == to {
                    break;
                }
                from += (len - LEN + 1) as u64;
            }
        }
    }
    chunk.as_mut_slice().zeroize(); // the next search must not find what it holds
    found
}

/// What is looked for, in memory of the test's own.
fn marked() -> Blob {
    Blob((0..LEN).map(byte).collect())
}

/// The handler's own: what it returns is not for the caller's layers to wipe.
struct Marked(Blob);

impl Serialize for Marked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.0.0.zeroize();
    }
}

/// Both ends are here, and wipe what is theirs: what is left is in buffers.
#[test]
fn what_was_opened_is_not_left_in_memory() {
    const TAKE: Rpc<Blob, ()> = Rpc::new("take");
    const GIVE: Rpc<(), Blob> = Rpc::new("give");
    let stage = Stage::enter();
    let one = Marked(marked());
    assert_eq!(found(), 1, "the search finds what there is");
    drop(one);
    assert_eq!(found(), 0);

    let site = stage.serve(builder());
    let take = |_, Blob(mut bytes): Blob| {
        assert!(bytes.iter().enumerate().all(|(at, given)| *given == byte(at)));
        bytes.zeroize();
        Ok(())
    };
    site.auth.register_blocking(TAKE, take).unwrap();
    site.auth.register_blocking(Rpc::<(), Marked>::new(GIVE.name()), |_, ()| Ok(Marked(marked()))).unwrap();
    let server = stage.connect(&site, ALICE);
    let args = Marked(marked());
    server.call(TAKE, &args.0).wait().unwrap();
    drop(args);
    assert_eq!(found(), 0, "arguments");
    let given = Marked(server.call(GIVE, &()).wait().unwrap());
    assert!(given.0.0.iter().enumerate().all(|(at, given)| *given == byte(at)));
    drop(given);
    assert_eq!(found(), 0, "a result");
}

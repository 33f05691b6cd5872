//! Peers that were lent memory, and what they can make of it afterwards.

use crate::raw::Raw;
use crate::{
    LENT_MIN, Mappings, OFTEN, SUM, Wait, all_is_over, alone, descriptors_are_at_most, filled, links_are, mappings,
    nothing_is_borrowed, nothing_is_lent, reach, serve,
};
use margo_rs::bulk::{BulkPool, Permission};
use margo_rs::wire::Kind;
use memmap2::MmapOptions;
use mochi_test_support::descriptors;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::fs::File;

/// What the file holds, by reading it.
fn bytes(file: &OwnedFd) -> Vec<u8> {
    let mut found = vec![0; rustix::fs::fstat(file).unwrap().st_size as usize];
    assert_eq!(rustix::io::pread(file, &mut found[..], 0), Ok(found.len()));
    found
}

/// What a mapping holds that somebody else may write.
fn all(map: &memmap2::MmapRaw, byte: u8) -> bool {
    (0..map.len()).all(|at| {
        // SAFETY: `at` lies in the mapping, whose file cannot shrink; volatile, because others may write it.
        #[allow(unsafe_code)]
        let found = unsafe { map.as_ptr().wrapping_add(at).read_volatile() };
        found == byte
    })
}

#[test]
fn a_kept_mapping_shows_nothing_that_was_written_after_the_region_was_taken_back() {
    let _alone = alone("a_kept_mapping_shows_nothing_that_was_written_after_the_region_was_taken_back");
    nothing_is_lent();
    let server = serve();
    let region = server.expose(filled(&server, LENT_MIN, 1), Permission::ReadOnly).unwrap();
    let mut raw = Raw::connect(&server);
    let (loan, file) = raw.borrow_until_lent(region.descriptor());
    assert_eq!(loan.offset, 0);
    let map = MmapOptions::new().map_raw_read_only(&File::from(file.try_clone().unwrap())).unwrap();
    // As long as the region exists the peer may see what changes: it may pull it.
    region.write_at(0, &[2; LENT_MIN]).unwrap();
    assert!(all(&map, 2) && bytes(&file) == [2; LENT_MIN]);
    let descriptor = region.descriptor().clone();
    let mut memory = region.into_inner().wait();
    assert_eq!(raw.wait_for(Kind::LoanEnd).call, loan.id);
    assert!(memory.iter().all(|byte| *byte == 2));
    memory.fill(3);
    assert!(all(&map, 2) && bytes(&file) == [2; LENT_MIN]);
    assert!(memory.iter().all(|byte| *byte == 3));
    // The same memory once more is never lent again.
    let again = server.expose(memory, Permission::ReadOnly).unwrap();
    for call in 100..100 + 2 * OFTEN as u64 {
        assert!(raw.borrow(call, again.descriptor()).unwrap() == [3; LENT_MIN]);
    }
    again.write_at(0, &[4; LENT_MIN]).unwrap();
    assert!(all(&map, 2) && bytes(&file) == [2; LENT_MIN]);
    // And the old descriptor opens nothing.
    raw.send(Kind::Borrow, 999, &crate::raw::wish(&descriptor));
    assert_ne!(raw.wait_for(Kind::TransferEnd).body, [0; 4]);
    // Nor does the memory's end hurt who still looks.
    drop(again);
    assert!(all(&map, 2));
    assert_eq!(mappings("self"), Mappings { borrowed: 1, ..Mappings::default() }, "the peer's own");
}

#[test]
fn what_was_lent_cannot_be_written_cut_or_punched_by_the_peer() {
    let _alone = alone("what_was_lent_cannot_be_written_cut_or_punched_by_the_peer");
    let server = serve();
    let region = server.expose(filled(&server, LENT_MIN, 7), Permission::ReadWrite).unwrap();
    let mut raw = Raw::connect(&server);
    let (_, given) = raw.borrow_until_lent(region.descriptor());
    let flags = rustix::fs::fcntl_getfl(&given).unwrap();
    assert!(!flags.intersects(OFlags::WRONLY | OFlags::RDWR), "open for reading only");
    // The same user can open it once more; it does not help.
    let path = format!("/proc/self/fd/{}", given.as_raw_fd());
    let opened = rustix::fs::open(path, OFlags::RDWR, Mode::empty()).unwrap();
    for file in [&given, &opened] {
        assert!(rustix::io::pwrite(file, &[0], 0).is_err());
        assert!(rustix::fs::ftruncate(file, 0).is_err());
        assert!(rustix::fs::ftruncate(file, 1 << 30).is_err());
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(file, punch, 0, 4096).is_err());
        assert!(MmapOptions::new().map_raw(file).is_err());
        assert!(rustix::fs::fcntl_add_seals(file, rustix::fs::SealFlags::WRITE).is_err());
    }
    drop((given, opened, raw));
    let mut found = [0; LENT_MIN];
    region.read_at(0, &mut found).unwrap();
    assert!(found.iter().all(|byte| *byte == 7));
}

#[test]
fn a_pools_buffer_that_a_peer_still_sees_is_not_used_again() {
    let _alone = alone("a_pools_buffer_that_a_peer_still_sees_is_not_used_again");
    let server = serve();
    let pool = BulkPool::new(&server, 1, LENT_MIN, Permission::ReadOnly);
    let mut raw = Raw::connect(&server);
    let buffer = pool.take().wait().unwrap();
    buffer.write_at(0, &[1; LENT_MIN]).unwrap();
    let (_, file) = raw.borrow_until_lent(buffer.descriptor());
    drop(buffer);
    assert_eq!(pool.available(), 1);
    let buffer = pool.take().wait().unwrap();
    buffer.write_at(0, &[2; LENT_MIN]).unwrap();
    assert_eq!(bytes(&file), [1; LENT_MIN]);
    let (loan, other) = raw.borrow_until_lent(buffer.descriptor());
    assert!(loan.id > 1 && bytes(&other) == [2; LENT_MIN] && bytes(&file) == [1; LENT_MIN]);
}

#[test]
fn only_what_may_be_pulled_is_lent_and_nothing_beside_it() {
    let _alone = alone("only_what_may_be_pulled_is_lent_and_nothing_beside_it");
    let server = serve();
    let mut raw = Raw::connect(&server);
    // Vectors, several pieces, and parts of a longer piece are no files of their own.
    let vector = server.expose(vec![1; LENT_MIN], Permission::ReadOnly).unwrap();
    let pieces = vec![filled(&server, LENT_MIN, 1), filled(&server, LENT_MIN, 1)];
    let pieces = server.expose(pieces, Permission::ReadOnly).unwrap();
    for call in 0..3 * OFTEN as u64 {
        assert!(raw.borrow(call, vector.descriptor()).unwrap() == [1; LENT_MIN]);
        assert!(raw.borrow(call, pieces.descriptor()).unwrap() == [1; 2 * LENT_MIN]);
    }
    // What may only be pushed into.
    let written = server.expose(filled(&server, LENT_MIN, 1), Permission::WriteOnly).unwrap();
    for call in 0..3 * OFTEN as u64 {
        raw.send(Kind::Borrow, call, &crate::raw::wish(written.descriptor()));
        assert_ne!(raw.wait_for(Kind::TransferEnd).body, [0; 4]);
    }
    assert!(raw.files.is_empty());
}

#[test]
fn a_push_lends_only_where_that_was_said_and_only_the_whole_region() {
    let _alone = alone("a_push_lends_only_where_that_was_said_and_only_the_whole_region");
    let server = serve();
    let (client, to) = reach(server.address().as_str());
    let target = server.expose(vec![0; LENT_MIN], Permission::WriteOnly).unwrap();
    nothing_is_borrowed("self");
    let here = client.stage(filled(&client, LENT_MIN, 1)).unwrap();
    let longer = client.stage(filled(&client, 2 * LENT_MIN, 1)).unwrap();
    for _ in 0..3 * OFTEN {
        to.push(&here, target.descriptor()).wait().unwrap();
        to.push(longer.slice(..LENT_MIN as u64), target.descriptor()).wait().unwrap();
        assert_eq!(mappings("self").borrowed, 0);
    }
    for _ in 0..OFTEN {
        to.push(here.lend(), target.descriptor()).wait().unwrap();
    }
    assert_eq!(mappings("self").borrowed, 1);
    drop(here);
    nothing_is_borrowed("self");
}

#[test]
fn a_peer_that_keeps_what_it_was_lent_is_lent_no_more_than_some() {
    let _alone = alone("a_peer_that_keeps_what_it_was_lent_is_lent_no_more_than_some");
    nothing_is_lent();
    let server = serve();
    {
        // What the server makes for its first call, its handlers' threads and what they poll, stays.
        let (_client, to) = reach(server.address().as_str());
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    }
    all_is_over(&server);
    let before = descriptors("self").len();
    let mut raw = Raw::connect(&server);
    let mut kept = Vec::new();
    let lent = |raw: &mut Raw, kept: &mut Vec<OwnedFd>| {
        let region = server.expose(filled(&server, LENT_MIN, 1), Permission::ReadOnly).unwrap();
        for call in 0..OFTEN as u64 {
            if let Err(loan) = raw.borrow(call, region.descriptor()) {
                // It lies.
                raw.send(Kind::LoanReturn, loan.id, &[]);
                kept.extend(raw.files.drain(..).map(|(_, file)| file));
                return true;
            }
        }
        false
    };
    while lent(&mut raw, &mut kept) {
        assert!(kept.len() <= 64, "without end");
    }
    assert_eq!(kept.len(), 64);
    // Others are served, without loans, until it lets go.
    let (client, to) = reach(server.address().as_str());
    let region = server.expose(filled(&server, LENT_MIN, 5), Permission::ReadOnly).unwrap();
    let here = client.stage(vec![0; LENT_MIN]).unwrap();
    let pull = || (0..2 * OFTEN).for_each(|_| to.pull(region.descriptor(), &here).wait().unwrap());
    pull();
    assert_eq!(mappings("self").borrowed, 0);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    drop((raw, kept));
    links_are(1, &server);
    pull();
    assert_eq!(mappings("self").borrowed, 1);
    drop((client, to, region, here));
    // Of all that nothing is left but the last one's.
    all_is_over(&server);
    descriptors_are_at_most(before + 1, "self");
}

//! Peers that lend what cannot be used, or against the rules.

use crate::raw::{Raw, SEALS, lend, memory_file, sealed_file};
use crate::{LENT_MIN, Mappings, SUM, Wait, alone, links_are, mappings, reach, serve};
use margo_rs::bulk::Permission;
use margo_rs::wire::{Kind, Loan};
use margo_rs::{Engine, Load};
use mochi_test_support::{Mapping, comes_to};
use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, SealFlags};

/// Files that must not be used for data of [`LENT_MIN`] bytes.
fn bad_files() -> Vec<(&'static str, Vec<OwnedFd>)> {
    let size = LENT_MIN;
    let holey = || {
        let file = rustix::fs::memfd_create("raw", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, size as u64).unwrap();
        rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
        file
    };
    let hollow = || {
        let file = rustix::fs::memfd_create("raw", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, size as u64).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, size as u64, size as u64).unwrap();
        rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
        file
    };
    let huge = || {
        let file = rustix::fs::memfd_create("raw", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 1 << 50).unwrap();
        rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
        file
    };
    let good = || sealed_file(size, 0xee, SEALS);
    let path = std::env::temp_dir().join(format!("loans-{}", std::process::id()));
    std::fs::write(&path, vec![0xee; size]).unwrap();
    let plain = OwnedFd::from(std::fs::File::options().read(true).write(true).open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let (pipe, _) = std::io::pipe().unwrap();
    vec![
        ("not sealed", vec![memory_file(size)]),
        ("may shrink", vec![sealed_file(size, 0xee, SealFlags::GROW | SealFlags::FUTURE_WRITE)]),
        ("may be punched", vec![sealed_file(size, 0xee, SealFlags::GROW | SealFlags::SHRINK)]),
        ("too small by one byte", vec![sealed_file(size - 1, 0xee, SEALS)]),
        ("empty", vec![sealed_file(0, 0, SEALS)]),
        ("a hole", vec![holey()]),
        ("a hole, and as much behind its end", vec![hollow()]),
        ("huge and hollow", vec![huge()]),
        ("no memory file", vec![plain]),
        ("a pipe", vec![OwnedFd::from(pipe)]),
        ("a device", vec![OwnedFd::from(std::fs::File::open("/dev/zero").unwrap())]),
        ("none", vec![]),
        ("two", vec![good(), good()]),
    ]
}

/// Loans of a good file that do not have the data.
fn bad_loans(id: u64) -> Vec<Loan> {
    let offsets = [1, LENT_MIN as u64, u64::MAX, u64::MAX - LENT_MIN as u64 + 1, 1 << 63, 1 << 47];
    let mut loans: Vec<_> = offsets.into_iter().map(|offset| Loan { id, offset }).collect();
    loans.extend([id + 1, 0, u64::MAX].map(|id| Loan { id, offset: 0 }));
    loans
}

fn is_fine(server: &Engine) {
    let (_client, to) = reach(server.address().as_str());
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
}

#[test]
fn a_push_whose_loan_cannot_be_used_is_asked_for_its_data() {
    let _alone = alone("a_push_whose_loan_cannot_be_used_is_asked_for_its_data");
    let server = serve();
    let region = server.expose(vec![0x11; LENT_MIN], Permission::ReadWrite).unwrap();
    // What the test before has left may be on its way out.
    no_raw_mapping_is_left();
    let mut raw = Raw::connect(&server);
    let mut call = 0;
    let mut attempt = |raw: &mut Raw, loan: Loan, what: &str| {
        call += 1;
        raw.send(Kind::Lend, call, &lend(region.descriptor(), loan));
        assert_eq!(raw.wait_for(Kind::PushReady).call, call, "{what}");
        let mut found = [0; LENT_MIN];
        region.read_at(0, &mut found).unwrap();
        assert!(found.iter().all(|byte| *byte == 0x11), "{what}");
        // With its data it is a push like any other.
        raw.send(Kind::PushData, call, &[0x22; LENT_MIN]);
        assert_eq!(raw.wait_for(Kind::TransferEnd).body, [0; 4], "{what}");
        region.read_at(0, &mut found).unwrap();
        assert!(found.iter().all(|byte| *byte == 0x22), "{what}");
        region.write_at(0, &[0x11; LENT_MIN]).unwrap();
    };
    for (id, (what, files)) in bad_files().iter().enumerate() {
        raw.hand_over(id as u64, &files.iter().collect::<Vec<_>>());
        attempt(&mut raw, Loan { id: id as u64, offset: 0 }, what);
    }
    // Only the short one is mapped, and it is the peer's to take back.
    assert_eq!(raw_mappings(), 1);
    let good = sealed_file(LENT_MIN, 0xee, SEALS);
    raw.hand_over(100, &[&good]);
    for loan in bad_loans(100) {
        attempt(&mut raw, loan, &format!("{loan:?}"));
    }
    // The file itself is good.
    raw.send(Kind::Lend, 1000, &lend(region.descriptor(), Loan { id: 100, offset: 0 }));
    assert_eq!(raw.wait_for(Kind::TransferEnd).body, [0; 4]);
    assert_eq!(raw_mappings(), 2);
    raw.send(Kind::LoanEnd, 100, &[]);
    assert_eq!(raw.wait_for(Kind::LoanReturn).call, 100);
    assert_eq!(raw_mappings(), 1);
    is_fine(&server);
    drop(raw);
    no_raw_mapping_is_left();
    assert!(region.into_inner().wait().iter().all(|byte| *byte == 0xee));
}

/// Mappings for reading of files that are made here.
fn raw_mappings() -> usize {
    // Segments of rings can be told by their size.
    let ring = 4096 + 128 * 1024;
    let made = |it: &Mapping| it.name.contains("memfd:raw") && it.permissions == "r--s" && it.size() != ring;
    mochi_test_support::mappings("self").into_iter().filter(made).count()
}

#[track_caller]
fn no_raw_mapping_is_left() {
    comes_to("no mapping of a file that is made here", raw_mappings, |left| *left == 0);
}

#[test]
fn a_pull_whose_loan_cannot_be_used_asks_for_its_data() {
    let _alone = alone("a_pull_whose_loan_cannot_be_used_asks_for_its_data");
    let server = serve();
    let mut raw = Raw::connect(&server);
    let mut number = 0;
    let mut attempt = |raw: &mut Raw, loan: Loan, what: &str| {
        number += 1;
        raw.offer(number, LENT_MIN);
        let call = raw.wait_for(Kind::Borrow).call;
        let mut body = Vec::new();
        loan.encode(&mut body);
        raw.send(Kind::Lent, call, &body);
        assert_eq!(raw.wait_for(Kind::Pull).call, call, "{what}");
        raw.send(Kind::PullData, call, &[1; LENT_MIN]);
        raw.send(Kind::TransferEnd, call, &[0; 4]);
        let answer = raw.wait_for(Kind::Response).body;
        assert_eq!(answer[4..12], (LENT_MIN as u64).to_le_bytes(), "{what}");
    };
    for (id, (what, files)) in bad_files().iter().enumerate() {
        raw.hand_over(id as u64, &files.iter().collect::<Vec<_>>());
        attempt(&mut raw, Loan { id: id as u64, offset: 0 }, what);
    }
    raw.hand_over(100, &[&sealed_file(LENT_MIN, 2, SEALS)]);
    for loan in bad_loans(100) {
        attempt(&mut raw, loan, &format!("{loan:?}"));
    }
    raw.offer(1000, LENT_MIN);
    let call = raw.wait_for(Kind::Borrow).call;
    let mut body = Vec::new();
    Loan { id: 100, offset: 0 }.encode(&mut body);
    raw.send(Kind::Lent, call, &body);
    assert_eq!(raw.wait_for(Kind::Response).body[4..12], (2 * LENT_MIN as u64).to_le_bytes());
    is_fine(&server);
}

#[test]
fn lending_against_the_rules_costs_the_connection_and_nothing_else() {
    let _alone = alone("lending_against_the_rules_costs_the_connection_and_nothing_else");
    let server = serve();
    let region = server.expose(vec![0x11; LENT_MIN], Permission::ReadWrite).unwrap();
    let file = sealed_file(LENT_MIN, 0xee, SEALS);
    let mut lent = Vec::new();
    Loan { id: 1, offset: 0 }.encode(&mut lent);

    let mut raw = Raw::connect(&server);
    raw.hand_over(1, &[&file]);
    raw.hand_over(1, &[&file]);
    raw.is_closed();

    // What nobody has asked for: a call that is not there is none of anybody's business, one that wants no loan is.
    let mut raw = Raw::connect(&server);
    raw.hand_over(1, &[&file]);
    raw.send(Kind::Lent, 12_345, &lent);
    raw.offer(1, LENT_MIN - 1);
    let call = raw.wait_for(Kind::Pull).call;
    raw.send(Kind::Lent, call, &lent);
    raw.is_closed();

    // The same twice.
    let mut raw = Raw::connect(&server);
    raw.offer(1, LENT_MIN);
    let call = raw.wait_for(Kind::Borrow).call;
    raw.send(Kind::Lent, call, &lent);
    raw.wait_for(Kind::Pull);
    raw.send(Kind::Lent, call, &lent);
    raw.is_closed();

    // Over before it is: of a pull that is copied, and of one that nothing was sent for.
    let mut raw = Raw::connect(&server);
    raw.offer(1, LENT_MIN);
    let call = raw.wait_for(Kind::Borrow).call;
    raw.send(Kind::TransferEnd, call, &[0; 4]);
    raw.is_closed();

    // Bodies of other lengths.
    for (kind, length) in [(Kind::Lend, 48), (Kind::Borrow, 64), (Kind::Lent, 8), (Kind::LoanEnd, 8)] {
        let mut raw = Raw::connect(&server);
        raw.send(kind, 1, &vec![0; length]);
        raw.is_closed();
    }

    // What was never lent can be neither taken back nor returned, and nobody minds.
    let mut raw = Raw::connect(&server);
    for loan in [0, 1, u64::MAX] {
        raw.send(Kind::LoanEnd, loan, &[]);
        raw.send(Kind::LoanReturn, loan, &[]);
    }
    raw.send_packet(&[1, 2, 3], &[&file]);
    raw.send_packet(&[0; 8], &[]);
    raw.send_packet(&[0; 9], &[&file]);
    let (kind, body) = (Kind::Lend, lend(region.descriptor(), Loan { id: 0, offset: 0 }));
    raw.send(kind, 7, &body);
    assert_eq!(raw.wait_for(Kind::PushReady).call, 7);
    // The same number while it is in use.
    raw.send(kind, 7, &body);
    raw.is_closed();
    assert!(region.into_inner().wait().iter().all(|byte| *byte == 0x11));
    let state = || (server.load(), mappings("self"));
    let is_over = |(load, mappings): &(Load, Mappings)| load.links == 0 && mappings.borrowed == 0;
    comes_to("no connections, and nothing is borrowed", state, is_over);
    is_fine(&server);
}

#[test]
fn data_for_a_push_that_is_copied_does_not_lead_out_of_its_range() {
    let _alone = alone("data_for_a_push_that_is_copied_does_not_lead_out_of_its_range");
    let server = serve();
    let size = 8 << 20;
    let file = sealed_file(size, 0xee, SEALS);
    for more in [1, 200_000] {
        let region = server.expose(vec![0x11; size + 4096], Permission::WriteOnly).unwrap();
        let mut raw = Raw::connect(&server);
        raw.hand_over(1, &[&file]);
        let mut body = Vec::new();
        let key = *region.descriptor().key().unwrap();
        margo_rs::wire::TransferHead { key, offset: 0, length: size as u64 }.encode(&mut body);
        Loan { id: 1, offset: 0 }.encode(&mut body);
        raw.send(Kind::Lend, 1, &body);
        for _ in 0..8 {
            raw.send(Kind::PushData, 1, &vec![0xdd; more]);
        }
        raw.send(Kind::TransferCancel, 1, &[]);
        // Whatever came first: it is the peer's own push that it spoils.
        drop(raw);
        links_are(0, &server);
        let memory = region.into_inner().wait();
        assert!(memory[size..].iter().all(|byte| *byte == 0x11));
    }
    is_fine(&server);
}

/// Each file that cannot be used is answered, and answers that nobody reads are memory.
#[test]
fn whoever_lends_and_reads_no_answers_is_cut_off() {
    let _alone = alone("whoever_lends_and_reads_no_answers_is_cut_off");
    let server = serve();
    let raw = Raw::connect(&server);
    let (pipe, _) = std::io::pipe().unwrap();
    let pipe = OwnedFd::from(pipe);
    let sent = (0..1_000_000).take_while(|loan| raw.hand_over_unheard(*loan, &pipe)).count();
    assert!(sent < 1_000_000, "all were taken");
    links_are(0, &server);
    is_fine(&server);
}

#[test]
fn files_of_one_peer_are_mapped_in_bounded_number() {
    let _alone = alone("files_of_one_peer_are_mapped_in_bounded_number");
    let server = serve();
    let region = server.expose(vec![0; LENT_MIN], Permission::WriteOnly).unwrap();
    no_raw_mapping_is_left();
    let mut raw = Raw::connect(&server);
    for id in 0..200 {
        let file = sealed_file(LENT_MIN, id as u8, SEALS);
        raw.hand_over(id, &[&file]);
        raw.send(Kind::Lend, id, &lend(region.descriptor(), Loan { id, offset: 0 }));
        assert_eq!(raw.wait_for(Kind::TransferEnd).body, [0; 4]);
        assert!(raw_mappings() <= 32);
        let mut found = [0; 1];
        region.read_at(LENT_MIN as u64 - 1, &mut found).unwrap();
        assert_eq!(found[0], id as u8);
    }
    // The oldest ones are gone, and can be sent.
    raw.send(Kind::Lend, 500, &lend(region.descriptor(), Loan { id: 3, offset: 0 }));
    assert_eq!(raw.wait_for(Kind::PushReady).call, 500);
    drop(raw);
    no_raw_mapping_is_left();
    is_fine(&server);
}

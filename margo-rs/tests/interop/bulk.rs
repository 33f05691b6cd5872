//! Bulk data between this crate and services in C and C++: each moves it from and to the memory of the other.

use super::*;
use margo_rs::bulk::{BulkDescriptor, BulkError, Permission, Refusal};
use margo_rs::{HandlerError, Request};
use std::thread;

/// The owner's address, or nothing for the caller; offset and length; the data.
type Part = (HgString, u64, u64, BulkDescriptor);

/// Pulls, and answers with the sum of the bytes and Mercury's code.
const TAKE: Rpc<Part, (u64, i32)> = Rpc::new("take");
/// Pushes a pattern.
const GIVE: Rpc<Part, (u64, i32)> = Rpc::new("give");
/// Memory of the server's in three segments.
const LEND: Rpc<(), BulkDescriptor> = Rpc::new("lend");
const THALLIUM_TAKE: Rpc<BulkDescriptor, u64> = Rpc::new("take");
const THALLIUM_GIVE: Rpc<BulkDescriptor, u64> = Rpc::new("give");

/// Small enough to go along with the message, where the owner is written in C, and larger.
const SIZES: [usize; 4] = [1, 1000, 70_000, 3_000_000];

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

fn part(descriptor: &BulkDescriptor) -> Part {
    (HgString::new(""), 0, descriptor.len(), descriptor.clone())
}

async fn pull_sum(here: &Engine, request: &Request, data: &BulkDescriptor) -> Result<u64, HandlerError> {
    let region = here.stage(vec![0; data.len() as usize])?;
    request.endpoint().ok_or("the caller is gone")?.pull(data, &region).await?;
    Ok(sum(&region.into_inner().await))
}

async fn push_pattern(here: &Engine, request: &Request, data: &BulkDescriptor) -> Result<u64, HandlerError> {
    let bytes = pattern(data.len() as usize).0;
    let all = sum(&bytes);
    let region = here.stage(bytes)?;
    request.endpoint().ok_or("the caller is gone")?.push(&region, data).await?;
    Ok(all)
}

fn a_margo_server_moves_our_data(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("bulk.c", "cc", "margo", name) else { return };
    let (mut process, address) = start(&program, protocol);
    let client = client(protocol);
    let to = client.lookup(&address).wait().unwrap();
    for size in SIZES {
        let bytes = pattern(size).0;
        let region = client.expose(bytes.clone(), Permission::ReadOnly).unwrap();
        assert_eq!(to.call(TAKE, &part(region.descriptor())).wait().unwrap(), (sum(&bytes), 0), "{size} bytes");
        // It may not be written, whatever a program in C does.
        let (_, ret) = to.call(GIVE, &part(region.descriptor())).wait().unwrap();
        assert_ne!(ret, 0);
        assert!(region.into_inner().wait() == bytes);
        let half = size / 2;
        let region = client.expose(vec![vec![0; half], vec![0; size - half]], Permission::WriteOnly).unwrap();
        assert_eq!(to.call(GIVE, &part(region.descriptor())).wait().unwrap(), (sum(&bytes), 0), "{size} bytes");
        assert!(region.into_inner().wait().concat() == bytes);
    }
    // A part of it, from an owner that a third program brought them together with.
    let owner = Engine::builder(protocol).listen().wait().unwrap();
    let region = owner.expose(pattern(100_000).0, Permission::ReadOnly).unwrap();
    let owner_address = HgString::new(owner.address().as_str());
    let middle = (owner_address, 30_000, 5000, region.descriptor().clone());
    assert_eq!(to.call(TAKE, &middle).wait().unwrap(), (sum(&pattern(100_000).0[30_000..35_000]), 0));
    drop(region);
    to.shutdown_remote().wait().unwrap();
    assert!(process.wait().success());
    owner.shutdown().wait();
}

fn a_margo_server_lends_its_memory(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("bulk.c", "cc", "margo", name) else { return };
    let (mut process, address) = start(&program, protocol);
    let client = client(protocol);
    let to = client.lookup(&address).wait().unwrap();
    let lent = to.call(LEND, &()).wait().unwrap();
    let all = pattern(300_000).0;
    assert_eq!((lent.len(), lent.permission(), lent.owner()), (300_000, Permission::ReadWrite, None));
    let here = client.stage(vec![0; 300_000]).unwrap();
    to.pull(&lent, &here).wait().unwrap();
    assert!(here.into_inner().wait() == all);
    let here = client.stage(vec![vec![7; 33], vec![8; 160_000]]).unwrap();
    to.push(here.slice(20..150_020), lent.slice(90..150_090)).wait().unwrap();
    let back = client.stage(vec![0; 300_000]).unwrap();
    to.pull(&lent, &back).wait().unwrap();
    let back = back.into_inner().wait();
    assert!(back[..90] == all[..90] && back[150_090..] == all[150_090..]);
    assert!(back[90..103] == [7; 13] && back[103..150_090].iter().all(|byte| *byte == 8));
    // Another engine that only got the descriptor does it as well.
    let other = Engine::builder(protocol).connect().unwrap();
    let there = other.lookup(&address).wait().unwrap();
    let region = other.stage(vec![0; 10]).unwrap();
    there.pull(lent.slice(299_990..), &region).wait().unwrap();
    assert!(region.into_inner().wait() == all[299_990..]);
    let region = other.stage(vec![0; 10]).unwrap();
    let error = there.pull(lent.slice(299_991..300_001), &region).wait().unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::OutOfBounds));
    assert!(matches!(
        other.pull(&lent, &region).wait(),
        Err(BulkError::OwnerUnknown | BulkError::LengthMismatch { .. })
    ));
    to.shutdown_remote().wait().unwrap();
    assert!(process.wait().success());
}

fn data_of_a_margo_client_is_moved(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("bulk.c", "cc", "margo", name) else { return };
    let server = Engine::builder(protocol).rpc_threads(2).listen().wait().expect("listening works");
    server.enable_remote_shutdown(|_| true);
    let here = server.clone();
    let take = move |request: Request, (_, _, _, data): Part| {
        let here = here.clone();
        async move { Ok((pull_sum(&here, &request, &data).await?, 0)) }
    };
    server.register(TAKE, take).expect("free");
    let here = server.clone();
    let give = move |request: Request, (_, _, _, data): Part| {
        let here = here.clone();
        async move { Ok((push_pattern(&here, &request, &data).await?, 0)) }
    };
    server.register(GIVE, give).expect("free");
    call_and_count(&program, &server, 13);
}

fn data_of_a_thallium_client_is_moved(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("bulk.cpp", "c++", "thallium", name) else { return };
    let server = Engine::builder(protocol).rpc_threads(2).listen().wait().expect("listening works");
    server.enable_remote_shutdown(|_| true);
    let provider = server.provider(ProviderId::THALLIUM);
    let here = server.clone();
    let take = move |request: Request, data: BulkDescriptor| {
        let here = here.clone();
        async move { pull_sum(&here, &request, &data).await }
    };
    provider.register(THALLIUM_TAKE, take).expect("free");
    let here = server.clone();
    let give = move |request: Request, data: BulkDescriptor| {
        let here = here.clone();
        async move { push_pattern(&here, &request, &data).await }
    };
    provider.register(THALLIUM_GIVE, give).expect("free");
    call_and_count(&program, &server, 6);
}

/// Runs a client and sees that all it says is right.
fn call_and_count(program: &Path, server: &Engine, right: usize) {
    let Output { status, stdout, stderr } = super::call(program, server);
    let (told, log) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}: {told}\n{log}");
    assert_eq!(told.lines().filter(|line| line.ends_with(": right")).count(), right, "{told}");
    server.wait().wait();
}

fn a_thallium_server_moves_our_data(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("bulk.cpp", "c++", "thallium", name) else { return };
    let (mut process, address) = start(&program, protocol);
    let client = client(protocol);
    let to = client.lookup(&address).wait().unwrap();
    let thallium = to.provider(ProviderId::THALLIUM);
    for size in SIZES {
        let bytes = pattern(size).0;
        let region = client.expose(bytes.clone(), Permission::ReadOnly).unwrap();
        assert_eq!(thallium.call(THALLIUM_TAKE, region.descriptor()).wait().unwrap(), sum(&bytes), "{size} bytes");
        let region = client.expose(vec![0; size], Permission::ReadWrite).unwrap();
        assert_eq!(thallium.call(THALLIUM_GIVE, region.descriptor()).wait().unwrap(), sum(&bytes), "{size} bytes");
        assert!(region.into_inner().wait() == bytes);
    }
    to.shutdown_remote().wait().unwrap();
    assert!(process.wait().success());
}

/// What a peer in C says of its memory is followed by nobody who does not look at it first.
fn a_forged_descriptor_of_a_margo_server_moves_nothing(name: &'static str, protocol: &str) {
    let _watchdog = watchdog(name);
    let Some(program) = build("bulk.c", "cc", "margo", name) else { return };
    let (mut process, address) = start(&program, protocol);
    let client = Engine::builder(protocol).default_timeout(Duration::from_secs(2)).connect().expect("a client starts");
    let to = client.lookup(&address).wait().unwrap();
    let lent = to.call(LEND, &()).wait().unwrap();
    let good = lent.as_bytes().to_vec();
    let here = client.stage(vec![0xee; 300_000]).unwrap();
    for at in 0..good.len() {
        // Addresses of the server's are left alone, where both places that hold them would have to be changed: a wrong
        // one is the server's, or its kernel's, to refuse.
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        let Ok(descriptor) = BulkDescriptor::from_bytes(&bad) else { continue };
        if descriptor.len() != 300_000 {
            continue;
        }
        // No crash, and no hang: whether the bytes that were changed mattered is another question.
        let _ = to.pull(&descriptor, &here).wait();
        // libfabric ends the connection over a key that it does not know, and after a while makes another.
        let lent_again = || client.lookup(&address).wait().ok()?.call(LEND, &()).wait().ok();
        while lent_again().as_ref() != Some(&lent) {
            assert!(!process.has_ended(), "the server has ended after byte {at}");
            thread::sleep(Duration::from_millis(1));
        }
    }
    drop(process);
    client.shutdown().wait();
}

#[test]
fn a_margo_server_moves_our_data_over_ofi_tcp() {
    a_margo_server_moves_our_data("margo_bulk_server_tcp", OFI_TCP);
}

#[test]
fn a_margo_server_moves_our_data_over_na_sm() {
    a_margo_server_moves_our_data("margo_bulk_server_sm", NA_SM);
}

#[test]
fn a_margo_server_lends_its_memory_over_ofi_tcp() {
    a_margo_server_lends_its_memory("margo_bulk_lender_tcp", OFI_TCP);
}

#[test]
fn a_margo_server_lends_its_memory_over_na_sm() {
    a_margo_server_lends_its_memory("margo_bulk_lender_sm", NA_SM);
}

#[test]
fn data_of_a_margo_client_is_moved_over_ofi_tcp() {
    data_of_a_margo_client_is_moved("margo_bulk_client_tcp", OFI_TCP);
}

#[test]
fn data_of_a_margo_client_is_moved_over_na_sm() {
    data_of_a_margo_client_is_moved("margo_bulk_client_sm", NA_SM);
}

#[test]
fn a_thallium_server_moves_our_data_over_ofi_tcp() {
    a_thallium_server_moves_our_data("thallium_bulk_server_tcp", OFI_TCP);
}

#[test]
fn a_thallium_server_moves_our_data_over_na_sm() {
    a_thallium_server_moves_our_data("thallium_bulk_server_sm", NA_SM);
}

#[test]
fn data_of_a_thallium_client_is_moved_over_ofi_tcp() {
    data_of_a_thallium_client_is_moved("thallium_bulk_client_tcp", OFI_TCP);
}

#[test]
fn data_of_a_thallium_client_is_moved_over_na_sm() {
    data_of_a_thallium_client_is_moved("thallium_bulk_client_sm", NA_SM);
}

#[test]
fn a_forged_descriptor_of_a_margo_server_moves_nothing_over_ofi_tcp() {
    a_forged_descriptor_of_a_margo_server_moves_nothing("margo_bulk_forged_tcp", OFI_TCP);
}

#[test]
fn a_forged_descriptor_of_a_margo_server_moves_nothing_over_na_sm() {
    a_forged_descriptor_of_a_margo_server_moves_nothing("margo_bulk_forged_sm", NA_SM);
}

//! Peers that die while data is copied, and what is left behind.

use crate::{
    Mappings, OFTEN, Wait, all_is_over, alone, descriptors_are_at_most, filled, mappings, nothing_is_borrowed,
    nothing_is_lent, reach, serve,
};
use margo_rs::bulk::{BulkDescriptor, Permission};
use margo_rs::{Engine, Rpc};
use mochi_test_support::{Process, comes_to, descriptors, role as given_role, say};
use std::sync::Mutex;
use std::time::Duration;

/// Two regions of the server's: one to pull from, one to push into.
const REGIONS: Rpc<(), (BulkDescriptor, BulkDescriptor)> = Rpc::new("regions");
const SIZE: usize = 1 << 20;

/// Not a test of its own: what a process that a test starts does.
#[test]
fn role() {
    let Some(role) = given_role() else { return };
    let _alone = alone("role");
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["serve"] => {
            let server = serve();
            let _regions = with_regions(&server);
            say(server.address().as_str());
            server.wait().wait();
        }
        ["move", address] => {
            let (client, to) = reach(address);
            let (from, into) = to.call(REGIONS, &()).wait().unwrap();
            let here = client.stage(filled(&client, SIZE, 3)).unwrap();
            let back = client.stage(vec![0; SIZE]).unwrap();
            for round in 0.. {
                to.pull(&from, &back).wait().unwrap();
                to.push(here.lend(), &into).wait().unwrap();
                if round == OFTEN {
                    say("moving");
                }
            }
        }
        _ => panic!("no such role"),
    }
    std::process::exit(0);
}

fn with_regions(server: &Engine) -> impl Sized + use<> {
    let from = server.expose(filled(server, SIZE, 1), Permission::ReadOnly).unwrap();
    let into = server.expose(vec![0; SIZE], Permission::WriteOnly).unwrap();
    let descriptors = (from.descriptor().clone(), into.descriptor().clone());
    let answer = Mutex::new(descriptors);
    server
        .register(REGIONS, move |_, ()| {
            let answer = answer.lock().unwrap().clone();
            async move { Ok(answer) }
        })
        .unwrap();
    (from, into)
}

/// A process of this module in a role.
#[track_caller]
fn start(role: &str) -> Process {
    Process::start_in("killed::role", role)
}

#[test]
fn clients_killed_while_they_copy_leave_nothing_at_the_server() {
    let _alone = alone("clients_killed_while_they_copy_leave_nothing_at_the_server");
    let server = start("serve");
    let id = server.id();
    let kill_one = |micros| {
        let client = start(&format!("move {}", server.says));
        assert_eq!(client.says, "moving");
        assert_eq!(mappings(&id).borrowed, 1, "what it pushes is lent");
        assert_eq!(mappings(&client.id()).borrowed, 1, "what it pulls is lent");
        std::thread::sleep(Duration::from_micros(micros));
        drop(client);
        nothing_is_borrowed(&id);
    };
    kill_one(0);
    let (before, mapped) = (descriptors(&id).len(), mappings(&id));
    assert_eq!(mapped, Mappings { own: 1, ..Mappings::default() });
    for micros in [0, 150, 700, 1500, 3100] {
        kill_one(micros);
    }
    let held = || (descriptors(&id), mappings(&id));
    comes_to("it holds what it held", held, |(held, lent)| held.len() <= before && *lent == mapped);
    // It serves on, and lends.
    drop(start(&format!("move {}", server.says)));
}

#[test]
fn a_server_killed_while_it_copies_ends_its_clients_transfers() {
    let _alone = alone("a_server_killed_while_it_copies_ends_its_clients_transfers");
    nothing_is_lent();
    for micros in [0, 400, 1300] {
        let server = start("serve");
        let (client, to) = reach(&server.says);
        let (from, into) = to.call(REGIONS, &()).wait().unwrap();
        let here = client.stage(filled(&client, SIZE, 3)).unwrap();
        let back = client.stage(vec![1; SIZE]).unwrap();
        let one = || to.pull(&from, &back).wait().and_then(|()| to.push(here.lend(), &into).wait());
        (0..OFTEN).for_each(|_| one().unwrap());
        assert_eq!(mappings("self").borrowed, 1);
        std::thread::scope(|scope| {
            let moving = scope.spawn(|| while one().is_ok() {});
            std::thread::sleep(Duration::from_micros(micros));
            drop(server);
            moving.join().unwrap();
        });
        assert!(back.into_inner().wait().iter().all(|byte| *byte == 1));
        let mut here = here.into_inner().wait();
        assert!(here.iter().all(|byte| *byte == 3));
        here.fill(4);
        drop((here, to, client));
        nothing_is_lent();
    }
}

#[test]
fn many_regions_and_connections_leave_no_descriptor_and_no_mapping() {
    let _alone = alone("many_regions_and_connections_leave_no_descriptor_and_no_mapping");
    nothing_is_lent();
    let server = serve();
    let round = || {
        let (client, to) = reach(server.address().as_str());
        for _ in 0..3 {
            let region = server.expose(filled(&server, 50_000, 1), Permission::ReadWrite).unwrap();
            let here = client.stage(filled(&client, 50_000, 2)).unwrap();
            for _ in 0..OFTEN {
                to.pull(region.descriptor(), &here).wait().unwrap();
                to.push(here.lend(), region.descriptor()).wait().unwrap();
            }
            assert!(mappings("self").borrowed >= 2);
            drop(region);
        }
    };
    round();
    all_is_over(&server);
    let before = descriptors("self").len();
    (0..20).for_each(|_| round());
    all_is_over(&server);
    descriptors_are_at_most(before, "self");
}

//! Other users, other namespaces, processes that may not do everything.

use super::*;

#[test]
fn a_server_is_found_in_its_own_network_namespace_alone() {
    let _watchdog = watchdog("a_server_is_found_in_its_own_network_namespace_alone");
    let server = serve(true);
    let (_stream, theirs) = strangers::knock(server.address().as_str());
    let role = format!("find {}", theirs.instance);
    assert_eq!(Process::start(&role).says, "found");
    match start_under(&["unshare", "-n", "--"], &role) {
        Some(process) => assert_eq!(process.says, "absent"),
        None => println!("skipped: no network namespaces here (needs root and util-linux)"),
    }
}

#[test]
fn users_of_a_node_share_memory_and_stay_unknown_to_each_other() {
    let _watchdog = watchdog("users_of_a_node_share_memory_and_stay_unknown_to_each_other");
    if own_uid() != 0 {
        println!("skipped: only root can be several users");
        return;
    }
    let (alice, bob) = (54_331, 54_332);
    let hers = Process::start_as(alice, "serve");
    let (_client, to) = reach_through_memory(&hers.says);
    assert_eq!(to.peer_credentials(), None);
    // It checks that neither side knows the other.
    while Process::start_as(bob, &format!("call {}", hers.says)).says != "memory" {}
}

/// The user whom the offer names has another number here.
#[test]
fn a_server_in_a_user_namespace_is_reached_over_tcp() {
    let _watchdog = watchdog("a_server_in_a_user_namespace_is_reached_over_tcp");
    let Some(server) = start_under(&["unshare", "--user", "--map-user=54333", "--"], "serve") else {
        println!("skipped: no user namespaces here");
        return;
    };
    let (_client, to) = reach(&server.says, true);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    assert!(!to.is_through_memory());
    let client = start_under(&["unshare", "--user", "--map-user=54334", "--"], &format!("call {}", server.says));
    assert_eq!(client.expect("the first one could start").says, "tcp");
}

/// Shared memory is a file to the kernel, and a process that may not write files must not be ended for it.
#[test]
fn processes_that_may_write_no_files_use_tcp_and_live() {
    let _watchdog = watchdog("processes_that_may_write_no_files_use_tcp_and_live");
    let limited = ["sh", "-c", "ulimit -f 0; exec \"$0\" \"$@\""];
    let server = start_under(&limited, "serve").unwrap();
    let (_client, to) = reach(&server.says, true);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    assert!(!to.is_through_memory());
    let server = serve(true);
    let client = start_under(&limited, &format!("call {}", server.address())).unwrap();
    assert_eq!(client.says, "tcp");
}

#[test]
fn a_server_that_is_killed_leaves_no_name_behind() {
    let _watchdog = watchdog("a_server_that_is_killed_leaves_no_name_behind");
    let mut server = Process::start("serve");
    let (_client, _to) = reach_through_memory(&server.says);
    let (_stream, theirs) = strangers::knock(&server.says);
    let find = || net::connect(strangers::unix(), &strangers::unlisted(theirs.instance));
    assert_eq!(find(), Ok(()));
    server.kill();
    assert_eq!(find(), Err(rustix::io::Errno::CONNREFUSED));
}

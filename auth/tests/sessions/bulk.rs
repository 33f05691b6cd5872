//! Bulk data in sessions: it arrives as it was sent, or not at all.

use std::sync::{Arc, Mutex};

use margo_rs::bulk::{BulkDescriptor, Permission};
use margo_rs::{Rpc, Wait, codec};
use mochi_auth::bulk::{BulkTicket, Level, ProtectedBulkError, Receipt};
use mochi_auth::protocol::Protection;
use mochi_auth::{AuthServer, AuthServerBuilder, CallError, Caller};

use crate::support::*;

const LEVELS: [Level; 3] = [Level::None, Level::Integrity, Level::Private];

/// Pulls and gives the sum of the bytes.
const STORE: Rpc<BulkTicket, u64> = Rpc::new("store");
/// Pushes so many bytes.
const LOAD: Rpc<(BulkTicket, u64), Receipt> = Rpc::new("load");

fn serve_bulk(builder: AuthServerBuilder) -> AuthServer {
    let auth = serve(builder);
    let store = |caller: Caller, ticket: BulkTicket| async move {
        Ok(caller.pull(&ticket).await?.iter().map(|byte| u64::from(*byte)).sum::<u64>())
    };
    auth.register(STORE, store).unwrap();
    let load = |caller: Caller, (ticket, len): (BulkTicket, u64)| async move {
        Ok(caller.push(&ticket, pattern(len as usize)).await?)
    };
    auth.register(LOAD, load).unwrap();
    auth
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn data_goes_both_ways_at_every_level() {
    let auth = serve_bulk(builder().bulk_level(Level::None));
    let (_engine, server) = connect(&auth, ALICE);
    for level in LEVELS {
        for len in [0, 1, 1000, (1 << 20) - 1, (1 << 20) + 1, 5_000_000] {
            let sum = pattern(len).iter().map(|byte| u64::from(*byte)).sum::<u64>();
            let offer = server.offer(pattern(len), level).unwrap();
            assert_eq!(server.call(STORE, offer.ticket()).wait().unwrap(), sum, "{level:?} {len}");
            let sink = server.sink(len + 10, level).unwrap();
            let receipt = load(&server, &sink, len as u64).unwrap();
            assert_eq!(receipt.len(), len as u64);
            assert!(sink.finish(&receipt).wait().unwrap() == pattern(len));
        }
    }
}

fn load(server: &mochi_auth::Connection, sink: &mochi_auth::bulk::Sink, len: u64) -> Result<Receipt, CallError> {
    server.call(LOAD, &(sink.ticket().clone(), len)).wait()
}

#[test]
fn less_than_the_server_asks_for_is_refused() {
    for (least, taken) in [(Level::Private, 1), (Level::Integrity, 2), (Level::None, 3)] {
        let auth = serve_bulk(builder().bulk_level(least));
        let (_engine, server) = connect(&auth, ALICE);
        let works = |level: &&Level| {
            let offer = server.offer(vec![1; 100], **level).unwrap();
            let sink = server.sink(100, **level).unwrap();
            let stored = server.call(STORE, offer.ticket()).wait().is_ok();
            assert_eq!(stored, load(&server, &sink, 100).is_ok());
            stored
        };
        assert_eq!(LEVELS.iter().filter(works).count(), taken, "{least:?}");
    }
}

#[test]
fn more_than_is_taken_is_refused_before_memory_is() {
    let auth = serve_bulk(builder().max_bulk(1000));
    let (_engine, server) = connect(&auth, ALICE);
    let offer = server.offer(vec![1; 1001], Level::Private).unwrap();
    let error = server.call(STORE, offer.ticket()).wait().unwrap_err();
    assert!(matches!(&error, CallError::Handler(text) if text.contains("1001")), "{error}");
    let sink = server.sink(10, Level::Private).unwrap();
    assert!(load(&server, &sink, 11).is_err());
    let offer = server.offer(vec![1; 1000], Level::Private).unwrap();
    assert_eq!(server.call(STORE, offer.ticket()).wait().unwrap(), 1000);
}

/// A ticket has a key in it: it is no value to be sent around.
#[test]
fn tickets_travel_only_inside_sealed_bodies() {
    let auth = serve_bulk(builder().protections(&[Protection::Sealed, Protection::IntegrityOnly]));
    let (engine, server) = connect(&auth, ALICE);
    let offer = server.offer(vec![1; 100], Level::Private).unwrap();
    assert!(codec::to_vec(offer.ticket()).is_err(), "as plain bytes");
    let plain = engine.lookup(auth.engine().address()).wait().unwrap();
    let error = plain.call(STORE, offer.ticket()).wait().unwrap_err();
    assert!(error.to_string().contains("sealed"), "{error}");
    let readable = by_key(ALICE).protection(Protection::IntegrityOnly);
    let readable = readable.open(&engine, auth.engine().address()).wait().unwrap();
    let error = readable.call(STORE, offer.ticket()).wait().unwrap_err();
    assert!(matches!(&error, CallError::Encode { .. }) && error.to_string().contains("integrity-only"), "{error}");
    assert_eq!(server.call(STORE, offer.ticket()).wait().unwrap(), 100);
}

#[test]
fn an_offer_that_is_gone_gives_nothing() {
    let auth = serve_bulk(builder());
    let (_engine, server) = connect(&auth, ALICE);
    let offer = server.offer(vec![1; 100], Level::Private).unwrap();
    let kept = Arc::new(Mutex::new(None));
    const KEEP: Rpc<BulkTicket, ()> = Rpc::new("keep");
    let keeping = kept.clone();
    let keep = move |caller: Caller, ticket: BulkTicket| {
        *keeping.lock().unwrap() = Some((caller, ticket));
        async { Ok(()) }
    };
    auth.register(KEEP, keep).unwrap();
    server.call(KEEP, offer.ticket()).wait().unwrap();
    let (caller, ticket) = kept.lock().unwrap().take().unwrap();
    assert_eq!(caller.pull(&ticket).wait().unwrap(), [1; 100]);
    drop(offer);
    assert!(matches!(caller.pull(&ticket).wait(), Err(ProtectedBulkError::Bulk(_))));
}

/// What an attacker on the path does: the bytes that arrive are others than those that were sent. Here the owner itself
/// writes over them, in a region that it exposed by hand.
#[test]
fn data_that_changes_under_a_pull_is_noticed() {
    // Only the descriptor is taken from a region of one's own; all else of the ticket is an honest offer's.
    let auth = serve_bulk(builder().bulk_level(Level::None));
    let (engine, server) = connect(&auth, ALICE);
    for level in LEVELS {
        let data = pattern(3_000_000);
        let offer = server.offer(data.clone(), level).unwrap();
        let region = engine.expose(vec![7; data.len()], Permission::ReadOnly).unwrap();
        let forged: BulkDescriptor = region.descriptor().clone();
        let stored = server.call(STORE, &offer.ticket().with_descriptor(&forged)).wait();
        match level {
            Level::None => assert_eq!(stored.unwrap(), 7 * data.len() as u64, "nothing protects it"),
            _ => {
                let error = stored.unwrap_err();
                assert!(matches!(&error, CallError::Handler(text) if text.contains("chunk 0")), "{error}");
            }
        }
    }
}

#[test]
fn a_sink_believes_its_receipt_and_not_what_is_written_into_it() {
    let auth = serve_bulk(builder().bulk_level(Level::None));
    let (_engine, server) = connect(&auth, ALICE);
    for level in LEVELS {
        let first = server.sink(1000, level).unwrap();
        let second = server.sink(1000, level).unwrap();
        let receipt = load(&server, &first, 1000).unwrap();
        let _other = load(&server, &second, 900).unwrap();
        // The receipt of one transfer is not that of another.
        match (level, second.finish(&receipt).wait()) {
            (Level::None, _) => {}
            (_, Err(ProtectedBulkError::Changed { chunk: 0 })) => {}
            (_, other) => panic!("{other:?}"),
        }
        assert!(first.finish(&receipt).wait().unwrap() == pattern(1000));
    }
}

#[test]
fn one_ticket_may_be_used_twice() {
    let auth = serve_bulk(builder());
    let (_engine, server) = connect(&auth, ALICE);
    let sink = server.sink(1000, Level::Private).unwrap();
    let first = load(&server, &sink, 500).unwrap();
    let second = load(&server, &sink, 1000).unwrap();
    assert_ne!(first.len(), second.len());
    assert!(sink.finish(&second).wait().unwrap() == pattern(1000));
}

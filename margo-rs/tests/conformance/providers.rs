//! Providers, ids and identities.

use crate::support::*;
use margo_rs::{CallError, ProviderId, RegisterError, Rpc, RpcId, Wait};
use std::collections::HashMap;

conformance! {
    providers_are_told_apart_by_their_ids,
    an_identity_is_announced_or_not,
    a_dropped_provider_takes_its_rpcs_along,
    a_provider_takes_back_only_its_own,
}

const WHO: Rpc<(), String> = Rpc::new("who");

fn providers_are_told_apart_by_their_ids(setup: Setup) {
    let pair = setup.pair();
    let ids = [0xFFFF, 0, 42, 1, 0xFFFE];
    let providers: Vec<_> = ids
        .iter()
        .map(|id| {
            let provider = pair.server.provider(ProviderId::new(*id));
            provider
                .register(WHO, |request, ()| async move {
                    assert_eq!(request.rpc_id(), WHO.id(request.provider_id()));
                    Ok(format!("provider {}", request.provider_id()))
                })
                .unwrap();
            provider
        })
        .collect();
    for id in ids {
        let handle = pair.to.provider(ProviderId::new(id));
        assert_eq!(handle.call(WHO, &()).wait().unwrap(), format!("provider {id}"));
    }
    // Without a provider is the same as the provider 0xFFFF.
    assert_eq!(pair.to.call(WHO, &()).wait().unwrap(), "provider 65535");
    assert!(matches!(pair.to.provider(43.into()).call(WHO, &()).wait(), Err(CallError::NoSuchRpc { .. })));
    assert_eq!(providers.len(), 5);
    pair.assert_healthy();
}

fn an_identity_is_announced_or_not(setup: Setup) {
    let pair = setup.pair();
    let provider = pair.server.provider(42.into());
    assert_eq!(pair.to.provider(42.into()).identity().wait().unwrap(), None);
    let provider = provider.identity("yokan").unwrap();
    assert_eq!(pair.to.provider(42.into()).identity().wait().unwrap().as_deref(), Some("yokan"));
    assert_eq!(pair.to.provider(ProviderId::DEFAULT).identity().wait().unwrap(), None);
    drop(provider);
    pair.assert_healthy();
}

fn a_dropped_provider_takes_its_rpcs_along(setup: Setup) {
    let pair = setup.pair();
    let provider = pair.server.provider(42.into());
    provider.register(WHO, |_, ()| async { Ok("me".to_owned()) }).unwrap();
    let slow: Rpc<(), u8> = Rpc::new("slow");
    let (began, seen) = std::sync::mpsc::channel();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let open = gate.clone();
    provider
        .register(slow, move |_, ()| {
            began.send(()).unwrap();
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Ok(5)
            }
        })
        .unwrap();
    let handle = pair.to.provider(42.into());
    handle.call(WHO, &()).wait().unwrap();
    let running = handle.call(slow, &()).start();
    seen.recv().unwrap();
    drop(provider);
    assert!(matches!(handle.call(WHO, &()).wait(), Err(CallError::NoSuchRpc { .. })));
    // What runs goes on.
    open.notify_one();
    assert_eq!(running.wait().unwrap(), 5);
    pair.assert_healthy();
}

fn a_provider_takes_back_only_its_own(setup: Setup) {
    let pair = setup.pair();
    let (one, two) = (pair.server.provider(1.into()), pair.server.provider(1.into()));
    one.register(WHO, |_, ()| async { Ok("one".to_owned()) }).unwrap();
    let again = two.register(WHO, |_, ()| async { Ok("two".to_owned()) });
    assert!(matches!(again, Err(RegisterError::Exists { .. })));
    assert!(!two.deregister(WHO));
    drop(two);
    assert_eq!(pair.to.provider(1.into()).call(WHO, &()).wait().unwrap(), "one");
    pair.assert_healthy();
}

/// Names are found by brute force: among 200,000 there are about five pairs with one 32-bit hash.
#[test]
fn two_names_with_one_hash_cannot_be_registered_together() {
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let (one, other) = (0..u32::MAX)
        .find_map(|n| seen.insert(RpcId::new(&format!("rpc {n}"), 0.into()).hash(), n).map(|before| (before, n)))
        .expect("there is one far below");
    let names = [format!("rpc {one}"), format!("rpc {other}")];
    let engine = TCP4.server().listen().wait().unwrap();
    let register = |name: &str, provider: u16| {
        engine.register_raw(name, provider.into(), |_, _, responder| async move { responder.respond(&[]) })
    };
    register(&names[0], 1).unwrap();
    match register(&names[1], 1) {
        Err(RegisterError::Collision { name, other, provider }) => {
            assert_eq!((name, other, provider.as_u16()), (names[1].clone(), names[0].clone(), 1));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(register(&names[0], 1), Err(RegisterError::Exists { .. })));
    register(&names[1], 2).unwrap();
    assert!(!engine.deregister_raw(&names[1], 1.into()));
    assert!(engine.deregister_raw(&names[0], 1.into()));
    register(&names[1], 1).unwrap();
}

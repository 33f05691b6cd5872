//! Revocations while a client is just being verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mochi_auth::mechanism::key_file::KeyRing;
use mochi_auth::mechanism::peer_credentials::PeerCredentials;
use mochi_auth::mechanism::{Acceptor, MechanismError, Step};
use mochi_auth::protocol::MechanismId;
use mochi_auth::protocol::server::{Claim, Verified};
use mochi_auth::{AuthServer, Rule};
use mochi_test_support::comes_to;
use tokio::sync::watch;

use crate::support::*;

/// Keys, looked up as slowly as a daemon may answer.
struct Slow {
    keys: KeyRing,
    begun: Arc<AtomicUsize>,
    go: watch::Receiver<bool>,
}

impl Acceptor for Slow {
    fn id(&self) -> MechanismId {
        self.keys.id()
    }

    fn verify(&self, claim: Claim, peer: Option<PeerCredentials>) -> Step<'_, Result<Verified, MechanismError>> {
        Box::pin(async move {
            let verified = self.keys.verify(claim, peer).await;
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.go.clone().wait_for(|go| *go).await.expect("the test says so");
            verified
        })
    }
}

#[test]
fn a_client_that_was_being_verified_is_verified_again_after_a_revocation() {
    for revoke in [|auth: &AuthServer| auth.revoke_uid(ALICE.uid), AuthServer::revoke_all] {
        let mut keys = KeyRing::new();
        keys.add(key_of(ALICE), ALICE).expect("one key");
        let (go, gate) = watch::channel(false);
        let begun = Arc::new(AtomicUsize::new(0));
        let slow = Slow { keys, begun: begun.clone(), go: gate };
        let auth = serve(AuthServer::builder().mechanism(slow).rule(Rule::anyone()));
        let (_engine, server) = thread::scope(|scope| {
            let client = scope.spawn(|| connect(&auth, ALICE));
            comes_to("the handlers have begun", || begun.load(Ordering::SeqCst), |count| *count == 1);
            assert_eq!(revoke(&auth), 0, "there is no session yet");
            go.send(true).unwrap();
            client.join().unwrap()
        });
        assert_eq!(begun.load(Ordering::SeqCst), 2, "what was verified before counts for nothing");
        assert_eq!(server.call(WHO, &()).wait().unwrap(), (ALICE.uid, ALICE.gid));
        assert_eq!(auth.revoke_uid(ALICE.uid), 1);
    }
}

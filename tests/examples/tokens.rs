//! Attacks on stages 2 and 3 from a client that does not play by the rules.

use margo_rs::{Endpoint, Engine, Rpc};
use mochi_rs::stages::{ALLOWED, Credentials, Key, REFUSED, Token, mac, mac_session};
use mochi_test_support::Program;
use rustix::process::getuid;

use crate::PROTOCOL;
use crate::process::example;
use crate::realm::{Realm, realm};

/// A server of a stage, and a connection to it.
struct Setting {
    server: Program,
    endpoint: Endpoint,
    // Calls end with the engine that they were made by.
    _client: Engine,
    credentials: Credentials,
    // Last, so that the munged outlives what uses it.
    _realm: Realm,
}

impl Setting {
    async fn of(stage: &str) -> Option<Self> {
        let realm = realm()?;
        let mut server = example(&format!("{stage}_server"), &[PROTOCOL], realm.socket());
        let (server, address) = Program::server(&mut server);
        let client = Engine::connect(PROTOCOL).expect("a client");
        let endpoint = client.lookup(&address).await.expect("the server is there");
        let credentials = Credentials::at(realm.socket()).expect("the path of a socket");
        Some(Self { server, endpoint, _client: client, credentials, _realm: realm })
    }

    async fn authenticate_for_mac(&self, key: &Key) {
        let credential = self.credentials.encode(key.payload(), None).await.expect("munged answers");
        let result = self.endpoint.call(mac::AUTHENTICATE, &credential).await;
        assert_eq!(result.expect("the server answers"), ALLOWED);
    }

    async fn open_session(&self, key: &Key) -> u64 {
        let credential = self.credentials.encode(key.payload(), None).await.expect("munged answers");
        let result = self.endpoint.call(mac_session::AUTHENTICATE, &credential).await;
        let (id, allowed) = result.expect("the server answers");
        assert_eq!(allowed, ALLOWED);
        id
    }

    /// Both stages have the same `hello`.
    async fn hello(&self, token: &Token, name: &str) -> i32 {
        const HELLO: Rpc<(Token, margo_rs::HgString), i32> = mac::HELLO;
        self.endpoint.call(HELLO, &(token.clone(), name.into())).await.expect("the server answers")
    }
}

fn key() -> Key {
    Key::random().expect("random bytes")
}

fn me() -> u64 {
    u64::from(getuid().as_raw())
}

/// The token with one bit of it changed.
fn flipped(token: &Token, byte: usize) -> Token {
    let mut bytes = margo_rs::codec::to_vec(token).expect("a token can be encoded");
    bytes[byte] ^= 1;
    margo_rs::codec::from_slice(&bytes).expect("a token has no invalid bytes")
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_token_is_refused() {
    for stage in ["mac", "mac_session"] {
        let Some(setting) = Setting::of(stage).await else {
            return;
        };
        let key = key();
        let caller = if stage == "mac" {
            setting.authenticate_for_mac(&key).await;
            me()
        } else {
            setting.open_session(&key).await
        };
        let token = Token::new(&key, caller, 0);
        for byte in 0..80 {
            assert_eq!(setting.hello(&flipped(&token, byte), "Eve").await, REFUSED, "{stage}, byte {byte}");
        }
        assert_eq!(setting.hello(&token, "Alice").await, ALLOWED, "{stage}: the honest token still counts");
        let server = setting.server.stop();
        server.assert_success();
        assert!(!server.stdout.iter().any(|line| line.contains("Eve")), "{server:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_token_is_refused() {
    for stage in ["mac", "mac_session"] {
        let Some(setting) = Setting::of(stage).await else {
            return;
        };
        let key = key();
        let caller = if stage == "mac" {
            setting.authenticate_for_mac(&key).await;
            me()
        } else {
            setting.open_session(&key).await
        };
        let tokens = [0, 1].map(|sequence| Token::new(&key, caller, sequence));
        assert_eq!(setting.hello(&tokens[1], "too early").await, REFUSED, "{stage}");
        assert_eq!(setting.hello(&tokens[0], "Alice").await, ALLOWED, "{stage}");
        assert_eq!(setting.hello(&tokens[0], "replayed").await, REFUSED, "{stage}");
        assert_eq!(setting.hello(&tokens[1], "Alice").await, ALLOWED, "{stage}");
        let server = setting.server.stop();
        assert_eq!(server.stdout.iter().filter(|line| line.starts_with("Hello ")).count(), 2, "{server:?}");
    }
}

/// In the C example the key is 32 zero bytes until someone authenticates.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_key_before_authentication() {
    for stage in ["mac", "mac_session"] {
        let Some(setting) = Setting::of(stage).await else {
            return;
        };
        let zero = Key::from_payload(&[0; Key::LENGTH]).expect("the length of a key");
        for caller in [0, me(), u64::MAX, u64::from(u32::MAX)] {
            assert_eq!(setting.hello(&Token::new(&zero, caller, 0), "Eve").await, REFUSED, "{stage}, {caller}");
        }
    }
}

/// In the C example any authenticated user is greeted as whoever the token names.
#[tokio::test(flavor = "multi_thread")]
async fn own_key_does_not_sign_for_another_user() {
    let Some(setting) = Setting::of("mac").await else {
        return;
    };
    let key = key();
    setting.authenticate_for_mac(&key).await;
    for other in [me() + 1, me() | 1 << 32, u64::MAX] {
        assert_eq!(setting.hello(&Token::new(&key, other, 0), "Eve").await, REFUSED, "{other}");
    }
    assert_eq!(setting.hello(&Token::new(&key, me(), 0), "Alice").await, ALLOWED);
}

/// In the C example the session id is neither returned nor compared.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_do_not_share_keys_or_counts() {
    let Some(setting) = Setting::of("mac_session").await else {
        return;
    };
    let keys = [key(), key()];
    let ids = [setting.open_session(&keys[0]).await, setting.open_session(&keys[1]).await];
    assert_ne!(ids[0], ids[1]);
    assert!(!ids.contains(&0));
    assert_eq!(setting.hello(&Token::new(&keys[0], ids[1], 0), "Eve").await, REFUSED);
    assert_eq!(setting.hello(&Token::new(&keys[0], 0, 0), "Eve").await, REFUSED);
    for (key, id) in keys.iter().zip(ids) {
        for sequence in 0..3 {
            assert_eq!(setting.hello(&Token::new(key, id, sequence), "Alice").await, ALLOWED);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_without_a_key_is_refused() {
    for stage in ["mac", "mac_session"] {
        let Some(setting) = Setting::of(stage).await else {
            return;
        };
        for length in [0, 31, 33] {
            let credential = setting.credentials.encode(&vec![7; length], None).await.expect("munged answers");
            let result = if stage == "mac" {
                setting.endpoint.call(mac::AUTHENTICATE, &credential).await
            } else {
                setting.endpoint.call(mac_session::AUTHENTICATE, &credential).await.map(|(_, result)| result)
            };
            assert_eq!(result.expect("the server answers"), REFUSED, "{stage}, {length} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_credential_is_refused() {
    let Some(setting) = Setting::of("mac_session").await else {
        return;
    };
    let credential = setting.credentials.encode(key().payload(), None).await.expect("munged answers");
    let first = setting.endpoint.call(mac_session::AUTHENTICATE, &credential).await.expect("an answer");
    let second = setting.endpoint.call(mac_session::AUTHENTICATE, &credential).await.expect("an answer");
    assert_eq!((first.1, second), (ALLOWED, (0, REFUSED)));
}

#[tokio::test(flavor = "multi_thread")]
async fn name_cannot_write_lines_of_its_own() {
    let Some(setting) = Setting::of("mac_session").await else {
        return;
    };
    let key = key();
    let id = setting.open_session(&key).await;
    let name = format!("x\nAuthenticated with uid=0 (root) and gid=0\u{1b}[2J{}", "y".repeat(5000));
    assert_eq!(setting.hello(&Token::new(&key, id, 0), &name).await, ALLOWED);
    let server = setting.server.stop();
    assert_eq!(server.stdout.len(), 2, "{server:?}");
    assert!(server.stdout[1].starts_with(r#"Hello "x\nAuthenticated"#), "{server:?}");
    assert!(server.stdout[1].len() < 200, "{server:?}");
}

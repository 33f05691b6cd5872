use super::*;
use crate::fixtures::{ephemeral, hex, offer, policy, secret};
use crate::protocol::client::{Begun, Session};
use crate::protocol::server::{Established, Received};
use crate::protocol::{Hello, SessionId, Tick};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

thread_local! {
    /// Binders that this thread has computed.
    pub(super) static BINDERS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

fn key(byte: u8) -> Key {
    Key::new(secret(byte))
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn a_key_file_comes_back_and_has_golden_bytes() {
    let directory = directory();
    let path = directory.path().join("key");
    key(0x33).create(&path).expect("written");
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
    assert_eq!(fs::read(&path).expect("readable"), [b"hgrpc1-key:", "33".repeat(32).as_bytes(), b"\n"].concat());
    let loaded = Key::load(&path).expect("a good file");
    assert!(loaded.secret.same(&[0x33; 32]));
    assert_eq!(loaded.id().to_string(), "592641aed047a5afca7e286ebdfaeece");
    fs::set_permissions(&path, Permissions::from_mode(0o400)).expect("own file");
    assert!(Key::load(&path).is_ok());
}

#[test]
fn a_key_file_is_never_replaced() {
    let directory = directory();
    let path = directory.path().join("key");
    key(1).create(&path).expect("written");
    assert!(matches!(key(2).create(&path), Err(KeyFileError::Exists(_))));
    assert!(Key::load(&path).expect("as before").secret.same(&[1; 32]));
}

#[test]
fn each_bad_file_has_its_own_error() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    let good = path("good");
    key(1).create(&good).expect("written");
    let text = fs::read(&good).expect("readable");

    symlink(&good, path("link")).expect("a link");
    assert!(matches!(Key::load(path("link")), Err(KeyFileError::Symlink(_))));
    assert!(matches!(Key::load(directory.path()), Err(KeyFileError::NotAFile(_))));
    assert!(matches!(Key::load(path("none")), Err(KeyFileError::Io { .. })));
    assert!(matches!(Key::load("/dev/null"), Err(KeyFileError::NotAFile(_))));

    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666] {
        fs::set_permissions(&good, Permissions::from_mode(mode)).expect("own file");
        let refused = Key::load(&good).err().expect("refused");
        assert!(refused.to_string().contains(&format!("{mode:04o}")), "{refused}");
        assert!(matches!(refused, KeyFileError::Mode { .. }));
    }
    fs::set_permissions(&good, Permissions::from_mode(0o600)).expect("own file");
    let own = Identity::own().uid;
    assert!(matches!(Key::load_as(&good, own + 1), Err(KeyFileError::Owner { owner, .. }) if owner == own));

    let write = |name: &str, text: &[u8]| {
        fs::write(path(name), text).expect("written");
        fs::set_permissions(path(name), Permissions::from_mode(0o600)).expect("own file");
        Key::load(path(name)).err()
    };
    assert!(matches!(write("empty", b""), Some(KeyFileError::Length { len: 0, .. })));
    assert!(matches!(write("short", &text[..text.len() - 1]), Some(KeyFileError::Length { .. })));
    assert!(matches!(write("long", &[&text[..], b"\n"].concat()), Some(KeyFileError::Length { .. })));
    let huge = fs::File::create(path("huge")).expect("made");
    huge.set_permissions(Permissions::from_mode(0o600)).expect("own file");
    huge.set_len(1 << 40).expect("sparse");
    assert!(matches!(Key::load(path("huge")), Err(KeyFileError::Length { .. })));
    for at in 0..text.len() {
        let mut other = text.clone();
        other[at] = b'G';
        assert!(matches!(write("format", &other), Some(KeyFileError::Format(_))), "{at}");
    }
}

#[test]
fn a_fifo_is_refused_without_waiting_for_a_writer() {
    let directory = directory();
    let path = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).expect("a fifo");
    assert!(matches!(Key::load(&path), Err(KeyFileError::NotAFile(_))));
}

/// As `StrictModes` of sshd_config(5).
#[test]
fn a_file_that_others_can_replace_is_refused() {
    let top = directory();
    let (outer, inner) = (top.path().join("outer"), top.path().join("outer/inner"));
    fs::create_dir_all(&inner).expect("made");
    let path = inner.join("key");
    let mode = |directory: &std::path::Path, mode| {
        fs::set_permissions(directory, Permissions::from_mode(mode)).expect("own directory");
    };
    mode(&outer, 0o755);
    mode(&inner, 0o700);
    key(1).create(&path).expect("written");
    assert!(Key::load(&path).is_ok());
    for open in [&outer, &inner] {
        for bits in [0o720, 0o702, 0o777, 0o2770] {
            mode(open, bits);
            let refused = Key::load(&path).err().expect("others can write there");
            let real = open.canonicalize().expect("there");
            assert!(
                matches!(&refused, KeyFileError::DirectoryMode { directory, mode, .. } if *directory == real && *mode == bits),
                "{refused}"
            );
            let new = inner.join("new");
            assert!(matches!(key(2).create(&new), Err(KeyFileError::DirectoryMode { .. })));
            assert!(!new.exists(), "a key that would be refused is written");
        }
        // Only the owner of a file can take its name away there.
        mode(open, 0o1777);
        assert!(Key::load(&path).is_ok());
        mode(open, 0o755);
    }
    // A link to the directory leads to the same checks.
    symlink(&inner, top.path().join("link")).expect("a link");
    assert!(Key::load(top.path().join("link/key")).is_ok());
    mode(&outer, 0o777);
    assert!(matches!(Key::load(top.path().join("link/key")), Err(KeyFileError::DirectoryMode { .. })));
    mode(&outer, 0o755);
    // Another name of the same file is as good.
    fs::hard_link(&path, top.path().join("hard")).expect("a link");
    assert!(Key::load(top.path().join("hard")).is_ok() && Key::load(&path).is_ok());
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let directory = directory();
    let metadata = fs::metadata(directory.path()).expect("there");
    let check = |own| check_directory(&directory.path().join("key"), directory.path(), &metadata, own);
    let owner = Identity::own().uid;
    assert!(check(owner).is_ok());
    let refused = check(owner + 1);
    if owner == 0 {
        assert!(refused.is_ok(), "root's directories are everybody's");
    } else {
        assert!(matches!(refused, Err(KeyFileError::DirectoryOwner { owner: found, .. }) if found == owner));
    }
}

#[test]
fn errors_do_not_show_what_is_in_the_file() {
    let directory = directory();
    let path = directory.path().join("key");
    fs::write(&path, format!("hgrpc1-key:{}X\n", "5ec2e7".repeat(11).split_at(63).0)).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("own file");
    let error = Key::load(&path).err().expect("refused");
    assert!(matches!(error, KeyFileError::Format(_)));
    assert!(!format!("{error} {error:?}").contains("5ec2e7"));
}

#[test]
fn the_token_is_golden() {
    let hello = hex(
        "a1048f0001020010010101010101010101010101010101010101010101010101010101010101010102020202020202020202020202\
         020202020202020202020202020202020202021ac746fc2441b5d226c9e9029ade4eb2ebeabbae8e6327c90ce3ab763148f5f0cb04fb\
         711f0100000102cccccccccccccccccccccccccccccccc0b004d554e47453a414141413a",
    );
    let th1 = Hello::parse(&hello).expect("golden").th1();
    let golden = hex("c5fb170be14c370949030257f4d290a50385a591b28bd44d6fcac18d1c54b369");
    assert_eq!(key(0x33).binder(&th1).expose().as_slice(), golden);
}

async fn handshake(of_client: Key, ring: &KeyRing) -> Result<(Session, Established), MechanismError> {
    let begun = Begun::new(&offer(), &[1; 32], ephemeral()).expect("an offer");
    let client = KeyFileInitiator::new(of_client);
    let ClientToken { token, psk } = client.token(begun.th1(), &[0; 32]).await?;
    let (hello, sent) = begun.send(&token, psk).expect("short");
    let received = Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received");
    let verified = ring.verify(received.claim(), None).await?;
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let proving = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0)).expect("accepted");
    let established = proving.finish(b"").expect("no proof");
    let answered = sent.receive(&established.reply).expect("received");
    let proof = client.check_server(&answered).await?;
    Ok((answered.complete(proof).expect("completed"), established))
}

#[tokio::test]
async fn whoever_holds_a_key_is_its_identity() {
    let mut ring = KeyRing::new();
    ring.add(key(1), Identity { uid: 1000, gid: 100 }).expect("new");
    ring.add(key(2), Identity { uid: 1001, gid: 100 }).expect("new");
    assert!(matches!(ring.add(key(2), Identity { uid: 0, gid: 0 }), Err(KeyFileError::Twice(_))));
    for (byte, uid) in [(1, 1000), (2, 1001)] {
        let (session, established) = handshake(key(byte), &ring).await.expect("known");
        assert_eq!(established.principal().identity.uid, uid);
        assert_eq!(session.id(), established.session());
    }
    let refused = handshake(key(3), &ring).await.err();
    assert!(matches!(refused, Some(MechanismError::KeyFile(KeyRefused::UnknownKey(_)))));
}

#[test]
fn a_changed_or_moved_token_is_refused() {
    let mut ring = KeyRing::new();
    ring.add(key(1), Identity { uid: 1000, gid: 100 }).expect("new");
    let claim = |random: u8, change: &dyn Fn(&mut Vec<u8>)| {
        let begun = Begun::new(&offer(), &[random; 32], ephemeral()).expect("an offer");
        let mut token = [key(1).id.0.as_slice(), key(1).binder(&begun.th1()).expose()].concat();
        change(&mut token);
        let (hello, _) = begun.send(&token, Psk::none()).expect("short");
        Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received").claim()
    };
    assert!(ring.check(claim(1, &|_| ())).is_ok());
    for bit in 0..48 * 8 {
        assert!(ring.check(claim(1, &|token| token[bit / 8] ^= 1 << (bit % 8))).is_err());
    }
    for len in (0..48).chain([49, 64]) {
        let refused = ring.check(claim(1, &|token| token.resize(len, 0))).err();
        assert_eq!(refused, Some(KeyRefused::Token(len)));
    }
    let of_another_hello = claim(2, &|_| ()).token().to_vec();
    let moved = ring.check(claim(1, &|token| token.clone_from(&of_another_hello)));
    assert!(matches!(moved.err(), Some(KeyRefused::Binder(_))));
}

/// Time tells whether there is a key of some id, unless the work is the same.
#[test]
fn an_unknown_key_costs_what_a_wrong_one_does() {
    let mut ring = KeyRing::new();
    ring.add(key(1), Identity { uid: 1000, gid: 100 }).expect("new");
    let check = |id: KeyId, of: &Key| {
        let begun = Begun::new(&offer(), &[1; 32], ephemeral()).expect("an offer");
        let token = [id.0.as_slice(), of.binder(&begun.th1()).expose()].concat();
        let (hello, _) = begun.send(&token, Psk::none()).expect("short");
        let claim = Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received").claim();
        let before = BINDERS.get();
        (ring.check(claim).err(), BINDERS.get() - before)
    };
    assert_eq!(check(key(1).id, &key(1)), (None, 1));
    assert_eq!(check(key(1).id, &key(2)), (Some(KeyRefused::Binder(key(1).id)), 1));
    assert_eq!(check(key(2).id, &key(2)), (Some(KeyRefused::UnknownKey(key(2).id)), 1));
    // Nobody's key opens nothing, under its own id or another.
    for id in [ring.nobody.id, key(2).id] {
        assert_eq!(check(id, &ring.nobody), (Some(KeyRefused::UnknownKey(id)), 1));
    }
    assert_eq!(check(key(1).id, &ring.nobody), (Some(KeyRefused::Binder(key(1).id)), 1));
}

/// Slurm CVE-2023-49935: a token was taken for another message than the one it was made for.
#[test]
fn cve_2023_49935_a_token_is_good_for_each_field_of_its_own_hello_alone() {
    let mut ring = KeyRing::new();
    ring.add(key(1), Identity { uid: 1000, gid: 100 }).expect("new");
    let begun = Begun::new(&offer(), &[1; 32], ephemeral()).expect("an offer");
    let token = [key(1).id.0.as_slice(), key(1).binder(&begun.th1()).expose()].concat();
    let (hello, _) = begun.send(&token, Psk::none()).expect("short");
    let prefix = hello.len() - token.len() - 2;
    for bit in 0..prefix * 8 {
        let mut changed = hello.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(parsed) = Hello::parse(&changed) else { continue };
        let Ok(received) = Received::begin(&parsed, &policy()) else { continue };
        assert!(ring.check(received.claim()).is_err(), "bit {bit}");
    }
    let received = Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received");
    assert!(ring.check(received.claim()).is_ok());
}

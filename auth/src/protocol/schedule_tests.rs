//! The whole schedule against values computed independently, with Python's hmac and hashlib.

use super::*;
use crate::fixtures::{ephemeral, hex, secret};
use crate::protocol::{Hello, HelloReply};

pub(super) const HELLO: &str = "a1048f0001020010010101010101010101010101010101010101010101010101010101010101010102020202020202020202\
     020202020202020202020202020202020202020202021ac746fc2441b5d226c9e9029ade4eb2ebeabbae8e6327c90ce3ab76\
     3148f5f0cb04fb711f0100000102cccccccccccccccccccccccccccccccc0b004d554e47453a414141413a";
const REPLY: &str = "a1058e0001000008030303030303030303030303030303030404040404040404040404040404040404040404040404040404\
     040404040404050505050505050505050505050505050505050505050505050505050505050584030000c0a8000000040000\
     000010000400616263646dc90bfa39d57c879450c5f25f1653b9bf5040946ffb3944c75c198b2041e558";
const FINISHED: &str = "6dc90bfa39d57c879450c5f25f1653b9bf5040946ffb3944c75c198b2041e558";

fn th2() -> Th2 {
    let (hello, reply) = (hex(HELLO), hex(REPLY));
    HelloReply::parse(&reply).expect("golden").th2(&hello)
}

fn agreed(fill: u8) -> Agreed {
    Agreed { own: [0; 32], peer: [0; 32], shared: secret(fill) }
}

#[test]
fn transcripts_are_golden() {
    let hello = hex(HELLO);
    let th1 = Hello::parse(&hello).expect("golden").th1();
    assert_eq!(th1.as_bytes().as_slice(), hex("688fdaa43fe508387a517d0d7e2c30eadd9206bf3ffd1a868e2b58b7c587e04e"));
    assert_eq!(th2().as_bytes().as_slice(), hex("dcd374413227fb77863aeee60d0344fd56343c3aa1df7e28b9afabf395355155"));
    let finished = hex(FINISHED).try_into().expect("32 bytes");
    let th3 = Th3::of(&th2(), &finished);
    assert_eq!(th3.as_bytes().as_slice(), hex("517df3c3387928cbbc629ef115803ac053ea359f9444583755739b74b01e1f97"));
}

#[test]
fn the_schedule_is_golden() {
    let (finished, secrets) = HandshakeSecret::mix(&Psk::shared(secret(0x11)), agreed(0x22)).finish(&th2());
    assert_eq!(finished.as_slice(), hex(FINISHED));
    let check = |secret: &Secret<32>, golden| assert_eq!(secret.expose().as_slice(), hex(golden));
    let SessionSecrets { client_to_server, server_to_client, exporter } = secrets; // each secret there is has a row here
    check(&client_to_server, "8584cc5d6ca63362d48c254874fbcea595fffa749e33bc7e103dd5be1d6999ac");
    check(&server_to_client, "79e14cd82e388781cc82999798dbce1da818a68dcbcbc4c5574af3300581a51f");
    check(&exporter, "20938764bf0447ba87bf533489e53da0f6e3e5d5e9778596bf4f4e67e36142bf");
    let first = Traffic::new(client_to_server);
    check(&first.key(), "789c636f2f49dddb406cadfa6be901c9331af1eea7265634e88f136b65a9522f");
    assert_eq!(first.iv().expose().as_slice(), hex("7996d17c9eb596113691588c"));
    let second = first.next();
    check(&second.0, "71855445718a1f0b5ffc12cb20d4da650a87c869ff0c5d29ab5f9550c1fcb023");
    check(&second.key(), "c1770fbddba1b2d900062edf1ff0d662465d3dc04107ec016c1a31663fa9dbfd");
    assert_eq!(second.iv().expose().as_slice(), hex("fa43ef488df97f0fc1872be9"));
}

#[test]
fn without_a_secret_of_the_mechanism_zeros_are_used() {
    let (finished, _) = HandshakeSecret::mix(&Psk::none(), agreed(0x22)).finish(&th2());
    assert_eq!(finished.as_slice(), hex("3e693c668d9496c61e72bdac7dc487f83f780a11559e6e74a44f3db68e9f55fd"));
}

#[test]
fn the_client_gets_the_same_secrets_for_the_right_finished_only() {
    let mixed = || HandshakeSecret::mix(&Psk::shared(secret(0x11)), agreed(0x22));
    let (finished, server) = mixed().finish(&th2());
    let client = mixed().verify(&th2(), &finished).expect("the right one");
    assert!(client.client_to_server.same(server.client_to_server.expose()));
    assert!(client.server_to_client.same(server.server_to_client.expose()));
    for bit in 0..256 {
        let mut wrong = finished;
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(mixed().verify(&th2(), &wrong).is_err());
    }
    let other_psk = HandshakeSecret::mix(&Psk::shared(secret(0x12)), agreed(0x22));
    assert!(other_psk.verify(&th2(), &finished).is_err());
    let other_exchange = HandshakeSecret::mix(&Psk::shared(secret(0x11)), agreed(0x23));
    assert!(other_exchange.verify(&th2(), &finished).is_err());
}

/// All points of low order and their forms above the prime, as listed at cr.yp.to/ecdh.html, with and without the top bit
/// that RFC 7748 has receivers ignore.
#[test]
fn points_of_low_order_are_refused() {
    for point in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let mut point: [u8; 32] = hex(point).try_into().expect("32 bytes");
        assert!(ephemeral().agree(&point).is_err());
        point[31] |= 0x80;
        assert!(ephemeral().agree(&point).is_err());
    }
}

#[test]
fn two_ends_agree() {
    let (client, server) = (ephemeral(), ephemeral());
    let (of_client, of_server) = (*client.public_key(), *server.public_key());
    let (server, client) = (server.agree(&of_client).expect("honest"), client.agree(&of_server).expect("honest"));
    let (finished, _) = HandshakeSecret::mix(&Psk::none(), server).finish(&th2());
    assert!(HandshakeSecret::mix(&Psk::none(), client).verify(&th2(), &finished).is_ok());
}

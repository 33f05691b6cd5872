//! What a server is called: the name that a client means, and that a handshake is bound to.

use crate::protocol::{MechanismId, ServerId};

/// The RPC of handshakes and of what ends sessions.
pub(crate) const AUTHENTICATE: &str = "authenticate";

/// The name of the server that runs as `uid` and serves `service` (its address, unless it has a name of its own), as a
/// client of this mechanism says it.
///
/// MUNGE and peer credentials prove the uid, so it is a part of the name. A key proves whoever holds it.
pub(crate) fn server_id(mechanism: MechanismId, uid: u32, service: &str) -> ServerId {
    match mechanism {
        MechanismId::KeyFile => ServerId::of(&format!("key|{service}")),
        _ => ServerId::of(&format!("uid:{uid}|{service}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_uid_service_and_kind_of_proof_apart() {
        let id = server_id(MechanismId::Munge, 1000, "tcp://h:1234");
        assert_eq!(id, server_id(MechanismId::PeerCredentials, 1000, "tcp://h:1234"));
        assert_ne!(id, server_id(MechanismId::Munge, 1001, "tcp://h:1234"));
        assert_ne!(id, server_id(MechanismId::Munge, 1000, "tcp://h:12345"));
        assert_ne!(id, server_id(MechanismId::KeyFile, 1000, "tcp://h:1234"));
    }
}

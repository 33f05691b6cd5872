//! The numbers that RPCs have on the wire.
//!
//! Mercury before 2.3 loses the upper half of an id, so Margo on it makes other ids: the lower half of the name's hash
//! above the provider, in 32 bits. Everything above this module knows the longer ones.

use super::options::is_at_least;

/// What an id is on the wire of the installed Mercury.
pub(super) fn on_wire(id: u64) -> u64 {
    if is_at_least(2, 3) { id } else { halved(id) }
}

fn halved(id: u64) -> u64 {
    ((id >> 32) << 16 | (id & 0xffff)) & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{ProviderId, RpcId};

    #[test]
    fn old_ids_are_those_of_margo() {
        let id = |provider| halved(RpcId::new("sum", ProviderId::new(provider)).as_u64());
        assert_eq!(id(42), 0x57ad_002a);
        assert_eq!(id(0xffff), 0x57ad_ffff);
        assert_eq!(on_wire(1 << 32) == 1 << 32, is_at_least(2, 3));
    }
}

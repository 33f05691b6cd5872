//! Bytes of messages, changed.

/// Places in a sealed message.
pub(crate) const TYPE: usize = 1;
pub(crate) const FLAGS: usize = 2;
pub(crate) const EPOCH: usize = 3;
pub(crate) const SESSION: std::ops::Range<usize> = 8..24;
pub(crate) const SEQ: std::ops::Range<usize> = 24..32;
pub(crate) const RPC: std::ops::Range<usize> = 32..40;
pub(crate) const PROVIDER: std::ops::Range<usize> = 40..42;
pub(crate) const BODY_LEN: std::ops::Range<usize> = 44..48;

/// Places in HELLO and HELLO_REP.
pub(crate) const HELLO_KEY: std::ops::Range<usize> = 40..72;
pub(crate) const REPLY_SESSION: std::ops::Range<usize> = 8..24;
pub(crate) const REPLY_KEY: std::ops::Range<usize> = 56..88;

/// Each bit, flipped by itself.
pub(crate) fn flips(wire: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..wire.len() * 8).map(|bit| flipped(wire, bit))
}

pub(crate) fn flipped(wire: &[u8], bit: usize) -> Vec<u8> {
    let mut changed = wire.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    changed
}

/// The flipped bit of this number, while there is one.
pub(crate) fn flip(wire: &[u8], number: usize) -> Option<Vec<u8>> {
    (number < wire.len() * 8).then(|| flipped(wire, number))
}

/// The one of [`other_lengths`] of this number, while there is one.
pub(crate) fn other_length(wire: &[u8], number: usize) -> Option<Vec<u8>> {
    other_lengths(wire).nth(number)
}

/// Each truncation, some extensions, and some with a byte put in or taken out of the middle.
pub(crate) fn other_lengths(wire: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let longer = [1, 2, 8, 16, 64, 4096].into_iter().flat_map(|more| {
        [0, 0xff].map(|filler| {
            let mut changed = wire.to_vec();
            changed.resize(wire.len() + more, filler);
            changed
        })
    });
    let middle = (0..wire.len()).step_by(7).flat_map(|at| {
        let (mut put_in, mut taken_out) = (wire.to_vec(), wire.to_vec());
        put_in.insert(at, 0x55);
        taken_out.remove(at);
        [put_in, taken_out]
    });
    (0..wire.len()).map(|len| wire[..len].to_vec()).chain(longer).chain(middle)
}

/// With other bytes in a place.
pub(crate) fn with(wire: &[u8], place: std::ops::Range<usize>, bytes: &[u8]) -> Vec<u8> {
    let mut changed = wire.to_vec();
    changed[place].copy_from_slice(bytes);
    changed
}

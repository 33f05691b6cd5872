use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Secret bytes: wiped on drop, compared in constant time, and never shown: no `Debug`, `Clone` or `==`.
///
/// ```compile_fail,E0277
/// let secret = mochi_auth::protocol::Secret::<32>::new(|bytes| bytes.fill(7));
/// println!("{secret:?}");
/// ```
pub struct Secret<const N: usize>(Zeroizing<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Filled in place, so that no unwiped copy is left by a move.
    pub fn new(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut bytes = Zeroizing::new([0; N]);
        fill(&mut bytes);
        Self(bytes)
    }

    /// Copied from a slice, or `None` for another length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == N).then(|| Self::new(|secret| secret.copy_from_slice(bytes)))
    }

    /// The bytes, for the one computation they are needed in.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// Whether the two are the same, without telling by time where they differ.
    pub fn same(&self, other: &[u8; N]) -> bool {
        bool::from(self.0.as_slice().ct_eq(other.as_slice()))
    }
}

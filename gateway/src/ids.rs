//! Randomness for ids, from the operating system's generator by way of a fast one it seeds.

use rand::Rng as _;
use shared::ids::IdEntropy;

/// Random bytes for one id.
pub(crate) fn entropy() -> IdEntropy {
    let mut bytes = IdEntropy::default();
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

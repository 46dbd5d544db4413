//! Tokens: their claims ([`Claims`]) and their verification ([`Verifier`]). No clock, no network: `now`
//! and key sets are arguments.

mod claims;
mod keys;
mod refusal;
mod verifier;

pub use claims::{BadClaim, Claims, Reputation, RoomPatterns};
pub use keys::{BadKey, KeySet};
pub use refusal::{AuthError, Fault};
pub use verifier::{Verifier, sign_hs256, unproven_issued_at};

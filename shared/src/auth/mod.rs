//! Tokens: what they say ([`Claims`]) and whether to believe them ([`Verifier`]). No clock, no network:
//! `now` and key sets are arguments.

mod claims;
mod verifier;

pub use claims::{BadClaim, Claims, Reputation};
pub use verifier::{AuthError, BadKey, Fault, KeySet, Verifier, sign_hs256, unproven_issued_at};

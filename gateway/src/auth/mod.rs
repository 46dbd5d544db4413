//! Authentication: tokens are verified ([`Tokens`]) or [`refused`], passwords compared ([`password`]), a few at a time
//! ([`Turns`]), and failed logins counted ([`Attempts`]).

mod attempts;
mod bearer;
mod failures;
mod jwks;
mod keyset;
pub(crate) mod password;
mod refusals;
mod tokens;
mod turns;

pub(crate) use attempts::{Attempt, Attempts};
pub(crate) use bearer::bearer;
pub(crate) use refusals::refused;
pub(crate) use tokens::{Tokens, TokensError, random_secret};
pub(crate) use turns::{Busy, Turn, Turns};

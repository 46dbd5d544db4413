//! Who a caller is: tokens verified ([`Tokens`]) and passwords compared ([`password`]).

mod keyset;
pub(crate) mod password;
mod tokens;

pub(crate) use tokens::{Tokens, TokensError, random_secret};

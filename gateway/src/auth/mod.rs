//! Who a caller is: tokens verified ([`Tokens`]) and passwords compared ([`password`]).

pub(crate) mod password;
mod tokens;

pub(crate) use tokens::{Tokens, TokensError, random_secret};

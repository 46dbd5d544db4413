//! The pure parts of Muster: every codec, name, claim, setting and limit.
//!
//! Nothing in this crate owns a socket, a task or a clock. Bytes and `now` go in, values come out, so each piece can be tested
//! with plain functions and fuzzed directly.
//!
//! Reading order: [`mod@limits`] (every maximum), [`names`] and [`ids`] (rules for names), [`ws`] (WebSocket frames), [`eio`]
//! (Engine.IO v4), [`sio`] (Socket.IO v5), [`adapter`] (messages on Redis), [`auth`] (tokens), [`forwarded`] (clients' addresses
//! behind proxies), [`origin`] (origins of pages), [`config`] (settings), [`expiring`] (a bounded map whose entries expire),
//! [`backoff`] (pauses between attempts).

pub mod adapter;
pub mod auth;
pub mod backoff;
pub mod blank;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
pub mod eio;
pub mod expiring;
pub mod forwarded;
pub mod ids;
pub mod json;
pub mod limits;
pub mod names;
pub mod origin;
pub mod sio;
pub mod ws;

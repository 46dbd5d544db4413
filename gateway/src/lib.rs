//! The gateway node.
//!
//! Reading order: [`node`] connects all parts; [`http`] has the two listeners; [`transport`] passes bytes to a
//! [`session`]; [`namespace`] passes a session's packets to [`apps`]; apps use a [`socket`] and a [`context`].
//! [`records`] is the database, [`auth`] authenticates users, [`metrics`] counts.
//!
//! ARCHITECTURE.md, under "Crates", lists which module may use which; `tests/tidy.rs` reads it there.

mod access;
mod acks;
mod apps;
mod auth;
mod cli;
mod client;
mod clock;
mod close;
mod context;
mod control;
mod describe;
mod error;
mod fair;
mod geo;
mod http;
mod ids;
mod jobs;
mod limiter;
mod members;
mod memory;
mod metrics;
mod namespace;
mod node;
mod push;
mod records;
mod rest;
mod session;
mod socket;
mod tasks;
mod telemetry;
#[cfg(test)]
mod testing;
mod text;
mod transport;
mod users;

pub use cli::{Page, reference_pages, run};

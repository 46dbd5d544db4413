//! The gateway node.
//!
//! Reading order: [`node`] puts everything together; [`http`] has the two listeners; [`transport`] brings
//! bytes to a [`session`]; [`namespace`] brings a session's packets to [`apps`]; apps see a [`socket`] and a
//! [`context`]. [`records`] is the database, [`auth`] says who somebody is, [`metrics`] counts.
//!
//! Which module may use which stands in ARCHITECTURE.md, under "Crates"; `tests/tidy.rs` reads it there.

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

pub use cli::run;

/// The README's table of settings: the node's, and each app's.
#[must_use]
pub fn settings_table() -> String {
    shared::config::markdown_table(&apps::declarations())
}

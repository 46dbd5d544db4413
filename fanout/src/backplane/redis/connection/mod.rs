//! Connections to Redis: one for commands ([`Commands`], and [`Posts`] for commands that keep an order), one for
//! subscriptions ([`Subscriber`]), a pool for replies so long that nothing else should wait behind them, and one for the
//! thread that renews the lease.
//!
//! Every command has a deadline, and nothing is queued while Redis is away. This module, not a library, keeps the list of
//! subscriptions: after each connect it subscribes to all of them again and waits for the confirmations.

mod calls;
mod commands;
mod link;
mod posts;
mod process;
mod script;
mod subscriber;
mod trouble;

pub(crate) use calls::{Post, TrackedPost};
pub(crate) use commands::Commands;
pub(crate) use link::Link;
pub use link::check_authorities;
pub(crate) use posts::Posts;
pub(crate) use script::Script;
pub(crate) use subscriber::{Listener, Message, Subscriber};

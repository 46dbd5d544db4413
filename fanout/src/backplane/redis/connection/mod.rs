//! Connections to Redis: one for commands ([`Commands`], and [`Posts`] for those that keep an order),
//! one for subscriptions ([`Subscriber`]), a pool for answers so long that nothing else should wait behind them, and one of
//! the thread that renews the lease.
//!
//! Every command has a deadline, nothing is queued for a Redis that is away, and what is subscribed is known
//! here, not in a library: after each connect all of it is subscribed again and confirmed.

mod commands;
mod link;
mod posts;
mod process;
mod script;
mod subscriber;
mod trouble;

pub(crate) use commands::Commands;
pub(crate) use link::Link;
pub use link::check_authorities;
pub(crate) use posts::Posts;
pub(crate) use script::Script;
pub(crate) use subscriber::{Listener, Message, Subscriber};

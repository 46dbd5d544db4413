//! Answers *who is in this room?* and *get this packet to them*.
//!
//! ```text
//!  app ── Fanout::broadcast ──► room's batch ──┐            one flusher for each worker
//!  app ── Fanout::emit ────────────────────────┤
//!                                              ▼
//!                    flusher: batch → every member's SendQueue → one write each
//! ```
//!
//! Guarantees on one node:
//! - all members of a room receive its broadcasts in the same order;
//! - a socket receives packets emitted to it, and earlier broadcasts to its rooms, in the order of the
//!   calls; there is no guarantee between two rooms;
//! - a socket that enters a room receives every later broadcast and no earlier one; a socket that leaves,
//!   the reverse;
//! - a slow client delays no other: a [`SendQueue`] that exceeds its bounds ends only its own session.
//!
//! This crate knows no app, no HTTP, no token and no database.

mod backplane;
mod collector;
mod error;
mod events;
mod fanout;
mod geo;
mod live;
mod local;
mod membership;
mod presence;
mod rate_limited_log;
mod sequenced;
mod stats;
mod target;

pub use backplane::redis::backplane::ClusterOptions;
pub use backplane::redis::connection::check_authorities;
pub use collector::{Answers, Asker, Bounds, Collector, Expected, Question};
pub use error::FanoutError;
pub use events::{Control, Events, Reply, Turn};
pub use fanout::{Fanout, FanoutOptions};
pub use geo::{EARTH_RADIUS, Near, Place, metres_between};
pub use live::Live;
pub use local::audience::Audience;
pub use local::flusher::Flusher;
pub use local::send_queue::{Hold, Polled, SendQueue, SendQueueLimits, Status};
pub use local::socket::LocalSocket;
pub use membership::{Follow, Placement, PreparedSocket};
pub use presence::{
    Agreement, Counted, Entered, FirstMembers, Gone, Left, Member, Peer, RoomCount, SocketInfo,
};
pub use rate_limited_log::RateLimitedLog;
pub use sequenced::Sequenced;
pub use stats::{Distributions, Stats, StatsSnapshot};
pub use target::{Packet, Posted, Receipt, Target, To};

//! Two questions: *who is in this room?* and *get this packet to them*.
//!
//! ```text
//!  app ── Fanout::broadcast ──► room's batch ──┐            one flusher for each worker
//!  app ── Fanout::emit ────────────────────────┤
//!                                              ▼
//!                    flusher: batch → every member's SendQueue → one write each
//! ```
//!
//! What is promised, on one node:
//! - all members of a room get its broadcasts in one and the same order;
//! - a socket gets what was emitted to it, and what was broadcast to its rooms before that, in the order
//!   of the calls; nothing is promised between two rooms;
//! - who enters a room gets every broadcast made after that and none made before; who leaves, the reverse;
//! - nobody waits for a slow client: an [`SendQueue`] that passes its bounds ends that session alone.
//!
//! This crate knows no app, no HTTP, no token and no database.

mod backplane;
mod error;
mod events;
mod fanout;
mod geo;
mod live;
mod local;
mod membership;
mod presence;
mod rate_limited_log;
mod stats;
mod target;

pub use backplane::questions::Answers;
pub use backplane::redis::backplane::ClusterOptions;
pub use backplane::redis::connection::check_authorities;
pub use error::FanoutError;
pub use events::{Control, Events, Reply, Sequenced, Turn};
pub use fanout::{Fanout, FanoutOptions};
pub use geo::{EARTH_RADIUS, Near, Place, metres_between};
pub use live::Live;
pub use local::flusher::Flusher;
pub use local::send_queue::{Polled, SendQueue, SendQueueLimits, Status};
pub use local::socket::LocalSocket;
pub use membership::Follow;
pub use presence::{
    Agreement, Counted, Entered, FirstMembers, Gone, Left, Member, Peer, RoomCount, SocketInfo,
};
pub use rate_limited_log::RateLimitedLog;
pub use stats::{Distributions, Stats, StatsSnapshot};
pub use target::{Packet, Posted, Receipt, Target, To};

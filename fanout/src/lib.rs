//! Two questions: *who is in this room?* and *get this packet to them*.
//!
//! ```text
//!  app ── Fanout::broadcast ──► room's batch ──┐            one courier for each worker
//!  app ── Fanout::emit ────────────────────────┤
//!                                              ▼
//!                    courier: batch → every member's Outbox → one write each
//! ```
//!
//! What is promised, on one node:
//! - all members of a room get its broadcasts in one and the same order;
//! - a socket gets what was emitted to it, and what was broadcast to its rooms before that, in the order
//!   of the calls; nothing is promised between two rooms;
//! - who enters a room gets every broadcast made after that and none made before; who leaves, the reverse;
//! - nobody waits for a slow client: an [`Outbox`] that passes its bounds ends that session alone.
//!
//! This crate knows no app, no HTTP, no token and no database.

mod cluster;
mod control;
mod courier;
mod error;
mod exchange;
mod facade;
mod foreign;
mod lane;
mod live;
mod membership;
mod outbox;
mod peers;
mod presence;
mod publish;
mod redis;
mod registry;
mod resync;
mod room;
mod seldom;
mod selection;
mod stats;
mod target;
mod unusable;
mod user;

pub use cluster::ClusterOptions;
pub use control::{Control, Events, Reply, Sequenced, Turn};
pub use courier::Courier;
pub use error::FanoutError;
pub use facade::{Fanout, FanoutOptions};
pub use live::{EARTH_RADIUS, Live, Near, Place, metres_between};
pub use membership::Follow;
pub use outbox::{Outbox, OutboxLimits, Polled, Status};
pub use peers::Answers;
pub use presence::{Accord, Counted, Entered, FirstMembers, Gone, Left, Member, Peer, RoomCount};
pub use redis::check_authorities;
pub use registry::{LocalSocket, SocketInfo};
pub use seldom::Seldom;
pub use stats::{Distributions, Stats, StatsSnapshot};
pub use target::{Packet, Posted, Receipt, Target, To};

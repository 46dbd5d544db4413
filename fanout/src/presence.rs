//! Members of rooms, and a user's first and last socket in a room.
//!
//! The store counts nothing up or down: every answer is read from the set of members, so it cannot drift. A node counts a
//! user's sockets in a room under the user's lock, together with the members (`local/`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shared::ids::{NodeId, SocketId};
use shared::names::{Namespace, Room, UserId};
use tokio_util::sync::CancellationToken;

/// A socket and its user. It does not change while the socket is attached.
#[derive(Debug, Clone)]
pub struct SocketInfo {
    /// Its id.
    pub id: SocketId,
    /// Its user.
    pub user: UserId,
    /// The name to show in lists of members.
    pub display_name: Arc<str>,
    /// Milliseconds since the epoch.
    pub connected_at_ms: u64,
    /// The e-mail address in its token.
    pub email: Option<Box<str>>,
    /// The role in its token.
    pub role: Option<Box<str>>,
}

/// The result of entering a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The socket was not in the room before.
    pub new: bool,
    /// No other socket of the user was in the room.
    pub first_of_user: bool,
}

/// The result of leaving a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The socket was in the room.
    pub was_member: bool,
    /// No socket of the user is in the room any more.
    pub last_of_user: bool,
}

/// Sockets that are read to list one user: a user may have this many sockets in a room before others are missed.
pub(crate) const SCANNED_PER_USER: usize = 10;

/// Some members of a room, each user once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstMembers {
    /// Each of a different user.
    pub members: Vec<Member>,
    /// The count of all members.
    pub count: RoomCount,
}

/// A socket in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The socket.
    pub socket: SocketId,
    /// Its user.
    pub user: UserId,
    /// The name to show.
    pub display_name: Arc<str>,
    /// The node that holds it.
    pub node: NodeId,
    /// When the socket connected, milliseconds since the epoch.
    pub connected_at_ms: u64,
    /// The role in its token.
    pub role: Option<Box<str>>,
}

/// A count and its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: RoomCount,
    /// How long ago it was read.
    pub age: Duration,
    /// It may be outdated: Redis is away, or this node has just reconnected to it.
    pub stale: bool,
}

/// A user whose last socket has left a room for good ([`crate::Control::Gone`]), or who is there again
/// ([`crate::Control::Back`]): clients that were notified otherwise must be corrected. One node reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The namespace.
    pub namespace: Namespace,
    /// The room.
    pub room: Room,
    /// The user.
    pub user: UserId,
    /// The e-mail address in the token of the lost socket.
    pub email: Option<Box<str>>,
    /// The name to show, likewise.
    pub display_name: Option<Box<str>>,
    /// The role, likewise.
    pub role: Option<Box<str>>,
    /// The user was lost earlier and may have returned since. If false, a backend has moved the user, and its changes are
    /// reported in order.
    pub held_back: bool,
}

impl RoomCount {
    /// Counts a list of members, so that a list and its count match.
    #[must_use]
    pub fn of(members: &[Member]) -> Self {
        let users: HashSet<_> = members.iter().map(|member| &member.user).collect();
        Self { sockets: members.len(), users: users.len() }
    }
}

/// How many are in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoomCount {
    /// Sockets.
    pub sockets: usize,
    /// Distinct users.
    pub users: usize,
}

/// Another node, as its lease describes it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address of its internal listener: `http://` and an authority.
    pub url: String,
    /// Cancelled when its lease has lapsed, so that callers stop waiting for it. While Redis is away, leases are unknown and
    /// it is not cancelled.
    pub lapsed: CancellationToken,
}

/// Whether a node agrees with the others of its Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreement {
    /// The name of the cluster, shared by all nodes of a Redis and a prefix; `None` until it is read from Redis.
    pub cluster: Option<Arc<str>>,
    /// The traits of the others were read since this node last changed.
    pub is_known: bool,
    /// How this node differs from an older one, as a sentence.
    pub conflict: Option<String>,
}

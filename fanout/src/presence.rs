//! Who is in a room, and when a user enters it first and leaves it last.
//!
//! In the store nothing is counted up and down: every answer is read from the set of members, so it cannot drift. On a node
//! a user's sockets in a room are a number, changed under the user's lock together with the members (`local/`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shared::ids::{NodeId, SocketId};
use shared::names::{Namespace, Room, UserId};
use tokio_util::sync::CancellationToken;

/// Whose a socket is. It does not change while the socket is attached.
#[derive(Debug, Clone)]
pub struct SocketInfo {
    /// Its id.
    pub id: SocketId,
    /// Whose it is.
    pub user: UserId,
    /// The name to show in lists of members.
    pub display_name: Box<str>,
    /// Milliseconds since the epoch.
    pub connected_at_ms: u64,
    /// The e-mail address in its token.
    pub email: Option<Box<str>>,
    /// The role in its token.
    pub role: Option<Box<str>>,
}

/// What entering a room found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The socket was not in the room before.
    pub new: bool,
    /// No other socket of the user was in the room.
    pub first_of_user: bool,
}

/// What leaving a room left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The socket was in the room.
    pub was_member: bool,
    /// No socket of the user is in the room any more.
    pub last_of_user: bool,
}

/// Sockets that are looked at to list one user: so many of a user's may be in one room and others still be found.
pub(crate) const SCANNED_PER_USER: usize = 10;

/// Some members of a room, each user once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstMembers {
    /// Each of another user.
    pub members: Vec<Member>,
    /// How many there are in all.
    pub count: RoomCount,
}

/// A socket in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The socket.
    pub socket: SocketId,
    /// Whose it is.
    pub user: UserId,
    /// The name to show.
    pub display_name: Box<str>,
    /// The node that holds it.
    pub node: NodeId,
    /// When the socket connected, milliseconds since the epoch.
    pub connected_at_ms: u64,
    /// The role in its token.
    pub role: Option<Box<str>>,
}

/// A count, and how good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: RoomCount,
    /// How long ago that was so.
    pub age: Duration,
    /// It may not be so any more: Redis is away, or this node has just come back to it.
    pub stale: bool,
}

/// A user whose last socket in a room is gone for good ([`crate::Control::Gone`]), or who is there again
/// ([`crate::Control::Back`]): clients that were notified otherwise must be corrected. Reported by one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Where.
    pub namespace: Namespace,
    /// The room.
    pub room: Room,
    /// Who.
    pub user: UserId,
    /// The e-mail address in the token of the socket that was lost.
    pub email: Option<Box<str>>,
    /// The name to show, likewise.
    pub display_name: Option<Box<str>>,
    /// The role, likewise.
    pub role: Option<Box<str>>,
}

impl RoomCount {
    /// Counts a list of members, so that a list and its count are of one moment.
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
    /// Where its internal listener is: `http://` and an authority.
    pub url: String,
    /// Is cancelled when its lease has lapsed: nobody is to wait for it any longer. While Redis is away nobody
    /// knows, and it is not cancelled.
    pub lapsed: CancellationToken,
}

/// Whether a node agrees with the others of its Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreement {
    /// The name of the cluster, which all nodes of a Redis and a prefix know; `None` until it is read from Redis.
    pub cluster: Option<Arc<str>>,
    /// The others were asked since this node last changed.
    pub is_known: bool,
    /// What this node has otherwise than one that was there before it, in a sentence.
    pub conflict: Option<String>,
}

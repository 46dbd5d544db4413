//! Membership as the store keeps and returns it.

/// A member as the store keeps it: socket, user and info.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMember {
    pub(crate) socket: String,
    pub(crate) user: String,
    pub(crate) info: String,
}

/// The result of a leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftRoom {
    /// The user has another socket in the room.
    Remains,
    /// The user is gone.
    Gone,
    /// The user may return until the leave is settled.
    Lingers,
}

/// All leases at one moment of Redis' clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leases {
    /// The asking node's lease was renewed.
    pub(crate) held: bool,
    pub(crate) now_ms: u64,
    /// Incarnations and when they lapse.
    pub(crate) nodes: Vec<(String, u64)>,
    /// Dead incarnations and until when they are claimed.
    pub(crate) estates: Vec<(String, u64)>,
}

/// What one incarnation has in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) incarnation: String,
    pub(crate) sockets: usize,
    pub(crate) users: usize,
}

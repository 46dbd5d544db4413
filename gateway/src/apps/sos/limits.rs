//! The fixed limits of `sos`. The system's limits, and the rules for these doc comments, are in `shared::limits`.

shared::limits! {
pub(super) const ALL;

/// Participations that are read at once when a node moves all its sockets to match the records.
pub(super) const PARTICIPANTS_AT_ONCE: u32 = 1_000;

/// Characters of an incident's description.
/// Beyond it: 400.
pub(super) const SOS_TEXT_MAX: usize = 2_000;

/// Active participants that are listed.
/// Beyond it: the answer says `hasMore`.
pub(super) const ACTIVE_PARTICIPANTS_MAX: u32 = 10_000;

/// Incidents a second that a rescuer or an admin may mark as false alarms in the long run, on one node.
/// Beyond it: 429.
pub(super) const MARKS_PER_SECOND: u32 = 1;

/// Incidents that a rescuer or an admin may mark as false alarms in a burst.
/// Beyond it: 429.
pub(super) const MARKS_BURST: u32 = 20;

/// How far ahead of the node's clock a backend's `joinedAt` or `leftAt` may be, in milliseconds.
/// Beyond it: 400.
pub(super) const TIME_AHEAD_MAX_MS: u64 = 300_000;
}

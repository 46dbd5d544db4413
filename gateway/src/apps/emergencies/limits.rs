//! The fixed limits of `emergencies`. The system's limits, and the rules for these doc comments, are in
//! `shared::limits`.

shared::limits! {
pub(super) const ALL;

/// Characters of an emergency's description, and of its notes.
/// Beyond it: 400.
pub(super) const EMERGENCY_TEXT_MAX: usize = 2_000;

/// Characters of an emergency's address.
/// Beyond it: 400.
pub(super) const EMERGENCY_ADDRESS_MAX: usize = 500;

/// Characters of a message between an owner and a helper.
/// Beyond it: the event is refused.
pub(super) const EMERGENCY_MESSAGE_MAX: usize = 1_000;

/// Helpers of one emergency that are listed.
/// Beyond it: the answer says `helpersTruncated`, an ack `truncated`.
pub(super) const EMERGENCY_HELPERS_MAX: u32 = 1_000;

/// Metres within which helpers get `emergency:nearby` for a new emergency (contract, "emergencies").
pub(super) const HELPER_RADIUS: f64 = 5_000.0;

/// Seconds for which a helper's position is valid (contract, "emergencies").
/// Beyond it: the position no longer counts.
pub(super) const HELPER_POSITION_S: u64 = 300;

/// Helpers near a new emergency that get `emergency:nearby`.
/// Beyond it: other helpers get only `emergency:created`, with `nearbyHelpersTruncated`.
pub(super) const HELPERS_NEAR_MAX: usize = 10_000;

/// Participants of open emergencies that are read at once when their sockets return to the rooms after an
/// interruption.
/// Beyond it: the next ones follow at once.
pub(super) const EMERGENCIES_INVOLVED_AT_ONCE: u32 = 10_000;
}

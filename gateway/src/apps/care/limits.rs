//! The fixed limits of `care`. The system's limits, and the rules for these doc comments, are in `shared::limits`.

shared::limits! {
pub(super) const ALL;

/// Characters of a message of `care`. With [`CARE_JSON_MAX`] and 10 messages a second per user: 360 KB a second in
/// the long run.
/// Beyond it: the event is refused.
pub(super) const CARE_MESSAGE_MAX: usize = 5_000;

/// Attachments of a message of `care`. They hold only metadata.
/// Beyond it: the event is refused.
pub(super) const CARE_ATTACHMENTS_MAX: usize = 10;

/// Bytes of a message's attachments, of its metadata, and of a notification's data: each as JSON.
/// Beyond it: the event is refused.
pub(super) const CARE_JSON_MAX: usize = 8 * 1024;

/// Bytes of one signal between WebRTC peers. With 50 signals a second per user: 3 MB a second in the long run.
/// Beyond it: `Signal too large`.
pub(super) const CALL_SIGNAL_MAX: usize = 64 * 1024;

/// Milliseconds between checks for the sockets of a call's parties.
pub(super) const CALL_CHECK_MS: u64 = 5_000;

/// Users whose presence one event may request, or one socket may watch (contract, "care"). With Redis, each user
/// costs a command, so requests are limited by the number of users: 1,000 a second per user in the long run. For
/// 100 sockets, see `WATCHED_PER_USER_MAX`.
/// Beyond it: the event is refused.
pub(super) const PRESENCE_USERS_MAX: usize = 500;

/// Users whose presence is read from Redis at the same time.
pub(super) const PRESENCE_AT_ONCE: usize = 32;

/// Characters of a custom status, and of the reason why a call is rejected.
/// Beyond it: the event is refused.
pub(super) const PRESENCE_TEXT_MAX: usize = 128;

/// Milliseconds in which changes of one user's presence are announced as one.
pub(super) const PRESENCE_COALESCE_MS: u64 = 250;

/// Seconds for which a user's presence record is kept after the last change.
pub(super) const PRESENCE_RECORD_KEPT_S: u64 = 30 * 86_400;

/// Characters of a notification's title.
/// Beyond it: 400.
pub(super) const NOTIFICATION_TITLE_MAX: usize = 200;

/// Characters of a notification's text.
/// Beyond it: 400.
pub(super) const NOTIFICATION_TEXT_MAX: usize = 2_000;

/// Users who may have a grant for a room of `care`.
/// Beyond it: 400.
pub(super) const ROOM_GRANTS_MAX: usize = 1_000;
}

//! The fixed limits of `chat`. The system's limits, and the rules for these doc comments, are in `shared::limits`.

shared::limits! {
pub(super) const ALL;

/// Chat messages that wait to be stored. A user has at most one for each socket: 100 waiting messages, and 100 a
/// second in the long run.
/// Beyond it: `Too many messages, try again`.
pub(super) const CHAT_QUEUE_MAX: usize = 1_024;

/// Chat messages stored in one transaction.
pub(super) const CHAT_BATCH_MAX: usize = 256;

/// Messages in the history that a chat room sends on joining (document 003). With [`CHAT_MESSAGE_MAX`], up to 200
/// KB, and 100 times a second per user in the long run.
pub(super) const CHAT_HISTORY: u32 = 50;

/// Unicode scalar values of a chat message after trimming (document 003).
/// Beyond it: the event is refused.
pub(super) const CHAT_MESSAGE_MAX: usize = 1_000;

/// Missed messages of one room, at most, that a node delivers from the records: the newest ones.
/// Beyond it: the client gets `muster:resync` and can read the rest from the history.
pub(super) const CHAT_GAP_MAX: u32 = 1_000;

/// Chat rooms whose missed messages are read from the records at the same time.
pub(super) const CHAT_ROOMS_AT_ONCE: usize = 4;

/// Clients who join a chat room after a backend has moved members into it, while a message from before may still be on
/// its way to these members: the message is not delivered to the clients, who have it in their history.
/// Beyond it: it is not delivered to anybody on this node.
pub(super) const CHAT_LATE_READERS_MAX: usize = 64;

/// Milliseconds between attempts to read a room's missed messages.
pub(super) const CHAT_RETRY_MS: u64 = 500;

/// Milliseconds. When a node is gone, the last message of every room with messages in this period is broadcast
/// again, because that node may have stored it without broadcasting it.
pub(super) const CHAT_RECOVERED_MS: u64 = 60_000;

/// Broadcasts to one room that wait while a socket enters it. Further messages are read from the records; for other
/// broadcasts, the members receive `muster:resync`.
pub(super) const CHAT_ARRIVED_MAX: usize = 1_024;
}

const _: () = assert!(CHAT_HISTORY <= shared::limits::PAGE_MAX);

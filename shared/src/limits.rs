//! Every fixed maximum of the system, in one place.
//!
//! Limits that an operator can change are settings ([`crate::config`]); these are fixed. Each has a test that reaches it.
//! `gateway docs --write` generates a reference page from this file, so operators read these doc comments.
//!
//! Limits multiply: a user may do what one socket may do with each of their sockets. Where that product would be too much, the
//! doc comment names it and the limit that bounds it. The figures assume the default settings: 100 sockets of a user in a
//! namespace (`SOCKETS_PER_USER`), 100 events a second of each (`EVENTS_PER_SECOND`), 1 MB of payload. The limits that all
//! sockets of a user share ([`USER_EVENTS_FACTOR`] and the following) apply on each node separately.

/// A fixed maximum, as the reference page shows it.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Its name in this file.
    pub name: &'static str,
    /// Its doc comment, line by line.
    pub meaning: &'static str,
    /// Its value; the name ends with the unit.
    pub value: &'static (dyn std::fmt::Debug + Sync),
}

/// Declares constants, and lists them with their doc comments in the first constant.
#[macro_export]
macro_rules! limits {
    (
        $list_vis:vis const $list:ident;
        $($(#[doc = $line:literal])+ $vis:vis const $name:ident: $kind:ty = $value:expr;)+
    ) => {
        $($(#[doc = $line])+ $vis const $name: $kind = $value;)+

        /// Every limit of this file, in its order.
        $list_vis const $list: &[$crate::limits::Limit] = &[$($crate::limits::Limit {
            name: stringify!($name),
            meaning: concat!($($line, "\n"),+),
            value: &$name,
        },)+];
    };
}

limits! {
pub const ALL;

/// Packets of one polling body. A body of the default size with only pongs has half a million, a real one a handful.
/// Beyond it: the connection is closed.
pub const PACKETS_PER_PAYLOAD_MAX: usize = 16_384;

/// The largest ack id: JavaScript's largest exact integer.
/// Beyond it: the connection is closed.
pub const ACK_ID_MAX: u64 = (1 << 53) - 1;

/// Characters of names that clients choose, and of events and namespaces (contract, "Names and ids").
/// Beyond it: the name is refused; a namespace gets `Invalid namespace`.
pub const NAME_MAX: usize = 128;

/// Bytes of a user's id, and of a room that a backend names.
/// Beyond it: the name is refused; in a token, `Invalid token`.
pub const ID_MAX_BYTES: usize = 255;

/// Bytes of a cluster room's name: `chat:A:B` of two of the longest ids, with every character escaped.
/// Beyond it: the room is refused.
pub const ROOM_MAX_BYTES: usize = "chat:".len() + 3 * ID_MAX_BYTES + ":".len() + 3 * ID_MAX_BYTES;

/// Bytes of a token; longer ones are refused unread. With 100 sockets: 0.8 MB of claims of one user.
/// Beyond it: `Invalid token`.
pub const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// Bytes of a token's name, e-mail, avatar and role each: they are kept for every socket.
/// Beyond it: the claim counts as absent.
pub const CLAIM_TEXT_MAX_BYTES: usize = 1_024;

/// Entries of each room list in a token's claims.
/// Beyond it: the claim counts as absent.
pub const CLAIM_ROOMS_MAX: usize = 256;

/// Binary attachments of one Socket.IO packet, the default of the stock parser on both ends.
/// Beyond it: the connection is closed.
pub const ATTACHMENTS_MAX: usize = 10;

/// Milliseconds that a packet may wait for its attachments.
/// Beyond it: the connection is closed.
pub const REASSEMBLY_MAX_MS: u64 = 30_000;

/// Arguments of one event, its name not counted.
/// Beyond it: `Too many arguments`.
pub const ARGUMENTS_MAX: usize = 256;

/// Nesting of JSON that a client may send.
/// Beyond it: the connection is closed.
pub const JSON_DEPTH_MAX: usize = 128;

/// Frames of one WebSocket message.
/// Beyond it: the connection is closed with code 1008.
pub const FRAGMENTS_MAX: u32 = 16_384;

/// Bytes of a WebSocket control frame's payload (RFC 6455, 5.5).
/// Beyond it: the connection is closed with code 1002.
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// Control frames a second that a client may send continuously.
/// Beyond it: the connection is closed with code 1008.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 10;

/// Control frames that a client may send in a burst.
/// Beyond it: the connection is closed with code 1008.
pub const CONTROL_FRAMES_BURST: u32 = 50;

/// CONNECT packets a second that a client may send continuously, accepted or refused. Every DISCONNECT needs an accepted one, so
/// this bounds both.
/// Beyond it: the connection is closed with code 1008.
pub const CONNECTS_PER_SECOND: u32 = 10;

/// CONNECT packets that a client may send in a burst: far more than there are namespaces.
/// Beyond it: the connection is closed with code 1008.
pub const CONNECTS_BURST: u32 = 50;

/// Milliseconds after a CONNECT during which the same CONNECT means that the client has not received an answer; it is connected
/// again.
/// Beyond it: the connection is closed with code 1005. Within it, the first socket ends and the client is connected again.
pub const CONNECT_AGAIN_MS: u32 = 250;

/// Engine.IO packets a second that mean nothing to the server (open, upgrade, noop).
/// Beyond it: the connection is closed with code 1008.
pub const IGNORED_PACKETS_PER_SECOND: u32 = 10;

/// Such packets that a client may send in a burst.
/// Beyond it: the connection is closed with code 1008.
pub const IGNORED_PACKETS_BURST: u32 = 50;

/// Acks a second to events that no longer wait for an ack. A client that answers after the time limit sends some through no fault
/// of its own.
/// Beyond it: the connection is closed with code 1008.
pub const UNASKED_ACKS_PER_SECOND: u32 = 100;

/// Such acks in a burst: a client that was asleep answers everything that waited in its send queue.
/// Beyond it: the connection is closed with code 1008.
pub const UNASKED_ACKS_BURST: u32 = 2_048;

/// Incomplete fragments of WebSocket messages that a client may send a second continuously.
/// Beyond it: the connection is closed with code 1008.
pub const FRAGMENTS_PER_SECOND: u32 = 1_000;

/// Incomplete fragments of WebSocket messages that a client may send in a burst: one message with the maximum number of
/// fragments.
/// Beyond it: the connection is closed with code 1008.
pub const FRAGMENTS_BURST: u32 = FRAGMENTS_MAX;

/// Bytes below which a read that completes no frame counts as a partial read. A message in transit arrives in larger pieces,
/// except its last one: the smallest segment that networks use has 536 bytes.
pub const PARTIAL_READ_BYTES: usize = 512;

/// Partial reads a second that a client may cause continuously.
/// Beyond it: the connection is closed with code 1008.
pub const PARTIAL_READS_PER_SECOND: u32 = 200;

/// Partial reads that a client may cause in a burst.
/// Beyond it: the connection is closed with code 1008.
pub const PARTIAL_READS_BURST: u32 = 2_000;

/// Bytes that a connection's task reads at once.
/// Beyond it: other connections get their turn.
pub const READ_MAX_BYTES: usize = 16 * 1024;

/// Units of work that one poll of a connection's task may do before other tasks get their turn. A frame costs one unit, each
/// started KiB of it another, and a packet that runs a handler [`HANDLER_COST`] more: about 50 µs in all.
/// Beyond it: other connections get their turn.
pub const TURN_COST: u32 = 64;

/// Units of work of a packet that runs a handler, in addition to those of its frame.
pub const HANDLER_COST: u32 = 8;

/// Sessions with a due deadline that are checked before other tasks get their turn.
/// Beyond it: other connections get their turn.
pub const DEADLINES_PER_TURN: usize = 128;

/// Sockets that another server's request is carried out for before other tasks get their turn.
/// Beyond it: other connections get their turn.
pub const SOCKETS_PER_TURN: usize = 64;

/// Connections that are accepted before other tasks get their turn.
/// Beyond it: other connections get their turn.
pub const ACCEPTS_PER_TURN: u32 = 16;

/// Packets that broadcasts put into send queues before other tasks get their turn.
/// Beyond it: other connections get their turn.
pub const DELIVERIES_PER_TURN: usize = 1_024;

/// Bytes of one message or polling body of a session that has not joined a namespace yet, and of a REST body without a valid
/// token.
/// Beyond it: the connection is closed with code 1009; HTTP answers 413.
pub const STRANGER_INPUT_MAX_BYTES: usize = 16 * 1024;

/// Bytes that the HTTP connections of all clients without a valid token may hold together. With
/// [`STRANGERS_UNFINISHED_MAX_BYTES`] and [`PENDING_AUTO_MAX`] sessions of up to 6 KB each, such clients make a node grow by less
/// than 64 MiB.
/// Beyond it: the address that holds the most loses its oldest connection.
pub const STRANGERS_MAX_BYTES: usize = 16 << 20;

/// Bytes of unfinished messages that sessions in no namespace may hold together.
/// Beyond it: the address that holds the most loses its oldest connection.
pub const STRANGERS_UNFINISHED_MAX_BYTES: usize = 8 << 20;

/// Bytes that an HTTP connection without a valid token counts as: hyper's first read buffer and the task.
pub const STRANGER_CONNECTION_BYTES: usize = 12 * 1024;

/// Bytes that wait for a session that has not joined a namespace yet.
/// Beyond it: the session is closed as a slow consumer.
pub const STRANGER_OUTBOX_BYTES: usize = 4 * 1024;

/// Packets that wait for a session that has not joined a namespace yet.
/// Beyond it: the session is closed as a slow consumer.
pub const STRANGER_OUTBOX_PACKETS: usize = 32;

/// Bytes of a handshake's token that is kept unread until CONNECT; a longer one is verified at the handshake.
/// Beyond it: the token is verified at the handshake; for an invalid one only the reason is kept.
pub const HANDSHAKE_TOKEN_MAX_BYTES: usize = 1_024;

/// The lower bound of `MAX_PENDING=auto`.
pub const PENDING_AUTO_MIN: usize = 256;

/// The upper bound of `MAX_PENDING=auto`.
pub const PENDING_AUTO_MAX: usize = 4_096;

/// Bytes from which unfinished input counts against the budgets; less is not worth counting.
pub const INPUT_COUNTED_BYTES: usize = 1_024;

/// Bytes of an HTTP request's head.
/// Beyond it: 431.
pub const HEAD_MAX_BYTES: usize = 16 * 1024;

/// Headers of an HTTP request.
/// Beyond it: 431.
pub const HEADERS_MAX: usize = 64;

/// Bytes of a request's URI.
/// Beyond it: 414.
pub const URI_MAX_BYTES: usize = 8 * 1024;

/// Bytes of the `Origin` header.
/// Beyond it: 431.
pub const ORIGIN_MAX_BYTES: usize = 4 * 1024;

/// Milliseconds until a request's head must be complete.
/// Beyond it: the connection is closed.
pub const HEAD_MAX_MS: u64 = 10_000;

/// Milliseconds until a request's body must be complete.
/// Beyond it: 408.
pub const BODY_MAX_MS: u64 = 15_000;

/// Bytes of a REST request's body.
/// Beyond it: 413.
pub const REST_BODY_MAX_BYTES: usize = 64 * 1024;

/// Milliseconds that packets or an HTTP answer may wait for a client that does not read.
/// Beyond it: the connection is closed.
pub const OUTBOX_AGE_MAX_MS: u64 = 10_000;

/// Milliseconds of silence after which a client that was refused for its rate has stopped flooding.
pub const FLOOD_PAUSE_MS: u64 = 100;

/// Milliseconds that a closed WebSocket waits for the client's close frame.
/// Beyond it: the connection is closed without it.
pub const LINGER_MS: u64 = 1_000;

/// Slow consumers that are reported but not closed yet.
/// Beyond it: the session is closed at its next deadline.
pub const OVERFLOWS_QUEUED: usize = 1_024;

/// Connections that wait to be accepted, in the kernel.
/// Beyond it: further ones wait.
pub const LISTEN_BACKLOG: i32 = 4_096;

/// Connections to the internal listener.
/// Beyond it: further ones wait.
pub const INTERNAL_CONNECTIONS: usize = 250;

/// Milliseconds that tasks and connections may take to end when a drain has closed every session.
/// Beyond it: the connection is closed at once.
pub const LAST_WORDS_MS: u64 = 5_000;

/// Milliseconds that a drain waits for the last GETs of polling clients after every session is closed.
/// Beyond it: they are discarded.
pub const DRAIN_LAST_GETS_MS: u64 = 1_000;

/// Milliseconds a closed polling session keeps its last packets for the next GET.
/// Beyond it: their packets are discarded.
pub const POLLING_LINGER_MS: u64 = 30_000;

/// Bytes that one session's send queue may hold without counting against its user.
pub const OUTBOX_FREE_BYTES: usize = 64 * 1024;

/// Packets that wait behind an answer that is not ready yet, with at most [`OUTBOX_FREE_BYTES`].
/// Beyond it: they are sent before the answer.
pub const HELD_PACKETS_MAX: usize = 1_000;

/// Milliseconds that an answer may hold back later packets to its client. A longer wait is for the records or Redis, and must not
/// delay the client or its other namespaces.
/// Beyond it: the waiting packets are sent before the answer.
pub const HOLD_MAX_MS: u64 = 2_000;

/// Upper bound of all send queues of one user in a namespace beyond [`OUTBOX_FREE_BYTES`] each, in multiples of `OUTBOX_BYTES`.
/// With its default and 100 sockets: 8 MiB and at most 6.4 MB, instead of 100 MiB.
/// Beyond it: the session whose queue grows is closed.
pub const USER_OUTBOXES_FACTOR: usize = 8;

/// Frames of one room that wait to be delivered together.
/// Beyond it: the batch is delivered at once.
pub const BATCH_FRAMES_MAX: usize = 256;

/// Bytes of one room that wait to be delivered together. A full batch is delivered at once, so a user's rooms do not
/// multiply it.
/// Beyond it: the batch is delivered at once.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Distinct rooms of all sockets of one user on a node, in multiples of `ROOMS_PER_SOCKET`. With its default and 100 sockets:
/// 1,000 rooms and 10,000 entries in them.
/// Beyond it: `Too many rooms`.
pub const USER_ROOMS_FACTOR: usize = 10;

/// Events of clients, and separately of backends, whose acks a node awaits at the same time. A user may have
/// [`QUESTIONS_PER_USER`] of them, so 157 users use up the clients' share; backends are not affected. The bytes of the acks are
/// bounded by [`ACK_BYTES_MAX`] and [`ACKS_BYTES_MAX`].
/// Beyond it: the question is refused.
pub const PENDING_ACKS_MAX: usize = 10_000;

/// Open questions of all sockets of one user on a node. Without it: 100 sockets of [`QUESTIONS_PER_SOCKET`], 3,200.
/// Beyond it: `Too many open questions`.
pub const QUESTIONS_PER_USER: u32 = 64;

/// Acks that the open questions of one user await together. Without it: [`QUESTIONS_PER_USER`] times [`MEMBERS_MAX`].
/// Beyond it: `Too many open questions`.
pub const AWAITED_ACKS_PER_USER: usize = 20_000;

/// Acks that a node awaits for clients, and separately for backends, at the same time: about 32 bytes each, so at most 32 MB.
/// Without it: [`PENDING_ACKS_MAX`] times [`MEMBERS_MAX`], 3 GB.
/// Beyond it: the question is refused.
pub const AWAITED_ACKS_MAX: usize = 1_000_000;

/// Bytes of the acks to all open questions of a node's clients. Without it: [`PENDING_ACKS_MAX`] times [`ACK_BYTES_MAX`], 2.6 GB.
/// Answers beyond it count as `null`.
pub const ACKS_BYTES_MAX: usize = 64 << 20;

/// Open questions to all nodes that move a user's sockets into rooms or out of them. A question lasts at most [`JOIN_WAIT_MS`]
/// and holds about 200 bytes.
/// Beyond it: it is tried again later.
pub const NODE_QUESTIONS_MAX: usize = 100_000;

/// The shared event budget of all sockets of a user on a node, in multiples of `EVENTS_PER_SECOND`. With its default: 1,000 units
/// a second and 4,000 in a burst, where 100 sockets would have 10,000 events a second.
/// Beyond it: `Rate limit exceeded`.
pub const USER_EVENTS_FACTOR: u32 = 10;

/// Bytes of an event that cost its user one more unit. With [`USER_EVENTS_FACTOR`]: 4 MB a second of one user continuously and 16
/// MB in a burst, where 100 sockets with 100 events of `MAX_PAYLOAD` would have 10 GB a second.
pub const EVENT_UNIT_BYTES: usize = 4_096;

/// Recipients of an event on its sender's node that cost its user one more unit. With [`USER_EVENTS_FACTOR`]: 100,000 deliveries
/// a second of one user continuously, however large the room.
pub const EVENT_UNIT_RECEIVERS: usize = 100;

/// Bytes of all acks to one event; further ones count as `null`.
pub const ACK_BYTES_MAX: usize = 256 * 1024;

/// Milliseconds that a client's event, or a server's without a timeout, may wait for acks.
/// Beyond it: the question is refused.
pub const ACK_MAX_MS: u64 = 30_000;

/// Milliseconds that a backend's event may wait for acks: its own timeout, at most a day.
/// Beyond it: the wait ends then.
pub const BACKEND_ACK_MAX_MS: u64 = 86_400_000;

/// Members in one answer to a backend, and recipients of a client's event with acks; the count stays exact. Clients get pages:
/// 1,000 in `relay`, [`PAGE_MAX`] in `care`.
/// Beyond it: the count stays exact, and the answer says `truncated`; a question is refused.
pub const MEMBERS_MAX: usize = 10_000;

/// Entries of one page of history (contract: at most 100 where a limit can be given). With `CARE_MESSAGE_MAX` and
/// `CARE_JSON_MAX`: 3.6 MB, of which a user gets four a second continuously; without a rate 100 sockets could request 36 GB.
/// Beyond it: a larger limit counts as this one.
pub const PAGE_MAX: u32 = 100;

/// Milliseconds that an operation may wait for a database connection.
/// Beyond it: `Service temporarily unavailable`.
pub const RECORDS_CONNECT_MS: u64 = 2_000;

/// Milliseconds that one transaction may take.
/// Beyond it: `Service temporarily unavailable`.
pub const RECORDS_TIMEOUT_MS: u64 = 5_000;

/// Milliseconds after a failed connection to the database during which callers are refused at once.
pub const RECORDS_RETRY_MS: u64 = 500;

/// Milliseconds that a start waits for a database server's migrations; then it continues without them.
/// Beyond it: the node is not ready: `records`.
pub const RECORDS_START_MS: u64 = 10_000;

/// Milliseconds that migrations may take, for each attempt.
pub const RECORDS_MIGRATE_MS: u64 = 600_000;

/// Database connections of a node.
pub const RECORDS_CONNECTIONS: u32 = 8;

/// Failed logins a minute for one e-mail, from one address, or of one pair of both, before 429 (contract, Identity). A pair that
/// has logged in before is only delayed by its own failures; see "Failed logins" in the documentation.
/// Beyond it: 429.
pub const LOGIN_FAILURES_PER_MINUTE: usize = 5;

/// Failed logins a minute for one e-mail or from one address before pairs that have logged in before are refused as well, if they
/// have failed themselves.
/// Beyond it: 429.
pub const LOGIN_FAILURES_OF_ALL: usize = 50;

/// Seconds that a pair of e-mail and address waits when it has used up its failures; doubled after each further one.
/// Beyond it: 429.
pub const LOGIN_BACK_OFF_S: u64 = 60;

/// Upper bound in seconds of that wait.
/// Beyond it: 429.
pub const LOGIN_BACK_OFF_MAX_S: u64 = 900;

/// Seconds without a failure after which a pair's waiting time starts again at [`LOGIN_BACK_OFF_S`].
pub const LOGIN_BACK_OFF_KEPT_S: u64 = 1_800;

/// Remembered addresses of an e-mail's logins; the latest.
/// Beyond it: the oldest ones are forgotten.
pub const LOGIN_PLACES_MAX: usize = 16;

/// Days for which the address of an e-mail's login is remembered.
/// Beyond it: the oldest ones are forgotten.
pub const LOGIN_PLACE_KEPT_DAYS: u64 = 30;

/// E-mails, addresses and pairs of both whose failed logins a node remembers, and e-mails whose addresses it remembers; beyond it
/// some are forgotten.
pub const LOGIN_KEYS_MAX: usize = 100_000;

/// Passwords that a node hashes concurrently: one less than the number of cores, at most this many. Each takes about 19 MiB for
/// some tens of milliseconds.
pub const PASSWORD_HASHES_AT_ONCE: usize = 8;

/// Logins that wait for their password to be hashed.
/// Beyond it: 429 `Too many logins, try again`.
pub const PASSWORD_HASHES_WAITING: usize = 32;

/// Milliseconds that a login waits for its password to be hashed.
/// Beyond it: 429 `Too many logins, try again`.
pub const PASSWORD_HASH_WAIT_MS: u64 = 10_000;

/// Milliseconds without a login after which a hashing thread frees its memory.
pub const PASSWORD_MEMORY_KEPT_MS: u64 = 2_000;

/// Nice value of the threads that hash passwords: where clients keep a core busy, they get about a quarter of it.
pub const PASSWORD_HASH_NICENESS: i32 = 5;

/// Consecutive logins and handshakes forwarded by a peer that is not a trusted proxy, after which the node warns that
/// `TRUSTED_PROXIES` lacks one.
/// Beyond it: `/health` warns of `proxyNotTrusted`.
pub const UNTRUSTED_FORWARDED_MIN: u32 = 20;

/// Bytes of an e-mail address or a password.
/// Beyond it: 400.
pub const CREDENTIAL_MAX_BYTES: usize = 256;

/// Seconds for which a token from a login is valid.
/// Beyond it: the token has expired.
pub const LOGIN_TOKEN_LIFE_S: u64 = 3_600;

/// Seconds between two regular fetches of the key set.
pub const JWKS_REFRESH_S: u64 = 60;

/// Seconds between two fetches of the key set after a failed one.
pub const JWKS_RETRY_S: u64 = 5;

/// Seconds between two fetches of the key set for tokens with unknown keys that may be older than the set.
/// Beyond it: `Invalid token`.
pub const JWKS_ASKED_PAUSE_S: u64 = 15;

/// Milliseconds between two fetches of the key set for tokens with unknown keys that claim to be newer than the set. Shorter
/// than [`JWKS_HOLD_MS`] by the duration of a fetch.
pub const JWKS_NEWER_PAUSE_MS: u64 = 3_000;

/// Milliseconds that a token waits for a key set that cannot be fetched.
/// Beyond it: the connection is closed, so that the client reconnects; REST answers 503.
pub const JWKS_HOLD_MS: u64 = 5_000;

/// Bytes of a key set.
/// Beyond it: the old keys stay in use.
pub const JWKS_MAX_BYTES: usize = 256 * 1024;

/// Milliseconds that a fetch of the key set may take.
/// Beyond it: the old keys stay in use.
pub const JWKS_TIMEOUT_MS: u64 = 3_000;

/// Seconds that clocks may differ for a token's `exp` and `nbf`.
/// Beyond it: `Token expired` or `Invalid token`.
pub const CLOCK_SKEW_S: u64 = 5;

/// Addresses that the per-address limits distinguish.
/// Beyond it: the rest share one meter.
pub const ADDRESSES_MAX: usize = 200_000;

/// Leading bits of an IPv6 address that the per-address limits compare; the other bits belong to one subscriber.
pub const IPV6_PREFIX_BITS: u32 = 64;

/// File descriptors kept free of connections: database, logs, backplane, HTTP.
/// Beyond it: 503.
pub const RESERVED_FILES: u64 = 1_000;

/// Rooms that one broadcast or request may name, and rooms that it may exclude.
/// Beyond it: the message is dropped and counted.
pub const BROADCAST_ROOMS_MAX: usize = 10_000;

/// Milliseconds that a command to Redis may take.
/// Beyond it: `Service temporarily unavailable`.
pub const REDIS_COMMAND_MS: u64 = 900;

/// Milliseconds that each step of connecting to Redis may take.
pub const REDIS_CONNECT_MS: u64 = 1_000;

/// Log lines that wait to be written; further lines are dropped.
pub const LOG_LINES_MAX: usize = 8_192;

/// Broadcasts that wait to be sent to Redis; further ones are refused as if Redis were away.
/// Beyond it: `Service temporarily unavailable`.
pub const REDIS_POSTS_MAX: usize = 4_096;

/// Bytes of these broadcasts; further ones are refused in the same way. One user's events take up to 16 MB in a burst
/// ([`EVENT_UNIT_BYTES`]).
/// Beyond it: `Service temporarily unavailable`.
pub const REDIS_POSTS_BYTES: usize = 64 << 20;

/// Broadcasts that are sent to Redis in one pipeline.
pub const REDIS_PIPELINE_MAX: usize = 256;

/// Tracked broadcasts in one call of the publish script. The server does nothing else during a call, which takes about 15 µs per
/// broadcast.
pub const TRACKED_PER_CALL_MAX: usize = 64;

/// Bytes from which no further broadcasts are added to a pipeline.
pub const REDIS_PIPELINE_BYTES: usize = 1 << 20;

/// Broadcasts of one socket that are under way to Redis while its next events are handled.
/// Beyond it: the socket's next events wait.
pub const POSTS_PER_SOCKET: u32 = 64;

/// Broadcasts of all sockets of one user on a node that are under way: one sixteenth of [`REDIS_POSTS_MAX`]. Without it: 100
/// sockets of [`POSTS_PER_SOCKET`], 6,400, which is more than a node may have. Beyond it each socket may have one under way.
/// Beyond it: the socket's next events wait.
pub const POSTS_PER_USER: u32 = 256;

/// Commands under way to Redis; further ones are refused as if Redis were away. A user's presence questions have at most 288 of
/// them under way, nine of `PRESENCE_AT_ONCE`; other events one for each socket.
/// Beyond it: `Service temporarily unavailable`.
pub const REDIS_IN_FLIGHT_MAX: usize = 4_096;

/// Pooled connections for long replies.
pub const REDIS_POOL: usize = 4;

/// Milliseconds before the first attempt to reconnect to Redis.
pub const REDIS_RETRY_MIN_MS: u64 = 100;

/// Upper bound in milliseconds of the pause before an attempt to reconnect to Redis.
pub const REDIS_RETRY_MAX_MS: u64 = 1_000;

/// Channels of one SUBSCRIBE.
pub const SUBSCRIBE_BATCH: usize = 512;

/// Milliseconds that a channel stays subscribed after the last local member has left its room.
pub const SUBSCRIBE_LINGER_MS: u64 = 3_000;

/// Milliseconds that entering a room waits for the confirmation of its channel.
pub const SUBSCRIBE_WAIT_MS: u64 = 2_000;

/// Milliseconds without any running task on a node's workers after which its lease is not renewed. Longer than any work takes,
/// and short enough that the clients of workers that hang for good are soon reported as gone.
/// Beyond it: the node stops renewing its lease.
pub const WORKERS_SILENT_MAX_MS: u64 = 10_000;

/// Milliseconds between two messages that a node sends to itself through Redis.
pub const CANARY_EVERY_MS: u64 = 1_000;

/// Milliseconds without receiving one of them after which the connection for subscriptions is closed.
/// Beyond it: the connection for subscriptions is opened again.
pub const CANARY_LOST_MS: u64 = 3_000;

/// Seconds that keys about members live without being renewed; only leftovers reach this age.
pub const PRESENCE_KEPT_S: u64 = 900;

/// Members of one node in one room that are read for a list. Reading costs the user one unit for each [`EVENT_UNIT_RECEIVERS`]:
/// two of the largest lists a second.
pub const MEMBERS_READ_MAX: usize = 50_000;

/// Departures that are held back, or wait because Redis was away. Beyond it the oldest ends at once. With [`USER_ROOMS_FACTOR`]:
/// 1,000 of one user, so a hundred users would have to be lost at the same time.
pub const LINGERING_MAX: usize = 100_000;

/// Milliseconds for which a list of leases is valid.
pub const LEASES_FRESH_MS: u64 = 1_000;

/// Milliseconds after which the list of living nodes is read again for a node that is not in it: the node may have just started.
pub const LEASES_RECHECK_MS: u64 = 50;

/// Milliseconds for which the last known count of a room is returned while Redis is away.
/// Beyond it: 503.
pub const STALE_MAX_MS: u64 = 30_000;

/// Rooms whose last known count is kept.
pub const COUNTS_KEPT_MAX: usize = 10_000;

/// Users who are gone or back whose rooms are notified concurrently.
pub const MOVED_AT_ONCE: usize = 32;

/// Rooms of a dead node that are cleaned up, or of a node that are registered, concurrently.
pub const ROOMS_AT_ONCE: usize = 64;

/// Bytes of messages from Redis about one namespace that wait behind a request. A request that closes clients' connections may
/// take [`LANE_WAIT_MS`]: in that time this is 13 MB a second.
/// Beyond it: the message is dropped and counted, and the namespace's sockets get `muster:resync`.
pub const LANE_BYTES_MAX: usize = 64 << 20;

/// Additional bytes for requests: a dropped request is never repeated, so broadcasts must not take its space.
/// Beyond it: the node checks afterwards which sockets may be in which rooms, as after a lost connection.
pub const LANE_REQUESTS_BYTES_MAX: usize = 16 << 20;

/// Bytes that each of these messages counts in addition to its own.
pub const LANE_ITEM_BYTES: usize = 256;

/// Milliseconds that later messages wait for a request that the fan-out cannot carry out alone: disconnects of sockets and
/// questions to clients.
/// Beyond it: this is logged, and the next message is handled.
pub const LANE_WAIT_MS: u64 = 5_000;

/// Sockets that the task that reads from Redis adds to a room, removes or describes before other tasks get their turn: about 2 µs
/// each.
/// Beyond it: other connections get their turn.
pub const EFFECTS_PER_TURN: usize = 64;

/// Pending follow-ups of requests: reporting to the store which sockets have entered and left.
/// Beyond it: further ones wait.
pub const AFTERMATHS_MAX: usize = 16_384;

/// Follow-ups that run concurrently.
/// Beyond it: further requests wait.
pub const AFTERMATHS_AT_ONCE: usize = 64;

/// Bytes of clients' answers to backends that a node holds until Redis has taken them; later ones are `null`.
/// Beyond it: later answers are `null`.
pub const ACKS_HELD_BYTES_MAX: usize = 64 << 20;

/// Bytes of a message that a server may send to clients through Redis. `MAX_PAYLOAD` applies to messages from clients; Redis
/// itself disconnects a subscriber with a backlog of 32 MB, unless configured otherwise.
/// Beyond it: the message is dropped and counted.
pub const SERVER_MESSAGE_MAX_BYTES: usize = 16 << 20;

/// Bytes from which an answer to another server is sent separately instead of in the order of publishes.
pub const ANSWER_LARGE_BYTES: usize = 64 * 1024;

/// Departed users, disconnects and questions that wait for the gateway.
/// Beyond it: further ones wait.
pub const CONTROL_QUEUE_MAX: usize = 4_096;

/// Seconds during which a broadcast with a key is not repeated.
/// Beyond it: it is emitted again.
pub const IDEMPOTENCY_S: u64 = 300;

/// Milliseconds between two checks for Socket.IO servers on the same Redis with another wire format.
pub const FOREIGN_LOOK_MS: u64 = 30_000;

/// Milliseconds since the last entry of such servers' stream during which they count as running: they write an entry every five
/// seconds.
pub const FOREIGN_FRESH_MS: u64 = 15_000;

/// Approximate number of tracked broadcasts kept for a room: the oldest are removed by the hundred.
pub const STREAM_ENTRIES: u64 = 512;

/// Seconds for which they are kept after the last one, plus up to [`STREAM_RENEWED_S`].
pub const STREAM_KEPT_S: u64 = 180;

/// Seconds after which a node renews the lifetimes of a room's stream and offset with the next broadcast, instead of with each
/// one.
pub const STREAM_RENEWED_S: u64 = 30;

/// Rooms whose last renewal a node remembers. An entry holds about 100 bytes.
/// Beyond it: the lifetimes of other rooms are renewed with each broadcast.
pub const STREAM_RENEWALS_MAX: usize = 20_000;

/// Seconds for which a room's epoch and offset are kept after the last broadcast: much longer, so that a quiet room keeps its
/// epoch.
pub const STREAM_META_KEPT_S: u64 = 7 * 86_400;

/// Incidents, and separately emergencies, whose rooms a socket enters automatically; the latest. With 100 sockets: 100,000
/// entries of one user, in at most 1,000 rooms.
/// Beyond it: further rooms are not entered.
pub const PARTICIPATIONS_MAX: usize = 1_000;

/// Milliseconds between two attempts to find the rooms of a socket that connected while the records were away.
pub const AUTO_JOIN_RETRY_MS: u64 = 1_000;

/// Incidents or emergencies on one page of a search nearby.
/// Beyond it: a larger limit counts as this one.
pub const NEARBY_MAX: u32 = 100;

/// Incidents or emergencies that one page of a search nearby reads. A page that reaches this is shorter than requested and has a
/// next one.
pub const NEARBY_SCANNED_MAX: usize = 2_000;

/// Open incidents, or emergencies, of one user that take part in the first round of a list, which has the nearest one of each
/// user. Further ones come after those of all users, so that a page never has to read more of one user.
pub const OPEN_LEADING_MAX: usize = 10;

/// Searches nearby a second of one user on one node, separately for `sos` and `emergencies`.
/// Beyond it: 429.
pub const LOOKS_PER_SECOND: u32 = 5;

/// Searches nearby of one user in a burst.
/// Beyond it: 429.
pub const LOOKS_BURST: u32 = 50;

/// Milliseconds per incident or emergency that a user raises: ten a minute continuously, on all nodes together.
/// Beyond it: 429.
pub const RAISE_EVERY_MS: u64 = 6_000;

/// Incidents, or emergencies, that a user may raise in a burst.
/// Beyond it: 429.
pub const RAISE_BURST: u32 = 10;

/// Open incidents that one pass ends because of their age, or computes squares for.
/// Beyond it: the next ones follow at once.
pub const INCIDENTS_AT_ONCE: u32 = 256;

/// Default search radius around a place in metres.
pub const NEARBY_RADIUS: f64 = 5_000.0;

/// Largest search radius around a place in metres.
/// Beyond it: 400.
pub const NEARBY_RADIUS_MAX: f64 = 100_000.0;

/// Bytes of an idempotency key.
/// Beyond it: 400.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;

/// Idempotency keys that a single node remembers.
/// Beyond it: requests with a key are refused as if Redis were away.
pub const IDEMPOTENCY_KEYS_MAX: usize = 1_000_000;

/// Milliseconds that looking up another node, connecting to it and starting HTTP may take.
/// Beyond it: `Session ID unknown`.
pub const PEER_CONNECT_MS: u64 = 1_000;

/// Milliseconds that another node may take to begin its answer to a forwarded request, beyond the time that a poll or a body may
/// take. It applies while Redis is away; otherwise the wait ends with that node's lease.
/// Beyond it: `Session ID unknown`.
pub const PEER_MARGIN_MS: u64 = 5_000;

/// Milliseconds after which a lock in Redis expires whose node does not release it: the node has died, or cannot know whether
/// what it ordered under the lock still takes effect.
pub const LIVE_LOCK_MS: u64 = 4_000;

/// Milliseconds that work under a lock may take. Its last command reaches Redis before the lock expires.
/// Beyond it: the work is given up and done later.
pub const LIVE_LOCKED_WORK_MS: u64 = 2_500;

/// Milliseconds that a node waits for a lock that another one holds.
/// Beyond it: the work is done later.
pub const LIVE_LOCK_WAIT_MS: u64 = 2_000;

/// Milliseconds that a join or a leave of a user's sockets waits for all nodes.
/// Beyond it: it continues without them.
pub const JOIN_WAIT_MS: u64 = 1_000;

/// Milliseconds that the notification of a client whose socket the server has ended waits until no node counts the socket.
/// Beyond it: the client is notified without waiting further.
pub const DISCONNECT_WAIT_MS: u64 = 1_000;

/// Milliseconds ahead of Redis' clock within which a lease's end is valid.
/// Beyond it: the lease does not count.
pub const LEASE_AHEAD_MAX_MS: u64 = 3_600_000;

/// Open questions (events that request acks) of one socket. See [`QUESTIONS_PER_USER`].
/// Beyond it: `Too many open questions`.
pub const QUESTIONS_PER_SOCKET: u32 = 32;

/// Values, timers and places of one map that a single node keeps for its apps.
/// Beyond it: `Service temporarily unavailable`.
pub const LIVE_ENTRIES_MAX: usize = 500_000;

/// Attempts to change a shared value when other nodes are faster.
/// Beyond it: `Service temporarily unavailable`.
pub const LIVE_TRIES_MAX: usize = 16;

/// Jobs that one statement reads, claims or deletes.
pub const JOBS_AT_ONCE: usize = 256;

/// Events that a node in a cluster has delivered and whose rows are still in the records. Redis drops repetitions.
/// Beyond it: the next event waits for up to 3 s, and is then delivered later.
pub const JOBS_FINISHED_MAX: usize = 16_384;

/// Events that a single node has delivered and whose rows are still in the records: at most this many are repeated after a crash.
/// The next event waits until rows are deleted.
/// Beyond it: the next event waits for up to 3 s, and is then delivered later.
pub const JOBS_REPEATED_MAX: usize = 32;

/// Milliseconds that the rows of finished jobs wait for a transaction that deletes them with its own work.
pub const JOBS_DELETE_WAIT_MS: u64 = 100;

/// Jobs that a node holds in memory; the others wait in the records.
/// Beyond it: further jobs wait in the records.
pub const JOBS_HELD_MAX: usize = 100_000;

/// Jobs that wait for the records to be available again so that they can be stored.
/// Beyond it: the job is dropped and logged.
pub const JOBS_UNSTORED_MAX: usize = 10_000;

/// Milliseconds after which a node checks whether a transaction with an unknown outcome was committed, and for which an event
/// waits until other rows are deleted. Also the milliseconds between a start and the jobs of the previous process: by then its
/// clients have reconnected.
pub const JOBS_DOUBT_MS: u64 = 3_000;

/// Milliseconds before a failed job is tried again: the lower bound. A random half of the pause is left out.
pub const JOBS_RETRY_MIN_MS: u64 = 500;
/// See [`JOBS_RETRY_MIN_MS`].
pub const JOBS_RETRY_MAX_MS: u64 = 5_000;

/// Milliseconds after which a due job counts as late.
pub const JOBS_LATE_MS: u64 = 5_000;

/// Milliseconds between two checks for jobs of nodes that are gone, plus or minus a quarter.
pub const JOBS_LOOK_MS: u64 = 60_000;

/// Milliseconds between two checks for users who may be offline.
pub const DUE_EVERY_MS: u64 = 1_000;

/// Locks that sockets share while the rooms that they may be in are checked.
/// Beyond it: further ones wait.
pub const ACCESS_LOCKS: usize = 256;

/// Sockets of one room that are checked concurrently after a grant was withdrawn.
/// Beyond it: further ones wait.
pub const REVIEWS_AT_ONCE: usize = 16;

/// Times a second that one user's sockets may change to a token with other rights by `auth:refresh`. Each change checks every
/// room of the socket, at most `ROOMS_PER_SOCKET`.
/// Beyond it: `Too many requests`.
pub const RENEWALS_PER_SECOND: u32 = 10;

/// Such changes in a burst: all of a user's sockets may change their tokens together.
/// Beyond it: `Too many requests`.
pub const RENEWALS_BURST: u32 = 200;

/// Push requests that wait.
/// Beyond it: the request is dropped and counted.
pub const PUSH_QUEUE_MAX: usize = 1_024;

/// Push requests under way.
pub const PUSH_AT_ONCE: usize = 8;

/// Attempts of a push request.
/// Beyond it: the request is dropped and counted.
pub const PUSH_TRIES_MAX: u32 = 5;

/// Milliseconds before the second attempt of a push request; doubled before each further one.
pub const PUSH_RETRY_MS: u64 = 1_000;

/// Milliseconds that one push request may take.
pub const PUSH_TIMEOUT_MS: u64 = 5_000;

/// Users whose rates a node distinguishes. About 80 bytes for each rate of a user, so 8 MB a rate with this many users; an app
/// has up to eleven.
/// Beyond it: the rest share one meter.
pub const RATED_USERS_MAX: usize = 100_000;

/// Users whose presence all sockets of one user watch together on a node. With 100 sockets that watch 500 each: 2,000 rooms and
/// 50,000 entries in them.
/// Beyond it: the event is refused.
pub const WATCHED_PER_USER_MAX: usize = 2_000;

/// Milliseconds that the receipt of an emit waits for all nodes to report their sockets.
/// Beyond it: the receipt has `sockets: null`.
pub const REACH_WAIT_MS: u64 = 250;

/// Milliseconds during which no receipt waits again after a node has failed to report.
pub const REACH_PAUSE_MS: u64 = 5_000;
}

const _: () = assert!(IPV6_PREFIX_BITS > 0 && IPV6_PREFIX_BITS <= 128);
const _: () = assert!(CONTROL_PAYLOAD_MAX < 126);
const _: () = assert!(FRAGMENTS_BURST + FRAGMENTS_PER_SECOND <= 65_535);
const _: () = assert!(BATCH_BYTES_MAX <= 64 * 1024);

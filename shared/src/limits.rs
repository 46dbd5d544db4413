//! Every fixed maximum of the system, in one place.
//!
//! Limits that an operator may move are settings ([`crate::config`]); these are the ones that stay.
//! Each has a test that reaches it, and the README lists both kinds in one table.

/// Packets of one polling body: a body of the default size with nothing but pongs has half a million, a
/// real one a handful.
pub const PACKETS_PER_PAYLOAD_MAX: usize = 16_384;

/// The largest ack id: what JavaScript keeps exact.
pub const ACK_ID_MAX: u64 = (1 << 53) - 1;

/// Characters of a room, event, namespace or user id (contract, "Names and ids").
pub const NAME_MAX: usize = 128;

/// Bytes of a token; longer ones are refused unread.
pub const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// Bytes of a token's name, e-mail, avatar and role each: they are kept for every socket.
pub const CLAIM_TEXT_MAX_BYTES: usize = 1_024;

/// Entries of each room list in a token's claims.
pub const CLAIM_ROOMS_MAX: usize = 256;

/// Binary attachments of one Socket.IO packet, the default of the stock parser on both ends.
pub const ATTACHMENTS_MAX: usize = 10;

/// Milliseconds a packet may wait for its attachments before its session is closed.
pub const REASSEMBLY_MAX_MS: u64 = 30_000;

/// Arguments of one event, its name not counted.
pub const ARGUMENTS_MAX: usize = 256;

/// Nesting of JSON that a client may send.
pub const JSON_DEPTH_MAX: usize = 128;

/// Frames that one WebSocket message may come in.
pub const FRAGMENTS_MAX: u32 = 16_384;

/// Bytes of a WebSocket control frame's payload (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// Control frames a second that a client may send for long.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 10;

/// Control frames that a client may send at once.
pub const CONTROL_FRAMES_BURST: u32 = 50;

/// Bytes of an HTTP request's head.
pub const HEAD_MAX_BYTES: usize = 16 * 1024;

/// Headers of an HTTP request.
pub const HEADERS_MAX: usize = 64;

/// Bytes of a request's URI.
pub const URI_MAX_BYTES: usize = 8 * 1024;

/// Bytes of the `Origin` header; longer ones are answered 431.
pub const ORIGIN_MAX_BYTES: usize = 4 * 1024;

/// Milliseconds until a request's head must be complete.
pub const HEAD_MAX_MS: u64 = 10_000;

/// Milliseconds until a request's body must be complete.
pub const BODY_MAX_MS: u64 = 15_000;

/// Bytes of a REST request's body.
pub const REST_BODY_MAX_BYTES: usize = 64 * 1024;

/// Milliseconds that packets or an HTTP answer may wait for a client that does not read, before its
/// connection is closed.
pub const OUTBOX_AGE_MAX_MS: u64 = 10_000;

/// Milliseconds of silence after which a client that was refused for its rate has stopped flooding.
pub const FLOOD_PAUSE_MS: u64 = 100;

/// Milliseconds that a closed WebSocket waits for its client's side of the close.
pub const LINGER_MS: u64 = 1_000;

/// Sessions reported as slow consumers and not closed yet; past it their next deadline finds them.
pub const OVERFLOWS_QUEUED: usize = 1_024;

/// Connections that wait to be accepted, in the kernel.
pub const LISTEN_BACKLOG: i32 = 4_096;

/// Connections to the internal listener.
pub const INTERNAL_CONNECTIONS: usize = 250;

/// Milliseconds that tasks and connections may take to end when a drain has closed every session.
pub const LAST_WORDS_MS: u64 = 5_000;

/// Milliseconds that a drain, every session closed, waits for the last GETs of polling clients.
pub const DRAIN_LAST_GETS_MS: u64 = 1_000;

/// Milliseconds a closed polling session keeps its last packets for the next GET.
pub const POLLING_LINGER_MS: u64 = 30_000;

/// Frames of one room that wait to be delivered together.
pub const BATCH_FRAMES_MAX: usize = 256;

/// Bytes of one room that wait to be delivered together.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Events whose acks a node awaits from clients at once.
pub const PENDING_ACKS_MAX: usize = 10_000;

/// Bytes of the acks to one event together; what is more is given as `null`.
pub const ACK_BYTES_MAX: usize = 256 * 1024;

/// Milliseconds that the acks to one event may be waited for.
pub const ACK_MAX_MS: u64 = 30_000;

/// Members that one answer lists; its count is exact all the same.
pub const MEMBERS_MAX: usize = 10_000;

/// Chat messages that wait to be stored; past it a sender is told to try again.
pub const CHAT_QUEUE_MAX: usize = 1_024;

/// Chat messages stored in one transaction.
pub const CHAT_BATCH_MAX: usize = 256;

/// Entries of one page of history (contract: 100 at most where a limit may be asked for).
pub const PAGE_MAX: u32 = 100;

/// Messages that a chat room's history shows on joining (document 003).
pub const CHAT_HISTORY: u32 = 50;

/// Unicode scalar values of a chat message after trimming (document 003).
pub const CHAT_MESSAGE_MAX: usize = 1_000;

/// Milliseconds that the wait for a database connection may take.
pub const RECORDS_CONNECT_MS: u64 = 2_000;

/// Milliseconds that one transaction may take.
pub const RECORDS_TIMEOUT_MS: u64 = 5_000;

/// Milliseconds after the database could not be reached, in which callers are refused at once.
pub const RECORDS_RETRY_MS: u64 = 500;

/// Database connections of a node.
pub const RECORDS_CONNECTIONS: u32 = 8;

/// Failed logins a minute for one e-mail, from one address, or of one pair of both, before 429 (contract,
/// Identity). A pair that has logged in before waits only for its own failures; see the README, "Logging in".
pub const LOGIN_FAILURES_PER_MINUTE: usize = 5;

/// Failed logins a minute for one e-mail or from one address before even pairs that have logged in before are
/// refused, if they have failed themselves.
pub const LOGIN_FAILURES_OF_ALL: usize = 50;

/// Seconds that a pair of e-mail and address waits when it has used up its failures; twice as long after each
/// further one.
pub const LOGIN_BACK_OFF_S: u64 = 60;

/// The most seconds that a pair of e-mail and address waits for its next try.
pub const LOGIN_BACK_OFF_MAX_S: u64 = 900;

/// Seconds without a failure after which a pair's waiting time starts again at [`LOGIN_BACK_OFF_S`].
pub const LOGIN_BACK_OFF_KEPT_S: u64 = 1_800;

/// Addresses from which an e-mail has logged in that are remembered; the latest.
pub const LOGIN_PLACES_MAX: usize = 16;

/// Days that an address from which an e-mail has logged in is remembered.
pub const LOGIN_PLACE_KEPT_DAYS: u64 = 30;

/// E-mails, addresses and pairs of both whose failed logins a node remembers at once, and e-mails whose addresses
/// it remembers; past it some are forgotten.
pub const LOGIN_KEYS_MAX: usize = 100_000;

/// The most passwords that a node hashes at once: one less than there are cores, and no more than this. Each takes
/// about 19 MiB for some tens of milliseconds.
pub const PASSWORD_HASHES_AT_ONCE: usize = 8;

/// Logins that wait until their password can be hashed; more are refused.
pub const PASSWORD_HASHES_WAITING: usize = 32;

/// Milliseconds that a login waits until its password can be hashed.
pub const PASSWORD_HASH_WAIT_MS: u64 = 10_000;

/// Milliseconds without a login after which the memory of a hashing thread is given back.
pub const PASSWORD_MEMORY_KEPT_MS: u64 = 2_000;

/// Nice value of the threads that hash passwords: where clients keep a core busy, they get about a quarter of it.
pub const PASSWORD_HASH_NICENESS: i32 = 5;

/// Logins and handshakes in a row that were forwarded by a peer that is no trusted proxy, after which the node warns
/// that `TRUSTED_PROXIES` lacks one.
pub const UNTRUSTED_FORWARDED_MIN: u32 = 20;

/// Bytes of an e-mail address or a password.
pub const CREDENTIAL_MAX_BYTES: usize = 256;

/// Seconds that a token from logging in is good for.
pub const LOGIN_TOKEN_LIFE_S: u64 = 3_600;

/// Seconds between two fetches of the key set, whatever the number of unknown key ids.
pub const JWKS_REFRESH_MIN_S: u64 = 60;

/// Bytes of a key set.
pub const JWKS_MAX_BYTES: usize = 256 * 1024;

/// Milliseconds a fetch of the key set may take.
pub const JWKS_TIMEOUT_MS: u64 = 3_000;

/// Seconds that clocks may differ when a token's `exp` and `nbf` are read.
pub const CLOCK_SKEW_S: u64 = 5;

/// Addresses that the per-address limits keep apart at once; past it new ones share one counter.
pub const ADDRESSES_MAX: usize = 200_000;

/// Leading bits of an IPv6 address that the per-address limits tell apart: a subscriber has the others.
pub const IPV6_PREFIX_BITS: u32 = 64;

/// File descriptors kept free of connections: database, logs, backplane, HTTP.
pub const RESERVED_FILES: u64 = 1_000;

const _: () = assert!(IPV6_PREFIX_BITS > 0 && IPV6_PREFIX_BITS <= 128);
const _: () = assert!(CONTROL_PAYLOAD_MAX < 126);
const _: () = assert!(BATCH_BYTES_MAX <= 64 * 1024);
const _: () = assert!(CHAT_HISTORY <= PAGE_MAX);

/// Rooms that one broadcast or request may name, and that it may exclude.
pub const BROADCAST_ROOMS_MAX: usize = 10_000;

/// Milliseconds a command to Redis may take.
pub const REDIS_COMMAND_MS: u64 = 900;

/// Milliseconds connecting to Redis may take, for each of its steps.
pub const REDIS_CONNECT_MS: u64 = 1_000;

/// Log lines that wait for whoever reads them; more are dropped.
pub const LOG_LINES_MAX: usize = 8_192;

/// Broadcasts that wait to be sent to Redis; more are refused as if it were away.
pub const REDIS_POSTS_MAX: usize = 4_096;

/// Bytes of them; more are refused in the same way.
pub const REDIS_POSTS_BYTES: usize = 64 << 20;

/// Broadcasts that are sent to Redis in one go.
pub const REDIS_PIPELINE_MAX: usize = 256;

/// Bytes from which on no more broadcasts are added to what is sent in one go.
pub const REDIS_PIPELINE_BYTES: usize = 1 << 20;

/// Broadcasts of one socket that are on their way to Redis while its next events are handled.
pub const POSTS_PER_SOCKET: u32 = 64;

/// Commands under way to Redis at once; more are refused as if it were away.
pub const REDIS_IN_FLIGHT_MAX: usize = 4_096;

/// Connections of the pool for long answers.
pub const REDIS_POOL: usize = 4;

/// Milliseconds before the first new try to connect to Redis.
pub const REDIS_RETRY_MIN_MS: u64 = 100;

/// Milliseconds before any new try to connect to Redis.
pub const REDIS_RETRY_MAX_MS: u64 = 1_000;

/// Channels of one SUBSCRIBE.
pub const SUBSCRIBE_BATCH: usize = 512;

/// Milliseconds a channel stays subscribed after the last local member has left its room.
pub const SUBSCRIBE_LINGER_MS: u64 = 3_000;

/// Milliseconds that entering a room waits for the confirmation of its channel.
pub const SUBSCRIBE_WAIT_MS: u64 = 2_000;

/// Milliseconds between two messages of a node to itself through Redis.
pub const CANARY_EVERY_MS: u64 = 1_000;

/// Milliseconds without hearing them after which the subscriptions' connection is given up.
pub const CANARY_LOST_MS: u64 = 3_000;

/// Seconds that keys about members live without being renewed; only rubbish gets so old.
pub const PRESENCE_KEPT_S: u64 = 900;

/// Members of one node in one room that are read for a list.
pub const MEMBERS_READ_MAX: usize = 50_000;

/// Leaves of users that wait to be settled: held back, or not told while Redis was away. Past it the oldest is
/// settled at once.
pub const LINGERING_MAX: usize = 100_000;

/// Milliseconds that a list of leases is used without asking again.
pub const LEASES_FRESH_MS: u64 = 1_000;

/// Milliseconds that the last known count of a room is answered while Redis is away.
pub const STALE_MAX_MS: u64 = 30_000;

/// Rooms whose last known count is kept.
pub const COUNTS_KEPT_MAX: usize = 10_000;

/// Rooms of an estate that are settled, or of a node that are registered, at once.
pub const ROOMS_AT_ONCE: usize = 64;

/// Requests and responses of other nodes that wait to be served; more are dropped and counted.
pub const EXCHANGE_QUEUE_MAX: usize = 4_096;

/// Broadcasts with a place in an app's order that wait for the app; more are found missing and read from the
/// records.
pub const SEQUENCED_QUEUE_MAX: usize = 16_384;

/// Users gone for good, disconnects and questions that wait for the gateway.
pub const CONTROL_QUEUE_MAX: usize = 4_096;

/// Seconds in which a broadcast with a key is not repeated.
pub const IDEMPOTENCY_S: u64 = 300;

/// Tracked broadcasts kept for a room.
pub const STREAM_ENTRIES: u64 = 512;

/// Seconds they are kept after the last one.
pub const STREAM_KEPT_S: u64 = 180;

/// Seconds a room's epoch and offset are kept after the last one: much longer, lest a quiet room change its epoch.
pub const STREAM_META_KEPT_S: u64 = 7 * 86_400;

/// Messages of one room that a node delivers from the records when it finds that it missed them; the newest.
pub const CHAT_GAP_MAX: u32 = 1_000;

/// Chat rooms whose missed messages are read from the records at once.
pub const CHAT_ROOMS_AT_ONCE: usize = 4;

/// Rooms whose last message could not be broadcast and is tried again.
pub const CHAT_UNTOLD_MAX: usize = 10_000;

/// Milliseconds between two such tries.
pub const CHAT_UNTOLD_RETRY_MS: u64 = 500;

/// Milliseconds between two tries to find a socket's participations while the records are away.
pub const AUTO_JOIN_RETRY_MS: u64 = 1_000;

/// Characters of an incident's description.
pub const SOS_TEXT_MAX: usize = 2_000;

/// Active participants that are listed.
pub const ACTIVE_PARTICIPANTS_MAX: u32 = 10_000;

/// Incidents that a search nearby lists.
pub const NEARBY_MAX: usize = 100;

/// Incidents that a search nearby looks at; the newest.
pub const NEARBY_SCANNED_MAX: u32 = 10_000;

/// Metres around a place in which incidents are listed unless another radius is asked for.
pub const NEARBY_RADIUS: f64 = 5_000.0;

/// Metres around a place that may be asked for.
pub const NEARBY_RADIUS_MAX: f64 = 100_000.0;

/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;

/// Idempotency keys that a node alone remembers.
pub const IDEMPOTENCY_KEYS_MAX: usize = 100_000;

/// Milliseconds that another node may take to answer a forwarded request, beyond the time a poll may wait.
pub const PEER_CONNECT_MS: u64 = 1_000;

/// Milliseconds that a join of a user's sockets waits for all nodes to have done it.
pub const JOIN_WAIT_MS: u64 = 1_000;

/// Participants of `sos` whose sockets are still to be brought into, or out of, an incident's room.
pub const SOS_OWED_MAX: usize = 10_000;

/// How far ahead of Redis' clock a lease may lapse to count, in milliseconds.
pub const LEASE_AHEAD_MAX_MS: u64 = 3_600_000;

/// How far ahead of the node's clock a backend's `joinedAt` or `leftAt` may be, in milliseconds.
pub const TIME_AHEAD_MAX_MS: u64 = 300_000;

/// Messages of one room that wait while somebody enters it; what is more is read from the records.
pub const CHAT_ARRIVED_MAX: usize = 1_024;

/// Open questions (events whose receivers are asked for acks) of one socket.
pub const QUESTIONS_PER_SOCKET: u32 = 32;

/// Values, timers and places of one map that a node alone keeps for its apps; more are refused.
pub const LIVE_ENTRIES_MAX: usize = 500_000;

/// Times that changing a shared value is tried when other nodes were quicker.
pub const LIVE_TRIES_MAX: usize = 16;

/// Milliseconds after which an announcement that is still in the records is told by any node.
pub const ANNOUNCE_AFTER_MS: u64 = 3_000;

/// Milliseconds between two looks for such announcements, and for calls and emergencies with something due.
pub const DUE_EVERY_MS: u64 = 1_000;

/// Announcements that are looked for, or taken out of the records, at once.
pub const ANNOUNCEMENTS_AT_ONCE: usize = 256;

/// Announcements that have been told and wait to be taken out of the records.
pub const ANNOUNCEMENTS_TOLD_MAX: usize = 16_384;

/// Push requests that wait; more are dropped and counted.
pub const PUSH_QUEUE_MAX: usize = 1_024;

/// Push requests under way at once.
pub const PUSH_AT_ONCE: usize = 8;

/// Times that a push request is tried.
pub const PUSH_TRIES_MAX: u32 = 5;

/// Milliseconds before the second try of a push request; twice as long before each further one.
pub const PUSH_RETRY_MS: u64 = 1_000;

/// Milliseconds that one push request may take.
pub const PUSH_TIMEOUT_MS: u64 = 5_000;

/// Characters of an emergency's description, and of what is noted about it later.
pub const EMERGENCY_TEXT_MAX: usize = 2_000;

/// Characters of an emergency's address.
pub const EMERGENCY_ADDRESS_MAX: usize = 500;

/// Characters of a message between an owner and a helper.
pub const EMERGENCY_MESSAGE_MAX: usize = 1_000;

/// Helpers of one emergency that are listed.
pub const EMERGENCY_HELPERS_MAX: u32 = 1_000;

/// Metres within which helpers hear of a new emergency as near (contract, "emergencies").
pub const HELPER_RADIUS: f64 = 5_000.0;

/// Seconds that a helper's position is good for (contract, "emergencies").
pub const HELPER_POSITION_S: u64 = 300;

/// Helpers near a new emergency that are told so.
pub const HELPERS_NEAR_MAX: usize = 10_000;

/// Open emergencies whose participants' sockets are brought into the rooms after a break.
pub const EMERGENCIES_OPEN_MAX: u32 = 100_000;

/// Users whose rates of creating, writing and moving are kept apart at once.
pub const RATED_USERS_MAX: usize = 100_000;

/// Characters of a message of `care`.
pub const CARE_MESSAGE_MAX: usize = 5_000;

/// Attachments of a message of `care`; they are metadata.
pub const CARE_ATTACHMENTS_MAX: usize = 10;

/// Bytes of a message's attachments, of its metadata, and of a notification's data: each as JSON.
pub const CARE_JSON_MAX: usize = 8 * 1024;

/// Bytes of what WebRTC peers tell each other in one event.
pub const CALL_SIGNAL_MAX: usize = 64 * 1024;

/// Milliseconds between two looks whether the parties of a call are there.
pub const CALL_CHECK_MS: u64 = 5_000;

/// Calls that are looked after at once.
pub const CALLS_AT_ONCE: u32 = 100;

/// Users whose presence may be asked for at once, or watched by one socket (contract, "care").
pub const PRESENCE_USERS_MAX: usize = 500;

/// Users whose presence is asked for from Redis at once.
pub const PRESENCE_AT_ONCE: usize = 32;

/// Characters of a custom status, and of the reason why a call is rejected.
pub const PRESENCE_TEXT_MAX: usize = 128;

/// Milliseconds in which changes of one user's presence are told as one.
pub const PRESENCE_COALESCE_MS: u64 = 250;

/// Seconds that what is known of a user's presence is kept after the last change.
pub const PRESENCE_RECORD_KEPT_S: u64 = 30 * 86_400;

/// Characters of a notification's title.
pub const NOTIFICATION_TITLE_MAX: usize = 200;

/// Characters of a notification's text.
pub const NOTIFICATION_TEXT_MAX: usize = 2_000;

/// Users who may be granted a room of `care`.
pub const ROOM_GRANTS_MAX: usize = 1_000;

/// Milliseconds that the receipt of an emit waits for all nodes to tell how many sockets they have.
pub const REACH_WAIT_MS: u64 = 250;

/// Open emergencies that a search nearby looks at; the nearest by their degrees.
pub const EMERGENCIES_SCANNED_MAX: u32 = 1_000;

/// Milliseconds in which no receipt waits again after a node has not told.
pub const REACH_PAUSE_MS: u64 = 5_000;

//! Every fixed maximum of the system, in one place.
//!
//! Limits that an operator may move are settings ([`crate::config`]); these are the ones that stay.
//! Each has a test that reaches it, and the README lists both kinds in one table.
//!
//! Limits multiply: what one socket may do, as many sockets as a user may have do together. Where that product would be
//! too much, the doc comment names it and what bounds it. The figures take the default settings: 100 sockets of a user
//! in a namespace (`SOCKETS_PER_USER`), 100 events a second of each (`EVENTS_PER_SECOND`), 1 MB of payload. What all
//! sockets of a user share ([`USER_EVENTS_FACTOR`] and what follows it) is shared on one node: on several nodes it is
//! there once for each.

/// Packets of one polling body: a body of the default size with nothing but pongs has half a million, a
/// real one a handful.
pub const PACKETS_PER_PAYLOAD_MAX: usize = 16_384;

/// The largest ack id: what JavaScript keeps exact.
pub const ACK_ID_MAX: u64 = (1 << 53) - 1;

/// Characters of what clients name, and of events and namespaces (contract, "Names and ids").
pub const NAME_MAX: usize = 128;

/// Bytes of a user's id, and of a room that a backend names.
pub const ID_MAX_BYTES: usize = 255;

/// Bytes of a room of the cluster: `chat:A:B` of two of the longest ids, each character of which is escaped.
pub const ROOM_MAX_BYTES: usize = "chat:".len() + 3 * ID_MAX_BYTES + ":".len() + 3 * ID_MAX_BYTES;

/// Bytes of a token; longer ones are refused unread. With 100 sockets: 0.8 MB of claims of one user.
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

/// CONNECT packets a second that a client may send for long, whether they are accepted or refused. Every
/// DISCONNECT needs an accepted one, so it bounds both.
pub const CONNECTS_PER_SECOND: u32 = 10;

/// CONNECT packets that a client may send at once: far more than there are namespaces.
pub const CONNECTS_BURST: u32 = 50;

/// Milliseconds after a CONNECT in which the same one is taken for a client's that had no answer yet, and lets it in anew.
pub const CONNECT_AGAIN_MS: u32 = 250;

/// Engine.IO packets without a meaning for the server (open, upgrade, noop) that a client may send a second.
pub const IGNORED_PACKETS_PER_SECOND: u32 = 10;

/// Such packets that a client may send at once.
pub const IGNORED_PACKETS_BURST: u32 = 50;

/// Acks a second that answer nothing the server still asks. A client whose answers come after the question's
/// time is over sends some without a fault of its own.
pub const UNASKED_ACKS_PER_SECOND: u32 = 100;

/// Such acks at once: a client that was asleep answers everything that waited in its send queue.
pub const UNASKED_ACKS_BURST: u32 = 2_048;

/// Incomplete pieces of WebSocket messages that a client may send a second for long.
pub const FRAGMENTS_PER_SECOND: u32 = 1_000;

/// Incomplete pieces of WebSocket messages that a client may send at once: one message in as many pieces as
/// it may have.
pub const FRAGMENTS_BURST: u32 = FRAGMENTS_MAX;

/// Bytes below which a read that completes no frame counts as a partial read. A message in transit arrives in
/// larger pieces, but for its last one: the smallest segment that networks use has 536 bytes.
pub const PARTIAL_READ_BYTES: usize = 512;

/// Partial reads a second that a client may cause for long.
pub const PARTIAL_READS_PER_SECOND: u32 = 200;

/// Partial reads that a client may cause at once.
pub const PARTIAL_READS_BURST: u32 = 2_000;

/// Bytes that a connection's task reads at once.
pub const READ_MAX_BYTES: usize = 16 * 1024;

/// Units of work that one poll of a connection's task may do before the other tasks have their turn. A frame
/// costs one unit, each started KiB of it another, and a packet that runs a handler
/// [`HANDLER_COST`] more: some 50 µs in all.
pub const TURN_COST: u32 = 64;

/// Units of work of a packet that runs a handler, beside those of its frame.
pub const HANDLER_COST: u32 = 8;

/// Sessions whose deadline has come that are looked at before the other tasks have their turn.
pub const DEADLINES_PER_TURN: usize = 128;

/// Sockets that another server's request is carried out for before the other tasks have their turn.
pub const SOCKETS_PER_TURN: usize = 64;

/// Connections that are accepted before the other tasks have their turn.
pub const ACCEPTS_PER_TURN: u32 = 16;

/// Packets put into send queues by broadcasts before the other tasks have their turn.
pub const DELIVERIES_PER_TURN: usize = 1_024;

/// Bytes of one message or polling body of a session that has not joined a namespace yet, and of a REST body
/// that comes without a valid token.
pub const STRANGER_INPUT_MAX_BYTES: usize = 16 * 1024;

/// Bytes that the HTTP connections of all such strangers may hold together. With [`STRANGERS_UNFINISHED_MAX_BYTES`] and
/// [`PENDING_AUTO_MAX`] sessions, of up to 6 KB each, a node grows by less than 64 MiB whatever strangers do.
pub const STRANGERS_MAX_BYTES: usize = 16 << 20;

/// Bytes of unfinished messages that sessions in no namespace may hold together.
pub const STRANGERS_UNFINISHED_MAX_BYTES: usize = 8 << 20;

/// What an HTTP connection of a stranger counts as among them: hyper's first read buffer and the task.
pub const STRANGER_CONNECTION_BYTES: usize = 12 * 1024;

/// Bytes that wait for a session that has not joined a namespace yet.
pub const STRANGER_OUTBOX_BYTES: usize = 4 * 1024;

/// Packets that wait for a session that has not joined a namespace yet.
pub const STRANGER_OUTBOX_PACKETS: usize = 32;

/// Bytes of a handshake's token that is kept unread until CONNECT; a longer one is verified at the handshake.
pub const HANDSHAKE_TOKEN_MAX_BYTES: usize = 1_024;

/// Sessions without a namespace that `MAX_PENDING=auto` allows at least.
pub const PENDING_AUTO_MIN: usize = 256;

/// Sessions without a namespace that `MAX_PENDING=auto` allows at most.
pub const PENDING_AUTO_MAX: usize = 4_096;

/// Bytes of unfinished input from which on it counts against the budgets; less is not worth the counting.
pub const INPUT_COUNTED_BYTES: usize = 1_024;

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

/// Bytes that one session's send queue may hold without counting against its user.
pub const OUTBOX_FREE_BYTES: usize = 64 * 1024;

/// What all send queues of one user in a namespace hold together beyond [`OUTBOX_FREE_BYTES`] each, in times `OUTBOX_BYTES`.
/// With its default and 100 sockets: 8 MiB and at most 6.4 MB, instead of 100 MiB.
pub const USER_OUTBOXES_FACTOR: usize = 8;

/// Frames of one room that wait to be delivered together.
pub const BATCH_FRAMES_MAX: usize = 256;

/// Bytes of one room that wait to be delivered together. A full batch is delivered at once, so a user's rooms do not
/// multiply it.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Distinct rooms of all sockets of one user on a node, in times `ROOMS_PER_SOCKET`. With its default and 100 sockets:
/// 1,000 rooms and 10,000 entries in them.
pub const USER_ROOMS_FACTOR: usize = 10;

/// Events of clients, and likewise of backends, whose acks a node awaits at once. A user has [`QUESTIONS_PER_USER`] of them,
/// so 157 users fill what clients have; nobody else's questions are met by that. With [`ACK_BYTES_MAX`]: bounded by
/// [`ACKS_BYTES_MAX`].
pub const PENDING_ACKS_MAX: usize = 10_000;

/// Open questions of one user's sockets on a node, together. Without it: 100 sockets of [`QUESTIONS_PER_SOCKET`], 3,200.
pub const QUESTIONS_PER_USER: u32 = 64;

/// Acks that the open questions of one user await together. Without it: [`QUESTIONS_PER_USER`] times [`MEMBERS_MAX`].
pub const AWAITED_ACKS_PER_USER: usize = 20_000;

/// Acks that a node awaits for clients, and likewise for backends, at once: about 32 bytes each, so at most 32 MB. Without
/// it: [`PENDING_ACKS_MAX`] times [`MEMBERS_MAX`], 3 GB.
pub const AWAITED_ACKS_MAX: usize = 1_000_000;

/// Bytes of the acks to all open questions of a node's clients. Without it: [`PENDING_ACKS_MAX`] times [`ACK_BYTES_MAX`],
/// 2.6 GB. Answers beyond it are given as `null`.
pub const ACKS_BYTES_MAX: usize = 64 << 20;

/// Questions that a node asks all nodes for itself at once, to bring a user's sockets into rooms. A question lasts
/// [`JOIN_WAIT_MS`] at most and holds about 200 bytes.
pub const NODE_QUESTIONS_MAX: usize = 100_000;

/// The budget of events that all sockets of a user on a node share, in times `EVENTS_PER_SECOND`. With its default: 1,000
/// units a second and 4,000 at once, where 100 sockets would have 10,000 events a second.
pub const USER_EVENTS_FACTOR: u32 = 10;

/// Bytes of an event that cost its user one unit more. With [`USER_EVENTS_FACTOR`]: 4 MB a second of one user for long and
/// 16 MB at once, where 100 sockets of 100 events of `MAX_PAYLOAD` would have 10 GB a second.
pub const EVENT_UNIT_BYTES: usize = 4_096;

/// Receivers of an event, on the node of its sender, that cost its user one unit more. With [`USER_EVENTS_FACTOR`]: 100,000
/// deliveries a second of one user for long, however large the room.
pub const EVENT_UNIT_RECEIVERS: usize = 100;

/// Bytes of the acks to one event together; what is more is given as `null`.
pub const ACK_BYTES_MAX: usize = 256 * 1024;

/// Milliseconds that the acks to one event may be waited for where a client asks, or a server that does not say how long.
pub const ACK_MAX_MS: u64 = 30_000;

/// Milliseconds that the acks to an event of a backend are waited for: no longer than it says itself, and no longer than a
/// day.
pub const BACKEND_ACK_MAX_MS: u64 = 86_400_000;

/// Members that one answer to a backend lists, and receivers that a client's event may ask for acks; the count is exact all
/// the same. Clients get pages: 1,000 in `relay`, [`PAGE_MAX`] in `care`.
pub const MEMBERS_MAX: usize = 10_000;

/// Chat messages that wait to be stored; past it a sender is told to try again. A user has one for each socket, 100 of
/// them, and 100 a second for long.
pub const CHAT_QUEUE_MAX: usize = 1_024;

/// Chat messages stored in one transaction.
pub const CHAT_BATCH_MAX: usize = 256;

/// Entries of one page of history (contract: 100 at most where a limit may be asked for). With [`CARE_MESSAGE_MAX`] and
/// [`CARE_JSON_MAX`]: 3.6 MB, of which a user gets four a second for long; without a rate 100 sockets would ask for 36 GB.
pub const PAGE_MAX: u32 = 100;

/// Messages that a chat room's history shows on joining (document 003). With [`CHAT_MESSAGE_MAX`]: 200 KB, 100 times a
/// second of one user for long.
pub const CHAT_HISTORY: u32 = 50;

/// Unicode scalar values of a chat message after trimming (document 003).
pub const CHAT_MESSAGE_MAX: usize = 1_000;

/// Milliseconds that the wait for a database connection may take.
pub const RECORDS_CONNECT_MS: u64 = 2_000;

/// Milliseconds that one transaction may take.
pub const RECORDS_TIMEOUT_MS: u64 = 5_000;

/// Milliseconds after the database could not be reached, in which callers are refused at once.
pub const RECORDS_RETRY_MS: u64 = 500;

/// Milliseconds that a start waits for the tables to be up to date, on a database server; then it goes on without.
pub const RECORDS_START_MS: u64 = 10_000;

/// Milliseconds that bringing the tables up to date may take, for each try.
pub const RECORDS_MIGRATE_MS: u64 = 600_000;

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

/// Seconds between two fetches of the key set that nobody asked for.
pub const JWKS_REFRESH_S: u64 = 60;

/// The same, where the last one failed.
pub const JWKS_RETRY_S: u64 = 5;

/// Seconds between two fetches of the key set for tokens by unknown keys that need not be newer than the set.
pub const JWKS_ASKED_PAUSE_S: u64 = 15;

/// Milliseconds between two fetches of the key set for tokens by unknown keys that say that they are newer than it. Less
/// than [`JWKS_HOLD_MS`] by the time that a fetch takes.
pub const JWKS_NEWER_PAUSE_MS: u64 = 3_000;

/// Milliseconds that a token waits for a key set that cannot be fetched.
pub const JWKS_HOLD_MS: u64 = 5_000;

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
const _: () = assert!(FRAGMENTS_BURST + FRAGMENTS_PER_SECOND <= 65_535);
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

/// Bytes of them; more are refused in the same way. One user's events bring 16 MB at once ([`EVENT_UNIT_BYTES`]).
pub const REDIS_POSTS_BYTES: usize = 64 << 20;

/// Broadcasts that are sent to Redis in one go.
pub const REDIS_PIPELINE_MAX: usize = 256;

/// Bytes from which on no more broadcasts are added to what is sent in one go.
pub const REDIS_PIPELINE_BYTES: usize = 1 << 20;

/// Broadcasts of one socket that are on their way to Redis while its next events are handled.
pub const POSTS_PER_SOCKET: u32 = 64;

/// The same of all sockets of one user on a node: one sixteenth of [`REDIS_POSTS_MAX`]. Without it: 100 sockets of
/// [`POSTS_PER_SOCKET`], 6,400, which is more than a node may have. Beyond it each socket has one on its way and waits.
pub const POSTS_PER_USER: u32 = 256;

/// Commands under way to Redis at once; more are refused as if it were away. A user's presence questions have 288 of them
/// under way, nine of [`PRESENCE_AT_ONCE`]; other events one for each socket.
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

/// Milliseconds that no task of a node's workers may have run for its lease to be renewed. Longer than any work
/// takes, and short enough that the clients of workers which stand still for good are soon told to be gone.
pub const WORKERS_SILENT_MAX_MS: u64 = 10_000;

/// Milliseconds between two messages of a node to itself through Redis.
pub const CANARY_EVERY_MS: u64 = 1_000;

/// Milliseconds without hearing them after which the subscriptions' connection is given up.
pub const CANARY_LOST_MS: u64 = 3_000;

/// Seconds that keys about members live without being renewed; only rubbish gets so old.
pub const PRESENCE_KEPT_S: u64 = 900;

/// Members of one node in one room that are read for a list. What is read costs the user one unit for each
/// [`EVENT_UNIT_RECEIVERS`]: two of the largest lists a second.
pub const MEMBERS_READ_MAX: usize = 50_000;

/// Leaves of users that wait to be settled: held back, or not told while Redis was away. Past it the oldest is
/// settled at once. With [`USER_ROOMS_FACTOR`]: 1,000 of one user, so it takes a hundred who are lost at the same time.
pub const LINGERING_MAX: usize = 100_000;

/// Milliseconds that a list of leases is used without asking again.
pub const LEASES_FRESH_MS: u64 = 1_000;

/// Milliseconds after which the list of living nodes is read again for a node that is not on it: it may have just started.
pub const LEASES_RECHECK_MS: u64 = 50;

/// Milliseconds that the last known count of a room is answered while Redis is away.
pub const STALE_MAX_MS: u64 = 30_000;

/// Rooms whose last known count is kept.
pub const COUNTS_KEPT_MAX: usize = 10_000;

/// Rooms of an estate that are settled, or of a node that are registered, at once.
pub const ROOMS_AT_ONCE: usize = 64;

/// Bytes of what was heard from Redis about one namespace and waits for a request before it; what is more is dropped and
/// counted, and the sockets of the namespace are told that they may have missed something. A request that waits for clients'
/// connections to be closed may take [`LANE_WAIT_MS`]: in that time these are 13 MB a second.
pub const LANE_BYTES_MAX: usize = 64 << 20;

/// Bytes that each of them counts beside its own.
pub const LANE_ITEM_BYTES: usize = 256;

/// Milliseconds that what comes after a request waits for it where that has to be done by others than the fan-out: sockets
/// disconnected, questions put to clients.
pub const LANE_WAIT_MS: u64 = 5_000;

/// Sockets that enter or leave a room, or are described, by the task that reads from Redis before others get their turn:
/// about 2 µs each.
pub const EFFECTS_PER_TURN: usize = 64;

/// What follows from requests and waits to be done: telling the store who has entered and left. A request waits where there
/// is more.
pub const AFTERMATHS_MAX: usize = 16_384;

/// The same that is done at once.
pub const AFTERMATHS_AT_ONCE: usize = 64;

/// Bytes of clients' answers to backends that a node holds until Redis has taken them; later ones are `null`.
pub const ACKS_HELD_BYTES_MAX: usize = 64 << 20;

/// Bytes of a message that a server may send through Redis to clients. `MAX_PAYLOAD` is for what clients send; Redis itself
/// cuts off a subscriber that has 32 MB waiting, unless it is configured otherwise.
pub const SERVER_MESSAGE_MAX_BYTES: usize = 16 << 20;

/// Bytes of an answer to another server from which on it is sent by itself, not among what is published in one order.
pub const ANSWER_LARGE_BYTES: usize = 64 * 1024;

/// Broadcasts with a place in an app's order that wait for the app; more are found missing and read from the
/// records.
pub const SEQUENCED_QUEUE_MAX: usize = 16_384;

/// Users gone for good, disconnects and questions that wait for the gateway.
pub const CONTROL_QUEUE_MAX: usize = 4_096;

/// Seconds in which a broadcast with a key is not repeated.
pub const IDEMPOTENCY_S: u64 = 300;

/// Milliseconds between two looks for Socket.IO servers on the same Redis that speak another wire.
pub const FOREIGN_LOOK_MS: u64 = 30_000;

/// Milliseconds since the last entry of a stream of theirs in which such servers are taken to run: they write one every five
/// seconds.
pub const FOREIGN_FRESH_MS: u64 = 15_000;

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

/// Milliseconds before rooms whose missed messages could not be read are tried again.
pub const CHAT_RETRY_MS: u64 = 500;

/// When a node is gone, the last message is broadcast once more of each room that has had one within so many milliseconds: the
/// node may have stored it and not broadcast it.
pub const CHAT_RECOVERED_MS: u64 = 60_000;

/// Incidents, and likewise emergencies, whose rooms a socket enters by itself; the latest. With 100 sockets: 100,000 entries
/// of one user, in no more than 1,000 rooms.
pub const PARTICIPATIONS_MAX: usize = 1_000;

/// Participations that are read at once when all sockets of a node are put where the records say.
pub const PARTICIPANTS_AT_ONCE: u32 = 1_000;

/// Milliseconds between two tries to find the rooms of a socket that has connected while the records are away.
pub const AUTO_JOIN_RETRY_MS: u64 = 1_000;

/// Characters of an incident's description.
pub const SOS_TEXT_MAX: usize = 2_000;

/// Active participants that are listed.
pub const ACTIVE_PARTICIPANTS_MAX: u32 = 10_000;

/// Incidents or emergencies on one page of a search nearby.
pub const NEARBY_MAX: u32 = 100;

/// Incidents or emergencies that one page of a search nearby looks at. A page that reaches this is shorter than asked
/// for and has a next one.
pub const NEARBY_SCANNED_MAX: usize = 2_000;

/// Open incidents, or emergencies, of one user whose nearest is listed before anybody's second one. What the user
/// raises beyond them comes after everybody's first, so that a page never has to look at more of one user.
pub const OPEN_LEADING_MAX: usize = 10;

/// Searches nearby a second of one user on one node, for `sos` and for `emergencies` each.
pub const LOOKS_PER_SECOND: u32 = 5;

/// Searches nearby of one user at once.
pub const LOOKS_BURST: u32 = 50;

/// Incidents a second that a rescuer or an admin may mark as false for long, on one node.
pub const MARKS_PER_SECOND: u32 = 1;

/// Incidents that a rescuer or an admin may mark as false at once.
pub const MARKS_BURST: u32 = 20;

/// Milliseconds for each incident, or emergency, that a user raises: ten a minute for long, on all nodes together.
pub const RAISE_EVERY_MS: u64 = 6_000;

/// Incidents, or emergencies, that a user may raise at once.
pub const RAISE_BURST: u32 = 10;

/// Open incidents that are ended by their age, or whose square is computed, in one go.
pub const INCIDENTS_AT_ONCE: u32 = 256;

/// Metres around a place in which incidents are listed unless another radius is asked for.
pub const NEARBY_RADIUS: f64 = 5_000.0;

/// Metres around a place that may be asked for.
pub const NEARBY_RADIUS_MAX: f64 = 100_000.0;

/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;

/// Idempotency keys that a node alone remembers.
pub const IDEMPOTENCY_KEYS_MAX: usize = 1_000_000;

/// Milliseconds that looking up another node, connecting to it and beginning HTTP may take.
pub const PEER_CONNECT_MS: u64 = 1_000;

/// Milliseconds that another node may take to begin its answer to a forwarded request, beyond the time a poll or a body
/// may take. It is the limit where Redis is away; else the wait ends with that node's lease.
pub const PEER_MARGIN_MS: u64 = 5_000;

/// Milliseconds that a join of a user's sockets waits for all nodes to have done it.
pub const JOIN_WAIT_MS: u64 = 1_000;

/// How far ahead of Redis' clock a lease may lapse to count, in milliseconds.
pub const LEASE_AHEAD_MAX_MS: u64 = 3_600_000;

/// How far ahead of the node's clock a backend's `joinedAt` or `leftAt` may be, in milliseconds.
pub const TIME_AHEAD_MAX_MS: u64 = 300_000;

/// Messages of one room that wait while somebody enters it; what is more is read from the records.
pub const CHAT_ARRIVED_MAX: usize = 1_024;

/// Open questions (events whose receivers are asked for acks) of one socket. See [`QUESTIONS_PER_USER`].
pub const QUESTIONS_PER_SOCKET: u32 = 32;

/// Values, timers and places of one map that a node alone keeps for its apps; more are refused.
pub const LIVE_ENTRIES_MAX: usize = 500_000;

/// Times that changing a shared value is tried when other nodes were quicker.
pub const LIVE_TRIES_MAX: usize = 16;

/// Jobs that are read, claimed, or deleted by one statement.
pub const JOBS_AT_ONCE: usize = 256;

/// Events that a node of a cluster has delivered and whose rows are still in the records. Redis drops repetitions.
pub const JOBS_FINISHED_MAX: usize = 16_384;

/// Events that a node alone has delivered and whose rows are still in the records: no more than these are repeated after a
/// crash. The next one waits until rows are deleted.
pub const JOBS_REPEATED_MAX: usize = 32;

/// Milliseconds that the rows of finished jobs wait for a transaction that deletes them along with its own work.
pub const JOBS_DELETE_WAIT_MS: u64 = 100;

/// Jobs that a node holds in memory; the others wait in the records.
pub const JOBS_HELD_MAX: usize = 100_000;

/// Jobs that wait until the records are back so that they can be stored.
pub const JOBS_UNSTORED_MAX: usize = 10_000;

/// Milliseconds after which the records are asked whether a transaction was committed whose end is not known, and for which an
/// event waits until the rows of others are deleted. Also the milliseconds after a start before the jobs of the process before are
/// run: its clients are back by then.
pub const JOBS_DOUBT_MS: u64 = 3_000;

/// Milliseconds before a job that failed is tried again, at first and at most; a random half of it is left out.
pub const JOBS_RETRY_MIN_MS: u64 = 500;
/// See [`JOBS_RETRY_MIN_MS`].
pub const JOBS_RETRY_MAX_MS: u64 = 5_000;

/// Milliseconds after which a job that is due and not done counts as late.
pub const JOBS_LATE_MS: u64 = 5_000;

/// Milliseconds between two looks for jobs of nodes that are gone, give or take a quarter.
pub const JOBS_LOOK_MS: u64 = 60_000;

/// Milliseconds between two looks for users who may be offline.
pub const DUE_EVERY_MS: u64 = 1_000;

/// Locks that sockets share while it is judged which rooms they may be in.
pub const ACCESS_LOCKS: usize = 256;

/// Sockets of one room that are judged at once after a grant was withdrawn.
pub const REVIEWS_AT_ONCE: usize = 16;

/// Times a second that one user's sockets may change to a token of other rights by `auth:refresh`: each has every room of the
/// socket judged, `ROOMS_PER_SOCKET` at most.
pub const RENEWALS_PER_SECOND: u32 = 10;

/// The same at once: all of a user's sockets may change their tokens together.
pub const RENEWALS_BURST: u32 = 200;

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

/// Participants of open emergencies that are read at once when their sockets are brought into the rooms after a break.
pub const EMERGENCIES_INVOLVED_AT_ONCE: u32 = 10_000;

/// Users whose rates are kept apart at once. About 80 bytes for each rate of a user, so 8 MB a rate with as many users; an
/// app has up to eleven.
pub const RATED_USERS_MAX: usize = 100_000;

/// Characters of a message of `care`. With 10 messages a second of one user and [`CARE_JSON_MAX`]: 360 KB a second for long.
pub const CARE_MESSAGE_MAX: usize = 5_000;

/// Attachments of a message of `care`; they are metadata.
pub const CARE_ATTACHMENTS_MAX: usize = 10;

/// Bytes of a message's attachments, of its metadata, and of a notification's data: each as JSON.
pub const CARE_JSON_MAX: usize = 8 * 1024;

/// Bytes of what WebRTC peers tell each other in one event. With 50 signals a second of one user: 3 MB a second for long.
pub const CALL_SIGNAL_MAX: usize = 64 * 1024;

/// Milliseconds between two looks whether the parties of a call are there.
pub const CALL_CHECK_MS: u64 = 5_000;

/// Users whose presence may be asked for at once, or watched by one socket (contract, "care"). With Redis each costs a
/// command, so asking counts by the number of users: 1,000 a second of one user for long. With 100 sockets: see
/// [`WATCHED_PER_USER_MAX`].
pub const PRESENCE_USERS_MAX: usize = 500;

/// Users whose presence all sockets of one user watch together on a node. With 100 sockets that watch 500 each: 2,000
/// rooms and 50,000 entries in them.
pub const WATCHED_PER_USER_MAX: usize = 2_000;

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

/// Milliseconds in which no receipt waits again after a node has not told.
pub const REACH_PAUSE_MS: u64 = 5_000;

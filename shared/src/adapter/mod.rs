//! The messages of `@socket.io/redis-adapter` (classic) and `@socket.io/redis-emitter` on Redis, in both
//! directions (protocol, 3.1 and 3.2).
//!
//! Muster nodes use the same messages among themselves, so that Node.js servers and emitters are members of
//! the cluster like any other. Muster's extensions are extra keys of a broadcast's `opts`, which others
//! ignore.

mod broadcast;
mod channel;
mod encode;
mod extension;
mod javascript;
mod msgpack;
mod request;
mod response;

pub use broadcast::{Body, Broadcast, BroadcastError, Outgoing, Rooms, Stamp, decode_broadcast};
pub use channel::{Channel, Channels};
pub use encode::{
    encode_ack_broadcast, encode_acked, encode_client_count, encode_count, encode_disconnect_sockets,
    encode_fetch, encode_fetched, encode_join_sockets, encode_leave_sockets, encode_review, encode_rooms,
    encode_server_side_ack, encode_server_side_emit,
};
pub use msgpack::{Fidelity, MsgpackError, json_to_msgpack, msgpack_to_json};
pub use request::{JoinedBy, Request, RequestError, Selection, decode_request};
pub use response::{FetchedSocket, Response, decode_response};

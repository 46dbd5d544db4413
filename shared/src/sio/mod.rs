//! Socket.IO v5: decodes packets to values, and encodes values to frames that all members of a room share.
//!
//! Passed-on content stays raw JSON text: key order, number formatting and lone surrogates arrive as they were sent.

mod answer;
mod decode;
mod encode;
pub(crate) mod placeholders;
mod reassembly;

pub use answer::Answer;
pub use decode::{Args, DecodeError, Kind, Packet, decode};
pub use encode::{
    Encoded, Event, encode_ack, encode_connect, encode_connect_error, encode_disconnect, encode_event_json,
};
pub use reassembly::{Reassembly, Whole};

/// Names reserved by the stock client and server: a received event with one closes the session, and an app may not emit one.
pub const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Whether only servers may emit an event of this name: Socket.IO's own events, and those with which a server informs a
/// client about its connection and its requests. A client that could send one to others could pretend to be the server.
#[must_use]
pub fn is_servers_event(name: &str) -> bool {
    RESERVED_EVENTS.contains(&name)
        || name == "error"
        || name.starts_with("connect")
        || name.starts_with("muster:")
}

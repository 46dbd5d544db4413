//! Socket.IO v5: packets to values, and values to the frames that every member of a room shares.
//!
//! What is only passed on stays raw JSON text: key order, number formatting and lone surrogates reach the
//! other end as they were sent.

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

/// Names that the stock client and server keep for themselves; they close the session when they arrive
/// and are refused where an app would emit them.
pub const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Whether only servers may emit an event of this name: Socket.IO's own, and those by which a server speaks to a client about
/// its connection and its requests. A client that could send one to others could pretend to be the server.
#[must_use]
pub fn is_servers_event(name: &str) -> bool {
    RESERVED_EVENTS.contains(&name)
        || name == "error"
        || name.starts_with("connect")
        || name.starts_with("muster:")
}

//! Engine.IO v4: packets, long-polling payloads and the handshake.

mod base64;
mod handshake;
mod packet;

pub use handshake::{HandshakeError, Open, Query, TransportName};
pub use packet::{BadPacket, Packet, Payload, push_polling, without_binary};

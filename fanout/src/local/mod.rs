//! What a node does for its own sockets: who is in which room, and the way of a packet into every member's send queue
//! and from there to the client.

pub(crate) mod delivery;
pub(crate) mod flusher;
pub(crate) mod hub;
pub(crate) mod node;
pub(crate) mod room;
pub(crate) mod rooms;
mod selection;
pub(crate) mod send_queue;
pub(crate) mod socket;
pub(crate) mod user;
pub(crate) mod work_list;

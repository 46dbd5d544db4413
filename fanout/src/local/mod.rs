//! A node's own sockets: which rooms they are in, and how a packet gets into every member's send queue and from there
//! to the client.

pub(crate) mod audience;
pub(crate) mod delivery;
pub(crate) mod flusher;
pub(crate) mod hub;
pub(crate) mod node;
pub(crate) mod placements;
pub(crate) mod room;
pub(crate) mod rooms;
mod selection;
pub(crate) mod send_queue;
pub(crate) mod socket;
pub(crate) mod turns;
pub(crate) mod user;
pub(crate) mod work_list;

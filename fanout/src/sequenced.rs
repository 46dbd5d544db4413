//! Broadcasts to rooms whose order an app keeps.
//!
//! The fan-out passes each one to the app where it receives it, in the call that would otherwise deliver it. So what is
//! received later, in any room, cannot overtake it on the way to the app. Once an app keeps a room's order, it gets the
//! room's other broadcasts, too, so that none overtakes another.

use shared::ids::SocketId;
use shared::names::{Namespace, UserId};
use shared::sio::Encoded;

/// Takes each broadcast to a room whose order an app keeps. It is called where broadcasts are received, so it must not wait.
pub(crate) type TakeSequenced = Box<dyn Fn(Sequenced) + Send + Sync>;

/// A broadcast to a room whose order an app keeps: the app delivers it ([`crate::Fanout::deliver_sequenced`]).
#[derive(Debug, Clone)]
pub struct Sequenced {
    /// The namespace.
    pub namespace: Namespace,
    /// The room.
    pub room: String,
    /// The place that the app has given it; without one it follows what arrived before it.
    pub sequence: Option<i64>,
    /// The packet to deliver.
    pub packet: Encoded,
    /// Members who do not receive it.
    pub(crate) except: Except,
    /// Dropped for clients that cannot take it now.
    pub volatile: bool,
}

impl Sequenced {
    /// Keeps it from these sockets, too.
    pub fn except(&mut self, sockets: &[SocketId]) {
        self.except.rooms.extend(sockets.iter().map(ToString::to_string));
    }
}

/// Members of the room who do not receive a broadcast.
#[derive(Debug, Clone, Default)]
pub(crate) struct Except {
    pub(crate) socket: Option<SocketId>,
    pub(crate) user: Option<UserId>,
    /// Members of any of these rooms.
    pub(crate) rooms: Vec<String>,
}

//! Delivers a broadcast to this node's sockets, from any backplane.

use std::borrow::Cow;
use std::sync::Arc;

use shared::ids::SocketId;
use shared::sio::Encoded;

use crate::local::hub::Hub;
use crate::local::room::Room;
use crate::local::socket::LocalSocket;

/// The recipients of a broadcast.
#[derive(Clone, Copy)]
pub(crate) enum Receivers<'a> {
    /// The sockets in one room; the room is given if any socket on this node has entered it.
    Room(&'a str, Option<&'a Arc<Room>>),
    /// The sockets of one user.
    User(&'a str),
    /// The sockets in any of some rooms; without rooms: all of the namespace.
    Rooms(&'a [Cow<'a, str>]),
}

/// The recipients of a broadcast, and how it is delivered.
#[derive(Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub(crate) to: Receivers<'a>,
    /// A socket that does not receive it.
    pub(crate) except: Option<SocketId>,
    /// A user whose sockets do not receive it.
    pub(crate) except_user: Option<&'a str>,
    /// Rooms whose members do not receive it.
    pub(crate) except_rooms: &'a [Cow<'a, str>],
    /// Dropped for clients that cannot take it now.
    pub(crate) volatile: bool,
}

impl Hub {
    /// Delivers a broadcast: through the room's batch where it is for all members of one room, else to each socket.
    pub(crate) fn deliver(&self, delivery: &Delivery<'_>, packet: &Encoded) {
        let sockets = match delivery.to {
            Receivers::Room(room, found) => {
                let is_whole = delivery.except_user.is_none() && delivery.except_rooms.is_empty();
                match found {
                    Some(found) if is_whole && !self.is_mixed(room) => {
                        return found.broadcast(packet.clone(), delivery.except, delivery.volatile);
                    }
                    Some(_) | None => self.select(&[room], delivery.except_rooms),
                }
            }
            Receivers::User(user) => self.sockets_of(user),
            Receivers::Rooms(rooms) => self.select(rooms, delivery.except_rooms),
        };
        let is_meant = |socket: &LocalSocket| {
            Some(socket.id()) != delivery.except
                && delivery.except_user.is_none_or(|user| socket.user().as_str() != user)
        };
        for socket in sockets.iter().filter(|socket| is_meant(socket)) {
            if delivery.volatile {
                socket.emit_volatile(packet.clone());
            } else {
                socket.emit(packet.clone());
            }
        }
    }
}

//! Sockets of this node that receive an event whose sender must know their ids.

use std::sync::Arc;

use shared::ids::SocketId;
use shared::limits::SOCKETS_PER_TURN;
use shared::names::Namespace;
use shared::sio::Encoded;

use crate::local::room::Room;
use crate::local::socket::LocalSocket;

/// The recipients of an event, determined when it is sent.
#[derive(Debug)]
pub struct Audience {
    namespace: Namespace,
    of: Of,
}

#[derive(Debug)]
enum Of {
    /// The members of a room, except one.
    Room { room: Arc<Room>, except: Option<SocketId> },
    /// These.
    Sockets(Vec<Arc<LocalSocket>>),
}

impl Audience {
    pub(crate) fn of_room(namespace: Namespace, room: Arc<Room>, except: Option<SocketId>) -> Self {
        Self { namespace, of: Of::Room { room, except } }
    }

    pub(crate) fn of_sockets(namespace: Namespace, sockets: Vec<Arc<LocalSocket>>) -> Self {
        Self { namespace, of: Of::Sockets(sockets) }
    }

    /// The room whose members they are, if any.
    pub(crate) fn room(&self) -> Option<&Arc<Room>> {
        match &self.of {
            Of::Room { room, .. } => Some(room),
            Of::Sockets(_) => None,
        }
    }

    /// The namespace of the sockets.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Sends the packet that `write` makes for the ids of the recipients, if it makes one. Members of a room receive it in
    /// the one order of the room's broadcasts. Packets sent after this ends come later.
    ///
    /// `write` is called once, and must not call the fan-out.
    pub async fn send(&self, write: impl FnOnce(Vec<SocketId>) -> Option<Encoded> + Send) {
        match &self.of {
            Of::Room { room, except } => room.broadcast_to_members(*except, write),
            Of::Sockets(sockets) => {
                let Some(packet) = write(sockets.iter().map(|socket| socket.id()).collect()) else { return };
                for some in sockets.chunks(SOCKETS_PER_TURN) {
                    some.iter().for_each(|socket| socket.emit(packet.clone()));
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

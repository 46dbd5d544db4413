//! Which sockets of this node are meant, by the words of the adapter: rooms, among them the room of a user
//! and the own room of each socket, and rooms whose members are not meant.
//!
//! Those two kinds of rooms are not kept as rooms: who is in them is known anyway.

use std::collections::HashSet;
use std::sync::Arc;

use shared::ids::SocketId;
use shared::names::USER_ROOM_PREFIX;

use crate::registry::{LocalSocket, NamespaceRooms};

impl NamespaceRooms {
    /// The sockets in a room of any kind.
    pub(crate) fn sockets_in(&self, room: &str) -> Vec<Arc<LocalSocket>> {
        if let Some(user) = room.strip_prefix(USER_ROOM_PREFIX) {
            return self.sockets_of(user);
        }
        if let Some(socket) = SocketId::parse(room).and_then(|id| self.socket(id)) {
            return vec![socket];
        }
        self.find(room).map(|room| room.sockets()).unwrap_or_default()
    }

    /// No fewer sockets than [`Self::select`] looks at, without looking at them.
    pub(crate) fn selects_at_most<R: AsRef<str>>(&self, rooms: &[R], except: &[R]) -> usize {
        let size = |room: &R| self.find(room.as_ref()).map_or(1, |room| room.size().max(1));
        let selected = if rooms.is_empty() { self.sockets_at_most() } else { rooms.iter().map(size).sum() };
        selected + except.iter().map(size).sum::<usize>()
    }

    /// The sockets in any of `rooms` (all, where there is none) that are in none of `except`, each once.
    pub(crate) fn select<R: AsRef<str>>(&self, rooms: &[R], except: &[R]) -> Vec<Arc<LocalSocket>> {
        let mut selected: Vec<_> = if rooms.is_empty() {
            self.all_sockets()
        } else {
            rooms.iter().flat_map(|room| self.sockets_in(room.as_ref())).collect()
        };
        if rooms.len() > 1 {
            let mut seen = HashSet::with_capacity(selected.len());
            selected.retain(|socket| seen.insert(socket.id()));
        }
        if !except.is_empty() {
            let excepted: HashSet<SocketId> = except
                .iter()
                .flat_map(|room| self.sockets_in(room.as_ref()))
                .map(|socket| socket.id())
                .collect();
            selected.retain(|socket| !excepted.contains(&socket.id()));
        }
        selected
    }
}

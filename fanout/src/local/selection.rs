//! Which sockets of this node are meant, by the words of the adapter: rooms, among them the room of a user
//! and the own room of each socket, and rooms whose members are not meant.
//!
//! Those two kinds of rooms are not kept as rooms: who is in them is known anyway. A server may put other sockets into them
//! all the same (`in("user:a").socketsJoin("user:b")`); those are kept, under the room's name.

use std::collections::HashSet;
use std::sync::Arc;

use shared::ids::SocketId;
use shared::names::USER_ROOM_PREFIX;

use crate::local::hub::Hub;
use crate::local::socket::LocalSocket;

impl Hub {
    /// Whether a room may have sockets in it that did not enter, beside others that did.
    pub(crate) fn is_mixed(&self, room: &str) -> bool {
        self.rooms.has_implicit()
            && (room.starts_with(USER_ROOM_PREFIX)
                || SocketId::parse(room).is_some_and(|id| self.socket(id).is_some()))
    }

    /// Whether sockets have entered a room that is called as a socket, on this node or another, or as a user's is.
    pub(crate) fn holds_others(&self, room: &str) -> bool {
        self.rooms.has_implicit() && (self.is_mixed(room) || self.find(room).is_some())
    }

    /// The sockets in a room of any kind.
    pub(crate) fn sockets_in(&self, room: &str) -> Vec<Arc<LocalSocket>> {
        let entered = || {
            let ids = self.find(room).map(|room| room.ids()).unwrap_or_default();
            ids.into_iter().filter_map(|id| self.socket(id)).collect::<Vec<_>>()
        };
        let implicit = match room.strip_prefix(USER_ROOM_PREFIX) {
            Some(user) => self.sockets_of(user),
            None => match SocketId::parse(room).and_then(|id| self.socket(id)) {
                Some(socket) => vec![socket],
                None => return entered(),
            },
        };
        if !self.rooms.has_implicit() {
            return implicit;
        }
        let mut sockets = implicit;
        sockets.extend(entered());
        sockets
    }

    /// The names of all rooms that sockets are in, those that they did not enter among them.
    pub(crate) fn all_names(&self) -> HashSet<String> {
        let mut names: HashSet<String> =
            self.rooms.names().iter().map(|room| room.as_str().to_owned()).collect();
        for socket in self.all_sockets() {
            names.insert(socket.id().as_str().to_owned());
            names.insert(format!("{USER_ROOM_PREFIX}{}", socket.user()));
        }
        names
    }

    /// No fewer sockets than [`Self::select`] looks at, without looking at them.
    pub(crate) fn selects_at_most<R: AsRef<str>>(&self, rooms: &[R], except: &[R]) -> usize {
        let size = |room: &R| self.find(room.as_ref()).map_or(1, |room| room.size().max(1));
        let selected = if rooms.is_empty() { self.len() } else { rooms.iter().map(size).sum() };
        selected + except.iter().map(size).sum::<usize>()
    }

    /// The sockets in any of `rooms` (all, where there is none) that are in none of `except`, each once.
    pub(crate) fn select<R: AsRef<str>, E: AsRef<str>>(
        &self,
        rooms: &[R],
        except: &[E],
    ) -> Vec<Arc<LocalSocket>> {
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

//! Selects sockets of this node as the adapter does: by rooms, including a user's room and each socket's own room, without
//! the members of other rooms.
//!
//! These two kinds of rooms are not stored, because their members are known anyway. A server may still put other sockets
//! into them (`in("user:a").socketsJoin("user:b")`); these are stored under the room's name.

use std::collections::HashSet;
use std::sync::Arc;

use shared::ids::SocketId;
use shared::names::USER_ROOM_PREFIX;

use crate::local::audience::Audience;
use crate::local::hub::Hub;
use crate::local::socket::LocalSocket;

impl Hub {
    /// Whether a room may have sockets that did not enter it besides sockets that did.
    pub(crate) fn is_mixed(&self, room: &str) -> bool {
        self.rooms.has_implicit()
            && (room.starts_with(USER_ROOM_PREFIX)
                || SocketId::parse(room).is_some_and(|id| self.socket(id).is_some()))
    }

    /// Whether sockets have entered a room named like a socket, on this node or another, or like a user's room.
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

    /// The names of all rooms with sockets, including rooms that they did not enter.
    pub(crate) fn all_names(&self) -> HashSet<String> {
        let mut names: HashSet<String> =
            self.rooms.names().iter().map(|room| room.as_str().to_owned()).collect();
        for socket in self.all_sockets() {
            names.insert(socket.id().as_str().to_owned());
            names.insert(format!("{USER_ROOM_PREFIX}{}", socket.user()));
        }
        names
    }

    /// An upper bound of the sockets that [`Self::select`] reads, without reading them.
    pub(crate) fn selects_at_most<R: AsRef<str>>(&self, rooms: &[R], except: &[R]) -> usize {
        let size = |room: &R| self.find(room.as_ref()).map_or(1, |room| room.size().max(1));
        let selected = if rooms.is_empty() { self.len() } else { rooms.iter().map(size).sum() };
        selected + except.iter().map(size).sum::<usize>()
    }

    /// The sockets in any of `rooms` and in none of `except`, for an event whose sender must know their ids.
    pub(crate) fn audience<R: AsRef<str>, E: AsRef<str>>(&self, rooms: &[R], except: &[E]) -> Audience {
        let excepted = match except {
            [] => Some(None),
            [one] if !self.holds_others(one.as_ref()) => SocketId::parse(one.as_ref()).map(Some),
            _ => None,
        };
        if let ([room], Some(excepted)) = (rooms, excepted)
            && !self.is_mixed(room.as_ref())
            && let Some(found) = self.find(room.as_ref())
        {
            return Audience::of_room(self.name.clone(), found, excepted);
        }
        Audience::of_sockets(self.name.clone(), self.select(rooms, except))
    }

    /// The sockets in any of `rooms` (all, if empty) and in none of `except`, each once.
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

//! A user's sockets on this node, and the rooms that they share.
//!
//! Everything here changes under the lock of the user's entry, together with the members of the room
//! ([`crate::local::hub`]). It never grows with the number of sockets times the number of rooms that one of them leaves.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use shared::limits::{USER_ROOMS_FACTOR, WATCHED_PER_USER_MAX};
use smallvec::SmallVec;

use crate::error::FanoutError;
use crate::local::room::{Kind, Room};
use crate::local::send_queue::Quota;
use crate::local::socket::LocalSocket;

/// The sockets of a user in one namespace.
#[derive(Default)]
pub(crate) struct User {
    pub(crate) sockets: SmallVec<[Arc<LocalSocket>; 1]>,
    /// Their rooms, while the user has several sockets. A single socket has its own list of rooms.
    shared: Option<Box<SharedRooms>>,
    /// The bytes that the send queues of the user's sockets hold together.
    pub(crate) quota: Arc<Quota>,
}

/// The rooms of all of a user's sockets.
#[derive(Default)]
struct SharedRooms {
    /// How many of the sockets are in each room, by the room's address; never 0.
    sockets: HashMap<usize, u32, RandomState>,
    /// How many of these rooms the user has joined, and how many are only watched.
    joined: usize,
    watched: usize,
}

impl SharedRooms {
    fn add(&mut self, room: &Arc<Room>) {
        let sockets = self.sockets.entry(Room::address(room)).or_default();
        *sockets += 1;
        if *sockets == 1 {
            self.count(room.kind, |count| *count += 1);
        }
    }

    /// Returns whether none of the sockets is in the room any more.
    fn remove(&mut self, room: &Arc<Room>) -> bool {
        let Some(sockets) = self.sockets.get_mut(&Room::address(room)) else { return true };
        *sockets -= 1;
        let is_last = *sockets == 0;
        if is_last {
            self.sockets.remove(&Room::address(room));
            self.count(room.kind, |count| *count -= 1);
        }
        is_last
    }

    fn count(&mut self, kind: Kind, change: impl FnOnce(&mut usize)) {
        match kind {
            Kind::Joined => change(&mut self.joined),
            Kind::Watched => change(&mut self.watched),
            Kind::Own => {}
        }
    }
}

impl User {
    pub(crate) fn add(&mut self, socket: Arc<LocalSocket>) {
        if let [first] = &*self.sockets {
            let mut shared = Box::<SharedRooms>::default();
            first.each_room(|room| shared.add(room));
            self.shared = Some(shared);
        }
        self.sockets.push(socket);
    }

    pub(crate) fn remove(&mut self, socket: &Arc<LocalSocket>) {
        self.sockets.retain(|other| !Arc::ptr_eq(other, socket));
        if self.sockets.len() <= 1 {
            self.shared = None;
        }
    }

    /// Whether another socket of the user is in the room already. Not valid if the socket itself is in it.
    pub(crate) fn is_in(&self, room: &Arc<Room>) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.sockets.contains_key(&Room::address(room)))
    }

    pub(crate) fn entered(&mut self, room: &Arc<Room>) {
        if let Some(shared) = &mut self.shared {
            shared.add(room);
        }
    }

    /// Returns whether no socket of the user is in the room any more.
    pub(crate) fn left(&mut self, room: &Arc<Room>) -> bool {
        self.shared.as_mut().is_none_or(|shared| shared.remove(room))
    }

    /// Whether the user's sockets together may be in one more room of this kind.
    pub(crate) fn has_place(&self, kind: Kind, per_socket: usize) -> Result<(), FanoutError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        match kind {
            Kind::Joined if per_socket != 0 && shared.joined >= per_socket * USER_ROOMS_FACTOR => {
                Err(FanoutError::TooManyRooms)
            }
            Kind::Watched if shared.watched >= WATCHED_PER_USER_MAX => Err(FanoutError::TooManyWatched),
            Kind::Joined | Kind::Watched | Kind::Own => Ok(()),
        }
    }
}

//! [`Hub`]: one namespace on this node.
//!
//! A user's entry is locked before anything of a room ([`crate::local::room`]); no lock is held across an await.
//!
//! The user's entry counts their sockets in a room, which shows whether a socket is the first or last ([`crate::local::user`]).
//! So entering, leaving and closing cost the same however many sockets and rooms the user has.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use dashmap::DashMap;
use parking_lot::Mutex;
use shared::ids::SocketId;
use shared::names::{Namespace, Room as RoomName, UserId};

use crate::error::FanoutError;
use crate::local::flusher::Flusher;
use crate::local::placements::Placements;
use crate::local::room::{Kind, Room};
use crate::local::rooms::Rooms;
use crate::local::send_queue::SendQueue;
use crate::local::socket::LocalSocket;
use crate::local::user::User;
use crate::presence::{Entered, Left, SocketInfo};
use crate::stats::Stats;

/// The progress of detaching a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detached {
    /// Another task has begun it.
    Elsewhere,
    /// There are more rooms to leave.
    Partly,
    /// The socket is detached.
    Wholly,
}

/// One namespace on this node: its sockets, their users, and their rooms.
pub(crate) struct Hub {
    pub(crate) name: Namespace,
    pub(crate) rooms: Arc<Rooms>,
    users: DashMap<UserId, User, RandomState>,
    sockets: DashMap<SocketId, Arc<LocalSocket>, RandomState>,
    /// Detached sockets that have not left all of their rooms on all nodes.
    leaving: DashMap<SocketId, Arc<LocalSocket>, RandomState>,
    /// Rooms whose broadcasts are wanted although no socket is in them yet, and by how many callers.
    followed: Mutex<HashMap<String, usize>>,
    pub(crate) placements: Placements,
}

impl Hub {
    pub(crate) fn new(
        (name, number): (Namespace, usize),
        flushers: Box<[Arc<Flusher>]>,
        stats: Arc<Stats>,
    ) -> Self {
        let rooms = Arc::new(Rooms::new((name.clone(), number), flushers, stats));
        let (users, sockets, leaving) = Default::default();
        let (followed, placements) = Default::default();
        Self { name, rooms, users, sockets, leaving, followed, placements }
    }

    /// Attaches the socket, unless its user already has `per_user` (0: no limit). `first` is called when that is certain and
    /// before other tasks can find the socket: packets that it queues come ahead of everything that is sent to the socket.
    pub(crate) fn attach(
        &self,
        (info, queue): (SocketInfo, Arc<SendQueue>),
        per_user: usize,
        first: impl FnOnce(),
    ) -> Result<Arc<LocalSocket>, FanoutError> {
        let mut user = self.users.entry(info.user.clone()).or_default();
        if per_user != 0 && user.sockets.len() >= per_user {
            return Err(FanoutError::TooManySockets);
        }
        queue.counts_for(&user.quota);
        first();
        let (info, all_rooms) = (Arc::new(info), Arc::clone(&self.rooms));
        let socket = Arc::new(LocalSocket { info, queue, all_rooms, rooms: Mutex::default() });
        user.add(Arc::clone(&socket));
        self.sockets.insert(socket.id(), Arc::clone(&socket));
        Ok(socket)
    }

    /// Leaves up to `at_most` of the socket's rooms, and detaches the socket when no room is left. Calls `left` for each room,
    /// with whether it was the user's last socket there, before the user can enter it again. The caller that begins (`begins`)
    /// repeats the call until it is done; other callers have nothing to do.
    pub(crate) fn detach_some(
        &self,
        socket: &Arc<LocalSocket>,
        begins: bool,
        at_most: usize,
        mut left: impl FnMut(&Arc<Room>, bool),
    ) -> Detached {
        let Some(mut user) = self.users.get_mut(&socket.info.user) else { return Detached::Elsewhere };
        let (rooms, is_over) = {
            let mut joined = socket.rooms.lock();
            if begins && std::mem::replace(&mut joined.detached, true) {
                return Detached::Elsewhere;
            }
            (joined.take_some(at_most), joined.is_empty())
        };
        if begins {
            self.leaving.insert(socket.id(), Arc::clone(socket));
            self.sockets.remove(&socket.info.id);
        }
        for room in &rooms {
            self.rooms.remove_member(room, &socket.info);
            let is_last = user.left(room);
            left(room, self.note_left(room, is_last));
        }
        if !is_over {
            return Detached::Partly;
        }
        // Last, so that the user's other sockets do not count as the first in its rooms before.
        user.remove(socket);
        drop(user);
        self.users.remove_if(&socket.info.user, |_, user| user.sockets.is_empty());
        Detached::Wholly
    }

    /// A detached socket that has not left all of its rooms on all nodes.
    pub(crate) fn leaving(&self, id: SocketId) -> Option<Arc<LocalSocket>> {
        self.leaving.get(&id).map(|socket| Arc::clone(&socket))
    }

    /// Notes that a socket has left all of its rooms on all nodes.
    pub(crate) fn has_left(&self, socket: &LocalSocket) {
        self.leaving.remove(&socket.id());
        socket.set_left();
    }

    /// Puts the socket into a room. A socket may join `per_socket` rooms (0: no limit), and all sockets of its user together
    /// `USER_ROOMS_FACTOR` times as many.
    pub(crate) fn enter(
        &self,
        socket: &Arc<LocalSocket>,
        (name, kind): (&RoomName, Kind),
        per_socket: usize,
    ) -> Result<Entered, FanoutError> {
        // Held to the end, so that only one socket counts as the user's first in the room.
        let mut user = self.users.get_mut(&socket.info.user).ok_or(FanoutError::Gone)?;
        let mut found = self.find(name.as_str());
        {
            let joined = socket.rooms.lock();
            if joined.detached {
                return Err(FanoutError::Gone);
            }
            if found.as_ref().is_some_and(|room| joined.has(room)) {
                return Ok(Entered { new: false, first_of_user: false });
            }
            let counted = || joined.rooms.iter().filter(|room| room.kind == Kind::Joined).count();
            let is_full = per_socket != 0 && joined.rooms.len() >= per_socket && counted() >= per_socket;
            if kind == Kind::Joined && is_full {
                return Err(FanoutError::TooManyRooms);
            }
        }
        let first_of_user = !found.as_ref().is_some_and(|room| user.is_in(room));
        if first_of_user {
            user.has_place(kind, per_socket)?;
        }
        loop {
            // If its last member has left since the lookup, the next iteration creates a new room.
            let room = found.take().unwrap_or_else(|| {
                let room = self.rooms.find_or_create(name, kind);
                if self.is_followed(name.as_str()) {
                    // The app has the room's earlier broadcasts.
                    room.set_sequenced();
                }
                room
            });
            let joined = || socket.rooms.lock().add(Arc::clone(&room));
            if room.insert((&socket.info, &socket.queue), joined) {
                user.entered(&room);
                if room.is_public() {
                    Stats::add(&self.rooms.stats.joins, 1);
                    room.count_user(first_of_user);
                }
                return Ok(Entered { new: true, first_of_user });
            }
        }
    }

    /// Removes the socket from a room.
    pub(crate) fn leave(&self, socket: &Arc<LocalSocket>, name: &str) -> Left {
        let none = Left { was_member: false, last_of_user: false };
        let Some(mut user) = self.users.get_mut(&socket.info.user) else { return none };
        let named = socket.rooms.lock().take_named(name);
        let taken = named.or_else(|| self.find(name).filter(|room| socket.rooms.lock().take(room)));
        let Some(room) = taken else { return none };
        self.rooms.remove_member(&room, &socket.info);
        let is_last = user.left(&room);
        Left { was_member: true, last_of_user: self.note_left(&room, is_last) }
    }

    /// Notes that a user's socket has left a room, the last one or another.
    fn note_left(&self, room: &Room, is_last: bool) -> bool {
        if is_last && room.is_public() {
            room.uncount_user();
        }
        is_last
    }

    /// Wants broadcasts to a room although no socket is in it yet, until [`Self::unfollow`].
    pub(crate) fn follow(&self, room: &str) {
        *self.followed.lock().entry(room.to_owned()).or_default() += 1;
    }

    /// Undoes one [`Self::follow`].
    pub(crate) fn unfollow(&self, room: &str) {
        let mut followed = self.followed.lock();
        if let Some(followers) = followed.get_mut(room) {
            *followers -= 1;
            if *followers == 0 {
                followed.remove(room);
            }
        }
    }

    /// Whether a socket is about to enter a room.
    pub(crate) fn is_followed(&self, room: &str) -> bool {
        self.followed.lock().contains_key(room)
    }

    /// The room, if a socket on this node is in it.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.find(name)
    }

    /// The room, if a socket on this node is its member; watching is not enough.
    pub(crate) fn find_public(&self, name: &str) -> Option<Arc<Room>> {
        self.find(name).filter(|room| room.is_public())
    }

    /// The sockets of a user.
    pub(crate) fn sockets_of(&self, user: &str) -> Vec<Arc<LocalSocket>> {
        self.users.get(user).map(|user| user.sockets.to_vec()).unwrap_or_default()
    }

    /// The socket of this id.
    pub(crate) fn socket(&self, id: SocketId) -> Option<Arc<LocalSocket>> {
        self.sockets.get(&id).map(|socket| Arc::clone(&socket))
    }

    /// How many sockets there are.
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// All sockets.
    pub(crate) fn all_sockets(&self) -> Vec<Arc<LocalSocket>> {
        self.sockets.iter().map(|entry| Arc::clone(entry.value())).collect()
    }
}

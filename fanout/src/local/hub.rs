//! [`Hub`]: one namespace on this node.
//!
//! A user's entry is locked before anything of a room ([`crate::local::room`]); no lock is held across an await.
//!
//! Whether a socket is its user's first or last in a room is a number in the user's entry ([`crate::local::user`]), so entering, leaving and
//! closing cost the same however many sockets and rooms the user has.

use std::sync::Arc;

use ahash::RandomState;
use dashmap::DashMap;
use parking_lot::Mutex;
use shared::ids::SocketId;
use shared::names::{Namespace, Room as RoomName, UserId};

use crate::error::FanoutError;
use crate::local::flusher::Flusher;
use crate::local::room::{Kind, Room};
use crate::local::rooms::Rooms;
use crate::local::send_queue::SendQueue;
use crate::local::socket::LocalSocket;
use crate::local::user::User;
use crate::presence::{Entered, Left, SocketInfo};
use crate::stats::Stats;

/// How far the detaching of a socket has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detached {
    /// Somebody else has begun it.
    Elsewhere,
    /// There are more rooms to leave.
    Partly,
    /// The socket is forgotten.
    Wholly,
}

/// One namespace on this node: its sockets, their users, and their rooms.
pub(crate) struct Hub {
    pub(crate) name: Namespace,
    pub(crate) rooms: Arc<Rooms>,
    users: DashMap<UserId, User, RandomState>,
    sockets: DashMap<SocketId, Arc<LocalSocket>, RandomState>,
}

impl Hub {
    pub(crate) fn new(
        (name, number): (Namespace, usize),
        flushers: Box<[Arc<Flusher>]>,
        stats: Arc<Stats>,
    ) -> Self {
        let rooms = Arc::new(Rooms::new((name.clone(), number), flushers, stats));
        Self { name, rooms, users: DashMap::default(), sockets: DashMap::default() }
    }

    /// Makes the socket known, unless its user has `per_user` already (0: no limit).
    pub(crate) fn attach(
        &self,
        info: SocketInfo,
        queue: Arc<SendQueue>,
        per_user: usize,
    ) -> Result<Arc<LocalSocket>, FanoutError> {
        let mut user = self.users.entry(info.user.clone()).or_default();
        if per_user != 0 && user.sockets.len() >= per_user {
            return Err(FanoutError::TooManySockets);
        }
        queue.counts_for(&user.quota);
        let (info, all_rooms) = (Arc::new(info), Arc::clone(&self.rooms));
        let socket = Arc::new(LocalSocket { info, queue, all_rooms, rooms: Mutex::default() });
        user.add(Arc::clone(&socket));
        self.sockets.insert(socket.id(), Arc::clone(&socket));
        Ok(socket)
    }

    /// Leaves up to `at_most` of the socket's rooms, and forgets the socket when there are no more. Calls `left` for each
    /// room, with whether it was the user's last socket there, before the user can enter it again. Whoever begins
    /// (`begins`) calls again until it is done; for others there is nothing to do.
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
        // Only now: until then the user's other sockets are not the first in its rooms.
        user.remove(socket);
        drop(user);
        self.users.remove_if(&socket.info.user, |_, user| user.sockets.is_empty());
        Detached::Wholly
    }

    /// Puts the socket into a room; it may be in `per_socket` rooms of its own choice (0: no limit), and all sockets of its
    /// user together in `USER_ROOMS_FACTOR` times as many.
    pub(crate) fn enter(
        &self,
        socket: &Arc<LocalSocket>,
        (name, kind): (&RoomName, Kind),
        per_socket: usize,
    ) -> Result<Entered, FanoutError> {
        // Held to the end: whether this is the user's first socket in the room is decided once.
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
            // Where its last member left between our look and now, the next look makes a new one.
            let room = found.take().unwrap_or_else(|| self.rooms.find_or_create(name, kind));
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

    /// Takes the socket out of a room.
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

    /// Notes that the last of a user's sockets has left a room, or another one.
    fn note_left(&self, room: &Room, is_last: bool) -> bool {
        if is_last && room.is_public() {
            room.uncount_user();
        }
        is_last
    }

    /// The room, if somebody on this node is in it.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.find(name)
    }

    /// The room, if somebody on this node is its member; it is not enough to watch it.
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

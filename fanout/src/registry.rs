//! This node's sockets, and which rooms they are in.
//!
//! A user's entry is locked before anything of a room ([`crate::room`]); no lock is held across an await.

use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use dashmap::DashMap;
use parking_lot::Mutex;
use shared::ids::SocketId;
use shared::names::{Namespace, Room as RoomName, UserId};
use shared::sio::Encoded;
use smallvec::SmallVec;

use crate::courier::Courier;
use crate::error::FanoutError;
use crate::outbox::Outbox;
use crate::presence::{Entered, Left};
use crate::room::{Kind, Room};
use crate::stats::Stats;

/// Who a socket is, told once when it is attached.
#[derive(Debug, Clone)]
pub struct SocketInfo {
    /// Its id.
    pub id: SocketId,
    /// Whose it is.
    pub user: UserId,
    /// The name to show in lists of members.
    pub display_name: Box<str>,
    /// Milliseconds since the epoch.
    pub connected_at_ms: u64,
    /// The e-mail address in its token.
    pub email: Option<Box<str>>,
    /// The role in its token.
    pub role: Option<Box<str>>,
}

/// A socket of this node.
pub struct LocalSocket {
    pub(crate) info: SocketInfo,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) namespace: Arc<NamespaceRooms>,
    rooms: Mutex<Joined>,
}

#[derive(Default)]
struct Joined {
    /// Set by detaching; nothing is entered after it.
    gone: bool,
    rooms: SmallVec<[Arc<Room>; 2]>,
    /// Rooms that a backend has put it into; most sockets have none.
    placed: Option<Box<Placed>>,
}

/// Names of rooms.
struct Placed(SmallVec<[RoomName; 1]>);

impl fmt::Debug for LocalSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSocket").field("info", &self.info).finish_non_exhaustive()
    }
}

impl LocalSocket {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> SocketId {
        self.info.id
    }

    /// Whose it is.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.info.user
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace.name
    }

    /// The session's queue.
    #[must_use]
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Whether it is in `room`; not so where it only watches.
    #[must_use]
    pub fn is_in(&self, room: &str) -> bool {
        self.rooms.lock().rooms.iter().any(|joined| joined.name.as_str() == room && joined.is_listed())
    }

    /// Whether it is still known here.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.namespace.knows(self)
    }

    /// The names of its rooms, but for those that it only watches.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomName> {
        self.named(Room::is_listed)
    }

    /// The names of the rooms that it watches.
    pub(crate) fn watched(&self) -> Vec<RoomName> {
        self.named(|room| !room.is_listed())
    }

    /// Whether a backend has put it into `room`: no app's rules take it out then.
    #[must_use]
    pub fn is_placed(&self, room: &str) -> bool {
        let joined = self.rooms.lock();
        joined.placed.as_ref().is_some_and(|placed| placed.0.iter().any(|name| name.as_str() == room))
    }

    /// A backend has put it into `room`. Forgotten when it leaves.
    pub(crate) fn set_placed(&self, room: &RoomName) {
        let mut joined = self.rooms.lock();
        if joined.rooms.iter().any(|joined| joined.name == *room) {
            let placed = joined.placed.get_or_insert_with(|| Box::new(Placed(SmallVec::new())));
            if !placed.0.contains(room) {
                placed.0.push(room.clone());
            }
        }
    }

    fn named(&self, is_meant: impl Fn(&Room) -> bool) -> Vec<RoomName> {
        let joined = self.rooms.lock();
        joined.rooms.iter().filter(|room| is_meant(room)).map(|room| room.name.clone()).collect()
    }

    /// Puts `packet` into the outbox, behind every broadcast that was made to the socket's rooms before.
    pub(crate) fn emit(&self, packet: Encoded) {
        self.settle_rooms();
        self.outbox.send(packet.into_wire(), 1);
    }

    /// Like [`Self::emit`], but dropped when the client cannot take it now.
    pub(crate) fn emit_volatile(&self, packet: Encoded) {
        self.settle_rooms();
        if self.outbox.push_volatile(packet.into_wire(), 1) {
            self.outbox.schedule();
        }
    }

    fn settle_rooms(&self) {
        let dirty: SmallVec<[Arc<Room>; 2]> = {
            let joined = self.rooms.lock();
            joined.rooms.iter().filter(|room| room.is_dirty()).cloned().collect()
        };
        for room in dirty {
            room.settle();
        }
    }
}

/// The rooms of one namespace.
pub(crate) struct NamespaceRooms {
    pub(crate) name: Namespace,
    rooms: DashMap<RoomName, Arc<Room>, RandomState>,
    users: DashMap<UserId, SmallVec<[Arc<LocalSocket>; 1]>, RandomState>,
    sockets: DashMap<SocketId, Arc<LocalSocket>, RandomState>,
    couriers: Box<[Arc<Courier>]>,
    stats: Arc<Stats>,
}

impl NamespaceRooms {
    pub(crate) fn new(name: Namespace, couriers: Box<[Arc<Courier>]>, stats: Arc<Stats>) -> Self {
        let (rooms, users, sockets) = (DashMap::default(), DashMap::default(), DashMap::default());
        Self { name, rooms, users, sockets, couriers, stats }
    }

    /// Makes the socket known, unless its user has `per_user` already (0: no limit).
    pub(crate) fn attach(
        self: &Arc<Self>,
        info: SocketInfo,
        outbox: Arc<Outbox>,
        per_user: usize,
    ) -> Result<Arc<LocalSocket>, FanoutError> {
        let mut sockets = self.users.entry(info.user.clone()).or_default();
        if per_user != 0 && sockets.len() >= per_user {
            return Err(FanoutError::TooManySockets);
        }
        let namespace = Arc::clone(self);
        let socket = Arc::new(LocalSocket { info, outbox, namespace, rooms: Mutex::default() });
        sockets.push(Arc::clone(&socket));
        self.sockets.insert(socket.id(), Arc::clone(&socket));
        Ok(socket)
    }

    /// Leaves every room and forgets the socket. Answers the rooms it was in. A second call finds nothing.
    pub(crate) fn detach(&self, socket: &Arc<LocalSocket>) -> Vec<(Arc<Room>, Left)> {
        let Some(mut sockets) = self.users.get_mut(&socket.info.user) else { return Vec::new() };
        sockets.retain(|other| !Arc::ptr_eq(other, socket));
        let rooms = {
            let mut joined = socket.rooms.lock();
            joined.gone = true;
            std::mem::take(&mut joined.rooms)
        };
        let left = rooms
            .into_iter()
            .map(|room| {
                self.remove_member(&room, socket);
                let last_of_user = !sockets.iter().any(|other| other.is_in(room.name.as_str()));
                (room, Left { was_member: true, last_of_user })
            })
            .collect();
        self.sockets.remove(&socket.info.id);
        drop(sockets);
        self.users.remove_if(&socket.info.user, |_, sockets| sockets.is_empty());
        left
    }

    /// Puts the socket into a room; it may be in `per_socket` rooms of its own choice (0: no limit).
    pub(crate) fn enter(
        &self,
        socket: &Arc<LocalSocket>,
        (name, kind): (&RoomName, Kind),
        per_socket: usize,
    ) -> Result<Entered, FanoutError> {
        // Held to the end: whether this is the user's first socket in the room is decided once.
        let sockets = self.users.get_mut(&socket.info.user).ok_or(FanoutError::Gone)?;
        let first_of_user = |socket: &Arc<LocalSocket>| {
            !sockets.iter().any(|other| !Arc::ptr_eq(other, socket) && other.is_in(name.as_str()))
        };
        {
            let joined = socket.rooms.lock();
            if joined.gone {
                return Err(FanoutError::Gone);
            }
            if joined.rooms.iter().any(|room| room.name == *name) {
                drop(joined);
                return Ok(Entered { new: false, first_of_user: false });
            }
            let counted = || joined.rooms.iter().filter(|room| room.kind == Kind::Joined).count();
            let is_full = per_socket != 0 && joined.rooms.len() >= per_socket && counted() >= per_socket;
            if kind == Kind::Joined && is_full {
                return Err(FanoutError::TooManyRooms);
            }
        }
        let first_of_user = first_of_user(socket);
        loop {
            let room = self.room(name, kind);
            let joined = || socket.rooms.lock().rooms.push(Arc::clone(&room));
            // Where its last member left between our look and now, the next look makes a new one.
            if room.insert(socket, joined) {
                if room.is_listed() {
                    Stats::add(&self.stats.joins, 1);
                }
                return Ok(Entered { new: true, first_of_user });
            }
        }
    }

    /// Takes the socket out of a room.
    pub(crate) fn leave(&self, socket: &Arc<LocalSocket>, name: &str) -> Left {
        let none = Left { was_member: false, last_of_user: false };
        let Some(sockets) = self.users.get_mut(&socket.info.user) else { return none };
        let room = {
            let mut joined = socket.rooms.lock();
            let Some(at) = joined.rooms.iter().position(|room| room.name.as_str() == name) else {
                return none;
            };
            if let Some(placed) = &mut joined.placed {
                placed.0.retain(|room| room.as_str() != name);
            }
            joined.rooms.swap_remove(at)
        };
        self.remove_member(&room, socket);
        let last_of_user = !sockets.iter().any(|other| other.is_in(name));
        Left { was_member: true, last_of_user }
    }

    fn remove_member(&self, room: &Arc<Room>, socket: &Arc<LocalSocket>) {
        if room.remove(socket) {
            self.rooms.remove_if(&room.name, |_, other| Arc::ptr_eq(other, room));
        }
    }

    fn room(&self, name: &RoomName, kind: Kind) -> Arc<Room> {
        if let Some(room) = self.rooms.get(name) {
            return Arc::clone(&room);
        }
        let courier = &self.couriers[self.rooms.hash_usize(name) % self.couriers.len()];
        let made = || {
            let (courier, stats) = (Arc::clone(courier), Arc::clone(&self.stats));
            Arc::new(Room::new(name.clone(), kind, courier, stats))
        };
        Arc::clone(&self.rooms.entry(name.clone()).or_insert_with(made))
    }

    /// The room, if anybody of this node is in it.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.get(name).map(|room| Arc::clone(&room))
    }

    /// The sockets of a user.
    pub(crate) fn sockets_of(&self, user: &str) -> Vec<Arc<LocalSocket>> {
        self.users.get(user).map(|sockets| sockets.to_vec()).unwrap_or_default()
    }

    /// Whether the socket is attached.
    pub(crate) fn knows(&self, socket: &LocalSocket) -> bool {
        self.sockets.contains_key(&socket.info.id)
    }

    /// The socket of this id.
    pub(crate) fn socket(&self, id: SocketId) -> Option<Arc<LocalSocket>> {
        self.sockets.get(&id).map(|socket| Arc::clone(&socket))
    }

    /// All sockets.
    pub(crate) fn all_sockets(&self) -> Vec<Arc<LocalSocket>> {
        self.sockets.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// Does something to every room with members.
    pub(crate) fn each(&self, act: impl Fn(&Room)) {
        self.rooms.iter().for_each(|entry| act(entry.value()));
    }

    /// The names of all rooms with members, but for those that are only watched.
    pub(crate) fn names(&self) -> Vec<RoomName> {
        let listed = self.rooms.iter().filter(|entry| entry.value().is_listed());
        listed.map(|entry| entry.key().clone()).collect()
    }
}

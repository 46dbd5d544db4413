//! This node's sockets, and which rooms they are in.
//!
//! A user's entry is locked before anything of a room ([`crate::local::room`]); no lock is held across an await.
//!
//! Whether a socket is its user's first or last in a room is a number in the user's entry ([`crate::local::user`]), so entering, leaving and
//! closing cost the same however many sockets and rooms the user has.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::RandomState;
use dashmap::DashMap;
use parking_lot::Mutex;
use shared::ids::SocketId;
use shared::names::{Namespace, Room as RoomName, UserId};
use shared::sio::Encoded;
use smallvec::SmallVec;

use crate::backplane::redis::lane::Lane;
use crate::error::FanoutError;
use crate::local::flusher::Flusher;
use crate::local::room::{Kind, Room};
use crate::local::selection::is_implicit;
use crate::local::send_queue::SendQueue;
use crate::local::user::User;
use crate::presence::{Entered, Left};
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
    pub(crate) queue: Arc<SendQueue>,
    pub(crate) namespace: Arc<Hub>,
    rooms: Mutex<Joined>,
}

/// So many rooms are looked through by name; among more, the room is found first and compared by its address.
const FEW: usize = 8;

#[derive(Default)]
struct Joined {
    /// Set by detaching; nothing is entered after it.
    gone: bool,
    /// Those that are listed.
    rooms: SmallVec<[Arc<Room>; 2]>,
    /// Rooms that a backend has put it into; most sockets have none.
    placed: Option<Box<Placed>>,
    /// Those that are only watched, by their address. Most sockets watch none.
    watched: Option<Box<Watched>>,
    /// Those that it was taken out of by [`crate::Fanout::expel`], until that is told.
    expelled: Option<Box<Expelled>>,
}

/// Rooms that a socket has left.
pub(crate) type Expelled = Vec<Arc<Room>>;

/// Rooms by their address.
#[derive(Default)]
struct Watched {
    rooms: HashMap<usize, Arc<Room>, RandomState>,
}

impl Joined {
    fn has(&self, room: &Arc<Room>) -> bool {
        match &self.watched {
            Some(watched) if !room.is_public() => watched.rooms.contains_key(&Room::address(room)),
            _ => self.rooms.iter().any(|joined| Arc::ptr_eq(joined, room)),
        }
    }

    fn add(&mut self, room: Arc<Room>) {
        if room.is_public() {
            self.rooms.push(room);
        } else {
            self.watched.get_or_insert_default().rooms.insert(Room::address(&room), room);
        }
    }

    fn take(&mut self, room: &Arc<Room>) -> bool {
        if !room.is_public() {
            return self
                .watched
                .as_mut()
                .is_some_and(|watched| watched.rooms.remove(&Room::address(room)).is_some());
        }
        let at = self.rooms.iter().position(|joined| Arc::ptr_eq(joined, room));
        at.map(|at| self.take_at(at)).is_some()
    }

    /// Takes a listed room by its name where there are few, so that it need not be looked up.
    fn take_named(&mut self, name: &str) -> Option<Arc<Room>> {
        if self.rooms.len() > FEW {
            return None;
        }
        let at = self.rooms.iter().position(|joined| joined.name.as_str() == name)?;
        Some(self.take_at(at))
    }

    fn take_at(&mut self, at: usize) -> Arc<Room> {
        let room = self.rooms.swap_remove(at);
        if let Some(placed) = &mut self.placed {
            placed.0.retain(|name| *name != room.name);
        }
        room
    }

    /// Takes any `at_most` rooms.
    fn take_some(&mut self, at_most: usize) -> SmallVec<[Arc<Room>; 2]> {
        let first = self.rooms.len().saturating_sub(at_most);
        let mut taken: SmallVec<_> = self.rooms.drain(first..).collect();
        if let Some(watched) = &mut self.watched {
            taken.extend(
                watched.rooms.extract_if(|_, _| true).map(|(_, room)| room).take(at_most - taken.len()),
            );
        }
        taken
    }

    /// Every room, watched ones too.
    fn each(&self, act: impl FnMut(&Arc<Room>)) {
        let watched = self.watched.iter().flat_map(|watched| watched.rooms.values());
        self.rooms.iter().chain(watched).for_each(act);
    }

    fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.watched.as_ref().is_none_or(|watched| watched.rooms.is_empty())
    }
}

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

/// Names of rooms.
struct Placed(SmallVec<[RoomName; 1]>);

impl fmt::Debug for LocalSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSocket").field("info", &self.info).finish_non_exhaustive()
    }
}

impl LocalSocket {
    /// Does something for every room that it is in or watches.
    pub(crate) fn each_room(&self, act: impl FnMut(&Arc<Room>)) {
        self.rooms.lock().each(act);
    }

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
    pub fn queue(&self) -> &Arc<SendQueue> {
        &self.queue
    }

    /// Whether it is in `room`; not so where it only watches.
    #[must_use]
    pub fn is_in(&self, room: &str) -> bool {
        {
            let joined = self.rooms.lock();
            if joined.rooms.len() <= FEW {
                return joined.rooms.iter().any(|joined| joined.name.as_str() == room);
            }
        }
        self.namespace.find(room).is_some_and(|room| room.is_public() && self.rooms.lock().has(&room))
    }

    /// Whether it is still known here.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.namespace.knows(self)
    }

    /// The names of its rooms, but for those that it only watches.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomName> {
        self.rooms.lock().rooms.iter().map(|room| room.name.clone()).collect()
    }

    /// The names of the rooms that it watches.
    pub(crate) fn watched(&self) -> Vec<RoomName> {
        let joined = self.rooms.lock();
        joined
            .watched
            .iter()
            .flat_map(|watched| watched.rooms.values())
            .map(|room| room.name.clone())
            .collect()
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

    /// It was taken out of these rooms, and whoever ends it tells so.
    pub(crate) fn set_expelled(&self, left: Expelled) {
        self.rooms.lock().expelled = Some(Box::new(left));
    }

    /// Those rooms, once.
    pub(crate) fn take_expelled(&self) -> Option<Expelled> {
        self.rooms.lock().expelled.take().map(|left| *left)
    }

    /// Puts `packet` into the send queue, behind every broadcast that was made to the socket's rooms before. Those that it
    /// only watches have no order with anything else.
    pub(crate) fn emit(&self, packet: Encoded) {
        self.flush_rooms();
        self.queue.send(packet.into_wire(), 1);
    }

    /// Like [`Self::emit`], but dropped when the client cannot take it now.
    pub(crate) fn emit_volatile(&self, packet: Encoded) {
        self.flush_rooms();
        if self.queue.push_volatile(packet.into_wire(), 1) {
            self.queue.schedule();
        }
    }

    fn flush_rooms(&self) {
        let dirty: SmallVec<[Arc<Room>; 2]> = {
            let joined = self.rooms.lock();
            joined.rooms.iter().filter(|room| room.is_dirty()).cloned().collect()
        };
        for room in dirty {
            room.flush();
        }
    }
}

/// The rooms of one namespace.
pub(crate) struct Hub {
    pub(crate) name: Namespace,
    rooms: DashMap<RoomName, Arc<Room>, RandomState>,
    users: DashMap<UserId, User, RandomState>,
    sockets: DashMap<SocketId, Arc<LocalSocket>, RandomState>,
    flushers: Box<[Arc<Flusher>]>,
    /// What was heard from Redis and has to wait.
    pub(crate) lane: Lane,
    stats: Arc<Stats>,
    /// A room was entered that may have sockets in it which did not enter ([`is_implicit`]). Never again false.
    pub(crate) has_implicit: AtomicBool,
}

impl Hub {
    pub(crate) fn new(name: Namespace, flushers: Box<[Arc<Flusher>]>, stats: Arc<Stats>) -> Self {
        let (rooms, users, sockets) = (DashMap::default(), DashMap::default(), DashMap::default());
        let has_implicit = AtomicBool::new(false);
        Self { name, rooms, users, sockets, flushers, lane: Lane::default(), stats, has_implicit }
    }

    /// Makes the socket known, unless its user has `per_user` already (0: no limit).
    pub(crate) fn attach(
        self: &Arc<Self>,
        info: SocketInfo,
        queue: Arc<SendQueue>,
        per_user: usize,
    ) -> Result<Arc<LocalSocket>, FanoutError> {
        let mut user = self.users.entry(info.user.clone()).or_default();
        if per_user != 0 && user.sockets.len() >= per_user {
            return Err(FanoutError::TooManySockets);
        }
        queue.counts_for(&user.quota);
        let namespace = Arc::clone(self);
        let socket = Arc::new(LocalSocket { info, queue, namespace, rooms: Mutex::default() });
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
            if begins && std::mem::replace(&mut joined.gone, true) {
                return Detached::Elsewhere;
            }
            (joined.take_some(at_most), joined.is_empty())
        };
        if begins {
            self.sockets.remove(&socket.info.id);
        }
        for room in &rooms {
            self.remove_member(room, socket);
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
            if joined.gone {
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
            let room = found.take().unwrap_or_else(|| self.room(name, kind));
            let joined = || socket.rooms.lock().add(Arc::clone(&room));
            if room.insert(socket, joined) {
                user.entered(&room);
                if room.is_public() {
                    Stats::add(&self.stats.joins, 1);
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
        self.remove_member(&room, socket);
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

    fn remove_member(&self, room: &Arc<Room>, socket: &Arc<LocalSocket>) {
        if room.remove(socket) {
            self.rooms.remove_if(&room.name, |_, other| Arc::ptr_eq(other, room));
        }
    }

    fn room(&self, name: &RoomName, kind: Kind) -> Arc<Room> {
        if let Some(room) = self.rooms.get(name) {
            return Arc::clone(&room);
        }
        if is_implicit(name.as_str()) {
            self.has_implicit.store(true, Ordering::Relaxed);
        }
        let flusher = &self.flushers[self.rooms.hash_usize(name) % self.flushers.len()];
        let made = || {
            let (flusher, stats) = (Arc::clone(flusher), Arc::clone(&self.stats));
            Arc::new(Room::new(name.clone(), kind, flusher, stats))
        };
        Arc::clone(&self.rooms.entry(name.clone()).or_insert_with(made))
    }

    /// The room, if anybody of this node is in it.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.get(name).map(|room| Arc::clone(&room))
    }

    /// The sockets of a user.
    pub(crate) fn sockets_of(&self, user: &str) -> Vec<Arc<LocalSocket>> {
        self.users.get(user).map(|user| user.sockets.to_vec()).unwrap_or_default()
    }

    /// Whether the socket is attached.
    pub(crate) fn knows(&self, socket: &LocalSocket) -> bool {
        self.sockets.contains_key(&socket.info.id)
    }

    /// The socket of this id.
    pub(crate) fn socket(&self, id: SocketId) -> Option<Arc<LocalSocket>> {
        self.sockets.get(&id).map(|socket| Arc::clone(&socket))
    }

    /// How many sockets there are.
    pub(crate) fn sockets_at_most(&self) -> usize {
        self.sockets.len()
    }

    /// How many rooms there are, watched ones too.
    pub(crate) fn rooms_at_most(&self) -> usize {
        self.rooms.len()
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
        let listed = self.rooms.iter().filter(|entry| entry.value().is_public());
        listed.map(|entry| entry.key().clone()).collect()
    }
}

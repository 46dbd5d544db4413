//! A client's socket on this node, and its rooms.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;
use shared::ids::SocketId;
use shared::limits::LANE_WAIT_MS;
use shared::names::{Namespace, Room as RoomName, USER_ROOM_PREFIX, UserId};
use shared::sio::Encoded;
use smallvec::SmallVec;
use tokio::sync::SetOnce;

use crate::local::room::Room;
use crate::local::rooms::Rooms;
use crate::local::send_queue::SendQueue;
use crate::presence::SocketInfo;

/// A socket of this node.
pub struct LocalSocket {
    pub(crate) info: Arc<SocketInfo>,
    pub(crate) queue: Arc<SendQueue>,
    /// The rooms of its namespace.
    pub(crate) all_rooms: Arc<Rooms>,
    pub(crate) rooms: Mutex<Joined>,
}

/// Up to this many rooms are searched by name; among more, the room is looked up first and compared by its address.
const FEW: usize = 8;

/// The rooms that one socket is in.
#[derive(Default)]
pub(crate) struct Joined {
    /// Set when it is detached; it enters no room after that.
    pub(crate) detached: bool,
    /// The public rooms.
    pub(crate) rooms: SmallVec<[Arc<Room>; 2]>,
    /// Rooms that a backend has put it into; most sockets have none.
    placed: Option<Box<Placed>>,
    /// Rooms that it only watches, by their address. Most sockets watch none.
    watched: Option<Box<Watched>>,
    /// Rooms that [`crate::Fanout::expel`] removed it from, until other members are notified.
    expelled: Option<Box<Expelled>>,
    /// Whether it has left its rooms on all nodes.
    left: HasLeft,
}

/// Whether a detached socket has left its rooms on all nodes.
#[derive(Default)]
enum HasLeft {
    #[default]
    No,
    /// Not yet, and a task waits for it.
    Awaited(Arc<SetOnce<()>>),
    Yes,
}

/// Rooms that a socket has left.
pub(crate) type Expelled = Vec<Arc<Room>>;

/// Rooms by their address.
#[derive(Default)]
struct Watched {
    rooms: HashMap<usize, Arc<Room>, RandomState>,
}

impl Joined {
    pub(crate) fn has(&self, room: &Arc<Room>) -> bool {
        match &self.watched {
            Some(watched) if !room.is_public() => watched.rooms.contains_key(&Room::address(room)),
            _ => self.rooms.iter().any(|joined| Arc::ptr_eq(joined, room)),
        }
    }

    pub(crate) fn add(&mut self, room: Arc<Room>) {
        if room.is_public() {
            self.rooms.push(room);
        } else {
            self.watched.get_or_insert_default().rooms.insert(Room::address(&room), room);
        }
    }

    pub(crate) fn take(&mut self, room: &Arc<Room>) -> bool {
        if !room.is_public() {
            return self
                .watched
                .as_mut()
                .is_some_and(|watched| watched.rooms.remove(&Room::address(room)).is_some());
        }
        let at = self.rooms.iter().position(|joined| Arc::ptr_eq(joined, room));
        at.map(|at| self.take_at(at)).is_some()
    }

    /// Removes a public room by its name, without a lookup, if there are few.
    pub(crate) fn take_named(&mut self, name: &str) -> Option<Arc<Room>> {
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

    /// Removes any `at_most` rooms.
    pub(crate) fn take_some(&mut self, at_most: usize) -> SmallVec<[Arc<Room>; 2]> {
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

    pub(crate) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.watched.as_ref().is_none_or(|watched| watched.rooms.is_empty())
    }
}

/// Names of rooms.
struct Placed(SmallVec<[RoomName; 1]>);

impl fmt::Debug for LocalSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSocket").field("info", &self.info).finish_non_exhaustive()
    }
}

impl LocalSocket {
    /// Calls `act` for every room that it is in or watches.
    pub(crate) fn each_room(&self, act: impl FnMut(&Arc<Room>)) {
        self.rooms.lock().each(act);
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SocketId {
        self.info.id
    }

    /// Its user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.info.user
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.all_rooms.namespace
    }

    /// The session's queue.
    #[must_use]
    pub fn queue(&self) -> &Arc<SendQueue> {
        &self.queue
    }

    /// Whether it is in `room`; false where it only watches.
    #[must_use]
    pub fn is_in(&self, room: &str) -> bool {
        {
            let joined = self.rooms.lock();
            if joined.rooms.len() <= FEW {
                return joined.rooms.iter().any(|joined| joined.name.as_str() == room);
            }
        }
        self.all_rooms.find(room).is_some_and(|room| room.is_public() && self.rooms.lock().has(&room))
    }

    /// Whether it is still attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        !self.rooms.lock().detached
    }

    /// Whether the room is its own or its user's, which it can neither enter nor leave.
    pub(crate) fn is_implicit(&self, room: &str) -> bool {
        room == self.id().as_str() || room.strip_prefix(USER_ROOM_PREFIX) == Some(self.user().as_str())
    }

    /// The names of its rooms, without those that it only watches.
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

    /// Whether a backend has put it into `room`; no app's rules remove it then.
    #[must_use]
    pub fn is_placed(&self, room: &str) -> bool {
        let joined = self.rooms.lock();
        joined.placed.as_ref().is_some_and(|placed| placed.0.iter().any(|name| name.as_str() == room))
    }

    /// Notes that a backend has put it into `room`. Forgotten when it leaves.
    pub(crate) fn set_placed(&self, room: &RoomName) {
        let mut joined = self.rooms.lock();
        if joined.rooms.iter().any(|joined| joined.name == *room) {
            let placed = joined.placed.get_or_insert_with(|| Box::new(Placed(SmallVec::new())));
            if !placed.0.contains(room) {
                placed.0.push(room.clone());
            }
        }
    }

    /// Notes that it has left its rooms on all nodes.
    pub(crate) fn set_left(&self) {
        let before = std::mem::replace(&mut self.rooms.lock().left, HasLeft::Yes);
        if let HasLeft::Awaited(left) = before {
            // It is set once.
            let _ = left.set(());
        }
    }

    /// Waits until it has left its rooms on all nodes, or for `LANE_WAIT_MS`.
    pub(crate) async fn until_left(&self) {
        let left = match &mut self.rooms.lock().left {
            HasLeft::Yes => return,
            HasLeft::Awaited(left) => Arc::clone(left),
            before @ HasLeft::No => {
                let left = Arc::new(SetOnce::new());
                *before = HasLeft::Awaited(Arc::clone(&left));
                left
            }
        };
        let at_most = Duration::from_millis(LANE_WAIT_MS);
        if tokio::time::timeout(at_most, left.wait()).await.is_err() {
            tracing::warn!(socket = %self.id(), "a socket takes too long to leave its rooms");
        }
    }

    /// Notes rooms that it was removed from; the caller that detaches it notifies other members.
    pub(crate) fn set_expelled(&self, left: Expelled) {
        self.rooms.lock().expelled = Some(Box::new(left));
    }

    /// Takes those rooms.
    pub(crate) fn take_expelled(&self) -> Option<Expelled> {
        self.rooms.lock().expelled.take().map(|left| *left)
    }

    /// Puts `packet` into the send queue, behind all earlier broadcasts to the socket's rooms. Rooms that it only watches
    /// have no order with anything else.
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

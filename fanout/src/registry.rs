//! This node's sockets and rooms.
//!
//! Locks, in the order they may be taken: a user's entry, a room's `members`, then a socket's `rooms`, a
//! room's `batch` or an outbox. None is held across an await. Settling a room only pushes references into
//! outboxes; nothing is written meanwhile, but by an outbox that would be too full.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ahash::RandomState;
use bytes::Bytes;
use dashmap::DashMap;
use indexmap::IndexMap;
use parking_lot::Mutex;
use shared::adapter::Stamp;
use shared::ids::SocketId;
use shared::limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX};
use shared::names::{Namespace, Room as RoomName, UserId};
use shared::sio::Encoded;
use smallvec::SmallVec;

use crate::courier::Courier;
use crate::error::FanoutError;
use crate::outbox::Outbox;
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
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) namespace: Arc<NamespaceRooms>,
    rooms: Mutex<Joined>,
}

#[derive(Default)]
struct Joined {
    /// Set by detaching; nothing is entered after it.
    gone: bool,
    rooms: SmallVec<[Arc<Room>; 2]>,
}

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

    /// Whether it is in `room`.
    #[must_use]
    pub fn is_in(&self, room: &str) -> bool {
        self.rooms.lock().rooms.iter().any(|joined| joined.name.as_str() == room)
    }

    /// Whether it is still known here.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.namespace.knows(self)
    }

    /// The names of its rooms.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomName> {
        self.rooms.lock().rooms.iter().map(|room| room.name.clone()).collect()
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
    pub(crate) fn detach(&self, socket: &Arc<LocalSocket>) -> Vec<(RoomName, Left)> {
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
                (room.name.clone(), Left { was_member: true, last_of_user })
            })
            .collect();
        self.sockets.remove(&socket.info.id);
        drop(sockets);
        self.users.remove_if(&socket.info.user, |_, sockets| sockets.is_empty());
        left
    }

    /// Puts the socket into a room; it may be in `per_socket` rooms (0: no limit).
    pub(crate) fn enter(
        &self,
        socket: &Arc<LocalSocket>,
        name: &RoomName,
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
            if per_socket != 0 && joined.rooms.len() >= per_socket {
                return Err(FanoutError::TooManyRooms);
            }
        }
        let first_of_user = first_of_user(socket);
        loop {
            let room = self.room(name);
            let mut members = room.members.lock();
            if members.retired {
                // Its last member left between our look and our lock; the next look makes a new one.
                continue;
            }
            room.settle_locked(&members);
            let member = Occupant { outbox: Arc::clone(&socket.outbox), socket: Arc::clone(socket) };
            members.map.insert(key(socket), member);
            socket.rooms.lock().rooms.push(Arc::clone(&room));
            return Ok(Entered { new: true, first_of_user });
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
            joined.rooms.swap_remove(at)
        };
        self.remove_member(&room, socket);
        let last_of_user = !sockets.iter().any(|other| other.is_in(name));
        Left { was_member: true, last_of_user }
    }

    fn remove_member(&self, room: &Arc<Room>, socket: &Arc<LocalSocket>) {
        let mut members = room.members.lock();
        room.settle_locked(&members);
        members.map.swap_remove(&key(socket));
        if members.map.is_empty() {
            members.retired = true;
            drop(members);
            self.rooms.remove_if(&room.name, |_, other| Arc::ptr_eq(other, room));
        }
    }

    fn room(&self, name: &RoomName) -> Arc<Room> {
        if let Some(room) = self.rooms.get(name) {
            return Arc::clone(&room);
        }
        let courier = &self.couriers[self.rooms.hash_usize(name) % self.couriers.len()];
        let made = || {
            let (courier, stats) = (Arc::clone(courier), Arc::clone(&self.stats));
            Arc::new(Room::new(name.clone(), courier, stats))
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

    /// The names of all rooms with members.
    pub(crate) fn names(&self) -> Vec<RoomName> {
        self.rooms.iter().map(|entry| entry.key().clone()).collect()
    }
}

fn key(socket: &Arc<LocalSocket>) -> usize {
    Arc::as_ptr(socket) as usize
}

/// A member as the delivery loop needs it: the outbox first, the socket only for `except` and lists.
struct Occupant {
    outbox: Arc<Outbox>,
    socket: Arc<LocalSocket>,
}

#[derive(Default)]
struct Members {
    /// By the socket's address, which is unique while it is in the map.
    map: IndexMap<usize, Occupant, RandomState>,
    /// The room is out of the map of rooms; nobody may enter it any more.
    retired: bool,
}

/// One broadcast that waits in its room.
struct Waiting {
    packet: Encoded,
    except: Option<SocketId>,
    volatile: bool,
}

#[derive(Default)]
struct Batch {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
}

/// A room with members on this node.
pub(crate) struct Room {
    pub(crate) name: RoomName,
    members: Mutex<Members>,
    batch: Mutex<Batch>,
    /// Something waits or is being delivered. Written under `batch`.
    dirty: AtomicBool,
    /// The place of the last tracked broadcast that was heard.
    place: Mutex<Option<Stamp>>,
    /// An app keeps its order, and finds by itself what is missing.
    sequenced: AtomicBool,
    courier: Arc<Courier>,
    stats: Arc<Stats>,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Room {
    fn new(name: RoomName, courier: Arc<Courier>, stats: Arc<Stats>) -> Self {
        let (members, batch) = (Mutex::default(), Mutex::default());
        let (dirty, sequenced) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { name, members, batch, dirty, place: Mutex::default(), sequenced, courier, stats }
    }

    /// A tracked broadcast has been heard; answers whether something before it was missed.
    pub(crate) fn arrived(&self, stamp: &Stamp) -> bool {
        let mut place = self.place.lock();
        let missed = place.as_ref().is_some_and(|last| {
            last.epoch != stamp.epoch || last.offset.checked_add(1).is_none_or(|next| stamp.offset > next)
        });
        *place = Some(stamp.clone());
        missed
    }

    /// What is broadcast here has its place in an order that an app keeps.
    pub(crate) fn set_sequenced(&self) {
        self.sequenced.store(true, Ordering::Relaxed);
    }

    /// Whether that has been seen.
    pub(crate) fn is_sequenced(&self) -> bool {
        self.sequenced.load(Ordering::Relaxed)
    }

    /// The place of the last tracked broadcast that was heard.
    pub(crate) fn place(&self) -> Option<Stamp> {
        self.place.lock().clone()
    }

    fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Adds a broadcast to the batch; the courier delivers it, or this call when the batch is full.
    pub(crate) fn broadcast(self: &Arc<Self>, packet: Encoded, except: Option<SocketId>, volatile: bool) {
        let (first, full) = {
            let mut batch = self.batch.lock();
            batch.since.get_or_insert_with(Instant::now);
            batch.bytes += packet.wire().len();
            batch.waiting.push(Waiting { packet, except, volatile });
            let full = batch.bytes >= BATCH_BYTES_MAX || batch.waiting.len() >= BATCH_FRAMES_MAX;
            (!self.dirty.swap(true, Ordering::AcqRel), full)
        };
        Stats::add(&self.stats.broadcasts, 1);
        if first {
            self.courier.add_room(Arc::clone(self));
        }
        if full {
            self.settle();
        }
    }

    /// Delivers everything that waits to those who are members now.
    pub(crate) fn settle(&self) {
        let members = self.members.lock();
        self.settle_locked(&members);
    }

    fn settle_locked(&self, members: &Members) {
        if !self.is_dirty() {
            return;
        }
        let mut scheduled = Schedule::default();
        loop {
            let (waiting, since) = {
                let mut batch = self.batch.lock();
                batch.bytes = 0;
                if batch.waiting.is_empty() {
                    // Only now: whoever sees the room clean finds everything in the outboxes.
                    self.dirty.store(false, Ordering::Release);
                    break;
                }
                (std::mem::take(&mut batch.waiting), batch.since.take())
            };
            Stats::add(&self.stats.batches, 1);
            for run in waiting.chunk_by(|a, b| a.except == b.except && a.volatile == b.volatile) {
                self.deliver(members, run, &mut scheduled);
            }
            let lag = since.map(|since| since.elapsed()).unwrap_or_default();
            self.stats.distributions.delivery_lag.record(lag);
            #[expect(clippy::cast_precision_loss, reason = "a bucket of a histogram")]
            self.stats.distributions.fanout_size.record(members.map.len() as f64);
        }
        scheduled.hand_over();
    }

    /// One run of broadcasts to the same receivers: joined into one item for every outbox.
    fn deliver(&self, members: &Members, run: &[Waiting], scheduled: &mut Schedule) {
        let [first, ..] = run else { return };
        let wire = join(run);
        let packets = u32::try_from(run.len()).unwrap_or(u32::MAX);
        let mut receivers = 0;
        for member in members.map.values() {
            if first.except.is_some_and(|except| except == member.socket.info.id) {
                continue;
            }
            receivers += 1;
            let needed = if first.volatile {
                member.outbox.push_volatile(wire.clone(), packets)
            } else {
                member.outbox.push(wire.clone(), packets)
            };
            if needed {
                scheduled.add(&member.outbox);
            }
        }
        Stats::add(&self.stats.deliveries, receivers * run.len());
    }

    /// The sockets of all members.
    pub(crate) fn sockets(&self) -> Vec<Arc<LocalSocket>> {
        self.members.lock().map.values().map(|member| Arc::clone(&member.socket)).collect()
    }

    /// Reads something of every member.
    pub(crate) fn map_members<T>(&self, mut read: impl FnMut(&SocketInfo) -> T) -> Vec<T> {
        self.members.lock().map.values().map(|member| read(&member.socket.info)).collect()
    }
}

/// The frames of a run in one piece, so that every member's write is one slice.
fn join(run: &[Waiting]) -> Bytes {
    if let [only] = run {
        return only.packet.wire().clone();
    }
    let mut wire = Vec::with_capacity(run.iter().map(|waiting| waiting.packet.wire().len()).sum());
    for waiting in run {
        wire.extend_from_slice(waiting.packet.wire());
    }
    wire.into()
}

/// Outboxes to be written, by courier; handed over in one go.
#[derive(Default)]
struct Schedule {
    lists: SmallVec<[Round; 1]>,
}

/// What one courier is to write.
type Round = (Arc<Courier>, Vec<Arc<Outbox>>);

impl Schedule {
    fn add(&mut self, outbox: &Arc<Outbox>) {
        let courier = outbox.courier();
        let list = match self.lists.iter_mut().position(|(other, _)| Arc::ptr_eq(other, courier)) {
            Some(at) => &mut self.lists[at].1,
            None => {
                self.lists.push((Arc::clone(courier), Vec::new()));
                let last = self.lists.len() - 1;
                &mut self.lists[last].1
            }
        };
        outbox.schedule_into(list);
    }

    fn hand_over(mut self) {
        for (courier, list) in &mut self.lists {
            courier.add_outboxes(list);
        }
    }
}

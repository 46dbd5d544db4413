//! The rooms of one namespace on this node, by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::RandomState;
use dashmap::DashMap;
use shared::ids::{NodeId, SocketId};
use shared::names::{Namespace, Room as RoomName, USER_ROOM_PREFIX};

use crate::local::flusher::Flusher;
use crate::local::room::{Kind, Room};
use crate::presence::SocketInfo;
use crate::stats::Stats;

/// Whether a room is the own one of a socket of `node`.
pub(crate) fn is_own_room(room: &str, node: NodeId) -> bool {
    room.starts_with(node.as_str()) && SocketId::parse(room).is_some()
}

/// Whether rooms of this name may have sockets in them that did not enter: the own room of each socket, and each user's.
pub(crate) fn is_implicit(room: &str) -> bool {
    room.starts_with(USER_ROOM_PREFIX) || SocketId::parse(room).is_some()
}

/// The rooms of one namespace that have members here.
pub(crate) struct Rooms {
    pub(crate) namespace: Namespace,
    /// Which of the node's namespaces it is.
    pub(crate) number: usize,
    map: DashMap<RoomName, Arc<Room>, RandomState>,
    flushers: Box<[Arc<Flusher>]>,
    pub(crate) stats: Arc<Stats>,
    /// A room was entered that may have sockets in it which did not enter ([`is_implicit`]). Never again false.
    has_implicit: AtomicBool,
}

impl Rooms {
    pub(crate) fn new(
        (namespace, number): (Namespace, usize),
        flushers: Box<[Arc<Flusher>]>,
        stats: Arc<Stats>,
    ) -> Self {
        let (map, has_implicit) = (DashMap::default(), AtomicBool::new(false));
        Self { namespace, number, map, flushers, stats, has_implicit }
    }

    /// The room, if somebody on this node is in it.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.map.get(name).map(|room| Arc::clone(&room))
    }

    /// The room, created if nobody on this node is in it.
    pub(crate) fn find_or_create(&self, name: &RoomName, kind: Kind) -> Arc<Room> {
        if let Some(room) = self.map.get(name) {
            return Arc::clone(&room);
        }
        if is_implicit(name.as_str()) {
            self.has_implicit.store(true, Ordering::Relaxed);
        }
        let flusher = &self.flushers[self.map.hash_usize(name) % self.flushers.len()];
        let create = || {
            let (flusher, stats) = (Arc::clone(flusher.rooms()), Arc::clone(&self.stats));
            Arc::new(Room::new(name.clone(), kind, flusher, stats))
        };
        Arc::clone(&self.map.entry(name.clone()).or_insert_with(create))
    }

    /// Takes a member out of a room, and forgets the room after its last one.
    pub(crate) fn remove_member(&self, room: &Arc<Room>, info: &Arc<SocketInfo>) {
        if room.remove(info) {
            self.map.remove_if(&room.name, |_, other| Arc::ptr_eq(other, room));
        }
    }

    /// Whether some room that sockets entered may have others in it that did not ([`is_implicit`]).
    pub(crate) fn has_implicit(&self) -> bool {
        self.has_implicit.load(Ordering::Relaxed)
    }

    /// How many rooms there are, watched ones too.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Does something to every room with members.
    pub(crate) fn each(&self, act: impl Fn(&Room)) {
        self.map.iter().for_each(|entry| act(entry.value()));
    }

    /// The names of all public rooms.
    pub(crate) fn names(&self) -> Vec<RoomName> {
        let public = self.map.iter().filter(|entry| entry.value().is_public());
        public.map(|entry| entry.key().clone()).collect()
    }
}

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

/// Whether a room is the own room of a socket of `node`.
pub(crate) fn is_own_room(room: &str, node: NodeId) -> bool {
    room.starts_with(node.as_str()) && SocketId::parse(room).is_some()
}

/// Whether sockets belong to rooms of this name without entering: each socket's own room, and each user's.
pub(crate) fn is_implicit(room: &str) -> bool {
    room.starts_with(USER_ROOM_PREFIX) || SocketId::parse(room).is_some()
}

/// The rooms of one namespace that have members here.
pub(crate) struct Rooms {
    pub(crate) namespace: Namespace,
    /// The index of the namespace on this node.
    pub(crate) number: usize,
    map: DashMap<RoomName, Arc<Room>, RandomState>,
    flushers: Box<[Arc<Flusher>]>,
    pub(crate) stats: Arc<Stats>,
    /// A room was entered that other sockets belong to without entering ([`is_implicit`]). Never false again.
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

    /// The room, if a socket on this node is in it.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.map.get(name).map(|room| Arc::clone(&room))
    }

    /// The room, created if it is empty on this node.
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

    /// Removes a member from a room, and removes the room after its last member.
    pub(crate) fn remove_member(&self, room: &Arc<Room>, info: &Arc<SocketInfo>) {
        if room.remove(info) {
            self.map.remove_if(&room.name, |_, other| Arc::ptr_eq(other, room));
        }
    }

    /// Whether an entered room may also have sockets that did not enter it ([`is_implicit`]).
    pub(crate) fn has_implicit(&self) -> bool {
        self.has_implicit.load(Ordering::Relaxed)
    }

    /// How many rooms there are, including watched ones.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Calls `act` for every room with members.
    pub(crate) fn each(&self, act: impl Fn(&Room)) {
        self.map.iter().for_each(|entry| act(entry.value()));
    }

    /// The names of all public rooms.
    pub(crate) fn names(&self) -> Vec<RoomName> {
        let public = self.map.iter().filter(|entry| entry.value().is_public());
        public.map(|entry| entry.key().clone()).collect()
    }
}

//! One order for a room's messages, the same in the history and on the wire, with a clean cut for whoever
//! joins.
//!
//! For each room with members, an [`Order`] knows the last message that was broadcast. Broadcasting and
//! entering happen under its lock, so at the moment of entering "was broadcast" and "will be" are told
//! apart: a joiner's history ends exactly where the live messages begin.
//!
//! ```text
//!   seq   1 2 3 4 5 6      broadcast up to 4, stored up to 6
//!         └─history─┘ └─live, after the history
//! ```

use std::sync::Arc;

use dashmap::DashMap;
use shared::names::Room;
use tokio::sync::Mutex;

/// How far a room's messages have been broadcast.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The last place broadcast; `None` until the first joiner has asked the records.
    pub(super) last: Option<i64>,
}

/// The orders of rooms with members on this node.
#[derive(Debug, Default)]
pub(super) struct Orders {
    rooms: DashMap<Room, Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    order: Arc<Mutex<Order>>,
    /// Sockets in the room, and those about to enter it. While there is one, the order must stay: a new one
    /// would take stored messages for broadcast ones.
    holders: usize,
}

/// A hold on a room's order by a socket that is about to enter; given back unless it is kept.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    orders: &'a Orders,
    room: &'a Room,
    pub(super) order: Arc<Mutex<Order>>,
    kept: bool,
}

impl Hold<'_> {
    /// The socket has entered: the hold lasts until [`Orders::release`].
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.orders.release(self.room);
        }
    }
}

impl Orders {
    /// The order of a room that a socket is about to enter.
    pub(super) fn hold<'a>(&'a self, room: &'a Room) -> Hold<'a> {
        let mut kept = self.rooms.entry(room.clone()).or_default();
        kept.holders += 1;
        let order = Arc::clone(&kept.order);
        Hold { orders: self, room, order, kept: false }
    }

    /// A socket has left the room.
    pub(super) fn release(&self, room: &Room) {
        if let Some(mut kept) = self.rooms.get_mut(room) {
            kept.holders = kept.holders.saturating_sub(1);
        }
        self.rooms.remove_if(room, |_, kept| kept.holders == 0);
    }
}

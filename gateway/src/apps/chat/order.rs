//! One order for a room's messages, the same in the history and on the wire, with a clean cut for whoever
//! joins.
//!
//! For each room with members, an [`Order`] knows the last message that was delivered here. Delivering and
//! entering happen under its lock, so at the moment of entering "was delivered" and "will be" are told
//! apart: a joiner's history ends exactly where the live messages begin.
//!
//! ```text
//!   seq   1 2 3 4 5 6      delivered up to 4, stored up to 6
//!         └─history─┘ └─live, after the history
//! ```
//!
//! Messages of several nodes may arrive out of order, or not at all. A place is given by the transaction that
//! stores the message, under the room's lock, so when one has arrived all before it are in the records: what
//! is missing is read there and delivered first.

use std::sync::Arc;

use dashmap::DashMap;
use fanout::Sequenced;
use shared::limits::CHAT_GAP_MAX;
use shared::names::{Namespace, Room};
use tokio::sync::Mutex;

use super::events::RoomId;
use super::store;
use crate::context::Context;
use crate::socket;

/// How far a room's messages have been broadcast.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The last place delivered; `None` until the first joiner has asked the records.
    pub(super) last: Option<i64>,
    /// Where; chat is mounted on one namespace.
    pub(super) namespace: Option<Namespace>,
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

/// A message has arrived: it is delivered, those that are missing before it first.
pub(super) async fn arrived(context: &Context, orders: &Orders, room: &RoomId, broadcast: &Sequenced) {
    // Held also where nobody is in the room: whoever enters now must find what is being delivered.
    let hold = orders.hold(room.room());
    let mut order = hold.order.lock().await;
    order.namespace = Some(broadcast.namespace.clone());
    if let Some(last) = order.last {
        if broadcast.sequence <= last {
            // Delivered already, or in the history that the first joiner has read.
            return;
        }
        if broadcast.sequence > last + 1 {
            fill(context, &broadcast.namespace, room, (last, broadcast.sequence)).await;
        }
        order.last = Some(broadcast.sequence);
    }
    context.fanout.deliver(broadcast.namespace.as_str(), &broadcast.room, broadcast.packet.clone());
}

/// Delivers what is in the records between two places.
async fn fill(
    context: &Context,
    namespace: &Namespace,
    room: &RoomId,
    (after, before): (i64, i64),
) -> Option<i64> {
    let between = store::between(context.records.pool(), room, (after, before), CHAT_GAP_MAX);
    let missing = match context.records.run(between).await {
        Ok(missing) => missing,
        Err(_) => {
            tracing::warn!(room = room.as_str(), "missed messages could not be read from the records");
            return None;
        }
    };
    tracing::debug!(room = room.as_str(), messages = missing.len(), "missed messages are delivered");
    for message in &missing {
        let packet = socket::encode(namespace, "new_message", message);
        context.fanout.deliver(namespace.as_str(), room.room().as_str(), packet);
    }
    missing.last().map(|message| message.seq)
}

/// Delivers to every room with members here what its records have and its members do not.
pub(super) async fn catch_up(context: &Context, orders: &Orders) {
    let rooms: Vec<Room> = orders.rooms.iter().map(|kept| kept.key().clone()).collect();
    for room in rooms {
        let Some(id) = RoomId::of_cluster(room.as_str()) else { continue };
        let hold = orders.hold(&room);
        let mut order = hold.order.lock().await;
        if let (Some(last), Some(namespace)) = (order.last, order.namespace.clone())
            && let Some(now) = fill(context, &namespace, &id, (last, i64::MAX)).await
        {
            order.last = Some(now);
        }
    }
}

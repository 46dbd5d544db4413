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

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use fanout::Sequenced;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex as SyncMutex;
use shared::limits::{CHAT_ARRIVED_MAX, CHAT_GAP_MAX, CHAT_RETRY_MS, CHAT_ROOMS_AT_ONCE};
use shared::names::{Namespace, Room};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use super::events::RoomId;
use super::store;
use crate::context::Context;
use crate::error::AppError;
use crate::socket::{self, Resync};

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

/// What has arrived in a room and is not delivered yet.
type Arrived = Arc<SyncMutex<VecDeque<Sequenced>>>;

#[derive(Debug, Default)]
struct Kept {
    order: Arc<Mutex<Order>>,
    /// While somebody holds the order, messages wait here: one room's join holds up no other room.
    arrived: Arrived,
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
    arrived: Arrived,
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
        let (order, arrived) = (Arc::clone(&kept.order), Arc::clone(&kept.arrived));
        Hold { orders: self, room, order, arrived, kept: false }
    }

    /// A socket has left the room.
    pub(super) fn release(&self, room: &Room) {
        if let Some(mut kept) = self.rooms.get_mut(room) {
            kept.holders = kept.holders.saturating_sub(1);
        }
        self.rooms.remove_if(room, |_, kept| kept.holders == 0);
    }
}

/// A message has arrived. It is delivered at once, unless the room's order is held or messages before it are
/// missing: then by whoever holds the order, or by a task of its own. Never waits.
pub(super) fn arrived(context: &Context, orders: &Arc<Orders>, room: RoomId, broadcast: Sequenced) {
    // Held also where nobody is in the room: whoever enters now must find what is being delivered.
    let hold = orders.hold(room.room());
    {
        let mut arrived = hold.arrived.lock();
        if arrived.len() >= CHAT_ARRIVED_MAX {
            // The next that is delivered finds it missing and reads it from the records.
            arrived.pop_front();
        }
        arrived.push_back(broadcast);
    }
    let mut waiting = false;
    while let Ok(mut order) = Arc::clone(&hold.order).try_lock_owned() {
        match deliver_next(context, &hold.arrived, &mut order) {
            Next::Nothing if hold.arrived.lock().is_empty() => return,
            Next::Nothing => {}
            Next::Missing => {
                waiting = true;
                break;
            }
        }
    }
    if waiting {
        let (context, orders, room) = (context.clone(), Arc::clone(orders), room.clone());
        let tasks = context.tasks.clone();
        drop(tasks.spawn(async move {
            let hold = orders.hold(room.room());
            let order = Arc::clone(&hold.order).lock_owned().await;
            release(&context, &hold, &room, order).await;
        }));
    }
}

/// What stands between a room and its next message.
enum Next {
    Nothing,
    Missing,
}

/// Delivers what has arrived as far as nothing is missing before it.
fn deliver_next(context: &Context, arrived: &Arrived, order: &mut Order) -> Next {
    loop {
        let mut waiting = arrived.lock();
        let Some(next) = waiting.front() else { return Next::Nothing };
        let is_missing = order.last.is_some_and(|last| next.sequence > last + 1);
        if is_missing {
            return Next::Missing;
        }
        let Some(next) = waiting.pop_front() else { return Next::Nothing };
        drop(waiting);
        order.namespace.get_or_insert_with(|| next.namespace.clone());
        // What is delivered already, or in the history that the first joiner has read, is not again.
        if order.last.is_none_or(|last| next.sequence > last) {
            if let Some(last) = &mut order.last {
                *last = next.sequence;
            }
            context.fanout.deliver(next.namespace.as_str(), &next.room, next.packet);
        }
    }
}

/// Gives a room's order back, when everything that has arrived meanwhile is delivered, what was missing
/// before it first.
pub(super) async fn release(
    context: &Context,
    hold: &Hold<'_>,
    room: &RoomId,
    mut order: OwnedMutexGuard<Order>,
) {
    loop {
        if let Next::Missing = deliver_next(context, &hold.arrived, &mut order) {
            let next = hold.arrived.lock().front().map(|next| (next.namespace.clone(), next.sequence));
            if let (Some((namespace, sequence)), Some(last)) = (next, order.last) {
                // Whether they could be read or not: those that come after must not wait for ever.
                let _ = fill(context, &namespace, room, (last, sequence)).await;
                order.last = Some(sequence - 1);
            }
            continue;
        }
        drop(order);
        // Something may have come between the look and the release.
        if hold.arrived.lock().is_empty() {
            return;
        }
        match Arc::clone(&hold.order).try_lock_owned() {
            Ok(again) => order = again,
            // Whoever has it delivers.
            Err(_) => return,
        }
    }
}

/// Delivers what is in the records between two places; answers the last, if there was one. Where not everything can be
/// read, the members are told that something is missing.
async fn fill(
    context: &Context,
    namespace: &Namespace,
    room: &RoomId,
    (after, before): (i64, i64),
) -> Result<Option<i64>, AppError> {
    let between = store::between(context.records.pool(), room, (after, before), CHAT_GAP_MAX);
    let missing = context.records.run(between).await.inspect_err(|_| {
        tracing::warn!(room = room.as_str(), "missed messages could not be read from the records");
        resync(context, namespace, room);
    })?;
    tracing::debug!(room = room.as_str(), messages = missing.len(), "missed messages are delivered");
    if missing.len() >= usize::try_from(CHAT_GAP_MAX).unwrap_or(usize::MAX) {
        resync(context, namespace, room);
    }
    for message in &missing {
        let packet = socket::encode(namespace, "new_message", message);
        context.fanout.deliver(namespace.as_str(), room.room().as_str(), packet);
    }
    Ok(missing.last().map(|message| message.seq))
}

/// Tells the members here that the history has more than they have heard.
fn resync(context: &Context, namespace: &Namespace, room: &RoomId) {
    let body = Resync { room: Some(room.room().as_str()), epoch: "" };
    let packet = socket::encode(namespace, "muster:resync", &body);
    context.fanout.note_resync();
    context.fanout.deliver(namespace.as_str(), room.room().as_str(), packet);
}

/// Whenever it is asked for, delivers to every room with members here what its records have and its members do not;
/// rooms whose records cannot be read are tried again.
pub(super) async fn keep_up(context: Context, orders: Arc<Orders>, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        let mut rooms: Vec<Room> = orders.rooms.iter().map(|kept| kept.key().clone()).collect();
        while !rooms.is_empty() {
            let tried: Vec<BoxFuture<'_, Option<Room>>> =
                rooms.into_iter().map(|room| catch_up(&context, &orders, room).boxed()).collect();
            let tried = stream::iter(tried).buffer_unordered(CHAT_ROOMS_AT_ONCE);
            rooms = tried.filter_map(std::future::ready).collect().await;
            if !rooms.is_empty() {
                tokio::time::sleep(Duration::from_millis(CHAT_RETRY_MS)).await;
            }
        }
    }
}

/// Answers the room if its records could not be read.
async fn catch_up(context: &Context, orders: &Orders, room: Room) -> Option<Room> {
    let id = RoomId::of_cluster(room.as_str())?;
    let hold = orders.hold(&room);
    let mut order = Arc::clone(&hold.order).lock_owned().await;
    let mut is_done = true;
    if let (Some(last), Some(namespace)) = (order.last, order.namespace.clone()) {
        match fill(context, &namespace, &id, (last, i64::MAX)).await {
            Ok(Some(now)) => order.last = Some(now),
            Ok(None) => {}
            Err(_) => is_done = false,
        }
    }
    release(context, &hold, &id, order).await;
    drop(hold);
    (!is_done).then_some(room)
}

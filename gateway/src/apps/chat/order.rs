//! Keeps a room's messages in one order, in the history and live, and separates the two exactly for a joining
//! socket.
//!
//! For each room with members, an [`Order`] knows the last message that was delivered on this node. Delivering and
//! entering hold its lock, so a joining socket's history ends exactly where its live messages begin.
//!
//! ```text
//!   seq   1 2 3 4 5 6      delivered up to 4, stored up to 6
//!         └─history─┘ └─live, after the history
//! ```
//!
//! Messages of several nodes may arrive out of order, or not at all. The transaction that stores a message assigns
//! its sequence number under the room's lock. So when a message has arrived, all earlier ones are in the records,
//! and missing ones are read there and delivered first. Other broadcasts to the room (typing, members who enter or
//! leave) have no sequence number, and are delivered after what arrived before them.
//!
//! The fan-out keeps an order in the room itself, so that it lives as long as the room has a member on this node,
//! whether a client or a backend moved the member. [`Orders`] has those of rooms that sockets are about to enter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use fanout::{Fanout, Sequenced};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex as SyncMutex;
use shared::ids::SocketId;
use shared::names::{Namespace, Room};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use super::events::RoomId;
use super::limits::{
    CHAT_ARRIVED_MAX, CHAT_GAP_MAX, CHAT_LATE_READERS_MAX, CHAT_RETRY_MS, CHAT_ROOMS_AT_ONCE,
};
use super::store;
use crate::context::Context;
use crate::error::AppError;
use crate::socket::{self, Resync};

/// How far a room's messages have been delivered.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The last sequence number delivered. `None` until a message has arrived, or a joining socket has read the
    /// records.
    last: Option<i64>,
    /// The messages that members may miss if backends moved them into the room before a client joined it.
    late: Option<Late>,
}

/// Messages that members moved by backends may still miss: these members have read no history, and a message may be on
/// its way when the first message arrives or the first client joins.
#[derive(Debug)]
struct Late {
    /// Messages before this sequence number are delivered whenever they arrive,
    before: i64,
    /// but not to these sockets, which have read them in the history.
    read: Vec<SocketId>,
}

/// What to do with a message that has arrived.
#[derive(Debug, PartialEq, Eq)]
enum Arrival<'a> {
    Deliver,
    /// It is late: these sockets have it.
    DeliverExcept(&'a [SocketId]),
    /// It was delivered, or every member has read it in the history.
    Skip,
}

impl Order {
    /// A client is about to join that has read the records up to `known`. Returns the last sequence number that counts
    /// as delivered. `others`: the room has members here already.
    pub(super) fn join_at(&mut self, known: i64, others: bool) -> i64 {
        if !others {
            self.late = None;
        } else if self.last.is_none() {
            self.late = Some(Late { before: known + 1, read: Vec::new() });
        }
        *self.last.get_or_insert(known)
    }

    /// `socket` has joined: its history ends with the last message that counts as delivered.
    pub(super) fn joined(&mut self, socket: SocketId) {
        match &mut self.late {
            Some(late) if late.read.len() < CHAT_LATE_READERS_MAX => late.read.push(socket),
            // What was on its way has arrived.
            Some(_) => self.late = None,
            None => {}
        }
    }

    fn arrived(&mut self, sequence: i64) -> Arrival<'_> {
        let Some(last) = self.last.filter(|last| sequence <= *last) else {
            if self.last.is_none() {
                self.late = Some(Late { before: sequence, read: Vec::new() });
            }
            self.last = Some(sequence);
            return Arrival::Deliver;
        };
        match &mut self.late {
            Some(late) if sequence < late.before => {
                if sequence == last {
                    // A room's last message may be broadcast again ([`super::catch_up`]).
                    late.before = sequence;
                }
                Arrival::DeliverExcept(&late.read)
            }
            _ => Arrival::Skip,
        }
    }
}

/// A room's order, and the broadcasts that have arrived but are not delivered yet.
#[derive(Debug, Default)]
pub(super) struct RoomOrder {
    order: Arc<Mutex<Order>>,
    arrived: SyncMutex<Arrived>,
}

/// Broadcasts wait here while the order is locked, so that a join delays only its own room.
#[derive(Debug, Default)]
struct Arrived {
    waiting: VecDeque<Sequenced>,
    /// What did not fit, since everything that waits was added.
    dropped: Dropped,
}

/// What is missing behind the broadcasts that wait.
#[derive(Debug, Default, Clone, Copy)]
struct Dropped {
    /// A message, which can be read from the records.
    message: bool,
    /// Another broadcast, such as `user_left`.
    other: bool,
}

impl Dropped {
    fn is_any(self) -> bool {
        self.message || self.other
    }
}

impl RoomOrder {
    /// Locks the order, which pauses delivery.
    pub(super) async fn lock(&self) -> OwnedMutexGuard<Order> {
        Arc::clone(&self.order).lock_owned().await
    }

    fn try_lock(&self) -> Option<OwnedMutexGuard<Order>> {
        Arc::clone(&self.order).try_lock_owned().ok()
    }

    fn is_empty(&self) -> bool {
        let arrived = self.arrived.lock();
        arrived.waiting.is_empty() && !arrived.dropped.is_any()
    }

    fn add(&self, broadcast: Sequenced) {
        let mut arrived = self.arrived.lock();
        // Nothing is added behind what is missing until it has been found.
        if arrived.waiting.len() < CHAT_ARRIVED_MAX && !arrived.dropped.is_any() {
            arrived.waiting.push_back(broadcast);
        } else if broadcast.sequence.is_some() {
            arrived.dropped.message = true;
        } else {
            arrived.dropped.other |= !broadcast.volatile;
        }
    }
}

/// The orders of rooms.
#[derive(Debug)]
pub(super) struct Orders {
    fanout: Fanout,
    namespace: Namespace,
    /// Orders of rooms that sockets are about to enter, with the number of these sockets.
    entered_soon: DashMap<Room, (Arc<RoomOrder>, usize)>,
}

/// Holds a room's order for a socket that is about to enter. The caller must already follow the room.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    orders: &'a Orders,
    room: &'a Room,
    pub(super) order: Arc<RoomOrder>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(mut kept) = self.orders.entered_soon.get_mut(self.room) {
            kept.1 -= 1;
        }
        self.orders.entered_soon.remove_if(self.room, |_, (_, holders)| *holders == 0);
    }
}

impl Orders {
    pub(super) fn new(fanout: Fanout, namespace: Namespace) -> Self {
        Self { fanout, namespace, entered_soon: DashMap::default() }
    }

    /// Holds the order of a room that a socket is about to enter.
    pub(super) fn hold<'a>(&'a self, room: &'a Room) -> Hold<'a> {
        // Lock the entry until this map and the room have the same order.
        let mut kept = self.entered_soon.entry(room.clone()).or_insert_with(|| {
            let new = Arc::<RoomOrder>::default();
            (self.of_members(room, &new).unwrap_or(new), 0)
        });
        kept.1 += 1;
        let order = Arc::clone(&kept.0);
        Hold { orders: self, room, order }
    }

    /// The order of a room that has members on this node, or that a socket is about to enter.
    pub(super) fn find(&self, room: &Room) -> Option<Arc<RoomOrder>> {
        match self.entered_soon.entry(room.clone()) {
            dashmap::Entry::Occupied(held) => {
                let order = &held.get().0;
                self.of_members(room, order);
                Some(Arc::clone(order))
            }
            dashmap::Entry::Vacant(_locked) => self.of_members(room, &Arc::default()),
        }
    }

    /// The order of a room's members on this node; `new` if they had none. `None` if there are no members.
    fn of_members(&self, room: &Room, new: &Arc<RoomOrder>) -> Option<Arc<RoomOrder>> {
        self.fanout.kept(&self.namespace, room.as_str(), || Arc::clone(new))
    }

    /// Whether the room has members on this node. Then it keeps the hold's order from now on.
    pub(super) fn belongs_to_members(&self, hold: &Hold<'_>) -> bool {
        self.of_members(hold.room, &hold.order).is_some()
    }

    /// The socket has entered, so the order now belongs to the room.
    pub(super) fn entered(&self, hold: &Hold<'_>) {
        self.of_members(hold.room, &hold.order);
    }
}

/// Handles a broadcast that has arrived. Delivers it at once, unless the room's order is locked or earlier messages
/// are missing. Then the lock's holder or a new task delivers it. Never waits.
pub(super) fn arrived(context: &Context, orders: &Arc<Orders>, room: RoomId, broadcast: Sequenced) {
    // The room has no members or joining sockets on this node.
    let Some(kept) = orders.find(room.room()) else { return };
    kept.add(broadcast);
    while let Some(mut order) = kept.try_lock() {
        match deliver_next(context, &kept, &mut order) {
            Next::Nothing => {
                drop(order);
                // A broadcast may have arrived between the last check and the unlock.
                if kept.is_empty() {
                    return;
                }
            }
            Next::Missing | Next::Dropped => {
                // The task has the lock, so broadcasts that arrive before it runs start no other one.
                let (context, namespace) = (context.clone(), orders.namespace.clone());
                let tasks = context.tasks.clone();
                drop(tasks.spawn(async move {
                    release(&context, (&namespace, &room), &kept, order).await;
                }));
                return;
            }
        }
    }
}

/// Why no broadcast can be delivered now.
enum Next {
    Nothing,
    /// Messages before the next one.
    Missing,
    /// What did not fit behind those that waited.
    Dropped,
}

/// Delivers arrived broadcasts until one is missing. They reach the members of the room that keeps this order: a socket that
/// enters after the room was empty has another one, unless a joining client held this one meanwhile.
fn deliver_next(context: &Context, kept: &Arc<RoomOrder>, order: &mut Order) -> Next {
    loop {
        let mut arrived = kept.arrived.lock();
        let Some(next) = arrived.waiting.front() else {
            return if arrived.dropped.is_any() { Next::Dropped } else { Next::Nothing };
        };
        let is_missing = match (next.sequence, order.last) {
            (Some(sequence), Some(last)) => sequence > last + 1,
            _ => false,
        };
        if is_missing {
            return Next::Missing;
        }
        let Some(mut next) = arrived.waiting.pop_front() else { return Next::Nothing };
        drop(arrived);
        match next.sequence.map(|sequence| order.arrived(sequence)) {
            None | Some(Arrival::Deliver) => {}
            Some(Arrival::DeliverExcept(read)) => next.except(read),
            Some(Arrival::Skip) => continue,
        }
        context.fanout.deliver_kept(&next, kept);
    }
}

/// Unlocks a room's order after delivering everything that has arrived meanwhile, including missing messages.
pub(super) async fn release(
    context: &Context,
    (namespace, room): (&Namespace, &RoomId),
    kept: &Arc<RoomOrder>,
    mut order: OwnedMutexGuard<Order>,
) {
    loop {
        match deliver_next(context, kept, &mut order) {
            Next::Missing => {
                let next = kept.arrived.lock().waiting.front().and_then(|next| next.sequence);
                if let (Some(sequence), Some(last)) = (next, order.last) {
                    // Continue even if they could not be read: later messages must not wait forever.
                    let _ = fill(context, (namespace, room), kept, (last, sequence)).await;
                    order.last = Some(sequence - 1);
                }
                continue;
            }
            Next::Dropped => {
                find_dropped(context, (namespace, room), kept, &mut order).await;
                continue;
            }
            Next::Nothing => {}
        }
        drop(order);
        // A broadcast may have arrived between the check and the unlock.
        if kept.is_empty() {
            return;
        }
        match kept.try_lock() {
            Some(again) => order = again,
            // The lock's new holder delivers.
            None => return,
        }
    }
}

/// Delivers the messages that did not fit from the records. Members who have missed other broadcasts receive
/// `muster:resync`.
async fn find_dropped(
    context: &Context,
    (namespace, room): (&Namespace, &RoomId),
    kept: &Arc<RoomOrder>,
    order: &mut Order,
) {
    // From now on later broadcasts wait in their places again.
    let dropped = std::mem::take(&mut kept.arrived.lock().dropped);
    if dropped.other || order.last.is_none() {
        resync(context, (namespace, room), kept);
    }
    if let Some(last) = order.last
        && dropped.message
        && let Ok(Some(now)) = fill(context, (namespace, room), kept, (last, i64::MAX)).await
    {
        order.last = Some(now);
    }
}

/// Waits until earlier broadcasts of this node to a room have been delivered to its members here.
pub(super) async fn after_all_said(context: &Context, orders: &Orders, room: &RoomId) {
    context.fanout.after_posts(&orders.namespace, room.room().as_str()).await;
    if let Some(kept) = orders.find(room.room()) {
        let order = kept.lock().await;
        release(context, (&orders.namespace, room), &kept, order).await;
    }
}

/// Delivers the messages between two sequence numbers from the records. Returns the last number, if there was a
/// message. If not all can be read, sends `muster:resync` to the members.
async fn fill(
    context: &Context,
    (namespace, room): (&Namespace, &RoomId),
    kept: &Arc<RoomOrder>,
    (after, before): (i64, i64),
) -> Result<Option<i64>, AppError> {
    let between = store::between(context.records.pool(), room, (after, before), CHAT_GAP_MAX);
    let missing = context.records.run(between).await.inspect_err(|_| {
        tracing::warn!(room = room.as_str(), "missed messages could not be read from the records");
        resync(context, (namespace, room), kept);
    })?;
    tracing::debug!(room = room.as_str(), messages = missing.len(), "delivering missed messages");
    if missing.len() >= usize::try_from(CHAT_GAP_MAX).unwrap_or(usize::MAX) {
        resync(context, (namespace, room), kept);
    }
    for message in &missing {
        let packet = socket::encode(namespace, "new_message", message);
        context.fanout.deliver(namespace, room.room().as_str(), kept, packet);
    }
    Ok(missing.last().map(|message| message.seq))
}

/// Tells the members on this node to read the history, because they have missed messages.
fn resync(context: &Context, (namespace, room): (&Namespace, &RoomId), kept: &Arc<RoomOrder>) {
    let body = Resync { room: Some(room.room().as_str()), epoch: "" };
    let packet = socket::encode(namespace, "muster:resync", &body);
    context.fanout.note_resync();
    context.fanout.deliver(namespace, room.room().as_str(), kept, packet);
}

/// Whenever it is woken, delivers missed messages from the records to all rooms with members on this node. Retries
/// rooms whose records cannot be read.
pub(super) async fn keep_up(context: Context, orders: Arc<Orders>, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        let mut rooms: Vec<RoomId> = context
            .fanout
            .rooms_here(&orders.namespace)
            .iter()
            .filter_map(|room| RoomId::of_cluster(room.as_str()))
            .collect();
        while !rooms.is_empty() {
            let tried: Vec<BoxFuture<'_, Option<RoomId>>> =
                rooms.into_iter().map(|room| catch_up(&context, &orders, room).boxed()).collect();
            let tried = stream::iter(tried).buffer_unordered(CHAT_ROOMS_AT_ONCE);
            rooms = tried.filter_map(std::future::ready).collect().await;
            if !rooms.is_empty() {
                tokio::time::sleep(Duration::from_millis(CHAT_RETRY_MS)).await;
            }
        }
    }
}

/// Returns the room if its records could not be read.
async fn catch_up(context: &Context, orders: &Orders, room: RoomId) -> Option<RoomId> {
    let kept = orders.find(room.room())?;
    let mut order = kept.lock().await;
    let mut is_done = true;
    if let Some(last) = order.last {
        match fill(context, (&orders.namespace, &room), &kept, (last, i64::MAX)).await {
            Ok(Some(now)) => order.last = Some(now),
            Ok(None) => {}
            Err(_) => is_done = false,
        }
    }
    release(context, (&orders.namespace, &room), &kept, order).await;
    (!is_done).then_some(room)
}

#[cfg(test)]
mod tests {
    use shared::ids::NodeId;

    use super::*;
    use crate::ids;

    fn socket() -> SocketId {
        SocketId::new(NodeId::from_random(*b"node"), ids::entropy())
    }

    #[test]
    fn a_client_who_joins_an_empty_room_receives_what_its_history_does_not_contain() {
        let mut order = Order::default();
        assert_eq!(order.join_at(5, false), 5);
        assert_eq!(order.arrived(5), Arrival::Skip);
        assert_eq!(order.arrived(6), Arrival::Deliver);
        assert_eq!(order.arrived(4), Arrival::Skip);
    }

    #[test]
    fn members_moved_by_a_backend_receive_late_messages_and_clients_who_have_read_them_do_not() {
        let (mut order, client) = (Order::default(), socket());
        assert_eq!(order.arrived(6), Arrival::Deliver);
        assert_eq!(order.arrived(5), Arrival::DeliverExcept(&[]));
        assert_eq!(order.join_at(7, true), 6);
        order.joined(client);
        assert_eq!(order.arrived(4), Arrival::DeliverExcept(&[client]));
        assert_eq!(order.arrived(6), Arrival::Skip);
        assert_eq!(order.arrived(7), Arrival::Deliver);
    }

    #[test]
    fn a_message_on_its_way_while_the_first_client_joins_reaches_the_members_before() {
        let (mut order, clients) = (Order::default(), [socket(), socket()]);
        assert_eq!(order.join_at(5, true), 5);
        order.joined(clients[0]);
        assert_eq!(order.join_at(6, true), 5);
        order.joined(clients[1]);
        assert_eq!(order.arrived(4), Arrival::DeliverExcept(&clients));
        assert_eq!(order.arrived(5), Arrival::DeliverExcept(&clients));
        assert_eq!(order.arrived(5), Arrival::Skip, "a room's last message is broadcast again");
        assert_eq!(order.arrived(3), Arrival::DeliverExcept(&clients));
        assert_eq!(order.arrived(6), Arrival::Deliver);
        assert_eq!(order.arrived(6), Arrival::Skip);
        for _ in 0..CHAT_LATE_READERS_MAX {
            order.joined(socket());
        }
        assert_eq!(order.arrived(3), Arrival::Skip, "the list of readers is bounded");
    }
}

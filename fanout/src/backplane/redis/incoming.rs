//! Receives what other nodes publish: one stream of broadcasts, requests and answers.
//!
//! The task that reads the connection calls [`RedisBackplane::receive`], so nothing here waits. The namespace's
//! [lane](super::lane) keeps the order of broadcasts and requests; answers need none.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shared::adapter::{self, Broadcast, BroadcastError, Channel, Response};
use shared::ids::SocketId;
use shared::limits::SERVER_MESSAGE_MAX_BYTES;
use shared::names::USER_ROOM_PREFIX;
use shared::sio::Encoded;

use super::backplane::RedisBackplane;
use super::connection::{Listener, Message};
use super::lane::{Item, Queued, ReceivedBroadcast};
use super::other_adapters::Wire;
use crate::local::delivery::{Delivery, Receivers};
use crate::local::hub::Hub;
use crate::local::room::Room;
use crate::local::rooms::is_own_room;
use crate::sequenced::{Except, Sequenced};
use crate::stats::Stats;

/// A message that another server, or this node, has published.
pub(super) enum Incoming<'a> {
    /// An event for clients.
    Broadcast {
        /// The only room that its channel named.
        room: Option<&'a str>,
        payload: &'a [u8],
    },
    /// A change to rooms and sockets, or a question about them.
    Request { payload: &'a [u8] },
    /// An answer to a question of this node or another one.
    Answer { payload: &'a [u8] },
}

/// Handles the messages of the subscriptions' connection.
pub(super) struct SubscriptionHandler {
    pub(super) backplane: Arc<RedisBackplane>,
}

impl Listener for SubscriptionHandler {
    fn on_message(&self, message: Message<'_>) {
        self.backplane.on_message(message);
    }

    fn on_disconnect(&self) {
        for hub in &self.backplane.node.hubs {
            hub.rooms.each(Room::mark_missed);
        }
    }
}

impl RedisBackplane {
    fn on_message(self: &Arc<Self>, message: Message<'_>) {
        Stats::add(&self.stats.heard, 1);
        if message.channel == self.subscriber.canary() {
            if !self.receive_marker(message.payload) {
                self.note_canary(message.payload);
            }
            return;
        }
        let payload = message.payload;
        let (namespace, incoming) = match self.channels.parse(message.channel) {
            // The node's pattern alone delivers a socket's own room, the channel's name every other room.
            Some(Channel::Broadcast { room: Some(room), own: true, .. })
                if is_own_room(room, self.node.id) != message.by_pattern =>
            {
                return;
            }
            Some(Channel::Broadcast { namespace, room, .. }) => {
                (namespace, Incoming::Broadcast { room, payload })
            }
            Some(Channel::Request { namespace }) => (namespace, Incoming::Request { payload }),
            Some(Channel::Response { namespace }) => (namespace, Incoming::Answer { payload }),
            None => return self.rejected.note("unknown channel", message.channel),
        };
        let Some(hub) = self.node.find(namespace) else { return };
        if let Err(reason) = self.receive(hub, incoming) {
            self.rejected.note(reason, message.channel);
        }
    }

    fn note_canary(&self, payload: &[u8]) {
        let sent = str::from_utf8(payload).ok().and_then(|text| text.parse::<u64>().ok());
        let lag = self.now_us().saturating_sub(sent.unwrap_or_default());
        self.stats.canary_lag_us.store(lag, Ordering::Relaxed);
        self.stats.canary_waits_us.store(0, Ordering::Relaxed);
    }

    /// Takes a message about a namespace: at once, or behind the work that is ahead of it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn receive(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        incoming: Incoming<'_>,
    ) -> Result<(), &'static str> {
        match incoming {
            // Servers on streams ask each other on this channel, with a map instead of a broadcast's list.
            Incoming::Broadcast { room: None, payload: [0x81..=0x8f | 0xde | 0xdf, ..] } => {
                self.other_adapters.note([Wire::Streams]);
                Ok(())
            }
            Incoming::Broadcast { room, payload } => self.receive_broadcast(hub, room, payload),
            Incoming::Request { payload } => {
                if self.receive_request(hub, payload) {
                    Ok(())
                } else {
                    Err("the queue behind a request is full")
                }
            }
            Incoming::Answer { payload } => self.receive_answer(payload),
        }
    }

    fn receive_broadcast(
        &self,
        hub: &Arc<Hub>,
        room: Option<&str>,
        payload: &[u8],
    ) -> Result<(), &'static str> {
        let lane = self.lane(hub);
        if lane.is_clear() {
            return self.deliver_message(hub, room, payload);
        }
        let broadcast = ReceivedBroadcast { room: room.map(Into::into), payload: payload.into() };
        match lane.queue(Item::Broadcast(broadcast), payload.len()) {
            Queued::Waits => Ok(()),
            Queued::Clear(_) => self.deliver_message(hub, room, payload),
            Queued::Full => Err("the queue behind a request is full"),
        }
    }

    /// Delivers a broadcast that arrived on the channel of `room` or of the namespace. Its turn has come.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn deliver_message(
        &self,
        hub: &Hub,
        room: Option<&str>,
        payload: &[u8],
    ) -> Result<(), &'static str> {
        if let Some(room) = room
            && hub.find(room).is_none()
            && !room.starts_with(USER_ROOM_PREFIX)
            && !is_own_room(room, self.node.id)
            && !hub.is_followed(room)
        {
            // No socket here is in the room, or about to enter it.
            return Ok(());
        }
        let broadcast =
            adapter::decode_broadcast(payload, self.message_max()).map_err(BroadcastError::as_str)?;
        if broadcast.namespace != hub.name.as_str() {
            return Err("broadcast of another namespace than its channel's");
        }
        if broadcast.stamp.is_some() {
            self.presence.note_sender(&broadcast.uid);
        }
        self.deliver(hub, &broadcast)
    }

    fn deliver(&self, hub: &Hub, broadcast: &Broadcast<'_>) -> Result<(), &'static str> {
        let packet = broadcast.body.encode(hub.name.as_str(), None);
        let only = match broadcast.rooms.as_slice() {
            [room] => Some(&**room),
            _ => None,
        };
        let entered = only.and_then(|room| hub.find(room));
        if let (Some(_), Some(room)) = (broadcast.sequence, only) {
            if let Some(found) = entered {
                found.set_sequenced();
                if let Some(stamp) = &broadcast.stamp {
                    found.arrived(stamp);
                }
            }
            self.node.pass_to_app(sequenced(hub, room, (broadcast, None), packet));
            return Ok(());
        }
        let found = entered.as_ref().filter(|room| !hub.is_mixed(room.name.as_str()));
        let is_of_node = broadcast.is_of_node();
        if !is_of_node {
            self.flush_before(found);
        }
        if let (Some(found), Some(stamp)) = (found, &broadcast.stamp)
            && found.arrived(stamp)
        {
            self.resync(hub, found.name.as_str(), &stamp.epoch);
        }
        let excepted = match broadcast.except.as_slice() {
            [one] if !hub.holds_others(one) => SocketId::parse(one),
            _ => None,
        };
        if let Some(room) = found.filter(|room| is_of_node && room.is_sequenced()) {
            // Its turn in the app's order may come later. Backends do not know that order; their own broadcasts keep theirs.
            self.node.pass_to_app(sequenced(hub, room.name.as_str(), (broadcast, excepted), packet));
            return Ok(());
        }
        let rooms: &[Cow<'_, str>] = if excepted.is_some() { &[] } else { &broadcast.except };
        let delivery = Delivery {
            to: only
                .map_or(Receivers::Rooms(&broadcast.rooms), |room| Receivers::Room(room, entered.as_ref())),
            except: excepted,
            except_user: None,
            except_rooms: rooms,
            volatile: broadcast.volatile,
        };
        hub.deliver(&delivery, &packet);
        Ok(())
    }

    /// A backend sends to `next`, or to sockets: first delivers what backends sent to another room, so that a socket in both
    /// rooms receives both in that order. Broadcasts of nodes to rooms are delivered in their own turn.
    pub(super) fn flush_before(&self, next: Option<&Arc<Room>>) {
        let mut last = self.last_of_backends.lock();
        if let (Some(last), Some(next)) = (last.as_ref(), next)
            && Arc::ptr_eq(last, next)
        {
            return;
        }
        if let Some(last) = std::mem::replace(&mut *last, next.cloned())
            && last.is_dirty()
        {
            last.flush();
        }
    }

    /// Upper bound in bytes of a message: the clients' limit, or more from servers.
    pub(super) fn message_max(&self) -> usize {
        self.max_payload.max(SERVER_MESSAGE_MAX_BYTES)
    }

    fn receive_answer(&self, payload: &[u8]) -> Result<(), &'static str> {
        match adapter::decode_response(payload) {
            Ok(Response::ClientCount { id, count }) => self.questions.add_count(&id, count),
            Ok(Response::Done { id }) => self.questions.add_count(&id, 0),
            Ok(Response::Acked { id, answer }) => self.questions.add_answer(&id, answer),
            Ok(Response::Fetched { .. } | Response::Other) => {}
            Err(_) => return Err("malformed response"),
        }
        Ok(())
    }
}

/// A broadcast for the app that keeps its room's order. `excepted` is the socket that does not receive it, unless the broadcast
/// goes to one socket alone.
fn sequenced(
    hub: &Hub,
    room: &str,
    (broadcast, excepted): (&Broadcast<'_>, Option<SocketId>),
    packet: Encoded,
) -> Sequenced {
    let rooms = if excepted.is_some() { &[][..] } else { &broadcast.except };
    let rooms = rooms.iter().map(|room| room.clone().into_owned()).collect();
    Sequenced {
        namespace: hub.name.clone(),
        room: room.to_owned(),
        sequence: broadcast.sequence,
        packet,
        except: Except { socket: excepted, user: None, rooms },
        volatile: broadcast.volatile,
    }
}

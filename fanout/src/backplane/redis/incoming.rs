//! What this node receives from the others: one stream of broadcasts, requests and answers.
//!
//! Everything comes in by [`RedisBackplane::receive`], called by the task that reads the connection, so nothing here waits.
//! Broadcasts and requests of a namespace have one order, which its [lane](super::lane) keeps; answers need none.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shared::adapter::{self, Broadcast, BroadcastError, Channel, Response};
use shared::ids::{NODE_CHARS, SocketId};
use shared::limits::SERVER_MESSAGE_MAX_BYTES;
use shared::names::USER_ROOM_PREFIX;

use super::backplane::RedisBackplane;
use super::connection::{Listener, Message};
use super::lane::{Item, Queued, ReceivedBroadcast};
use super::other_adapters::Wire;
use crate::events::Sequenced;
use crate::local::delivery::{Delivery, Receivers};
use crate::local::hub::Hub;
use crate::local::room::Room;
use crate::local::rooms::is_own_room;
use crate::stats::Stats;

/// Something that another server, or this node, has published.
pub(super) enum Incoming<'a> {
    /// An event for clients.
    Broadcast {
        /// The only room that its channel named.
        room: Option<&'a str>,
        payload: &'a [u8],
    },
    /// Something to be done to rooms and sockets, or a question about them.
    Request { payload: &'a [u8] },
    /// An answer to a question, of this node or another one.
    Answer { payload: &'a [u8] },
}

/// What the subscriptions' connection is read for.
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
            self.note_canary(message.payload);
            return;
        }
        let payload = message.payload;
        let (namespace, incoming) = match self.channels.parse(message.channel) {
            // One socket's own room is received by the node's pattern alone, every other by its name alone.
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

    /// Takes what came in about a namespace: at once where nothing is before it, else behind that.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn receive(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        incoming: Incoming<'_>,
    ) -> Result<(), &'static str> {
        match incoming {
            // Servers on streams ask each other here, by a map where a broadcast is a list.
            Incoming::Broadcast { room: None, payload: [0x81..=0x8f | 0xde | 0xdf, ..] } => {
                self.other_adapters.note([Wire::Streams]);
                Ok(())
            }
            Incoming::Broadcast { room, payload } => self.receive_broadcast(hub, room, payload),
            Incoming::Request { payload } => {
                if self.receive_request(hub, payload) {
                    Ok(())
                } else {
                    Err("too much waits for a request")
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
            Queued::Full => Err("too much waits for a request"),
        }
    }

    /// Delivers a broadcast that came on the channel of `room`, or of the namespace: it is its turn.
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
        {
            // Nobody here is in it, or not any more.
            return Ok(());
        }
        let broadcast =
            adapter::decode_broadcast(payload, self.message_max()).map_err(BroadcastError::as_str)?;
        if broadcast.namespace != hub.name.as_str() {
            return Err("broadcast of another namespace than its channel's");
        }
        if broadcast.stamp.is_some() {
            self.presence.heard_from(&broadcast.uid);
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
        if let (Some(sequence), Some(room)) = (broadcast.sequence, only) {
            if let Some(found) = entered {
                found.set_sequenced();
                if let Some(stamp) = &broadcast.stamp {
                    found.arrived(stamp);
                }
            }
            let sequenced =
                Sequenced { namespace: hub.name.clone(), room: room.to_owned(), sequence, packet };
            // What does not fit is found missing by the next, or when the connection is renewed.
            let queued = self.node.sequenced.try_send(sequenced);
            return queued.map_err(|_| "too many broadcasts with a place wait");
        }
        let found = entered.as_ref().filter(|room| !hub.is_mixed(room.name.as_str()));
        if broadcast.uid.len() != NODE_CHARS {
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

    /// A backend sends something to `next`, or to sockets: what backends sent to another room before is delivered first, so
    /// that a socket in both rooms receives both in their order. Rooms of our nodes' broadcasts are delivered each in its turn.
    fn flush_before(&self, next: Option<&Arc<Room>>) {
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

    /// Bytes of a message that is read: what clients may send, or more by servers.
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

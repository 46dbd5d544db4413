//! This node among others: what it publishes, what it hears, and whom it answers.
//!
//! What crosses Redis is the wire of `@socket.io/redis-adapter`, so Node.js servers and emitters are members
//! of the cluster like any other. A broadcast of this node comes back to it like to everybody else, so that
//! all members on all nodes have one order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use shared::adapter::{self, Broadcast, BroadcastError, Channel, Channels, Request, Response};
use shared::config::RedisAddress;
use shared::ids::{NODE_CHARS, NodeId, SocketId};
use shared::limits::{AFTERMATHS_MAX, CANARY_EVERY_MS, SERVER_MESSAGE_MAX_BYTES};
use shared::names::{Namespace, Room as RoomName, USER_ROOM_PREFIX};
use tokio::sync::mpsc;

use crate::backplane::questions::Questions;
use crate::backplane::redis::connection::{Commands, Link, Listener, Message, Posts, Script, Subscriber};
use crate::backplane::redis::lane::{Heard, Item, Queued};
use crate::backplane::redis::live::LiveScripts;
use crate::backplane::redis::other_adapters::{OtherAdapters, Wire};
use crate::backplane::redis::presence::agreement::NodeTraits;
use crate::backplane::redis::presence::store::{Store, StoredMember};
use crate::backplane::redis::presence::{Local, MembershipChange, Presence, PresenceOptions};
use crate::backplane::redis::rejected::Rejected;
use crate::error::FanoutError;
use crate::events::Sequenced;
use crate::fanout::Fanout;
use crate::local::registry::{Hub, SocketInfo};
use crate::local::room::Room;
use crate::local::selection::is_own_room;
use crate::stats::{Distributions, Stats};

/// How a node is one of many.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Where Redis is.
    pub redis: RedisAddress,
    /// How our keys begin.
    pub key_prefix: String,
    /// How channels begin.
    pub channel_prefix: String,
    /// How long a silent node counts.
    pub lease: Duration,
    /// How others reach this node.
    pub advertise: String,
    /// Bytes of one message for clients.
    pub max_payload: usize,
    /// The apps and their namespaces, in words: all nodes must have the same.
    pub mounts: String,
}

/// Something that follows from a request ([`Fanout::follow_up`]).
pub(crate) type FollowUp = BoxFuture<'static, ()>;

/// The cluster, as one node sees it.
pub(crate) struct RedisBackplane {
    pub(crate) node: NodeId,
    link: Link,
    pub(crate) commands: Arc<Commands>,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) presence: Presence,
    pub(crate) channels: Channels,
    pub(crate) questions: Questions,
    pub(crate) namespaces: HashMap<Namespace, Arc<Hub>>,
    pub(crate) posts: Posts,
    pub(crate) live: LiveScripts,
    /// When a node last did not tell in time how many sockets it has: it may be dying, and nobody waits for it again.
    pub(crate) unreached: parking_lot::Mutex<Option<tokio::time::Instant>>,
    pub(crate) prefix: String,
    pub(crate) max_payload: usize,
    sequenced: mpsc::Sender<Sequenced>,
    pub(crate) follow_ups: mpsc::Sender<FollowUp>,
    /// The room that a backend sent something to last.
    last_of_backends: parking_lot::Mutex<Option<Arc<Room>>>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) rejected: Rejected,
    other_adapters: OtherAdapters,
    /// When the microseconds begin that canaries carry.
    started: tokio::time::Instant,
}

/// A room of a namespace as presence and streams name it: `/ns#room`. No namespace has a `#`.
pub(crate) fn room_key(namespace: &str, room: &str) -> String {
    format!("{namespace}#{room}")
}

/// What is told of a member beside its user: short keys, since it is kept for each.
pub(crate) fn member_info(info: &SocketInfo) -> String {
    serde_json::json!({
        "d": info.display_name, "c": info.connected_at_ms, "e": info.email, "r": info.role,
    })
    .to_string()
}

/// A socket as the store keeps it.
pub(crate) fn kept(info: &SocketInfo) -> StoredMember {
    StoredMember {
        socket: info.id.as_str().to_owned(),
        user: info.user.as_str().to_owned(),
        info: member_info(info),
    }
}

/// What this node knows of its own members.
struct Registry(HashMap<Namespace, Arc<Hub>>);

impl Local for Registry {
    fn rooms(&self) -> Vec<String> {
        let rooms = self.0.values().flat_map(|rooms| {
            let namespace = rooms.name.clone();
            rooms.names().into_iter().map(move |room| room_key(namespace.as_str(), room.as_str()))
        });
        rooms.collect()
    }

    fn members(&self, room: &str) -> Vec<StoredMember> {
        let found = room.split_once('#').and_then(|(namespace, room)| self.0.get(namespace)?.find(room));
        found.map(|room| room.map_members(kept)).unwrap_or_default()
    }
}

/// What the subscriptions' connection is read for.
struct SubscriptionHandler {
    cluster: Arc<RedisBackplane>,
    fanout: Fanout,
}

impl Listener for SubscriptionHandler {
    fn on_message(&self, message: Message<'_>) {
        self.cluster.on_message(&self.fanout, message);
    }

    fn on_disconnect(&self) {
        for rooms in self.cluster.namespaces.values() {
            rooms.each(Room::mark_missed);
        }
    }
}

/// Where a cluster tells what it cannot do itself.
pub(crate) struct ClusterEvents {
    pub(crate) gone: mpsc::Sender<MembershipChange>,
    pub(crate) sequenced: mpsc::Sender<Sequenced>,
}

impl RedisBackplane {
    pub(crate) fn new(
        options: ClusterOptions,
        (node, holdback): (NodeId, Duration),
        namespaces: HashMap<Namespace, Arc<Hub>>,
        events: ClusterEvents,
        stats: Arc<Stats>,
    ) -> (Self, mpsc::Receiver<FollowUp>) {
        let link = Link::new(options.redis);
        let channels = Channels::new(&options.channel_prefix);
        let commands =
            Arc::new(Commands::new(link.clone(), "commands", &options.key_prefix, Arc::clone(&stats)));
        let mut standing = Vec::new();
        let mut patterns = Vec::new();
        for namespace in namespaces.keys().map(Namespace::as_str) {
            patterns.push(channels.namespace_pattern(namespace));
            // By their names: servers on the classic adapter count these subscribers, and wait for as many answers.
            standing.push(channels.request(namespace));
            standing.push(channels.response(namespace));
            standing.push(channels.own_response(namespace, node.as_str()));
            patterns.push(channels.sockets_of_node(namespace, node.as_str()));
            // Whatever backends send to rooms: who is put into a room by one must hear what it sends right after that, when
            // it would be too late to subscribe the room.
            patterns.push(channels.rooms_of_backends(namespace));
        }
        let canary = format!("{}canary:{node}:{:016x}", options.key_prefix, rand::random::<u64>());
        let subscriber =
            Arc::new(Subscriber::new(link.clone(), standing, patterns, canary, Arc::clone(&stats)));
        let store = Store::redis(Arc::clone(&commands), &options.key_prefix);
        let traits = NodeTraits {
            mounts: options.mounts,
            channels: options.channel_prefix,
            own_rooms: true,
            ..NodeTraits::default()
        };
        let presence_options =
            PresenceOptions { node, lease: options.lease, holdback, info: options.advertise, traits };
        let local = Arc::new(Registry(namespaces.clone()));
        let presence = Presence::new(presence_options, store, local, events.gone, Arc::clone(&stats));
        let (follow_ups, received) = mpsc::channel(AFTERMATHS_MAX);
        let cluster = Self {
            node,
            link,
            commands,
            subscriber,
            presence,
            channels,
            questions: Questions::default(),
            namespaces,
            posts: Posts::new(Script::new(include_str!("lua/publish.lua"))),
            live: LiveScripts::default(),
            unreached: parking_lot::Mutex::default(),
            prefix: options.key_prefix,
            max_payload: options.max_payload,
            sequenced: events.sequenced,
            rejected: Rejected::new(Arc::clone(&stats)),
            other_adapters: OtherAdapters::default(),
            follow_ups,
            last_of_backends: parking_lot::Mutex::default(),
            stats,
            started: tokio::time::Instant::now(),
        };
        (cluster, received)
    }

    /// Whether this node takes part in everything.
    pub(crate) fn is_ready(&self) -> bool {
        self.commands.is_up() && self.subscriber.is_up() && self.presence.is_ready()
    }

    /// Does everything that runs until the node stops.
    pub(crate) async fn run(self: &Arc<Self>, fanout: &Fanout) {
        let listener = Arc::new(SubscriptionHandler { cluster: Arc::clone(self), fanout: fanout.clone() });
        tokio::join!(
            self.commands.run(),
            self.posts.run(&self.commands),
            Arc::clone(&self.subscriber).run(listener),
            self.presence.run(),
            self.publish_heartbeat(),
            self.watch_commands(),
            self.watch_other_adapters(),
        );
    }

    /// Looks for servers that speak another wire.
    async fn watch_other_adapters(&self) {
        let channels: Vec<String> =
            self.namespaces.keys().map(|name| self.channels.namespace(name.as_str())).collect();
        self.other_adapters.watch(&self.commands, &channels, self.channels.prefix()).await;
    }

    /// Renews the lease on a connection of its own: for a thread that no client's work can hold up.
    pub(crate) async fn run_apart(&self) {
        // Its failures are those of the other connections, which are counted.
        let stats = Arc::new(Stats::new(Distributions::ignored()));
        let commands = Arc::new(Commands::new(self.link.clone(), "lease", &self.prefix, stats));
        let store = Store::redis(Arc::clone(&commands), &self.prefix);
        tokio::join!(commands.run(), self.presence.renew_apart(&store));
    }

    /// Publishes the canary: what this node does not hear of itself it does not hear of others.
    async fn publish_heartbeat(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(CANARY_EVERY_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Once it does not come back, the time that it takes grows until one does.
            let waits = &self.stats.canary_waits_us;
            let _ = waits.compare_exchange(0, self.now_us().max(1), Ordering::Relaxed, Ordering::Relaxed);
            // A failure is seen by what does not come back.
            let _ =
                self.publish_plain(self.subscriber.canary(), &self.now_us().to_string().into_bytes()).await;
        }
    }

    /// Microseconds that the last canary took, or that one has been under way for, if those are more.
    pub(crate) fn canary_lag_us(&self) -> u64 {
        let (lag, since) = (&self.stats.canary_lag_us, &self.stats.canary_waits_us);
        let waits = match since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now_us().saturating_sub(since),
        };
        lag.load(Ordering::Relaxed).max(waits)
    }

    /// Microseconds on a clock that nobody sets.
    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A new connection may lead to another server, or to one that has lost what it knew.
    async fn watch_commands(&self) {
        let mut connections = self.commands.connections();
        while connections.changed().await.is_ok() {
            self.presence.reconnected();
        }
    }

    /// Something was published. Called by the task that reads, so nothing here waits.
    fn on_message(&self, fanout: &Fanout, message: Message<'_>) {
        Stats::add(&self.stats.heard, 1);
        if message.channel == self.subscriber.canary() {
            let sent = str::from_utf8(message.payload).ok().and_then(|text| text.parse::<u64>().ok());
            self.stats
                .canary_lag_us
                .store(self.now_us().saturating_sub(sent.unwrap_or_default()), Ordering::Relaxed);
            self.stats.canary_waits_us.store(0, Ordering::Relaxed);
            return;
        }
        let heard = match self.channels.parse(message.channel) {
            Some(Channel::Broadcast { namespace, room, own }) => {
                self.hear_broadcast(namespace, (room, own), message)
            }
            Some(Channel::Request { namespace }) => match self.namespaces.get(namespace) {
                Some(rooms) if !fanout.hear_request(rooms, message.payload) => {
                    Err("too much waits for a request")
                }
                Some(_) | None => Ok(()),
            },
            Some(Channel::Response { namespace }) => {
                if !self.namespaces.contains_key(namespace) || self.note(message.payload) {
                    Ok(())
                } else {
                    Err("malformed response")
                }
            }
            None => Err("unknown channel"),
        };
        if let Err(reason) = heard {
            self.rejected.note(reason, message.channel);
        }
    }

    fn hear_broadcast(
        &self,
        namespace: &str,
        (room, own): (Option<&str>, bool),
        message: Message<'_>,
    ) -> Result<(), &'static str> {
        let Some(rooms) = self.namespaces.get(namespace) else { return Ok(()) };
        match room {
            // One socket's own room is heard by the node's pattern alone, every other by its name alone.
            Some(room) if own && is_own_room(room, self.node) != message.by_pattern => return Ok(()),
            // Servers on streams ask each other here, by a map where a broadcast is a list.
            None if matches!(message.payload, [0x81..=0x8f | 0xde | 0xdf, ..]) => {
                self.other_adapters.note([Wire::Streams]);
                return Ok(());
            }
            Some(_) | None => {}
        }
        if rooms.lane.is_clear() {
            return self.receive(rooms, room, message.payload);
        }
        let heard = Heard { room: room.map(Into::into), payload: message.payload.into() };
        match rooms.lane.queue(Item::Broadcast(heard), message.payload.len()) {
            Queued::Waits => Ok(()),
            Queued::Clear(_) => self.receive(rooms, room, message.payload),
            Queued::Full => Err("too much waits for a request"),
        }
    }

    /// Delivers a broadcast that was heard on the channel of `room`, or of the namespace: it is its turn.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn receive(
        &self,
        rooms: &Arc<Hub>,
        room: Option<&str>,
        payload: &[u8],
    ) -> Result<(), &'static str> {
        if let Some(room) = room
            && rooms.find(room).is_none()
            && !room.starts_with(USER_ROOM_PREFIX)
            && !is_own_room(room, self.node)
        {
            // Nobody here is in it, or not any more.
            return Ok(());
        }
        let broadcast =
            adapter::decode_broadcast(payload, self.message_max()).map_err(BroadcastError::as_str)?;
        if broadcast.namespace != rooms.name.as_str() {
            return Err("broadcast of another namespace than its channel's");
        }
        if broadcast.stamp.is_some() {
            self.presence.heard_from(&broadcast.uid);
        }
        if self.deliver(rooms, &broadcast) { Ok(()) } else { Err("too many broadcasts with a place wait") }
    }

    fn deliver(&self, rooms: &Arc<Hub>, broadcast: &Broadcast<'_>) -> bool {
        let packet = broadcast.body.encode(rooms.name.as_str(), None);
        let only = match broadcast.rooms.as_slice() {
            [room] => Some(&**room),
            _ => None,
        };
        if let (Some(sequence), Some(room)) = (broadcast.sequence, only) {
            if let Some(found) = rooms.find(room) {
                found.set_sequenced();
                if let Some(stamp) = &broadcast.stamp {
                    found.arrived(stamp);
                }
            }
            let place = Sequenced { namespace: rooms.name.clone(), room: room.to_owned(), sequence, packet };
            // What does not fit is found missing by the next, or when the connection is made anew.
            return self.sequenced.try_send(place).is_ok();
        }
        let except = match broadcast.except.as_slice() {
            [] => Some(None),
            [one] if !rooms.is_mixed(one) => SocketId::parse(one).map(Some),
            _ => None,
        };
        let found = only.filter(|room| !rooms.is_mixed(room)).and_then(|room| rooms.find(room));
        if broadcast.uid.len() != NODE_CHARS {
            self.flush_before(found.as_ref());
        }
        if let (Some(found), Some(except)) = (found, except) {
            if let Some(stamp) = &broadcast.stamp
                && found.arrived(stamp)
            {
                self.resync(rooms, found.name.as_str(), &stamp.epoch);
            }
            found.broadcast(packet, except, broadcast.volatile);
            return true;
        }
        for socket in rooms.select(&broadcast.rooms, &broadcast.except) {
            if broadcast.volatile {
                socket.emit_volatile(packet.clone());
            } else {
                socket.emit(packet.clone());
            }
        }
        true
    }

    /// A backend sends something to `next`, or to sockets: what backends sent to another room before is delivered first, so
    /// that whoever hears both hears them in their order. Rooms of our nodes' broadcasts are delivered each in its turn.
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
    fn message_max(&self) -> usize {
        self.max_payload.max(SERVER_MESSAGE_MAX_BYTES)
    }

    /// Reads a request.
    pub(crate) fn read<'a>(&self, namespace: &Namespace, message: &'a [u8]) -> Option<Request<'a>> {
        let request = adapter::decode_request(message, self.message_max()).ok();
        if request.is_none() {
            self.refuse_part(namespace, "malformed request");
        }
        request
    }

    /// A part of a request cannot be done, and nobody waits to be told.
    pub(crate) fn refuse_part(&self, namespace: &Namespace, reason: &'static str) {
        self.rejected.note(reason, &self.channels.request(namespace.as_str()));
    }

    /// Rooms as a server names them.
    pub(crate) fn named(&self, namespace: &Namespace, names: &[String]) -> Vec<RoomName> {
        let rooms: Vec<RoomName> = names.iter().filter_map(|name| RoomName::of_server(name)).collect();
        if rooms.len() < names.len() {
            self.refuse_part(namespace, "the name of a room is too long");
        }
        rooms
    }

    /// Notes a response; false when it is none.
    fn note(&self, message: &[u8]) -> bool {
        match adapter::decode_response(message) {
            Ok(Response::ClientCount { id, count }) => self.questions.told(&id, count),
            Ok(Response::Done { id }) => self.questions.told(&id, 0),
            Ok(Response::Acked { id, answer }) => self.questions.answered(&id, answer),
            Ok(Response::Fetched { .. } | Response::Other) => {}
            Err(_) => return false,
        }
        true
    }

    /// How many nodes and Node.js servers serve a namespace.
    pub(crate) async fn servers(&self, namespace: &str) -> Result<usize, FanoutError> {
        let channel = self.channels.request(namespace);
        let mut ask = redis::cmd("PUBSUB");
        ask.arg("NUMSUB").arg(&channel);
        let counts: Vec<(String, usize)> = self.commands.query(&ask).await?;
        Ok(counts.into_iter().map(|(_, count)| count).sum::<usize>().max(1))
    }
}

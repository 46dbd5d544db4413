//! [`RedisBackplane`]: a node among others.
//!
//! What crosses Redis is the wire of `@socket.io/redis-adapter`, so Node.js servers and emitters are members of the cluster
//! like any other. A broadcast of this node comes back to it as it reaches everybody else, so that all members on all nodes
//! have one order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use shared::adapter::Channels;
use shared::config::RedisAddress;
use shared::limits::{AFTERMATHS_MAX, CONTROL_QUEUE_MAX};
use shared::names::Namespace;
use tokio::sync::mpsc;

use super::connection::{Commands, Link, Posts, Script, Subscriber};
use super::lane::Lane;
use super::live::LiveStore;
use super::other_adapters::OtherAdapters;
use super::presence::agreement::NodeTraits;
use super::presence::store::{Store, StoredMember};
use super::presence::{LocalMembers, Presence, PresenceOptions};
use super::rejected::Rejected;
use crate::backplane::questions::Questions;
use crate::error::FanoutError;
use crate::local::hub::Hub;
use crate::local::node::{LocalNode, MembershipChange, member_info, room_key};
use crate::local::room::Room;
use crate::presence::SocketInfo;
use crate::stats::{Stats, StatsSnapshot};

/// How a node is one of many.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Where Redis is.
    pub redis: RedisAddress,
    /// Prefix of our keys.
    pub key_prefix: String,
    /// Prefix of channels.
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

/// Something that follows from a request ([`RedisBackplane::follow_up`]).
pub(super) type FollowUp = BoxFuture<'static, ()>;

/// What the tasks of a backplane take from, once.
pub(super) struct Inputs {
    pub(super) follow_ups: mpsc::Receiver<FollowUp>,
    pub(super) changes: mpsc::Receiver<MembershipChange>,
}

/// The cluster, as one node sees it.
pub(crate) struct RedisBackplane {
    pub(super) node: Arc<LocalNode>,
    pub(super) link: Link,
    pub(super) commands: Arc<Commands>,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) presence: Presence,
    pub(super) channels: Channels,
    pub(super) questions: Questions,
    /// One for each hub of the node, in their order.
    pub(super) lanes: Box<[Lane]>,
    pub(super) posts: Posts,
    pub(crate) live: LiveStore,
    /// When a node last did not report in time how many sockets it has: it may be dying, and nobody waits for it again.
    pub(super) unreached: parking_lot::Mutex<Option<tokio::time::Instant>>,
    pub(super) prefix: String,
    pub(super) max_payload: usize,
    pub(super) follow_ups: mpsc::Sender<FollowUp>,
    pub(super) inputs: parking_lot::Mutex<Option<Inputs>>,
    /// The room that a backend sent something to last.
    pub(super) last_of_backends: parking_lot::Mutex<Option<Arc<Room>>>,
    pub(super) stats: Arc<Stats>,
    pub(super) rejected: Rejected,
    pub(super) other_adapters: OtherAdapters,
    /// When the microseconds begin that canaries carry.
    started: tokio::time::Instant,
}

/// A socket as the store keeps it.
pub(super) fn stored(info: &SocketInfo) -> StoredMember {
    StoredMember {
        socket: info.id.as_str().to_owned(),
        user: info.user.as_str().to_owned(),
        info: member_info(info),
    }
}

impl LocalMembers for LocalNode {
    fn rooms(&self) -> Vec<String> {
        let rooms = self.hubs.iter().flat_map(|hub| {
            let namespace = hub.name.as_str();
            hub.rooms.names().into_iter().map(move |room| room_key(namespace, room.as_str()))
        });
        rooms.collect()
    }

    fn members(&self, room: &str) -> Vec<StoredMember> {
        let found = room.split_once('#').and_then(|(namespace, room)| self.find(namespace)?.find(room));
        found.map(|room| room.map_members(stored)).unwrap_or_default()
    }
}

impl RedisBackplane {
    pub(crate) fn new(options: ClusterOptions, node: Arc<LocalNode>) -> Self {
        let link = Link::new(options.redis);
        let (channels, stats) = (Channels::new(&options.channel_prefix), Arc::clone(&node.stats));
        let commands =
            Arc::new(Commands::new(link.clone(), "commands", &options.key_prefix, Arc::clone(&stats)));
        let subscriber =
            Arc::new(subscriber(&node, &channels, (link.clone(), &options.key_prefix), Arc::clone(&stats)));
        let store = Store::redis(Arc::clone(&commands), &options.key_prefix);
        let traits = NodeTraits {
            mounts: options.mounts,
            channels: options.channel_prefix,
            own_rooms: true,
            ..NodeTraits::default()
        };
        let presence_options = PresenceOptions {
            node: node.id,
            lease: options.lease,
            holdback: node.holdback,
            info: options.advertise,
            traits,
        };
        let (changed, changes) = mpsc::channel(CONTROL_QUEUE_MAX);
        let local: Arc<dyn LocalMembers> = Arc::clone(&node) as _;
        let presence = Presence::new(presence_options, store, local, changed, Arc::clone(&stats));
        let (sender, follow_ups) = mpsc::channel(AFTERMATHS_MAX);
        Self {
            lanes: node.hubs.iter().map(|_| Lane::default()).collect(),
            live: LiveStore::new(Arc::clone(&commands), &options.key_prefix, node.id),
            node,
            link,
            commands,
            subscriber,
            presence,
            channels,
            questions: Questions::default(),
            posts: Posts::new(Script::new(include_str!("lua/publish.lua"))),
            unreached: parking_lot::Mutex::default(),
            prefix: options.key_prefix,
            max_payload: options.max_payload,
            follow_ups: sender,
            inputs: parking_lot::Mutex::new(Some(Inputs { follow_ups, changes })),
            last_of_backends: parking_lot::Mutex::default(),
            rejected: Rejected::new(Arc::clone(&stats)),
            other_adapters: OtherAdapters::default(),
            stats,
            started: tokio::time::Instant::now(),
        }
    }

    /// Whether this node takes part in everything.
    pub(crate) fn is_ready(&self) -> bool {
        self.commands.is_up() && self.subscriber.is_up() && self.presence.is_ready()
    }

    /// The counters, and how it is connected.
    pub(crate) fn stats(&self) -> StatsSnapshot {
        StatsSnapshot {
            clustered: true,
            redis_up: self.is_ready(),
            canary_lag_us: self.canary_lag_us(),
            channels: self.subscriber.channels(),
            ..self.stats.snapshot()
        }
    }

    /// Microseconds that the last canary took, or that one has been under way for, if those are more.
    fn canary_lag_us(&self) -> u64 {
        let (lag, since) = (&self.stats.canary_lag_us, &self.stats.canary_waits_us);
        let waits = match since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now_us().saturating_sub(since),
        };
        lag.load(Ordering::Relaxed).max(waits)
    }

    /// Microseconds on a clock that nobody sets.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The order of what is received about a namespace.
    pub(super) fn lane(&self, hub: &Hub) -> &Lane {
        &self.lanes[hub.rooms.number]
    }

    /// A part of a request cannot be done, and nobody waits for an answer.
    pub(super) fn refuse_part(&self, namespace: &Namespace, reason: &'static str) {
        self.rejected.note(reason, &self.channels.request(namespace.as_str()));
    }

    /// How many nodes and Node.js servers serve a namespace.
    pub(super) async fn servers(&self, namespace: &str) -> Result<usize, FanoutError> {
        let channel = self.channels.request(namespace);
        let mut ask = redis::cmd("PUBSUB");
        ask.arg("NUMSUB").arg(&channel);
        let counts: Vec<(String, usize)> = self.commands.query(&ask).await?;
        Ok(counts.into_iter().map(|(_, count)| count).sum::<usize>().max(1))
    }
}

/// The subscriptions of a node: those that it always has.
fn subscriber(
    node: &LocalNode,
    channels: &Channels,
    (link, key_prefix): (Link, &str),
    stats: Arc<Stats>,
) -> Subscriber {
    let (mut standing, mut patterns) = (Vec::new(), Vec::new());
    let id = node.id.as_str();
    for namespace in node.hubs.iter().map(|hub| hub.name.as_str()) {
        patterns.push(channels.namespace_pattern(namespace));
        // By their names: servers on the classic adapter count these subscribers, and wait for as many answers.
        standing.push(channels.request(namespace));
        standing.push(channels.response(namespace));
        standing.push(channels.own_response(namespace, id));
        patterns.push(channels.sockets_of_node(namespace, id));
        // Whatever backends send to rooms: a socket that is put into a room by one must receive what it sends right after
        // that, when it would be too late to subscribe the room.
        patterns.push(channels.rooms_of_backends(namespace));
    }
    let canary = format!("{key_prefix}canary:{id}:{:016x}", rand::random::<u64>());
    Subscriber::new(link, standing, patterns, canary, stats)
}

//! [`RedisBackplane`]: a node in a cluster.
//!
//! Messages on Redis have the wire format of `@socket.io/redis-adapter`, so Node.js servers and emitters are members of the
//! cluster like any other. A node receives its own broadcasts through Redis like every other node, so that all members on
//! all nodes receive them in one order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use shared::adapter::Channels;
use shared::config::RedisAddress;
use shared::limits::{AFTERMATHS_MAX, CONTROL_QUEUE_MAX};
use shared::names::Namespace;
use tokio::sync::mpsc;

use super::connection::{Commands, Link, Posts, Subscriber};
use super::lane::Lane;
use super::live::LiveStore;
use super::other_adapters::OtherAdapters;
use super::presence::agreement::NodeTraits;
use super::presence::store::Store;
use super::presence::stored::StoredMember;
use super::presence::{LocalMembers, Presence, PresenceOptions};
use super::rejected::Rejected;
use super::renewals::Renewals;
use super::returns::Returns;
use crate::backplane::questions::Questions;
use crate::error::FanoutError;
use crate::local::hub::Hub;
use crate::local::node::{LocalNode, MembershipChange, member_info, room_key};
use crate::local::room::Room;
use crate::presence::SocketInfo;
use crate::stats::{Stats, StatsSnapshot};

/// How a node takes part in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The address of Redis.
    pub redis: RedisAddress,
    /// Prefix of Muster's keys.
    pub key_prefix: String,
    /// Prefix of channels.
    pub channel_prefix: String,
    /// How long a silent node counts as alive.
    pub lease: Duration,
    /// The address at which other nodes reach this one.
    pub advertise: String,
    /// Upper bound in bytes of one message for clients.
    pub max_payload: usize,
    /// The apps and their namespaces as text; all nodes must have the same.
    pub mounts: String,
}

/// Work that follows from a request ([`RedisBackplane::follow_up`]).
pub(super) type FollowUp = BoxFuture<'static, ()>;

/// Receivers of a backplane's tasks; each is taken once.
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
    pub(super) renewals: Renewals,
    /// Which posts have come back: one for each hub of the node, in their order.
    pub(super) returns: Box<[Returns]>,
    pub(crate) live: LiveStore,
    /// A request was dropped and cannot be asked for again.
    pub(super) has_dropped_request: AtomicBool,
    /// When a node last failed to report its sockets in time. It may be dying, so no caller waits for it again.
    pub(super) unreached: parking_lot::Mutex<Option<tokio::time::Instant>>,
    pub(super) prefix: String,
    pub(super) max_payload: usize,
    pub(super) follow_ups: mpsc::Sender<FollowUp>,
    pub(super) inputs: parking_lot::Mutex<Option<Inputs>>,
    /// The room of a backend's last broadcast.
    pub(super) last_of_backends: parking_lot::Mutex<Option<Arc<Room>>>,
    pub(super) stats: Arc<Stats>,
    pub(super) rejected: Rejected,
    pub(super) other_adapters: OtherAdapters,
    /// The start of the clock whose microseconds canaries carry.
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
        let questions = Questions::new(node.id.as_str());
        Self {
            lanes: node.hubs.iter().map(|_| Lane::default()).collect(),
            returns: node.hubs.iter().map(|_| Returns::default()).collect(),
            live: LiveStore::new(Arc::clone(&commands), &options.key_prefix, node.id),
            node,
            link,
            commands,
            subscriber,
            presence,
            channels,
            questions,
            posts: Posts::default(),
            renewals: Renewals::default(),
            has_dropped_request: AtomicBool::new(false),
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

    /// Microseconds that the last canary took, or that one has been under way, whichever is more.
    fn canary_lag_us(&self) -> u64 {
        let (lag, since) = (&self.stats.canary_lag_us, &self.stats.canary_waits_us);
        let waits = match since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now_us().saturating_sub(since),
        };
        lag.load(Ordering::Relaxed).max(waits)
    }

    /// Microseconds on a monotonic clock.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The lane of a namespace.
    pub(super) fn lane(&self, hub: &Hub) -> &Lane {
        &self.lanes[hub.rooms.number]
    }

    /// Counts a part of a request that cannot be done and whose sender gets no answer.
    pub(super) fn refuse_part(&self, namespace: &Namespace, reason: &'static str) {
        self.rejected.note(reason, &self.channels.request(namespace.as_str()));
    }

    /// How many Muster nodes and Node.js servers serve a namespace.
    pub(super) async fn servers(&self, namespace: &str) -> Result<usize, FanoutError> {
        let channel = self.channels.request(namespace);
        let mut ask = redis::cmd("PUBSUB");
        ask.arg("NUMSUB").arg(&channel);
        let counts: Vec<(String, usize)> = self.commands.query(&ask).await?;
        Ok(counts.into_iter().map(|(_, count)| count).sum::<usize>().max(1))
    }
}

/// The standing subscriptions of a node.
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
        // By their names: servers on the classic adapter count these subscribers and wait for as many answers.
        standing.push(channels.request(namespace));
        standing.push(channels.response(namespace));
        standing.push(channels.own_response(namespace, id));
        patterns.push(channels.sockets_of_node(namespace, id));
        // By a pattern: a socket that a backend puts into a room must receive what the backend sends right after that, when
        // it would be too late to subscribe to the room.
        patterns.push(channels.rooms_of_backends(namespace));
    }
    let canary = format!("{key_prefix}canary:{id}:{:016x}", rand::random::<u64>());
    Subscriber::new(link, standing, patterns, canary, stats)
}

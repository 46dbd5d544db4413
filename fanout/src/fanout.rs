//! [`Fanout`]: the handle that apps and sessions clone.
//!
//! The [backplane](crate::backplane) handles what depends on other nodes. A single node answers at once; in a cluster the same
//! calls wait for Redis, within bounds. A call that needs Redis while it is away fails ([`FanoutError::Unavailable`]); a node
//! still does what it can for its own clients.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::ids::{NodeId, SessionId};
use shared::limits::{CONTROL_QUEUE_MAX, OVERFLOWS_QUEUED};
use shared::names::{Namespace, Room, UserId};
use shared::sio::{Encoded, Event};
use tokio::sync::mpsc;

use crate::backplane::Backplane;
use crate::backplane::redis::backplane::ClusterOptions;
use crate::collector::Answers;
use crate::error::FanoutError;
use crate::events::{Events, Turn};
use crate::local::flusher::Flusher;
use crate::local::hub::Hub;
use crate::local::node::LocalNode;
use crate::local::send_queue::{SendQueue, SendQueueLimits, Shared};
use crate::local::socket::LocalSocket;
use crate::local::turns::Turns;
use crate::presence::{Agreement, Peer};
use crate::sequenced::Sequenced;
use crate::stats::{Distributions, Stats, StatsSnapshot};
use crate::target::{Packet, Posted, Receipt, Target};

/// Options of a [`Fanout`].
#[derive(Debug, Clone)]
pub struct FanoutOptions {
    /// This node.
    pub node: NodeId,
    /// The namespaces it serves.
    pub namespaces: Vec<Namespace>,
    /// Flushers, one for each worker.
    pub flushers: usize,
    /// Bounds of every send queue.
    pub send_queue: SendQueueLimits,
    /// Upper bound of the rooms of one socket; 0: no limit.
    pub rooms_per_socket: usize,
    /// Upper bound of a user's sockets in a namespace; 0: no limit.
    pub sockets_per_user: usize,
    /// How long a user whose last connection dropped may take to reconnect before they are [`Gone`](crate::Gone).
    pub holdback: Duration,
    /// The cluster; `None` for a single node.
    pub cluster: Option<ClusterOptions>,
    /// Distributions of delivery times and sizes.
    pub distributions: Distributions,
}

/// Rooms, members and delivery. Cheap to clone.
#[derive(Clone)]
pub struct Fanout {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) node: Arc<LocalNode>,
    pub(crate) backplane: Backplane,
    /// Upper bound of the rooms of one socket; 0: no limit.
    pub(crate) rooms_per_socket: usize,
    /// Upper bound of a user's sockets in a namespace; 0: no limit.
    pub(crate) sockets_per_user: usize,
    /// The callers of [`crate::Live::exclusively`] on this node.
    pub(crate) turns: Turns,
    flushers: Box<[Arc<Flusher>]>,
    next_flusher: AtomicUsize,
    queues: Arc<Shared>,
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout").field("node", &self.inner.node.id).finish_non_exhaustive()
    }
}

impl Fanout {
    /// Creates the fan-out of a node, and the events for its owner. Run the flushers ([`Self::flushers`]) and [`Self::run`].
    #[must_use]
    pub fn new(options: FanoutOptions) -> (Self, Events) {
        let (overflowed, overflows) = mpsc::channel(OVERFLOWS_QUEUED);
        let (control, controls) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (moved, moves) = mpsc::channel(CONTROL_QUEUE_MAX);
        let stats = Arc::new(Stats::new(options.distributions));
        let flushers: Box<[_]> = (0..options.flushers.max(1)).map(|_| Arc::default()).collect();
        let hub = |(number, name): (usize, Namespace)| {
            Arc::new(Hub::new((name, number), flushers.clone(), Arc::clone(&stats)))
        };
        let node = Arc::new(LocalNode {
            id: options.node,
            holdback: options.holdback,
            hubs: options.namespaces.into_iter().enumerate().map(hub).collect(),
            stats: Arc::clone(&stats),
            control,
            moved,
            sequenced_to: OnceLock::new(),
        });
        let inner = Inner {
            backplane: Backplane::new(options.cluster, Arc::clone(&node)),
            node,
            rooms_per_socket: options.rooms_per_socket,
            sockets_per_user: options.sockets_per_user,
            turns: Turns::default(),
            flushers,
            next_flusher: AtomicUsize::new(0),
            queues: Arc::new(Shared { limits: options.send_queue, overflowed, stats }),
        };
        let events = Events { overflowed: overflows, control: controls, moved: moves };
        (Self { inner: Arc::new(inner) }, events)
    }

    /// The flushers; run each in its own task ([`Flusher::run`]).
    #[must_use]
    pub fn flushers(&self) -> &[Arc<Flusher>] {
        &self.inner.flushers
    }

    /// Runs until the node stops: reports users who are gone, keeps the connections to Redis and the lease. Call it once.
    pub async fn run(&self) {
        self.inner.backplane.run().await;
    }

    /// Keeps the lease from lapsing while the workers are busy. Run it until the node stops, on a thread that is not a worker.
    /// A single node has no lease, and this ends at once.
    pub async fn run_apart(&self) {
        self.inner.backplane.run_apart().await;
    }

    /// Gives up the lease, so that nothing is written to the store any more. Call it when every socket is detached.
    pub async fn close(&self) {
        self.inner.backplane.close().await;
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.node.id
    }

    /// How long a user whose last connection dropped may take to reconnect before they are [`Gone`](crate::Gone).
    #[must_use]
    pub fn holdback(&self) -> Duration {
        self.inner.node.holdback
    }

    /// Whether there are other nodes, or may be: this node can forward to their sessions ([`Self::peer`]), they share live
    /// state ([`Self::live`]), and they outlive this node.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        self.inner.backplane.has_peers()
    }

    /// Whether this node is fully operational. A single node always is; in a cluster a node is when commands and subscriptions
    /// work and it holds its lease.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.backplane.is_ready()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.inner.backplane.stats(&self.inner.node)
    }

    /// Whether this node agrees with the others of its Redis. A single node always does.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        self.inner.backplane.agreement()
    }

    /// Sets the records that the node's apps keep: a name shared by all nodes that use them, and by no others.
    pub fn set_records(&self, records: &str) {
        self.inner.backplane.set_records(records);
    }

    /// Counts a resync of a room by an app that tracks the room more closely than this crate does.
    pub fn note_resync(&self) {
        Stats::add(&self.inner.node.stats.resyncs, 1);
    }

    /// Whether the node with this id lives. A single node knows only itself.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn lives(&self, node: &str) -> Result<bool, FanoutError> {
        match self.inner.backplane.lives(node).await {
            Some(lives) => lives,
            None => Ok(node == self.node().as_str()),
        }
    }

    /// Waits until this node has found that another one is gone and that no other node cleans up after it. For one caller; on a
    /// single node it never ends.
    pub async fn lost_node(&self) {
        self.inner.backplane.lost_node().await;
    }

    /// The address of another living node, by the id that its sessions begin with.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn peer(&self, node: NodeId) -> Result<Option<Peer>, FanoutError> {
        self.inner.backplane.peer(node).await
    }

    /// The sockets of a namespace that this node holds.
    #[must_use]
    pub fn sockets(&self, namespace: &Namespace) -> Vec<Arc<LocalSocket>> {
        self.inner.node.find(namespace.as_str()).map(|hub| hub.all_sockets()).unwrap_or_default()
    }

    /// The sockets of a user that this node holds.
    #[must_use]
    pub fn sockets_of(&self, namespace: &Namespace, user: &UserId) -> Vec<Arc<LocalSocket>> {
        let hub = self.inner.node.find(namespace.as_str());
        hub.map(|hub| hub.sockets_of(user.as_str())).unwrap_or_default()
    }

    /// How many sockets of this node are in a room.
    #[must_use]
    pub fn size_here(&self, namespace: &Namespace, room: &str) -> usize {
        let hub = self.inner.node.find(namespace.as_str());
        hub.and_then(|hub| hub.find(room)).map_or(0, |room| room.size())
    }

    /// A send queue for a new session.
    #[must_use]
    pub fn send_queue(&self, session: SessionId) -> Arc<SendQueue> {
        let turn = self.inner.next_flusher.fetch_add(1, Ordering::Relaxed);
        let flusher = &self.inner.flushers[turn % self.inner.flushers.len()];
        Arc::new(SendQueue::new(session, Arc::clone(&self.inner.queues), Arc::clone(flusher.queues())))
    }

    /// Encodes an event once, in the form that sending it to `target` needs.
    #[must_use]
    pub fn packet(&self, target: &Target<'_>, event: &Event<'_>) -> Packet {
        self.inner.backplane.packet(target, event)
    }

    /// Sends a packet that was encoded for `target`. Ends when the packet has its place in the order, not when it is written.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] within a second when Redis is away; it may have been sent all the same.
    pub async fn broadcast(&self, target: Target<'_>, packet: Packet) -> Result<Receipt, FanoutError> {
        self.post(target, packet).outcome().await
    }

    /// As [`Self::broadcast`], for callers that do other work meanwhile. Later posts come later.
    #[must_use]
    pub fn post(&self, target: Target<'_>, packet: Packet) -> Posted {
        self.inner.backplane.post(&target, packet)
    }

    /// Passes each broadcast to a room whose order an app keeps to `take`, which delivers it when its turn has come
    /// ([`Self::deliver_sequenced`]). The fan-out calls `take` where it receives the broadcast, so `take` must not wait. Call
    /// this once, before [`Self::run`].
    pub fn take_sequenced(&self, take: impl Fn(Sequenced) + Send + Sync + 'static) {
        let is_first = self.inner.node.sequenced_to.set(Box::new(take)).is_ok();
        debug_assert!(is_first, "sequenced broadcasts have one taker");
    }

    /// Delivers a sequenced broadcast that the app has put in its place in the room.
    pub fn deliver_sequenced(&self, broadcast: &Sequenced) {
        self.inner.node.deliver_sequenced(broadcast);
    }

    /// As [`Self::deliver_sequenced`], only to the members of a room for which the app keeps `kept` ([`Self::kept`]). While the
    /// broadcast waited, the last of them may have left; members who have entered since then have another value.
    pub fn deliver_kept<T>(&self, broadcast: &Sequenced, kept: &Arc<T>) {
        self.inner.node.deliver_kept(broadcast, kept);
    }

    /// Waits until everything that this node posted to a room before has come back: the members here have received it, or its
    /// app has got it. Ends at once where nothing is under way, and after `REDIS_COMMAND_MS` where Redis does not return it.
    pub async fn after_posts(&self, namespace: &Namespace, room: &str) {
        if let Ok(hub) = self.hub(namespace) {
            self.inner.backplane.after_posts(hub, room).await;
        }
    }

    /// What an app keeps for a room while any socket on this node is in it: the value that it keeps already, else `new`. `None`
    /// where the room is empty, or keeps a value of another type.
    pub fn kept<T: Send + Sync + 'static>(
        &self,
        namespace: &Namespace,
        room: &str,
        new: impl FnOnce() -> Arc<T>,
    ) -> Option<Arc<T>> {
        let found = self.inner.node.find(namespace.as_str())?.find(room)?;
        // From now on the app gets all of the room's broadcasts.
        found.set_sequenced();
        Arc::clone(found.keep(|| new() as _)).downcast().ok()
    }

    /// The rooms that sockets of this node are in.
    #[must_use]
    pub fn rooms_here(&self, namespace: &Namespace) -> Vec<Room> {
        self.inner.node.find(namespace.as_str()).map(|hub| hub.rooms.names()).unwrap_or_default()
    }

    /// Delivers to the members of a room on this node only: a broadcast that an app has found missing. Only to members of a
    /// room for which the app keeps `kept`, as [`Self::deliver_kept`] does.
    pub fn deliver<T>(&self, namespace: &Namespace, room: &str, kept: &Arc<T>, packet: Encoded) {
        let found = self.inner.node.find(namespace.as_str()).and_then(|hub| hub.find(room));
        if let Some(room) = found.filter(|room| room.keeps(kept)) {
            room.broadcast(packet, None, false);
        }
    }

    /// Sends a packet to one socket of this node, behind earlier broadcasts to its rooms.
    pub fn emit(&self, socket: &LocalSocket, packet: Encoded) {
        socket.emit(packet);
    }

    /// Sends a client's event with a request for acks, and waits for the acks up to `at_most`. `turn` is dropped when the event
    /// has its place in the order: later posts come later.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::TooManyQuestions`].
    pub async fn ask(
        &self,
        target: Target<'_>,
        event: &Event<'_>,
        at_most: Duration,
        turn: Turn,
    ) -> Result<Answers, FanoutError> {
        self.inner.backplane.ask(&target, event, (at_most, turn)).await
    }

    /// How many sockets on all nodes receive what is sent to `target`. `None` when a node does not report in time, or lately
    /// did not. Sockets of Node.js servers are not counted.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::TooManyQuestions`], [`FanoutError::UnknownNamespace`].
    pub async fn reach(&self, target: &Target<'_>) -> Result<Option<usize>, FanoutError> {
        self.inner.backplane.reach(self.hub(target.namespace)?, target).await
    }

    /// Whether `key` stands for `request` on all nodes. A key stands for the first request that uses it, for five minutes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn claim_key(&self, key: &str, request: &str) -> Result<bool, FanoutError> {
        self.inner.backplane.claim_key(key, request).await
    }

    /// Sends an event to the other servers of the namespace; `args` are raw JSON. A single node has no others.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn server_side_emit(
        &self,
        namespace: &Namespace,
        name: &str,
        args: &[&str],
    ) -> Result<(), FanoutError> {
        self.inner.backplane.server_side_emit(namespace, name, args).await
    }

    pub(crate) fn hub(&self, namespace: &Namespace) -> Result<&Arc<Hub>, FanoutError> {
        self.inner.node.hub(namespace.as_str())
    }
}

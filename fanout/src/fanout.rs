//! [`Fanout`]: the handle that everybody clones.
//!
//! What depends on other nodes is the [backplane](crate::backplane)'s. Alone it answers at once; in a cluster the same calls
//! wait for Redis, within bounds. What cannot be had then is an error ([`FanoutError::Unavailable`]), and what a node can do
//! for its own clients it does.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shared::ids::{NodeId, SessionId};
use shared::limits::{CONTROL_QUEUE_MAX, OVERFLOWS_QUEUED, SEQUENCED_QUEUE_MAX};
use shared::names::{Namespace, UserId};
use shared::sio::{Encoded, Event};
use tokio::sync::mpsc;

use crate::backplane::Backplane;
use crate::backplane::questions::Answers;
use crate::backplane::redis::backplane::ClusterOptions;
use crate::error::FanoutError;
use crate::events::Events;
use crate::local::flusher::Flusher;
use crate::local::hub::Hub;
use crate::local::node::LocalNode;
use crate::local::send_queue::{SendQueue, SendQueueLimits, Shared};
use crate::local::socket::LocalSocket;
use crate::presence::{Agreement, Peer};
use crate::stats::{Distributions, Stats, StatsSnapshot};
use crate::target::{Packet, Posted, Receipt, Target};

/// What a [`Fanout`] is created with.
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
    /// Rooms of one socket; 0: no limit.
    pub rooms_per_socket: usize,
    /// Sockets of one user in a namespace; 0: no limit.
    pub sockets_per_user: usize,
    /// How long a user whose last connection dropped may take to reconnect before they are [`Gone`](crate::Gone).
    pub holdback: Duration,
    /// The cluster; `None` for a node alone.
    pub cluster: Option<ClusterOptions>,
    /// Where delivery is observed.
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
    /// Rooms of one socket; 0: no limit.
    pub(crate) rooms_per_socket: usize,
    /// Sockets of one user in a namespace; 0: no limit.
    pub(crate) sockets_per_user: usize,
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
    /// Creates the fan-out of a node, and what it reports to its owner. The flushers ([`Self::flushers`]) and [`Self::run`]
    /// must be run.
    #[must_use]
    pub fn new(options: FanoutOptions) -> (Self, Events) {
        let (overflowed, overflows) = mpsc::channel(OVERFLOWS_QUEUED);
        let (control, controls) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (moved, moves) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (sequenced, sequence) = mpsc::channel(SEQUENCED_QUEUE_MAX);
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
            sequenced,
        });
        let inner = Inner {
            backplane: Backplane::new(options.cluster, Arc::clone(&node)),
            node,
            rooms_per_socket: options.rooms_per_socket,
            sockets_per_user: options.sockets_per_user,
            flushers,
            next_flusher: AtomicUsize::new(0),
            queues: Arc::new(Shared { limits: options.send_queue, overflowed, stats }),
        };
        let events = Events { overflowed: overflows, control: controls, moved: moves, sequenced: sequence };
        (Self { inner: Arc::new(inner) }, events)
    }

    /// The flushers, each to be run by a task of its own ([`Flusher::run`]).
    #[must_use]
    pub fn flushers(&self) -> &[Arc<Flusher>] {
        &self.inner.flushers
    }

    /// Reports who is gone, keeps the connections to Redis, the lease and all else that runs until the node stops. To be called
    /// once.
    pub async fn run(&self) {
        self.inner.backplane.run().await;
    }

    /// Keeps the lease from lapsing while the workers are busy: to be run until the node stops, by a thread that is no
    /// worker. A node alone has none, and this ends at once.
    pub async fn run_apart(&self) {
        self.inner.backplane.run_apart().await;
    }

    /// Gives the lease up, so that nothing is written to the store any more. To be called when every socket is detached.
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

    /// Whether there are other nodes, or may be: sessions of theirs can be asked for ([`Self::peer`]), they share what is
    /// live ([`Self::live`]), and they outlive this one.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        self.inner.backplane.has_peers()
    }

    /// Whether this node takes part in everything: alone always, in a cluster when commands and subscriptions
    /// work and its lease is held.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.backplane.is_ready()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.inner.backplane.stats(&self.inner.node)
    }

    /// Whether this node agrees with the others of its Redis. A node alone has nobody to disagree with.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        self.inner.backplane.agreement()
    }

    /// Says which records the node's apps keep: a name that is the same for all who use them, and for nobody else.
    pub fn set_records(&self, records: &str) {
        self.inner.backplane.set_records(records);
    }

    /// Counts that a room was told that it may have missed something, by an app that knows more of the room than this crate
    /// does.
    pub fn note_resync(&self) {
        Stats::add(&self.inner.node.stats.resyncs, 1);
    }

    /// Whether the node with this id lives. A node alone knows of none but itself.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn lives(&self, node: &str) -> Result<bool, FanoutError> {
        match self.inner.backplane.lives(node).await {
            Some(lives) => lives,
            None => Ok(node == self.node().as_str()),
        }
    }

    /// Ends when this node has found that another one is gone and that no other settles what it left. For one caller; a node
    /// alone waits for ever.
    pub async fn lost_node(&self) {
        self.inner.backplane.lost_node().await;
    }

    /// How another living node is reached, by the id that its sessions begin with.
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

    /// Writes an event once, as sending it to `target` needs it.
    #[must_use]
    pub fn packet(&self, target: &Target<'_>, event: &Event<'_>) -> Packet {
        self.inner.backplane.packet(target, event)
    }

    /// Sends a packet that was written for `target`. Ends when it has its place in the order, not when it is written.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] within a second when Redis is away; it may have been sent all the same.
    pub async fn broadcast(&self, target: Target<'_>, packet: Packet) -> Result<Receipt, FanoutError> {
        self.post(target, packet).outcome().await
    }

    /// As [`Self::broadcast`], for callers that have more to do meanwhile: what is posted later comes later.
    #[must_use]
    pub fn post(&self, target: Target<'_>, packet: Packet) -> Posted {
        self.inner.backplane.post(&target, packet)
    }

    /// Delivers to the members of a room on this node alone: what an app does with a [`Sequenced`](crate::Sequenced)
    /// broadcast.
    pub fn deliver(&self, namespace: &str, room: &str, packet: Encoded) {
        if let Some(room) = self.inner.node.find(namespace).and_then(|hub| hub.find(room)) {
            room.broadcast(packet, None, false);
        }
    }

    /// Sends one packet to one socket of this node, behind what was broadcast to its rooms before.
    pub fn emit(&self, socket: &LocalSocket, packet: Encoded) {
        socket.emit(packet);
    }

    /// Sends a client's event whose receivers are asked for acks, and waits for them, `at_most` so long.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::TooManyQuestions`].
    pub async fn ask(
        &self,
        target: Target<'_>,
        event: &Event<'_>,
        at_most: Duration,
    ) -> Result<Answers, FanoutError> {
        self.inner.backplane.ask(&target, event, at_most).await
    }

    /// How many sockets on all nodes get what is sent to `target`; `None` when one of the nodes does not report in time, or
    /// lately did not. Sockets of Node.js servers are not counted.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::TooManyQuestions`], [`FanoutError::UnknownNamespace`].
    pub async fn reach(&self, target: &Target<'_>) -> Result<Option<usize>, FanoutError> {
        self.inner.backplane.reach(self.hub(target.namespace)?, target).await
    }

    /// Whether `key` stands for `request`, on all nodes: it does from its first use on, for five minutes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn claim_key(&self, key: &str, request: &str) -> Result<bool, FanoutError> {
        self.inner.backplane.claim_key(key, request).await
    }

    /// Tells other servers of the namespace an event; `args` are raw JSON. Alone there is none.
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

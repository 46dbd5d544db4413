//! [`Fanout`]: the handle that everybody clones.
//!
//! Alone, a node answers everything at once from its registry. In a cluster the same calls wait for Redis'
//! word, within bounds; what then cannot be had is said ([`FanoutError::Unavailable`]), and what a node can do
//! for its own clients it does.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future;
use shared::adapter::Body;
use shared::ids::{NodeId, SessionId, SocketId};
use shared::limits::{
    ANSWER_LARGE_BYTES, CONTROL_QUEUE_MAX, LINGERING_MAX, OVERFLOWS_QUEUED, REDIS_CONNECT_MS,
    SEQUENCED_QUEUE_MAX,
};
use shared::names::{Namespace, Room, UserId};
use shared::sio::{Answer, Encoded, Event};
use tokio::sync::mpsc;

use crate::backplane::departures::{Departure, Departures};
use crate::backplane::memory::live::Memory;
use crate::backplane::questions::{Answers, Asker, Questions};
use crate::backplane::redis::cluster::{ClusterEvents, ClusterOptions, FollowUp, RedisBackplane};
use crate::backplane::redis::presence::MembershipChange;
use crate::error::FanoutError;
use crate::events::{Control, Events, Reply, Sequenced, Turn};
use crate::local::flusher::Flusher;
use crate::local::registry::{Hub, LocalSocket};
use crate::local::send_queue::{SendQueue, SendQueueLimits, Shared};
use crate::presence::{Agreement, Gone, Peer};
use crate::stats::{Distributions, Stats, StatsSnapshot};
use crate::target::{Form, Packet, Posted, Receipt, Target, To};

/// What a [`Fanout`] is made with.
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
    /// How long who is lost may take to come back before they are [`Gone`].
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
    pub(crate) options: FanoutOptions,
    namespaces: HashMap<Namespace, Arc<Hub>>,
    flushers: Box<[Arc<Flusher>]>,
    next_flusher: AtomicUsize,
    queues: Arc<Shared>,
    pub(crate) backplane: Backplane,
    control: mpsc::Sender<Control>,
    moved: mpsc::Sender<Control>,
    sequenced: mpsc::Sender<Sequenced>,
}

/// What carries broadcasts, and who knows of members.
pub(crate) enum Backplane {
    InProcess {
        departures: Departures,
        questions: Box<Questions>,
        live: Box<Memory>,
    },
    Redis {
        cluster: Arc<RedisBackplane>,
        /// For the tasks of [`Fanout::run`], which take them once.
        tasks: parking_lot::Mutex<Option<(mpsc::Receiver<FollowUp>, mpsc::Receiver<MembershipChange>)>>,
    },
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Fanout {
    /// Makes the fan-out of a node, and what it tells its owner. The flushers ([`Self::flushers`]) and
    /// [`Self::run`] must be run.
    #[must_use]
    pub fn new(options: FanoutOptions) -> (Self, Events) {
        let (overflowed, overflows) = mpsc::channel(OVERFLOWS_QUEUED);
        let (control, controls) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (moved, moves) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (sequenced, sequence) = mpsc::channel(SEQUENCED_QUEUE_MAX);
        let stats = Arc::new(Stats::new(options.distributions.clone()));
        let flushers: Box<[_]> = (0..options.flushers.max(1)).map(|_| Arc::default()).collect();
        let rooms_of = |name: &Namespace| {
            let rooms = Hub::new(name.clone(), flushers.clone(), Arc::clone(&stats));
            (name.clone(), Arc::new(rooms))
        };
        let namespaces: HashMap<_, _> = options.namespaces.iter().map(rooms_of).collect();
        let backplane = match options.cluster.clone() {
            None => Backplane::InProcess {
                departures: Departures::new(LINGERING_MAX),
                questions: Box::default(),
                live: Box::default(),
            },
            Some(cluster) => {
                let (gone, left) = mpsc::channel(CONTROL_QUEUE_MAX);
                let events = ClusterEvents { gone, sequenced: sequenced.clone() };
                let this = (options.node, options.holdback);
                let (cluster, follow_ups) =
                    RedisBackplane::new(cluster, this, namespaces.clone(), events, Arc::clone(&stats));
                let tasks = parking_lot::Mutex::new(Some((follow_ups, left)));
                Backplane::Redis { cluster: Arc::new(cluster), tasks }
            }
        };
        let queues = Arc::new(Shared { limits: options.send_queue, overflowed, stats });
        let next_flusher = AtomicUsize::new(0);
        let inner = Inner {
            options,
            namespaces,
            flushers,
            next_flusher,
            queues,
            backplane,
            control,
            moved,
            sequenced,
        };
        let events = Events { overflowed: overflows, control: controls, moved: moves, sequenced: sequence };
        (Self { inner: Arc::new(inner) }, events)
    }

    /// The flushers, each to be run by a task of its own ([`Flusher::run`]).
    #[must_use]
    pub fn flushers(&self) -> &[Arc<Flusher>] {
        &self.inner.flushers
    }

    /// Tells who is gone, keeps the connections to Redis, the lease and all else that runs until the node stops.
    pub async fn run(&self) {
        match &self.inner.backplane {
            Backplane::InProcess { departures, .. } => loop {
                let Departure { room, user, info, .. } = departures.due().await;
                self.tell_moved(MembershipChange { room, user, info, returned: false }).await;
            },
            Backplane::Redis { cluster, tasks } => {
                let Some((follow_ups, gone)) = tasks.lock().take() else { return };
                let lanes = self.all_rooms().map(|rooms| self.keep_order(cluster, rooms));
                tokio::join!(
                    cluster.run(self),
                    future::join_all(lanes),
                    self.run_follow_ups(follow_ups),
                    self.forward_gone(gone),
                    self.watch_connections(cluster)
                );
            }
        }
    }

    /// Keeps the lease from lapsing while the workers are busy: to be run until the node stops, by a thread that is no
    /// worker. A node alone has none, and this ends at once.
    pub async fn run_apart(&self) {
        if let Backplane::Redis { cluster, .. } = &self.inner.backplane {
            cluster.run_apart().await;
        }
    }

    async fn forward_gone(&self, mut gone: mpsc::Receiver<MembershipChange>) {
        while let Some(gone) = gone.recv().await {
            self.tell_moved(gone).await;
        }
    }

    async fn watch_connections(&self, cluster: &RedisBackplane) {
        let mut connections = cluster.subscriber.connections();
        while connections.changed().await.is_ok() {
            if *connections.borrow() > 1 {
                cluster.resync_all();
            }
            let _ = self.inner.control.send(Control::Resubscribed).await;
            // The commands' connection may come later than the subscriptions', and a cluster's server late.
            while cluster.check_stamps().await.is_err() && !connections.has_changed().unwrap_or(true) {
                tokio::time::sleep(Duration::from_millis(REDIS_CONNECT_MS)).await;
            }
        }
    }

    async fn tell_moved(&self, gone: MembershipChange) {
        let returned = gone.returned;
        let parsed = gone.room.split_once('#').and_then(|(namespace, room)| {
            let namespace = self.inner.namespaces.get(namespace)?.name.clone();
            let user = UserId::parse(&gone.user).ok()?;
            let info: serde_json::Value = serde_json::from_str(&gone.info).unwrap_or_default();
            let field = |name: &str| info.get(name).and_then(serde_json::Value::as_str).map(Into::into);
            let (email, display_name, role) = (field("e"), field("d"), field("r"));
            Some(Gone { namespace, room: Room::of_server(room)?, user, email, display_name, role })
        });
        if let Some(gone) = parsed {
            let control = if returned { Control::Back(gone) } else { Control::Gone(gone) };
            let _ = self.inner.moved.send(control).await;
        }
    }

    /// Gives the lease up; nothing is told to the store any more. To be called when every socket is detached.
    pub async fn close(&self) {
        if let Backplane::Redis { cluster, .. } = &self.inner.backplane {
            cluster.presence.close().await;
        }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.options.node
    }

    /// How long who is lost may take to come back before they are [`Gone`].
    #[must_use]
    pub fn holdback(&self) -> Duration {
        self.inner.options.holdback
    }

    /// Whether there are other nodes, or may be.
    #[must_use]
    pub fn is_clustered(&self) -> bool {
        matches!(self.inner.backplane, Backplane::Redis { .. })
    }

    /// Whether this node takes part in everything: alone always, in a cluster when commands and subscriptions
    /// work and its lease is held.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.inner.backplane {
            Backplane::InProcess { .. } => true,
            Backplane::Redis { cluster, .. } => cluster.is_ready(),
        }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        let stats = self.inner.queues.stats.snapshot();
        match &self.inner.backplane {
            Backplane::InProcess { .. } => stats,
            Backplane::Redis { cluster, .. } => StatsSnapshot {
                clustered: true,
                redis_up: cluster.is_ready(),
                canary_lag_us: cluster.canary_lag_us(),
                channels: cluster.subscriber.channels(),
                ..stats
            },
        }
    }

    /// Whether this node agrees with the others of its Redis. A node alone has nobody to disagree with.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        match &self.inner.backplane {
            Backplane::InProcess { .. } => Agreement { is_known: true, ..Agreement::default() },
            Backplane::Redis { cluster, .. } => cluster.presence.agreement(),
        }
    }

    /// Says which records the node's apps keep: a name that is the same for all who use them, and for nobody else.
    pub fn set_records(&self, records: &str) {
        if let Backplane::Redis { cluster, .. } = &self.inner.backplane {
            cluster.presence.set_records(records);
        }
    }

    /// Counts that a room was told that it may have missed something, by whoever knows more of the room than this crate does.
    pub fn note_resync(&self) {
        Stats::add(&self.inner.queues.stats.resyncs, 1);
    }

    /// How another living node is reached, by the id that its sessions begin with.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn peer(&self, node: NodeId) -> Result<Option<Peer>, FanoutError> {
        match &self.inner.backplane {
            Backplane::InProcess { .. } => Ok(None),
            Backplane::Redis { cluster, .. } => cluster.presence.peer(node).await,
        }
    }

    /// The sockets of a namespace that this node holds.
    #[must_use]
    pub fn sockets(&self, namespace: &Namespace) -> Vec<Arc<LocalSocket>> {
        self.rooms_of(namespace).map(|rooms| rooms.all_sockets()).unwrap_or_default()
    }

    /// The sockets of a user that this node holds.
    #[must_use]
    pub fn sockets_of(&self, namespace: &Namespace, user: &UserId) -> Vec<Arc<LocalSocket>> {
        self.rooms_of(namespace).map(|rooms| rooms.sockets_of(user.as_str())).unwrap_or_default()
    }

    /// How many sockets of this node are in a room.
    #[must_use]
    pub fn size_here(&self, namespace: &Namespace, room: &str) -> usize {
        self.rooms_of(namespace).and_then(|rooms| rooms.find(room)).map_or(0, |room| room.size())
    }

    /// A send queue for a new session.
    #[must_use]
    pub fn send_queue(&self, session: SessionId) -> Arc<SendQueue> {
        let turn = self.inner.next_flusher.fetch_add(1, Ordering::Relaxed);
        let flusher = &self.inner.flushers[turn % self.inner.flushers.len()];
        Arc::new(SendQueue::new(session, Arc::clone(&self.inner.queues), Arc::clone(flusher)))
    }

    pub(crate) fn rooms(&self, namespace: &str) -> Result<&Arc<Hub>, FanoutError> {
        self.inner.namespaces.get(namespace).ok_or(FanoutError::UnknownNamespace)
    }

    /// Writes an event once, as sending it to `target` needs it.
    #[must_use]
    pub fn packet(&self, target: &Target<'_>, event: &Event<'_>) -> Packet {
        match &self.inner.backplane {
            Backplane::InProcess { .. } => Packet::ready(event),
            Backplane::Redis { cluster, .. } => {
                Packet(cluster.message(target, event).map_or_else(Form::Bad, Form::Message))
            }
        }
    }

    /// Sends a packet that was written for `target`. Answers when it has its place in the order, not when it is
    /// written.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] within a second when Redis is away; it may have been sent all the same.
    pub async fn broadcast(&self, target: Target<'_>, packet: Packet) -> Result<Receipt, FanoutError> {
        self.post(target, packet).outcome().await
    }

    /// As [`Self::broadcast`], for who has more to do meanwhile: what is posted later comes later.
    #[must_use]
    pub fn post(&self, target: Target<'_>, packet: Packet) -> Posted {
        match (&self.inner.backplane, packet.0) {
            (Backplane::Redis { cluster, .. }, Form::Message(message)) => cluster.post(&target, &message),
            (Backplane::InProcess { .. }, Form::Ready(packet)) => {
                let rooms = match self.rooms(target.namespace.as_str()) {
                    Ok(rooms) => rooms,
                    Err(error) => return Posted::Done(Err(error)),
                };
                let receipt = Receipt { nodes: 1, ..Receipt::default() };
                if let (Some(sequence), To::Room(room)) = (target.sequence, target.to) {
                    let place = Sequenced {
                        namespace: target.namespace.clone(),
                        room: room.to_owned(),
                        sequence,
                        packet,
                    };
                    let sequenced = self.inner.sequenced.clone();
                    return Posted::Waits(Box::pin(async move {
                        sequenced.send(place).await.map_err(|_| FanoutError::Unavailable)?;
                        Ok(receipt)
                    }));
                }
                deliver(rooms, &target, &packet);
                Posted::Done(Ok(receipt))
            }
            (_, Form::Bad(error)) => Posted::Done(Err(error)),
            (_, Form::Ready(_) | Form::Message(_)) => Posted::Done(Err(FanoutError::BadPacket)),
        }
    }

    /// Delivers to the members of a room on this node, and tells nobody else: what an app makes of a
    /// [`Sequenced`] broadcast.
    pub fn deliver(&self, namespace: &str, room: &str, packet: Encoded) {
        if let Some(room) = self.rooms(namespace).ok().and_then(|rooms| rooms.find(room)) {
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
        let namespace = target.namespace;
        let room = target.to.room();
        let room = room.as_deref();
        let except = target.except.as_ref().map(SocketId::as_str);
        match &self.inner.backplane {
            Backplane::InProcess { questions, .. } => {
                let question = questions
                    .open(Asker::Client, self.node().as_str(), 1)
                    .ok_or(FanoutError::TooManyQuestions)?;
                let sockets = self.rooms(namespace.as_str())?.select(room.as_slice(), except.as_slice());
                let args: Vec<&str> = event.args.to_vec();
                let name = serde_json::Value::from(event.name).to_string();
                let json = std::iter::once(&*name).chain(args).collect::<Vec<_>>().join(",");
                let body = Body { json, attachments: event.attachments.to_vec() };
                let (fanout, id) = (self.clone(), question.id.clone());
                let reply = Reply { fanout, namespace: namespace.clone(), id };
                let ask = Control::Ask { sockets, body, timeout: at_most, reply, turn: Turn::free() };
                self.inner.control.send(ask).await.map_err(|_| FanoutError::Unavailable)?;
                Ok(question.answers(at_most).await)
            }
            Backplane::Redis { cluster, .. } => {
                let nodes = cluster.servers(namespace.as_str()).await?;
                let question = cluster
                    .questions
                    .open(Asker::Client, self.node().as_str(), nodes)
                    .ok_or(FanoutError::TooManyQuestions)?;
                let ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
                let node = self.node();
                let from = (node.as_str(), &*question.id);
                let message = shared::adapter::encode_ack_broadcast(
                    from,
                    event,
                    room.as_slice(),
                    except.as_slice(),
                    ms,
                )
                .map_err(|_| FanoutError::BadPacket)?;
                let channel = cluster.channels.request(namespace.as_str());
                cluster.publish_plain(&channel, &message).await?;
                Ok(question.answers(at_most).await)
            }
        }
    }

    pub(crate) fn cluster(&self) -> Option<&Arc<RedisBackplane>> {
        match &self.inner.backplane {
            Backplane::InProcess { .. } => None,
            Backplane::Redis { cluster, .. } => Some(cluster),
        }
    }

    pub(crate) fn rooms_of(&self, namespace: &Namespace) -> Option<&Arc<Hub>> {
        self.inner.namespaces.get(namespace)
    }

    /// The rooms of every namespace.
    pub(crate) fn all_rooms(&self) -> impl Iterator<Item = &Arc<Hub>> {
        self.inner.namespaces.values()
    }

    pub(crate) async fn control(&self, control: Control) {
        // Without a receiver the node is stopping.
        let _ = self.inner.control.send(control).await;
    }

    pub(crate) fn tell_asked(&self, reply: &Reply, sockets: usize) {
        match &self.inner.backplane {
            Backplane::InProcess { questions, .. } => questions.told(&reply.id, sockets),
            Backplane::Redis { cluster, .. } => {
                let message = shared::adapter::encode_client_count(&reply.id, sockets);
                cluster.publish_soon(&cluster.channels.response(reply.namespace.as_str()), &message);
            }
        }
    }

    pub(crate) async fn tell_answer(&self, reply: &Reply, answer: Answer) {
        match &self.inner.backplane {
            Backplane::InProcess { questions, .. } => questions.answered(&reply.id, answer),
            Backplane::Redis { cluster, .. } => {
                let Ok(message) = shared::adapter::encode_acked(&reply.id, &answer) else { return };
                let channel = cluster.channels.response(reply.namespace.as_str());
                if message.len() >= ANSWER_LARGE_BYTES {
                    // Who asked counts what is missing.
                    let _ = cluster.publish_plain(&channel, &message).await;
                } else {
                    // Behind how many there are, and without a round trip for each.
                    cluster.publish_soon(&channel, &message);
                }
            }
        }
    }
}

/// Delivers on this node alone.
fn deliver(rooms: &Hub, target: &Target<'_>, packet: &Encoded) {
    let sockets = match target.to {
        To::Room(room) => match rooms.find(room) {
            Some(room) if target.except_user.is_none() => {
                return room.broadcast(packet.clone(), target.except, target.volatile);
            }
            Some(_) | None => rooms.sockets_in(room),
        },
        To::User(user) => rooms.sockets_of(user.as_str()),
        To::All => rooms.all_sockets(),
    };
    let is_meant = |socket: &LocalSocket| {
        Some(socket.id()) != target.except && target.except_user.is_none_or(|user| socket.user() != user)
    };
    for socket in sockets.iter().filter(|socket| is_meant(socket)) {
        if target.volatile {
            socket.emit_volatile(packet.clone());
        } else {
            socket.emit(packet.clone());
        }
    }
}

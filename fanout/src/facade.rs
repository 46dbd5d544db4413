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

use crate::cluster::{Aftermath, Cluster, ClusterOptions, Outlets};
use crate::control::{Control, Events, Reply, Sequenced, Turn};
use crate::courier::Courier;
use crate::error::FanoutError;
use crate::live::Memory;
use crate::outbox::{Outbox, OutboxLimits, OutboxShared};
use crate::peers::{Answers, Asker, Questions};
use crate::presence::cluster::Moved;
use crate::presence::lingering::{Lingering, Waiting};
use crate::presence::{Accord, Gone, Peer};
use crate::registry::{LocalSocket, NamespaceRooms};
use crate::stats::{Distributions, Stats, StatsSnapshot};
use crate::target::{Form, Packet, Posted, Receipt, Target, To};

/// What a [`Fanout`] is made with.
#[derive(Debug, Clone)]
pub struct FanoutOptions {
    /// This node.
    pub node: NodeId,
    /// The namespaces it serves.
    pub namespaces: Vec<Namespace>,
    /// Couriers, one for each worker.
    pub couriers: usize,
    /// Bounds of every outbox.
    pub outbox: OutboxLimits,
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
    namespaces: HashMap<Namespace, Arc<NamespaceRooms>>,
    couriers: Box<[Arc<Courier>]>,
    next_courier: AtomicUsize,
    outboxes: Arc<OutboxShared>,
    pub(crate) backplane: Backplane,
    control: mpsc::Sender<Control>,
    moved: mpsc::Sender<Control>,
    sequenced: mpsc::Sender<Sequenced>,
}

/// What carries broadcasts, and who knows of members.
pub(crate) enum Backplane {
    InProcess {
        lingering: Lingering,
        questions: Box<Questions>,
        live: Box<Memory>,
    },
    Redis {
        cluster: Arc<Cluster>,
        /// For the tasks of [`Fanout::run`], which take them once.
        tasks: parking_lot::Mutex<Option<(mpsc::Receiver<Aftermath>, mpsc::Receiver<Moved>)>>,
    },
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Fanout {
    /// Makes the fan-out of a node, and what it tells its owner. The couriers ([`Self::couriers`]) and
    /// [`Self::run`] must be run.
    #[must_use]
    pub fn new(options: FanoutOptions) -> (Self, Events) {
        let (overflowed, overflows) = mpsc::channel(OVERFLOWS_QUEUED);
        let (control, controls) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (moved, moves) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (sequenced, sequence) = mpsc::channel(SEQUENCED_QUEUE_MAX);
        let stats = Arc::new(Stats::new(options.distributions.clone()));
        let couriers: Box<[_]> = (0..options.couriers.max(1)).map(|_| Arc::default()).collect();
        let rooms_of = |name: &Namespace| {
            let rooms = NamespaceRooms::new(name.clone(), couriers.clone(), Arc::clone(&stats));
            (name.clone(), Arc::new(rooms))
        };
        let namespaces: HashMap<_, _> = options.namespaces.iter().map(rooms_of).collect();
        let backplane = match options.cluster.clone() {
            None => Backplane::InProcess {
                lingering: Lingering::new(LINGERING_MAX),
                questions: Box::default(),
                live: Box::default(),
            },
            Some(cluster) => {
                let (gone, left) = mpsc::channel(CONTROL_QUEUE_MAX);
                let outlets = Outlets { gone, sequenced: sequenced.clone() };
                let this = (options.node, options.holdback);
                let (cluster, aftermath) =
                    Cluster::new(cluster, this, namespaces.clone(), outlets, Arc::clone(&stats));
                let tasks = parking_lot::Mutex::new(Some((aftermath, left)));
                Backplane::Redis { cluster: Arc::new(cluster), tasks }
            }
        };
        let outboxes = Arc::new(OutboxShared { limits: options.outbox, overflowed, stats });
        let next_courier = AtomicUsize::new(0);
        let inner = Inner {
            options,
            namespaces,
            couriers,
            next_courier,
            outboxes,
            backplane,
            control,
            moved,
            sequenced,
        };
        let events = Events { overflowed: overflows, control: controls, moved: moves, sequenced: sequence };
        (Self { inner: Arc::new(inner) }, events)
    }

    /// The couriers, each to be run by a task of its own ([`Courier::run`]).
    #[must_use]
    pub fn couriers(&self) -> &[Arc<Courier>] {
        &self.inner.couriers
    }

    /// Tells who is gone, keeps the connections to Redis, the lease and all else that runs until the node stops.
    pub async fn run(&self) {
        match &self.inner.backplane {
            Backplane::InProcess { lingering, .. } => loop {
                let Waiting { room, user, info, .. } = lingering.due().await;
                self.tell_moved(Moved { room, user, info, is_back: false }).await;
            },
            Backplane::Redis { cluster, tasks } => {
                let Some((aftermath, gone)) = tasks.lock().take() else { return };
                let lanes = self.all_rooms().map(|rooms| self.keep_order(cluster, rooms));
                tokio::join!(
                    cluster.run(self),
                    future::join_all(lanes),
                    self.do_later(aftermath),
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

    async fn forward_gone(&self, mut gone: mpsc::Receiver<Moved>) {
        while let Some(gone) = gone.recv().await {
            self.tell_moved(gone).await;
        }
    }

    async fn watch_connections(&self, cluster: &Cluster) {
        let mut connections = cluster.subscriber.connections();
        while connections.changed().await.is_ok() {
            if *connections.borrow() > 1 {
                cluster.resync_all();
            }
            let _ = self.inner.control.send(Control::Resubscribed).await;
            // The commands' connection may come later than the subscriptions', and a cluster's server late.
            while cluster.check_places().await.is_err() && !connections.has_changed().unwrap_or(true) {
                tokio::time::sleep(Duration::from_millis(REDIS_CONNECT_MS)).await;
            }
        }
    }

    async fn tell_moved(&self, gone: Moved) {
        let is_back = gone.is_back;
        let parsed = gone.room.split_once('#').and_then(|(namespace, room)| {
            let namespace = self.inner.namespaces.get(namespace)?.name.clone();
            let user = UserId::parse(&gone.user).ok()?;
            let info: serde_json::Value = serde_json::from_str(&gone.info).unwrap_or_default();
            let field = |name: &str| info.get(name).and_then(serde_json::Value::as_str).map(Into::into);
            let (email, display_name, role) = (field("e"), field("d"), field("r"));
            Some(Gone { namespace, room: Room::of_server(room)?, user, email, display_name, role })
        });
        if let Some(gone) = parsed {
            let control = if is_back { Control::Back(gone) } else { Control::Gone(gone) };
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
        let stats = self.inner.outboxes.stats.snapshot();
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
    pub fn accord(&self) -> Accord {
        match &self.inner.backplane {
            Backplane::InProcess { .. } => Accord { is_known: true, ..Accord::default() },
            Backplane::Redis { cluster, .. } => cluster.presence.accord(),
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
        Stats::add(&self.inner.outboxes.stats.resyncs, 1);
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

    /// An outbox for a new session.
    #[must_use]
    pub fn outbox(&self, session: SessionId) -> Arc<Outbox> {
        let turn = self.inner.next_courier.fetch_add(1, Ordering::Relaxed);
        let courier = &self.inner.couriers[turn % self.inner.couriers.len()];
        Arc::new(Outbox::new(session, Arc::clone(&self.inner.outboxes), Arc::clone(courier)))
    }

    pub(crate) fn rooms(&self, namespace: &str) -> Result<&Arc<NamespaceRooms>, FanoutError> {
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

    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        match &self.inner.backplane {
            Backplane::InProcess { .. } => None,
            Backplane::Redis { cluster, .. } => Some(cluster),
        }
    }

    pub(crate) fn rooms_of(&self, namespace: &Namespace) -> Option<&Arc<NamespaceRooms>> {
        self.inner.namespaces.get(namespace)
    }

    /// The rooms of every namespace.
    pub(crate) fn all_rooms(&self) -> impl Iterator<Item = &Arc<NamespaceRooms>> {
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
fn deliver(rooms: &NamespaceRooms, target: &Target<'_>, packet: &Encoded) {
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

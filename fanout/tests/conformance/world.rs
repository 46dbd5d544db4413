//! Nodes, their owners, and clients.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use fanout::{
    ClusterOptions, Control, Distributions, Events, Fanout, FanoutOptions, Gone, LocalSocket, Polled,
    SendQueue, SendQueueLimits, Sequenced, SocketInfo, Target,
};
use parking_lot::Mutex;
use shared::config::RedisAddress;
use shared::ids::{NodeId, SessionId, SocketId};
use shared::names::{Namespace, Room, UserId};
use shared::sio::{Answer, Event};
use tokio::sync::{mpsc, watch};

use crate::server::RedisServer;

/// How long a user who lost their last connection may take to return.
pub(crate) const HOLDBACK: Duration = Duration::from_secs(1);

/// Longer than any event takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The default namespace of behaviours.
pub(crate) const NAMESPACE: &str = "/one";

/// Another namespace.
pub(crate) const OTHER: &str = "/two";

/// A user whose sockets no app admits to a room.
pub(crate) const REFUSED: &str = "refused";

/// The nodes that a behaviour runs on.
pub(crate) struct World {
    nodes: Vec<Node>,
    redis: Option<RedisServer>,
}

/// A node and its reports.
pub(crate) struct Node {
    pub(crate) fanout: Fanout,
    pub(crate) reports: Arc<Reports>,
    sequenced: tokio::sync::Mutex<mpsc::Receiver<Sequenced>>,
}

/// The reports of a node to its owner.
#[derive(Default)]
pub(crate) struct Reports {
    pub(crate) gone: Mutex<Vec<Gone>>,
    /// Sockets that the owner was asked to disconnect.
    pub(crate) disconnected: Mutex<Vec<SocketId>>,
    /// While true, the owner does not complete requests about sockets.
    pub(crate) is_slow: watch::Sender<bool>,
}

impl Reports {
    async fn while_slow(&self) {
        self.is_slow.subscribe().wait_for(|is_slow| !is_slow).await.unwrap();
    }
}

impl World {
    /// A single node.
    pub(crate) fn alone() -> Self {
        Self { nodes: vec![Node::start(1, None)], redis: None }
    }

    /// Two nodes on a Redis.
    pub(crate) async fn cluster() -> Self {
        let redis = RedisServer::start();
        let nodes: Vec<_> = (1..=2).map(|number| Node::start(number, Some(redis.port))).collect();
        for node in &nodes {
            until(async || node.fanout.is_ready()).await;
        }
        // From their next reading of the leases on, they know of each other and use the channels reserved for nodes.
        for (node, other) in [(0, 1), (1, 0)] {
            let (fanout, other) = (&nodes[node].fanout, nodes[other].fanout.node());
            until(async || fanout.peer(other).await.unwrap().is_some()).await;
        }
        Self { nodes, redis: Some(redis) }
    }

    /// Starts another node on the same Redis, and waits until it is ready.
    pub(crate) async fn start_node(&mut self) -> &Node {
        let number = u8::try_from(self.nodes.len() + 1).unwrap();
        let node = Node::start(number, self.redis.as_ref().map(|redis| redis.port));
        until(async || node.fanout.is_ready()).await;
        self.nodes.push(node);
        self.nodes.last().unwrap()
    }

    /// A foreign connection to the nodes' Redis.
    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let port = self.redis.as_ref().unwrap().port;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// A node by its number.
    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.nodes[number % self.nodes.len()]
    }

    /// All nodes, each once.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A new client of a user, connected to a node.
    pub(crate) async fn client(&self, node: usize, user: &str) -> Client {
        Client::attach(&self.node(node).fanout, NAMESPACE, user).await
    }

    /// A new client that is in a room.
    pub(crate) async fn member(&self, node: usize, user: &str, name: &str) -> Client {
        let client = self.client(node, user).await;
        client.fanout.enter(&client.socket, &room(name)).await.unwrap();
        client
    }

    /// Broadcasts an event without arguments from a node, and waits until it has its place.
    pub(crate) async fn broadcast(&self, node: usize, target: Target<'_>, event: &str) -> fanout::Receipt {
        broadcast(&self.node(node).fanout, target, event).await
    }
}

impl Node {
    fn start(number: u8, redis: Option<u16>) -> Self {
        let cluster = redis.map(|port| ClusterOptions {
            redis: RedisAddress::plain("127.0.0.1", port),
            key_prefix: "test:".into(),
            channel_prefix: "test".into(),
            lease: Duration::from_secs(6),
            advertise: format!("http://127.0.0.1:{number}"),
            max_payload: 1_000_000,
            mounts: "test".into(),
        });
        let (fanout, events) = Fanout::new(FanoutOptions {
            node: NodeId::from_random([number; 4]),
            namespaces: [NAMESPACE, OTHER].map(|name| Namespace::parse(name).unwrap()).into(),
            flushers: 2,
            send_queue: SendQueueLimits { bytes: 0, packets: 0 },
            rooms_per_socket: 3,
            sockets_per_user: 4,
            holdback: HOLDBACK,
            cluster,
            distributions: Distributions::ignored(),
        });
        for flusher in fanout.flushers().to_vec() {
            spawn(async move { flusher.run().await });
        }
        let running = fanout.clone();
        spawn(async move { running.run().await });
        let (reports, (sender, sequenced)) = (Arc::<Reports>::default(), mpsc::channel(100));
        fanout.take_sequenced(move |broadcast| sender.try_send(broadcast).unwrap());
        spawn(own(fanout.clone(), events, Arc::clone(&reports)));
        Self { fanout, reports, sequenced: tokio::sync::Mutex::new(sequenced) }
    }

    /// The next sequenced broadcast that this node passes to its owner.
    pub(crate) async fn next_sequenced(&self) -> Sequenced {
        within(async { self.sequenced.lock().await.recv().await.unwrap() }).await
    }

    /// The next sequenced broadcast, if this node has passed it to its owner already.
    pub(crate) async fn sequenced_now(&self) -> Option<Sequenced> {
        self.sequenced.lock().await.try_recv().ok()
    }
}

/// Acts as the owner of a node: every client answers with its user's name, and all users except [`REFUSED`] may be in all
/// rooms.
async fn own(fanout: Fanout, events: Events, reports: Arc<Reports>) {
    let Events { overflowed: _overflowed, mut control, mut moved } = events;
    loop {
        let next = tokio::select! {
            Some(control) = control.recv() => control,
            Some(moved) = moved.recv() => moved,
            else => return,
        };
        match next {
            Control::Disconnect { sockets, turn, .. } => {
                reports.disconnected.lock().extend(sockets.iter().map(|socket| socket.id()));
                reports.while_slow().await;
                drop(turn);
            }
            Control::Ask { audience, body, reply, turn, .. } => {
                let mut asked = Vec::new();
                let write = |ids: Vec<SocketId>| {
                    reply.asked(ids.len());
                    asked = ids;
                    Some(body.encode(NAMESPACE, Some(1)))
                };
                audience.send(write).await;
                drop(turn);
                let sockets = fanout.sockets(&namespace());
                for socket in sockets.iter().filter(|socket| asked.contains(&socket.id())) {
                    let json = format!("\"{}\"", socket.user());
                    reply.answered(Answer { json, attachments: Vec::new() }).await;
                }
            }
            Control::Bring { sockets, room, reply } => {
                reports.while_slow().await;
                for socket in sockets.iter().filter(|socket| socket.user().as_str() != REFUSED) {
                    fanout.enter_own(socket, &room).await.unwrap();
                }
                reply.iter().for_each(fanout::Reply::done);
            }
            Control::Review { sockets, room, reply } => {
                for socket in sockets.iter().filter(|socket| socket.user().as_str() == REFUSED) {
                    fanout.leave(socket, room.as_str()).await;
                }
                reply.iter().for_each(fanout::Reply::done);
            }
            Control::Gone(gone) => reports.gone.lock().push(gone),
            Control::Back(_) | Control::Resubscribed => {}
        }
    }
}

/// A client that takes its packets as by long-polling.
pub(crate) struct Client {
    pub(crate) fanout: Fanout,
    pub(crate) socket: Arc<LocalSocket>,
    queue: Arc<SendQueue>,
    /// Frames that were taken but not read yet.
    taken: Mutex<Vec<String>>,
}

impl Client {
    pub(crate) async fn attach(fanout: &Fanout, namespace: &str, user: &str) -> Self {
        Self::try_attach(fanout, namespace, user).await.unwrap()
    }

    pub(crate) async fn try_attach(
        fanout: &Fanout,
        namespace: &str,
        user: &str,
    ) -> Result<Self, fanout::FanoutError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        // Six bits of each byte count.
        let random = std::array::from_fn(|at| number[at / 2] >> (4 * (at % 2)) & 15);
        let queue = fanout.send_queue(SessionId::new(fanout.node(), random));
        let info = SocketInfo {
            id: SocketId::new(fanout.node(), random),
            user: user_id(user),
            display_name: format!("The user {user}").into(),
            connected_at_ms: 7,
            email: Some("a@b".into()),
            role: Some("tester".into()),
        };
        let socket = fanout.prepare(namespace, info).await?.attach(Arc::clone(&queue), || ())?;
        Ok(Self { fanout: fanout.clone(), socket, queue, taken: Mutex::default() })
    }

    /// The names of the next `count` events.
    pub(crate) async fn receive(&self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        while names.len() < count {
            let taken = self.taken.lock().pop();
            if let Some(name) = taken {
                names.push(name);
                continue;
            }
            let polled = poll_fn(|cx| match self.queue.poll_packets(cx.waker()) {
                Polled::Packets(packets) => Poll::Ready(packets),
                Polled::Nothing => Poll::Pending,
                Polled::Ended => panic!("the queue has ended"),
            });
            let packets = within(polled).await;
            let mut names: Vec<String> = packets.iter().flat_map(|packet| names_in(packet)).collect();
            names.reverse();
            *self.taken.lock() = names;
        }
        names
    }

    /// The names of all events before the one with this name.
    pub(crate) async fn receive_until(&self, last: &str) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let mut next = self.receive(1).await;
            if next == [last] {
                return names;
            }
            names.append(&mut next);
        }
    }

    /// Sends an event to this client alone, and expects it to be the next one: nothing else has arrived before.
    pub(crate) async fn expect_nothing(&self) {
        let event = Event { namespace: NAMESPACE, name: "nothing", args: &[], ack: None, attachments: &[] };
        self.fanout.emit(&self.socket, event.encode());
        assert_eq!(self.receive(1).await, ["nothing"]);
    }

    pub(crate) async fn detach(&self) -> Vec<Room> {
        self.fanout.detach(&self.socket).await
    }
}

/// The names of the events in some frames.
fn names_in(frames: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(frames);
    // Frames are `42/one,["name"…`.
    text.split("[\"").skip(1).map(|event| event.split('"').next().unwrap().to_owned()).collect()
}

/// Broadcasts an event without arguments.
pub(crate) async fn broadcast(fanout: &Fanout, target: Target<'_>, name: &str) -> fanout::Receipt {
    let namespace = target.namespace.as_str();
    let event = Event { namespace, name, args: &[], ack: None, attachments: &[] };
    let packet = fanout.packet(&target, &event);
    fanout.broadcast(target, packet).await.unwrap()
}

pub(crate) fn namespace() -> Namespace {
    Namespace::parse(NAMESPACE).unwrap()
}

pub(crate) fn room(name: &str) -> Room {
    Room::parse(name).unwrap()
}

pub(crate) fn user_id(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// Waits for a condition that no event announces.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) {
    within(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

#[expect(clippy::disallowed_methods, reason = "it ends with the runtime of its test")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(future));
}

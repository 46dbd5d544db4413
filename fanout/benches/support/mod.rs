//! A node without a network: sockets in rooms, and tasks that the benchmark polls itself, so that it
//! measures the fan-out and no scheduler.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use fanout::{
    ClusterOptions, Distributions, Events, Fanout, FanoutOptions, LocalSocket, Packet, Polled, SendQueue,
    SendQueueLimits, SocketInfo, Target,
};
use shared::config::RedisAddress;
use shared::ids::{IdEntropy, NodeId, SessionId, SocketId};
use shared::names::{Namespace, Room, UserId};

use crate::inputs;

/// A node.
pub(crate) struct Node {
    pub(crate) fanout: Fanout,
    pub(crate) namespace: Namespace,
    pub(crate) room: Room,
    events: Events,
    carriers: Vec<Carrier>,
    made: u64,
}

/// A client: its socket and its send queue.
pub(crate) struct Client {
    pub(crate) socket: Arc<LocalSocket>,
    pub(crate) queue: Arc<SendQueue>,
}

impl Client {
    /// Takes the waiting packets, as a GET does. Returns the number of buffers.
    pub(crate) fn take(&self) -> usize {
        match self.queue.poll_packets(Waker::noop()) {
            Polled::Packets(packets) => packets.len(),
            Polled::Nothing | Polled::Ended => 0,
        }
    }
}

impl Node {
    /// A single node with its flushers, and the task that runs until the node stops.
    pub(crate) fn new() -> Self {
        let (fanout, events) = Fanout::new(options(None));
        let flusher = fanout.flushers().first().map(Arc::clone).unwrap();
        let node = fanout.clone();
        let carriers = vec![
            Carrier::new(async move { flusher.run().await }),
            Carrier::new(async move { Box::pin(node.run()).await }),
        ];
        let (namespace, room) = names();
        Self { fanout, namespace, room, events, carriers, made: 0 }
    }

    /// A node with clients in the room that wait in a GET.
    pub(crate) fn with_members(members: usize) -> (Self, Vec<Client>) {
        let mut node = Self::new();
        let room = node.room.clone();
        let clients: Vec<_> = (0..members).map(|_| node.client()).collect();
        for client in &clients {
            now(node.fanout.enter(&client.socket, &room)).unwrap();
        }
        (node, clients)
    }

    /// Another client with its own user, in no room.
    pub(crate) fn client(&mut self) -> Client {
        let (session, info) = self.identity();
        let queue = self.fanout.send_queue(session);
        let socket = self.attach(info, &queue);
        Client { socket, queue }
    }

    /// Ids of another client.
    pub(crate) fn identity(&mut self) -> (SessionId, SocketInfo) {
        self.made += 1;
        let made = self.made.to_le_bytes();
        // Six bits of each byte count.
        let random: IdEntropy = std::array::from_fn(|at| made[at / 2] >> (4 * (at % 2)) & 15);
        let user = format!("user-{}", self.made);
        let info = SocketInfo {
            id: SocketId::new(self.fanout.node(), random),
            user: UserId::parse(&user).unwrap(),
            display_name: user.as_str().into(),
            connected_at_ms: self.made,
            email: Some(format!("{user}@example.org").into()),
            role: None,
        };
        (SessionId::new(self.fanout.node(), random), info)
    }

    pub(crate) fn attach(&self, info: SocketInfo, queue: &Arc<SendQueue>) -> Arc<LocalSocket> {
        let prepared = now(self.fanout.prepare(self.namespace.as_str(), info)).unwrap();
        prepared.attach(Arc::clone(queue), || ()).unwrap()
    }

    /// Encodes an event and broadcasts it to the room, until the caller has nothing left to do.
    pub(crate) fn broadcast(&self, data: &str) {
        let target = Target::room(&self.namespace, self.room.as_str());
        let packet = self.fanout.packet(&target, &inputs::event(&[data]));
        now(self.fanout.post(target, packet).outcome()).unwrap();
    }

    /// Runs the node's tasks until they have nothing left to do.
    pub(crate) fn carry(&mut self) {
        self.carriers.iter_mut().for_each(Carrier::carry);
    }

    /// Takes the node's reports of users who are gone or back. Returns how many.
    pub(crate) fn moved(&mut self) -> usize {
        std::iter::from_fn(|| self.events.moved.try_recv().ok()).count()
    }
}

/// A node in a cluster that has not reached its Redis.
pub(crate) fn clustered() -> Fanout {
    let cluster = ClusterOptions {
        redis: RedisAddress::plain("127.0.0.1", 1),
        key_prefix: "muster:".to_owned(),
        channel_prefix: "socket.io".to_owned(),
        lease: Duration::from_secs(10),
        advertise: String::new(),
        max_payload: 1_000_000,
        mounts: String::new(),
    };
    Fanout::new(options(Some(cluster))).0
}

/// Encodes a broadcast for Redis.
pub(crate) fn publish(fanout: &Fanout, data: &str) -> Packet {
    let (namespace, room) = names();
    fanout.packet(&Target::room(&namespace, room.as_str()), &inputs::event(&[data]))
}

/// The result of a future that waits for nothing.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("one node alone waits for nothing"),
    }
}

fn names() -> (Namespace, Room) {
    (Namespace::parse(inputs::NAMESPACE).unwrap(), Room::parse(inputs::ROOM).unwrap())
}

fn options(cluster: Option<ClusterOptions>) -> FanoutOptions {
    FanoutOptions {
        node: NodeId::from_random([1, 2, 3, 4]),
        namespaces: vec![names().0],
        flushers: 1,
        send_queue: SendQueueLimits { bytes: 1_000_000, packets: 1024 },
        rooms_per_socket: 100,
        sockets_per_user: 20,
        // A user who lost their connection is gone at the node's next turn.
        holdback: Duration::ZERO,
        cluster,
        distributions: Distributions::ignored(),
    }
}

/// A task of the node; only [`Carrier::carry`] polls it, once it has been woken.
struct Carrier {
    task: Pin<Box<dyn Future<Output = ()>>>,
    awake: Arc<Awake>,
    waker: Waker,
}

struct Awake(AtomicBool);

impl Wake for Awake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Carrier {
    fn new(task: impl Future<Output = ()> + 'static) -> Self {
        let awake = Arc::new(Awake(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&awake));
        Self { task: Box::pin(task), awake, waker }
    }

    fn carry(&mut self) {
        while self.awake.0.swap(false, Ordering::AcqRel) {
            let poll = self.task.as_mut().poll(&mut Context::from_waker(&self.waker));
            assert!(poll.is_pending(), "no task of a node ends");
        }
    }
}

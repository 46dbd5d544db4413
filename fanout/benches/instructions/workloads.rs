//! The workloads: each step of a message's path, separately and warm.

use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::task::Waker;

use shared::adapter::decode_broadcast;
use shared::eio;
use shared::sio;
use shared::ws::{Decoder, Received, Role};
use tokio::net::tcp::OwnedWriteHalf;

use crate::inputs;
use crate::support::{Client, Node, clustered, now, publish};

/// Members of the room.
const MEMBERS: usize = 1000;

/// Broadcasts that wait in the room together.
const BATCH: usize = 10;

/// Exceeds every bound that is needed here.
const MAX: usize = 1_000_000;

/// One workload.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// How often it runs while it is counted. Few times, because the sockets that it writes to are never
    /// read.
    pub(crate) times: u32,
    /// Prepares the workload, and returns a function that runs it once.
    pub(crate) ready: fn() -> Box<dyn FnMut()>,
}

/// All of them.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload { name: "decode a publish, 128 B", times: 1000, ready: || decode(128) },
    Workload { name: "decode a publish, 16 KiB", times: 200, ready: || decode(16 * 1024) },
    Workload { name: "encode an event, 128 B", times: 1000, ready: || encode(128) },
    Workload { name: "encode an event, 16 KiB", times: 200, ready: || encode(16 * 1024) },
    Workload { name: "encode an ack", times: 1000, ready: ack },
    Workload { name: "write for Redis, 128 B", times: 1000, ready: || to_redis(128) },
    Workload { name: "write for Redis, 16 KiB", times: 200, ready: || to_redis(16 * 1024) },
    Workload { name: "Redis to frames, 128 B", times: 1000, ready: || from_redis(128) },
    Workload { name: "Redis to frames, 16 KiB", times: 200, ready: || from_redis(16 * 1024) },
    Workload { name: "broadcast to 1,000 WebSockets", times: 20, ready: || to_sockets(1) },
    Workload { name: "ten at once to 1,000 WebSockets", times: 10, ready: || to_sockets(BATCH) },
    Workload { name: "broadcast to 1,000 polls, taken", times: 20, ready: to_polls },
    Workload { name: "emit to a WebSocket", times: 20, ready: emit },
    Workload { name: "enter and leave a room of 1,000", times: 200, ready: move_about },
    Workload { name: "attach, enter, detach", times: 200, ready: come_and_go },
];

fn decode(content: usize) -> Box<dyn FnMut()> {
    let frame = inputs::published(&inputs::data(content));
    let (mut buffer, mut decoder) = (frame.clone(), Decoder::new(Role::Server, MAX));
    Box::new(move || {
        // A fresh copy, because decoding removes the mask in place.
        buffer.copy_from_slice(&frame);
        let Ok(Some((_, Received::Text(text)))) = decoder.next(black_box(&mut buffer)) else {
            panic!("a text")
        };
        let Ok(eio::Packet::Message(text)) = eio::Packet::decode(text) else { panic!("a message") };
        assert!(black_box(sio::decode(text)).is_ok());
    })
}

fn encode(content: usize) -> Box<dyn FnMut()> {
    let data = inputs::data(content);
    Box::new(move || drop(black_box(inputs::event(&[&data]).encode())))
}

fn ack() -> Box<dyn FnMut()> {
    Box::new(|| {
        let ack = sio::encode_ack(inputs::NAMESPACE, black_box(17), &[r#"{"success":true}"#], &[]);
        drop(black_box(ack));
    })
}

fn to_redis(content: usize) -> Box<dyn FnMut()> {
    let (fanout, data) = (clustered(), inputs::data(content));
    Box::new(move || drop(black_box(publish(&fanout, &data))))
}

fn from_redis(content: usize) -> Box<dyn FnMut()> {
    let (data, rooms) = (inputs::data(content), [inputs::ROOM]);
    let message = inputs::outgoing(&inputs::event(&[&data]), &rooms).encode(false).unwrap();
    Box::new(move || {
        let broadcast = decode_broadcast(black_box(&message), MAX).unwrap();
        drop(black_box(broadcast.body.encode(&broadcast.namespace, None)));
    })
}

fn to_sockets(broadcasts: usize) -> Box<dyn FnMut()> {
    let (mut node, clients) = Node::with_members(MEMBERS);
    let (data, sockets) = (inputs::data(128), Sockets::of(&clients));
    Box::new(move || {
        (0..broadcasts).for_each(|_| node.broadcast(&data));
        node.carry();
        black_box(&sockets);
    })
}

fn to_polls() -> Box<dyn FnMut()> {
    let (mut node, clients) = Node::with_members(MEMBERS);
    let data = inputs::data(128);
    Box::new(move || {
        node.broadcast(&data);
        node.carry();
        assert_eq!(clients.iter().map(Client::take).sum::<usize>(), MEMBERS);
    })
}

fn emit() -> Box<dyn FnMut()> {
    let (mut node, clients) = Node::with_members(1);
    let sockets = Sockets::of(&clients);
    let packet = inputs::event(&[&inputs::data(128)]).encode();
    Box::new(move || {
        node.fanout.emit(&clients[0].socket, packet.clone());
        node.carry();
        black_box(&sockets);
    })
}

fn move_about() -> Box<dyn FnMut()> {
    let (mut node, _clients) = Node::with_members(MEMBERS - 1);
    let client = node.client();
    Box::new(move || {
        now(node.fanout.enter(&client.socket, &node.room)).unwrap();
        now(node.fanout.leave(&client.socket, node.room.as_str()));
    })
}

fn come_and_go() -> Box<dyn FnMut()> {
    let (mut node, _clients) = Node::with_members(MEMBERS - 1);
    let (session, info) = node.identity();
    let queue = node.fanout.send_queue(session);
    Box::new(move || {
        let socket = node.attach(info.clone(), &queue);
        now(node.fanout.enter(&socket, &node.room)).unwrap();
        now(node.fanout.detach(&socket));
        node.carry();
        assert_eq!(node.moved(), 1);
    })
}

/// Connections on loopback that send queues write to.
struct Sockets {
    /// The clients' ends. The kernel keeps the bytes written to them.
    _ends: Vec<TcpStream>,
    /// Needed for writing.
    _runtime: tokio::runtime::Runtime,
}

impl Sockets {
    fn of(clients: &[Client]) -> Self {
        // Both ends of each, and what a process has open anyway.
        rlimit::increase_nofile_limit(2 * clients.len() as u64 + 64).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |client: &Client| {
            let end = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (socket, _) = listener.accept().unwrap();
            let write = runtime.block_on(async { writable(socket).await });
            client.queue.attach_stream(write);
            client.queue.attach_task(Waker::noop().clone());
            end
        };
        Self { _ends: clients.iter().map(connect).collect(), _runtime: runtime }
    }
}

/// The write half, known to be writable: the runtime does not check again.
async fn writable(socket: TcpStream) -> OwnedWriteHalf {
    socket.set_nonblocking(true).unwrap();
    let (_, write) = tokio::net::TcpStream::from_std(socket).unwrap().into_split();
    write.writable().await.unwrap();
    write
}

//! Benchmarks of delivering packets to clients, and of entering and leaving rooms: the fan-out as apps use
//! it, on one node. They leave out the kernel (`make bench` measures it): clients take waiting packets as a
//! GET does.
//!
//! `cargo bench -p fanout`. To detect regressions use `make instructions`, which counts instructions.
#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that fails panics")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shared::sio;

use self::support::{Node, clustered, now, publish};

#[allow(dead_code, reason = "each benchmark uses what it needs")]
#[path = "../../shared/benches/inputs/mod.rs"]
mod inputs;
#[allow(dead_code, reason = "each benchmark uses what it needs")]
mod support;

/// Broadcasts that wait in a room together.
const BATCH: usize = 10;

fn queue(c: &mut Criterion) {
    let mut node = Node::new();
    let client = node.client();
    let wire = inputs::event(&[&inputs::data(128)]).encode().into_wire();
    let push = |wire: &Bytes| client.queue.push(wire.clone(), 1);
    c.bench_function("queue/push and take one", |b| {
        b.iter(|| {
            push(black_box(&wire));
            client.take()
        });
    });
    c.bench_function("queue/take ten", |b| {
        b.iter_batched(
            || {
                for _ in 0..BATCH {
                    push(&wire);
                }
            },
            |()| client.take(),
            // One at a time: all use the same send queue.
            BatchSize::PerIteration,
        );
    });
    c.bench_function("queue/push behind ten", |b| {
        b.iter_batched(
            || {
                client.take();
                for _ in 0..BATCH {
                    push(&wire);
                }
            },
            |()| push(black_box(&wire)),
            BatchSize::PerIteration,
        );
    });
}

fn broadcast(c: &mut Criterion) {
    let mut group = c.benchmark_group("broadcast");
    let data = inputs::data(128);
    for members in [1, 50, 1000] {
        let (mut node, clients) = Node::with_members(members);
        for (label, broadcasts) in [("one", 1), ("ten", BATCH)] {
            group.throughput(Throughput::Elements((members * broadcasts) as u64));
            group.bench_function(BenchmarkId::new(label, members), |b| {
                b.iter(|| {
                    (0..broadcasts).for_each(|_| node.broadcast(black_box(&data)));
                    node.carry();
                    let taken: usize = clients.iter().map(support::Client::take).sum();
                    assert_eq!(taken, members);
                });
            });
        }
    }
    group.finish();
    let mut node = Node::new();
    let client = node.client();
    let ack = sio::encode_ack(inputs::NAMESPACE, 17, &[r#"{"success":true}"#], &[]);
    c.bench_function("emit to a socket", |b| {
        b.iter(|| {
            node.fanout.emit(&client.socket, black_box(&ack).clone());
            node.carry();
            client.take()
        });
    });
}

fn membership(c: &mut Criterion) {
    let mut group = c.benchmark_group("membership");
    for others in [0, 999] {
        let (mut node, _clients) = Node::with_members(others);
        let client = node.client();
        group.bench_function(BenchmarkId::new("enter and leave a room of", others), |b| {
            b.iter(|| {
                now(node.fanout.enter(&client.socket, black_box(&node.room))).unwrap();
                now(node.fanout.leave(&client.socket, node.room.as_str()))
            });
        });
    }
    let (mut node, clients) = Node::with_members(1000);
    let (namespace, room) = (node.namespace.clone(), node.room.clone());
    let (namespace, room) = (namespace.as_str(), room.as_str());
    let (session, info) = node.identity();
    let queue = node.fanout.send_queue(session);
    group.bench_function("attach and detach", |b| {
        b.iter(|| now(node.fanout.detach(&node.attach(black_box(&info).clone(), &queue))));
    });
    group.bench_function("is a user in a room", |b| {
        let user = clients[500].socket.user();
        b.iter(|| now(node.fanout.is_in(namespace, black_box(room), user)));
    });
    group.bench_function("count a room of 1000", |b| {
        b.iter(|| now(node.fanout.count(namespace, black_box(room))));
    });
    group.bench_function("list a room of 1000", |b| {
        b.iter(|| now(node.fanout.members(namespace, black_box(room))));
    });
    group.finish();
}

fn presence(c: &mut Criterion) {
    let mut group = c.benchmark_group("presence");
    let (mut node, _clients) = Node::with_members(1000);
    let (session, info) = node.identity();
    let queue = node.fanout.send_queue(session);
    let (room, mut lost) = (node.room.clone(), None);
    let come = |node: &Node| {
        let socket = node.attach(info.clone(), &queue);
        assert!(now(node.fanout.enter(&socket, &room)).is_ok());
        socket
    };
    group.bench_function("lost and back in time", |b| {
        b.iter(|| {
            if let Some(socket) = lost.take() {
                now(node.fanout.detach(&socket));
            }
            lost = Some(come(&node));
            // The cancelled wait leaves the queue.
            node.carry();
            assert_eq!(node.moved(), 0);
        });
    });
    if let Some(socket) = lost.take() {
        now(node.fanout.detach(&socket));
        node.carry();
        node.moved();
    }
    group.bench_function("lost and reported", |b| {
        b.iter(|| {
            let socket = come(&node);
            now(node.fanout.detach(&Arc::clone(&socket)));
            node.carry();
            assert_eq!(node.moved(), 1);
        });
    });
    group.finish();
}

fn redis(c: &mut Criterion) {
    let mut group = c.benchmark_group("write for Redis");
    let fanout = clustered();
    for (label, content) in inputs::CONTENTS {
        let data = inputs::data(content);
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function(label, |b| b.iter(|| publish(&fanout, black_box(&data))));
    }
    group.finish();
}

criterion_group!(benches, queue, broadcast, membership, presence, redis);
criterion_main!(benches);

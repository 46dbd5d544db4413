//! Benchmarks of the codecs: messages from clients, to clients, and through Redis.
//!
//! `cargo bench -p shared`. For regressions look at `make instructions`, which counts instead.
#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails panics")]

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use shared::adapter::decode_broadcast;
use shared::eio::{self, push_polling};
use shared::sio;
use shared::ws::{self, Decoder, Received, Role};

mod inputs;

/// More than anything here.
const MAX: usize = 1_000_000;

/// One measurement for each content; `measure` gets a message's argument.
fn each(
    c: &mut Criterion,
    name: &str,
    mut measure: impl FnMut(&mut BenchmarkGroup<'_, WallTime>, &str, &str),
) {
    let mut group = c.benchmark_group(name);
    for (label, content) in inputs::CONTENTS {
        let data = inputs::data(content);
        group.throughput(Throughput::Bytes(data.len() as u64));
        measure(&mut group, label, &data);
    }
    group.finish();
}

fn websocket(c: &mut Criterion) {
    each(c, "ws/unmask", |group, label, data| {
        let mut payload = data.to_owned().into_bytes();
        group.bench_function(label, |b| b.iter(|| ws::unmask(black_box(&mut payload), [1, 2, 3, 4])));
    });
    each(c, "ws/decode", |group, label, data| {
        let frame = inputs::published(data);
        let mut decoder = Decoder::new(Role::Server, MAX);
        // Decoding removes the mask in place, so each iteration needs its own frame.
        group.bench_function(label, |b| {
            b.iter_batched_ref(
                || frame.clone(),
                |frame| black_box(decoder.next(frame)).is_ok(),
                BatchSize::SmallInput,
            );
        });
    });
}

/// The text of a publish.
fn text(data: &str) -> String {
    let mut frame = inputs::published(data);
    match Decoder::new(Role::Server, MAX).next(&mut frame).unwrap() {
        Some((_, Received::Text(text))) => text.to_owned(),
        _ => String::new(),
    }
}

fn packets(c: &mut Criterion) {
    each(c, "eio+sio/decode a publish", |group, label, data| {
        let text = text(data);
        group.bench_function(label, |b| {
            b.iter(|| match eio::Packet::decode(black_box(&text)) {
                Ok(eio::Packet::Message(text)) => sio::decode(text).is_ok(),
                _ => false,
            });
        });
    });
    each(c, "sio/encode an event", |group, label, data| {
        let args = [data];
        group.bench_function(label, |b| b.iter(|| black_box(inputs::event(&args)).encode()));
    });
    each(c, "eio/write a polling body", |group, label, data| {
        let packet = inputs::event(&[data]).encode();
        group.bench_function(label, |b| {
            b.iter(|| {
                let mut body = String::with_capacity(packet.wire().len());
                push_polling(&mut body, black_box(packet.wire()));
                body
            });
        });
    });
    c.bench_function("sio/encode an ack", |b| {
        b.iter(|| sio::encode_ack(inputs::NAMESPACE, black_box(17), &[r#"{"success":true}"#], &[]));
    });
}

fn redis(c: &mut Criterion) {
    let wire = |data: &str| {
        black_box(inputs::outgoing(&inputs::event(&[data]), &[inputs::ROOM])).encode(false).unwrap()
    };
    each(c, "adapter/encode a broadcast", |group, label, data| {
        group.bench_function(label, |b| b.iter(|| wire(data)));
    });
    each(c, "adapter/decode a broadcast", |group, label, data| {
        let message = wire(data);
        group.bench_function(label, |b| {
            b.iter(|| decode_broadcast(black_box(&message), MAX).map(|broadcast| broadcast.body));
        });
    });
    each(c, "adapter/broadcast to frames", |group, label, data| {
        let message = wire(data);
        group.bench_function(label, |b| {
            b.iter(|| {
                let broadcast = decode_broadcast(black_box(&message), MAX).unwrap();
                broadcast.body.encode(&broadcast.namespace, None)
            });
        });
    });
}

criterion_group!(benches, websocket, packets, redis);
criterion_main!(benches);

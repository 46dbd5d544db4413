//! A polling body: a bounded number of packets, none after the first bad one; and what our encoder writes
//! is read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::eio::{Packet, Payload, push_polling};
use shared::limits::PACKETS_PER_PAYLOAD_MAX;
use shared::ws;

fuzz_target!(|text: &str| {
    let found: Vec<_> = Payload::new(text).collect();
    assert!(found.len() <= PACKETS_PER_PAYLOAD_MAX + 1);
    let bad = found.iter().position(Result::is_err);
    assert!(bad.is_none_or(|at| at + 1 == found.len()));
    let mut body = String::new();
    let mut wire = Vec::new();
    for packet in found.iter().flatten() {
        match packet {
            Packet::Message(data) => ws::push_frame(&mut wire, ws::OP_TEXT, format!("4{data}").as_bytes()),
            Packet::Binary(data) => ws::push_frame(&mut wire, ws::OP_BINARY, data),
            _ => {}
        }
    }
    push_polling(&mut body, &wire);
    let sent = found.iter().flatten().filter(|p| matches!(p, Packet::Message(_) | Packet::Binary(_)));
    let back: Vec<_> = if body.is_empty() { Vec::new() } else { Payload::new(&body).flatten().collect() };
    assert!(sent.eq(back.iter()));
});

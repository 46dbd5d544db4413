//! One Engine.IO packet: accepted or refused, and an accepted one holds no more than was sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::eio::Packet;

fuzz_target!(|text: &str| {
    match Packet::decode(text) {
        Ok(Packet::Message(data)) => assert!(data.len() < text.len()),
        Ok(Packet::Binary(data)) => assert!(data.len() <= text.len()),
        Ok(_) | Err(_) => {}
    }
});

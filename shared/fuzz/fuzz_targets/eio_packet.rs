//! One Engine.IO packet: read or refused, and what is read holds no more than was sent.
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

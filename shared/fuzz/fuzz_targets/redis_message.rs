//! Messages on Redis channels: broadcasts, requests, responses; and conversion of JSON to msgpack and
//! back.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use shared::adapter::{
    self, Fidelity, decode_broadcast, decode_request, decode_response, json_to_msgpack, msgpack_to_json,
};
use shared::ws;

const MAX: usize = 100_000;

fuzz_target!(|message: &[u8]| {
    if let Ok(broadcast) = decode_broadcast(message, MAX) {
        assert!(broadcast.body.json.len() <= MAX);
        // An accepted broadcast can be sent: a header with its length, and a frame for each attachment.
        let encoded = broadcast.body.encode("/", None);
        assert_eq!(ws::frames(encoded.wire()).count(), 1 + broadcast.body.attachments.len());
    }
    let _ = decode_request(message, MAX);
    let _ = decode_response(message);
    if let Ok(channel) = std::str::from_utf8(message) {
        let _ = adapter::Channels::new("socket.io").parse(channel);
        there_and_back(channel);
    }
});

/// An exact conversion returns the same bytes.
fn there_and_back(json: &str) {
    let attachments = [Bytes::from_static(b"0")];
    let mut packed = Vec::new();
    if json_to_msgpack(json, &attachments, &mut packed) != Ok(Fidelity::Exact) {
        return;
    }
    let (mut input, mut text, mut found) = (&packed[..], String::new(), Vec::new());
    msgpack_to_json(&mut input, &mut text, &mut found, 0).expect("what was packed is unpacked");
    assert!(input.is_empty());
    if found.is_empty() {
        assert_eq!(text, json);
    }
}

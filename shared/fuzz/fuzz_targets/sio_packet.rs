//! One Socket.IO packet: accepted or refused; an accepted one is decoded the same after encoding it
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::limits::{ARGUMENTS_MAX, ATTACHMENTS_MAX};
use shared::sio::{self, Event, Kind};
use shared::{eio, ws};

fuzz_target!(|text: &str| {
    let Some(parts) = read(text) else { return };
    let args: Vec<&str> = parts.args.iter().map(String::as_str).collect();
    let (namespace, name) = (parts.namespace.as_str(), parts.name.as_str());
    let encoded = Event { namespace, name, args: &args, ack: parts.ack, attachments: &[] }.encode();
    let (_, frame) = ws::frames(encoded.wire()).next().expect("a frame");
    let frame = std::str::from_utf8(frame).expect("text");
    let Ok(eio::Packet::Message(again)) = eio::Packet::decode(frame) else { panic!("a message") };
    assert_eq!(read(again), Some(parts));
});

#[derive(Debug, PartialEq)]
struct Parts {
    namespace: String,
    name: String,
    args: Vec<String>,
    ack: Option<u64>,
}

/// The parts of an event such as we send too: no attachments, and a name that is no number.
fn read(text: &str) -> Option<Parts> {
    let packet = sio::decode(text).ok()?;
    assert!(packet.attachments <= ATTACHMENTS_MAX);
    let Kind::Event { name, args, ack } = packet.kind else { return None };
    assert!(args.raw.len() <= ARGUMENTS_MAX);
    if packet.attachments > 0 || args.too_many || !text.contains('"') {
        return None;
    }
    // A number is a name that clients may send and we never do.
    if name.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return None;
    }
    Some(Parts {
        namespace: packet.namespace.to_owned(),
        name: name.into_owned(),
        args: args.raw.iter().map(|arg| (*arg).to_owned()).collect(),
        ack,
    })
}

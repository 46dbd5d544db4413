//! Properties of the Socket.IO codec: decoding reverses encoding, and no input makes the decoder panic
//! or keep more than it was given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use shared::sio::{self, Event, Kind, Reassembly, encode_ack};
use shared::{eio, ws};

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The text frame's Socket.IO packet and the binary frames of an encoded packet.
fn frames(encoded: &sio::Encoded) -> (String, Vec<Bytes>) {
    let mut frames = ws::frames(encoded.wire());
    let (opcode, text) = frames.next().unwrap();
    assert_eq!(opcode, ws::OP_TEXT);
    let eio::Packet::Message(text) = eio::Packet::decode(str::from_utf8(text).unwrap()).unwrap() else {
        panic!("a message")
    };
    (text.to_owned(), frames.map(|(_, data)| Bytes::copy_from_slice(data)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_encoded_event_is_decoded_to_itself(
        namespace in prop::sample::select(vec!["/", "/relay", "/a/b-c"]),
        name in "[a-z:_\"\\\\é]{1,12}",
        args in prop::collection::vec(json(), 0..4),
        ack in prop::option::of(0..=shared::limits::ACK_ID_MAX),
    ) {
        prop_assume!(!sio::RESERVED_EVENTS.contains(&name.as_str()));
        let raw: Vec<String> = args.iter().map(Value::to_string).collect();
        let raw: Vec<&str> = raw.iter().map(String::as_str).collect();
        let encoded = Event { namespace, name: &name, args: &raw, ack, attachments: &[] }.encode();
        let (text, _) = frames(&encoded);
        let packet = sio::decode(&text).unwrap();
        prop_assert_eq!(packet.namespace, namespace);
        let Kind::Event { name: found, args: found_args, ack: found_ack } = packet.kind else {
            panic!("an event")
        };
        prop_assert_eq!(&*found, name.as_str());
        prop_assert_eq!(found_args.raw.as_slice(), raw.as_slice());
        prop_assert_eq!(found_ack, ack);
    }

    #[test]
    fn attachments_come_back_in_order(
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..=10),
        id in 0..=shared::limits::ACK_ID_MAX,
    ) {
        let attachments: Vec<Bytes> = data.into_iter().map(Bytes::from).collect();
        let placeholders: Vec<String> = (0..attachments.len())
            .map(|num| format!("{{\"_placeholder\":true,\"num\":{num}}}"))
            .collect();
        let args: Vec<&str> = placeholders.iter().map(String::as_str).collect();
        let (text, binary) = frames(&encode_ack("/n", id, &args, &attachments));
        let mut reassembly = Reassembly::default();
        prop_assert!(reassembly.text(&text).unwrap().is_none());
        let mut whole = None;
        for data in binary {
            prop_assert!(whole.is_none());
            whole = reassembly.binary(data, 10_000).unwrap();
        }
        prop_assert_eq!(whole.unwrap().attachments, attachments);
    }

    #[test]
    fn any_text_is_decoded_or_refused(text in "[0-9]{0,3}-?(/[a-z]{0,3},)?[0-9]{0,3}\\PC{0,40}") {
        let _ = sio::decode(&text);
        let _ = eio::Packet::decode(&text);
        eio::Payload::new(&text).for_each(drop);
    }
}

//! The codecs against the official JavaScript implementations: every row of `vectors/*.json` was written by
//! `vectors/generate.mjs` from their packages. A row with `ours` says where we differ and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use shared::eio::{self, Payload};
use shared::sio::{self, Event, Kind, Reassembly};
use shared::ws;

/// Bytes that one packet's attachments may have.
const MAX: usize = 1_000_000;

fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn rows(value: &Value) -> &Vec<Value> {
    let rows = value.as_array().unwrap();
    assert!(!rows.is_empty());
    rows
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} in {row}"))
}

fn name(row: &Value) -> &str {
    text(row, "name")
}

fn binary(value: &Value) -> Bytes {
    STANDARD.decode(value.as_str().unwrap()).unwrap().into()
}

/// What we are expected to do with a row that the official decoder accepts.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Ours {
    Same,
    Refuse,
    Either,
}

fn ours(row: &Value) -> Ours {
    match row.get("ours").and_then(Value::as_str) {
        None => Ours::Same,
        Some("error") => Ours::Refuse,
        Some("either") => Ours::Either,
        Some(other) => panic!("unknown {other} in {row}"),
    }
}

fn is_same_packet(packet: &eio::Packet<'_>, expected: &Value) -> bool {
    let data = expected["data"].as_str();
    match (packet, text(expected, "type")) {
        // Nothing after the type is no data to them and an empty text to us.
        (eio::Packet::Message(text), "message") => {
            expected.get("binary").is_none() && *text == data.unwrap_or_default()
        }
        (eio::Packet::Binary(bytes), "message") => {
            Some(binary(&expected["binary"])) == Some(bytes.clone().into())
        }
        (eio::Packet::PingProbe, "ping") => data == Some("probe"),
        (eio::Packet::Open, "open")
        | (eio::Packet::Close, "close")
        | (eio::Packet::Ping, "ping")
        | (eio::Packet::Pong, "pong")
        | (eio::Packet::Upgrade, "upgrade")
        | (eio::Packet::Noop, "noop") => true,
        _ => false,
    }
}

#[test]
fn engine_packets_are_decoded_as_the_official_decoder_does() {
    let vectors = load("eio_packets");
    for row in rows(&vectors["decode"]) {
        // A binary frame is no packet text; the WebSocket layer gives it out as it is.
        let Some(wire) = row["wire"]["text"].as_str() else { continue };
        match (eio::Packet::decode(wire), ours(row)) {
            (Ok(packet), Ours::Same) => assert!(is_same_packet(&packet, &row["packet"]), "{}", name(row)),
            (Ok(packet), Ours::Refuse) => panic!("{}: accepted as {packet:?}", name(row)),
            (Err(_), Ours::Same) => panic!("{}: refused", name(row)),
            (_, Ours::Either) | (Err(_), Ours::Refuse) => {}
        }
    }
    for row in rows(&vectors["bad"]) {
        if let Some(wire) = row["wire"]["text"].as_str() {
            assert!(eio::Packet::decode(wire).is_err(), "{}", name(row));
        }
    }
}

#[test]
fn engine_payloads_are_decoded_as_the_official_decoder_does() {
    let vectors = load("eio_payloads");
    for row in rows(&vectors["decode"]) {
        let found: Result<Vec<_>, _> = Payload::new(text(row, "wire")).collect();
        match (found, ours(row)) {
            (Ok(found), Ours::Same) => {
                let expected = rows(&row["packets"]);
                assert_eq!(found.len(), expected.len(), "{}", name(row));
                for (packet, expected) in found.iter().zip(expected) {
                    assert!(is_same_packet(packet, expected), "{}: {packet:?}", name(row));
                }
            }
            (Ok(_), Ours::Refuse) => panic!("{}: accepted", name(row)),
            (Err(_), Ours::Same) => panic!("{}: refused", name(row)),
            (_, Ours::Either) | (Err(_), Ours::Refuse) => {}
        }
    }
    for row in rows(&vectors["bad"]) {
        let found: Result<Vec<_>, _> = Payload::new(text(row, "wire")).collect();
        assert!(found.is_err(), "{}", name(row));
    }
}

#[test]
fn polling_bodies_are_written_as_the_official_encoder_does() {
    for row in rows(&load("eio_payloads")["encode"]) {
        let mut body = String::new();
        for packet in rows(&row["packets"]) {
            let mut wire = Vec::new();
            if packet.get("binary").is_some() {
                ws::push_frame(&mut wire, ws::OP_BINARY, &binary(&packet["binary"]));
            } else {
                let digit = match text(packet, "type") {
                    "close" => '1',
                    "ping" => '2',
                    "message" => '4',
                    "noop" => '6',
                    other => panic!("unknown {other}"),
                };
                let text = format!("{digit}{}", packet["data"].as_str().unwrap_or_default());
                ws::push_frame(&mut wire, ws::OP_TEXT, text.as_bytes());
            }
            eio::push_polling(&mut body, &wire);
        }
        assert_eq!(body, text(row, "wire"), "{}", name(row));
    }
}

/// The text of a packet, split into its elements as raw JSON.
fn elements(payload: &str) -> Vec<String> {
    let elements: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(payload).unwrap();
    elements.iter().map(|element| element.get().to_owned()).collect()
}

/// Brings the frames of a row to a decoder: the whole packet's text and attachments, or the refusal.
fn receive(wire: &str, attachments: &[Bytes]) -> Result<(String, Vec<Bytes>), sio::DecodeError> {
    let mut reassembly = Reassembly::default();
    if reassembly.text(wire)?.is_some() {
        assert!(attachments.is_empty());
        return Ok((wire.to_owned(), Vec::new()));
    }
    for attachment in attachments {
        if let Some(whole) = reassembly.binary(attachment.clone(), MAX)? {
            return Ok((whole.text, whole.attachments));
        }
    }
    panic!("{wire}: still waiting");
}

fn assert_same(row: &Value, wire: &str) {
    let packet = sio::decode(wire).unwrap();
    let expected = &row["packet"];
    assert_eq!(packet.namespace, text(expected, "nsp"), "{}", name(row));
    assert_eq!(
        packet.attachments as u64,
        expected["attachments"].as_u64().unwrap_or_default(),
        "{}",
        name(row)
    );
    let payload = text(row, "payload");
    let id = expected["id"].as_u64();
    match (packet.kind, text(expected, "type")) {
        (Kind::Connect { auth }, "CONNECT") => assert_eq!(auth.unwrap_or_default(), payload, "{}", name(row)),
        (Kind::Disconnect, "DISCONNECT") => {}
        (Kind::Event { name: event, args, ack }, "EVENT" | "BINARY_EVENT") => {
            assert_eq!(ack, id, "{}", name(row));
            let elements = elements(payload);
            let (first, rest) = elements.split_first().unwrap();
            let expected: Value = serde_json::from_str(first).unwrap();
            let expected = expected.as_str().map_or_else(|| first.clone(), str::to_owned);
            assert_eq!(event, expected, "{}", name(row));
            assert_eq!(args.raw.as_slice(), rest, "{}", name(row));
        }
        (Kind::Ack { id: found, args }, "ACK" | "BINARY_ACK") => {
            assert_eq!(found, id, "{}", name(row));
            assert_eq!(args.raw.as_slice(), elements(payload), "{}", name(row));
        }
        (found, expected) => panic!("{}: {found:?} for {expected}", name(row)),
    }
}

#[test]
fn packets_are_decoded_as_the_official_decoder_does() {
    for row in rows(&load("sio_decode_ok")) {
        if row["packet"]["type"] == "CONNECT_ERROR" {
            // Only servers send it; from a client it closes the session.
            assert!(sio::decode(text(row, "wire")).is_err(), "{}", name(row));
            continue;
        }
        let attachments: Vec<_> = row["attachments"].as_array().unwrap().iter().map(binary).collect();
        match (receive(text(row, "wire"), &attachments), ours(row)) {
            (Ok((wire, found)), Ours::Same) => {
                assert_same(row, &wire);
                assert_eq!(found, attachments, "{}", name(row));
            }
            (Ok((wire, _)), Ours::Refuse) => panic!("{}: accepted {wire}", name(row)),
            (Err(error), Ours::Same) => panic!("{}: {error}", name(row)),
            (_, Ours::Either) | (Err(_), Ours::Refuse) => {}
        }
    }
}

#[test]
fn what_the_official_decoder_refuses_is_refused() {
    for row in rows(&load("sio_decode_bad")) {
        let mut reassembly = Reassembly::default();
        let refused = rows(&row["frames"]).iter().any(|frame| match frame["text"].as_str() {
            Some(text) => reassembly.text(text).is_err(),
            None => reassembly.binary(binary(&frame["binary"]), MAX).is_err(),
        });
        assert!(refused, "{}", name(row));
    }
}

#[test]
fn packets_are_encoded_as_the_official_encoder_does() {
    for row in rows(&load("sio_encode")) {
        let packet = &row["packet"];
        let (kind, namespace) = (text(packet, "type"), text(packet, "nsp"));
        let attachments: Vec<_> = row["attachments"].as_array().unwrap().iter().map(binary).collect();
        let id = packet["id"].as_u64();
        let encoded = match kind {
            "EVENT" | "BINARY_EVENT" => {
                let elements = elements(text(row, "payload"));
                let args: Vec<&str> = elements.iter().skip(1).map(String::as_str).collect();
                // We emit no events without a text for a name.
                let Some(name) = packet["data"][0].as_str() else { continue };
                Event { namespace, name, args: &args, ack: id, attachments: &attachments }.encode()
            }
            "ACK" | "BINARY_ACK" => {
                let elements = elements(text(row, "payload"));
                let args: Vec<&str> = elements.iter().map(String::as_str).collect();
                sio::encode_ack(namespace, id.unwrap(), &args, &attachments)
            }
            "DISCONNECT" => sio::encode_disconnect(namespace),
            "CONNECT" => match packet["data"]["sid"].as_str() {
                Some(sid) => sio::encode_connect(namespace, sid),
                // A client's.
                None => continue,
            },
            "CONNECT_ERROR" => {
                let message = packet["data"]["message"].as_str().unwrap();
                sio::encode_connect_error(namespace, message, packet["data"].get("data"))
            }
            other => panic!("unknown {other}"),
        };
        let frames: Vec<_> = ws::frames(encoded.wire()).collect();
        let expected = format!("4{}", text(row, "wire"));
        assert_eq!(frames[0], (ws::OP_TEXT, expected.as_bytes()), "{}", name(row));
        let found: Vec<_> = frames[1..].iter().map(|(_, payload)| Bytes::copy_from_slice(payload)).collect();
        assert_eq!(found, attachments, "{}", name(row));
    }
}

use serde_json::json;

use super::*;
use crate::adapter::{
    FetchedSocket, Response, decode_response, encode_ack_broadcast, encode_acked, encode_client_count,
    encode_fetched, encode_join_sockets, encode_leave_sockets, encode_review, encode_server_side_ack,
    json_to_msgpack,
};

const MAX: usize = 1_000_000;

fn of(rooms: &[&str]) -> Selection {
    Selection { rooms: rooms.iter().map(|room| (*room).to_owned()).collect(), except: Vec::new() }
}

#[test]
fn requests_of_the_reference_are_read() {
    let cases = [
        (r#"{"uid":"a","requestId":"r","type":1}"#, Request::Rooms { id: "r".into() }),
        (
            r#"{"uid":"a","type":2,"opts":{"rooms":["room1",7],"except":[]},"rooms":["x","y"]}"#,
            Request::Join {
                id: None,
                selection: of(&["room1", "7"]),
                rooms: vec!["x".into(), "y".into()],
                by: JoinedBy::Backend,
            },
        ),
        (
            r#"{"type":3,"opts":{"rooms":[],"except":[]},"rooms":["q"]}"#,
            Request::Leave { id: None, selection: of(&[]), rooms: vec!["q".into()], is_of_backend: true },
        ),
        (
            r#"{"type":4,"opts":{"rooms":["r"],"except":[]},"close":true}"#,
            Request::Disconnect { id: None, selection: of(&["r"]), close: true },
        ),
        (
            r#"{"requestId":"r","type":2,"sid":"s","room":"x"}"#,
            Request::Join {
                id: Some("r".into()),
                selection: of(&["s"]),
                rooms: vec!["x".into()],
                by: JoinedBy::Backend,
            },
        ),
        (
            r#"{"uid":"a","requestId":"r","type":5,"opts":{"rooms":[],"except":[]}}"#,
            Request::Fetch { id: "r".into(), selection: of(&[]) },
        ),
        (
            r#"{"uid":"emitter","type":6,"data":["hello","c",{"a":1}]}"#,
            Request::ServerSideEmit {
                uid: "emitter".into(),
                id: None,
                data: r#""hello","c",{"a":1}"#.into(),
            },
        ),
        (
            r#"{"uid":"a","requestId":"r","type":0,"rooms":["b"]}"#,
            Request::Sockets { id: "r".into(), selection: of(&["b"]) },
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(decode_request(text.as_bytes(), MAX), Ok(expected), "{text}");
    }
}

#[test]
fn encoded_messages_are_decoded() {
    let event = sio::Event { namespace: "/a", name: "q", args: &["[1]"], ack: None, attachments: &[] };
    let wire = encode_ack_broadcast(("n1", "id"), &event, &["r"], &["s"], 250).unwrap();
    let Ok(Request::AckBroadcast { id, broadcast, timeout_ms }) = decode_request(&wire, MAX) else {
        panic!()
    };
    assert_eq!((&*id, timeout_ms, &*broadcast.body.json), ("id", Some(250), "\"q\",[1]"));
    assert_eq!(
        (broadcast.rooms.as_slice(), broadcast.except.as_slice()),
        (&["r".into()][..], &["s".into()][..])
    );
    for (judged, who) in [(false, JoinedBy::App), (true, JoinedBy::AppIfAllowed)] {
        let join = encode_join_sockets(("n1", "j"), &of(&["user:1"]), &["sos:1"], judged);
        assert!(matches!(decode_request(&join, MAX), Ok(Request::Join { by, .. }) if by == who));
    }
    let leave = encode_leave_sockets(("n001", "l"), &of(&["user:1"]), &["sos:1"]);
    let Ok(Request::Leave { id, is_of_backend, .. }) = decode_request(&leave, MAX) else { panic!() };
    assert_eq!((id.as_deref(), is_of_backend), (Some("l"), false));
    let review = encode_review("n1", "v", "visit:1");
    let asked = Request::Review { id: "v".into(), rooms: vec!["visit:1".into()] };
    assert_eq!(decode_request(&review, MAX), Ok(asked));
    let binary = r#"["one",{"_placeholder":true,"num":0},{"b":{"_placeholder":true,"num":1}}]"#;
    for (json, attachments) in [("{\"a\":[1]}", vec![]), ("null", vec![]), (binary, vec!["\u{1}", ""])] {
        let answer =
            sio::Answer { json: json.into(), attachments: attachments.into_iter().map(Into::into).collect() };
        let acked = encode_acked("id", &answer).unwrap();
        assert_eq!(decode_response(&acked), Ok(Response::Acked { id: "id".into(), answer }));
    }
    let count = encode_client_count("id", 3);
    assert_eq!(decode_response(&count), Ok(Response::ClientCount { id: "id".into(), count: 3 }));
    let fetched = encode_fetched("id", Some(&[json!({"id": "s", "rooms": ["r", 1]})]));
    let socket = FetchedSocket { id: "s".into(), rooms: vec!["r".into(), "1".into()] };
    assert_eq!(decode_response(&fetched), Ok(Response::Fetched { id: "id".into(), sockets: vec![socket] }));
    assert_eq!(decode_response(&encode_server_side_ack("id")), Ok(Response::Other));
}

#[test]
fn every_form_that_the_adapter_accepts_is_read() {
    let join = |selection: Selection, rooms: &[&str]| {
        let rooms = rooms.iter().map(|room| (*room).to_owned()).collect();
        Ok(Request::Join { id: None, selection, rooms, by: JoinedBy::Backend })
    };
    for (text, expected) in [
        // As the deppan emitter for Java writes it.
        (r#"{"type":2,"opts":{"rooms":["a"]},"rooms":"team/42"}"#, join(of(&["a"]), &["team/42"])),
        (r#"{"type":2,"opts":{"rooms":"","except":null},"rooms":["x"]}"#, join(of(&[]), &["x"])),
        (r#"{"type":2.0,"uid":7,"opts":[],"rooms":[1.5,true]}"#, join(of(&[]), &["1.5", "true"])),
        (r#"{"type":2,"opts":null,"sid":"s","room":["x","y"]}"#, join(of(&["s"]), &["x", "y"])),
        (
            r#"{"type":2,"opts":{"rooms":["\ud83d"]},"rooms":["\ud83d"]}"#,
            join(of(&["\u{fffd}"]), &["\u{fffd}"]),
        ),
        (
            r#"{"type":4,"opts":{},"close":1}"#,
            Ok(Request::Disconnect { id: None, selection: of(&[]), close: true }),
        ),
        (
            r#"{"type":4,"opts":{},"close":null}"#,
            Ok(Request::Disconnect { id: None, selection: of(&[]), close: false }),
        ),
        (r#"{"type":0,"requestId":"r"}"#, Ok(Request::Sockets { id: "r".into(), selection: of(&[]) })),
        (r#"{"type":2,"opts":{}}"#, Err(RequestError)),
        (r#"{"type":3,"opts":7,"rooms":["x"]}"#, Err(RequestError)),
        (r#"{"type":3,"opts":{"rooms":{"0":"a"}},"rooms":["x"]}"#, Err(RequestError)),
        (r#"{"type":2.5,"opts":{},"rooms":["x"]}"#, Err(RequestError)),
    ] {
        assert_eq!(decode_request(text.as_bytes(), MAX), expected, "{text}");
        // Except for lone surrogates, msgpack carries the same.
        let mut packed = Vec::new();
        json_to_msgpack(text, &[], &mut packed).unwrap();
        let read = format!("{:?}", decode_request(&packed, MAX));
        assert_eq!(read, format!("{expected:?}"), "{text}");
    }
}

#[test]
fn a_broadcast_with_acks_may_be_json() {
    let text = r#"{"uid":"u","requestId":"r","type":7,"packet":{"type":2,"nsp":"/a","data":["q",[1],"\ud83d"]},
        "opts":{"rooms":["x"],"except":[],"flags":{"timeout":250}}}"#;
    let Ok(Request::AckBroadcast { id, broadcast, timeout_ms }) = decode_request(text.as_bytes(), MAX) else {
        panic!()
    };
    assert_eq!((&*id, timeout_ms, &*broadcast.body.json), ("r", Some(250), r#""q",[1],"\ud83d""#));
    assert_eq!((&*broadcast.namespace, broadcast.rooms.as_slice()), ("/a", &["x".into()][..]));
    let reserved = text.replace("\"q\"", "\"connect\"");
    assert_eq!(decode_request(reserved.as_bytes(), MAX), Err(RequestError));
    assert_eq!(decode_request(text.as_bytes(), 5), Err(RequestError));
}

#[test]
fn nonsense_is_refused() {
    let deep = format!("{{\"type\":6,\"data\":[{}{}]}}", "[".repeat(200), "]".repeat(200));
    for bad in [
        "",
        "{",
        "{}",
        "[]",
        "null",
        r#"{"type":1}"#,
        r#"{"type":99}"#,
        r#"{"type":2,"rooms":["x"]}"#,
        r#"{"type":6}"#,
        r#"{"type":2,"opts":{"rooms":[{}]},"rooms":[]}"#,
        "\u{81}",
        &deep,
    ] {
        assert_eq!(decode_request(bad.as_bytes(), MAX), Err(RequestError), "{bad:.60}");
    }
    for bad in ["", "{", "[]", "\u{81}"] {
        assert_eq!(decode_response(bad.as_bytes()), Err(RequestError), "{bad:.60}");
    }
}

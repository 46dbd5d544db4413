//! Requests between nodes and their responses: JSON text, msgpack where packets are carried (protocol, 3.1).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::broadcast::{
    Broadcast, entries, push_options, push_packet, push_str, read_options, read_packet, read_text, skip,
};
use super::msgpack::{MsgpackError, json_to_msgpack, msgpack_to_json};
use crate::json::nests_at_most;
use crate::limits::{BROADCAST_ROOMS_MAX, JSON_DEPTH_MAX, NAME_MAX};
use crate::sio;

/// A request or response that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed request or response")]
pub struct RequestError;

/// Which sockets a request is about: those in any of `rooms` (all, when there is none) that are in none of
/// `except`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Rooms.
    pub rooms: Vec<String>,
    /// Rooms whose members are not meant.
    pub except: Vec<String>,
}

/// Types of requests that only nodes of ours know.
const COUNT: u8 = 100;
const REVIEW: u8 = 101;

/// Who lets sockets enter a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinedBy {
    /// A backend: an emitter or a Node.js server. Nobody but a backend takes them out again.
    Backend,
    /// An app of ours, for every socket.
    App,
    /// An app of ours, for those sockets that may be in the room by its rules.
    AppIfAllowed,
}

/// A request of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// The names of all rooms.
    Rooms {
        /// To answer with.
        id: String,
    },
    /// Ids of the sockets in rooms; older nodes ask so.
    Sockets {
        /// To answer with.
        id: String,
        /// Whose.
        selection: Selection,
    },
    /// Sockets enter rooms.
    Join {
        /// To answer with; only the oldest form and our own want one.
        id: Option<String>,
        /// Which.
        selection: Selection,
        /// What they enter.
        rooms: Vec<String>,
        /// Who has let them in.
        by: JoinedBy,
    },
    /// Sockets leave rooms.
    Leave {
        /// To answer with; only the oldest form and our own want one.
        id: Option<String>,
        /// Which.
        selection: Selection,
        /// What they leave.
        rooms: Vec<String>,
    },
    /// Sockets are disconnected.
    Disconnect {
        /// To answer with; only the oldest form and our own want one.
        id: Option<String>,
        /// Which.
        selection: Selection,
        /// The whole connection, not the namespace alone.
        close: bool,
    },
    /// Descriptions of sockets.
    Fetch {
        /// To answer with.
        id: String,
        /// Which.
        selection: Selection,
    },
    /// Whether the sockets in a room may still be there; nodes of ours alone ask and answer, with [`Response::Done`] or
    /// [`Response::ClientCount`].
    Review {
        /// To answer with.
        id: String,
        /// The rooms.
        rooms: Vec<String>,
    },
    /// How many sockets; nodes of ours alone ask and answer, with [`Response::ClientCount`].
    Count {
        /// To answer with.
        id: String,
        /// Which.
        selection: Selection,
    },
    /// An event for servers.
    ServerSideEmit {
        /// Who emits it.
        uid: String,
        /// Set when an answer is wanted.
        id: Option<String>,
        /// Name and arguments, raw JSON.
        data: String,
    },
    /// A broadcast that every receiver acknowledges.
    AckBroadcast {
        /// To answer with.
        id: String,
        /// The event and where it goes.
        broadcast: Box<Broadcast<'a>>,
        /// How long receivers may take, milliseconds.
        timeout_ms: Option<u64>,
    },
}

/// A response to a request of ours; others are of no interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// How many sockets of one node got an [`Request::AckBroadcast`].
    ClientCount {
        /// The request.
        id: String,
        /// Sockets.
        count: usize,
    },
    /// What one socket answered.
    Acked {
        /// The request.
        id: String,
        /// The first argument of its ack.
        answer: sio::Answer,
    },
    /// A node's sockets.
    Fetched {
        /// The request.
        id: String,
        /// Raw JSON of each.
        sockets: Vec<FetchedSocket>,
    },
    /// A node has done what was asked, and has nothing to tell.
    Done {
        /// The request.
        id: String,
    },
    /// To something else.
    Other,
}

/// What [`Response::Fetched`] tells of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FetchedSocket {
    /// Its id.
    pub id: String,
    /// Its rooms.
    #[serde(default, deserialize_with = "names")]
    pub rooms: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    uid: Option<String>,
    request_id: Option<String>,
    #[serde(rename = "type")]
    kind: u8,
    opts: Option<WireSelection>,
    #[serde(default, deserialize_with = "names")]
    rooms: Vec<String>,
    close: Option<bool>,
    sid: Option<String>,
    room: Option<String>,
    /// Of our own joins alone: whether each socket is judged.
    judged: Option<bool>,
    #[serde(borrow)]
    data: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
struct WireSelection {
    #[serde(default, deserialize_with = "names")]
    rooms: Vec<String>,
    #[serde(default, deserialize_with = "names")]
    except: Vec<String>,
}

/// Names that may be numbers, of which JavaScript makes rooms too; not more than a broadcast may have.
fn names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name<'a> {
        Text(Cow<'a, str>),
        Number(i64),
    }
    let names = Option::<Vec<Name<'_>>>::deserialize(deserializer)?.unwrap_or_default();
    if names.len() > BROADCAST_ROOMS_MAX {
        return Err(serde::de::Error::custom("too many rooms"));
    }
    Ok(names
        .into_iter()
        .map(|name| match name {
            Name::Text(text) => text.into_owned(),
            Name::Number(number) => number.to_string(),
        })
        .collect())
}

/// Reads a request; `max` bounds a broadcast in it.
///
/// # Errors
/// [`RequestError`]: drop it.
pub fn decode_request(message: &[u8], max: usize) -> Result<Request<'_>, RequestError> {
    if message.first() != Some(&b'{') {
        return decode_ack_broadcast(message, max);
    }
    let text = str::from_utf8(message).map_err(|_| RequestError)?;
    if !nests_at_most(text, JSON_DEPTH_MAX) {
        return Err(RequestError);
    }
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|_| RequestError)?;
    let id = wire.request_id.filter(|id| id.len() <= NAME_MAX);
    // The oldest form names one socket; its own room selects it.
    let selection = match (wire.opts, wire.sid) {
        (Some(opts), _) => Selection { rooms: opts.rooms, except: opts.except },
        (None, Some(sid)) => Selection { rooms: vec![sid], except: Vec::new() },
        (None, None) if matches!(wire.kind, 2..=5) => return Err(RequestError),
        (None, None) => Selection { rooms: wire.rooms.clone(), except: Vec::new() },
    };
    let rooms = wire.room.map_or(wire.rooms, |room| vec![room]);
    let answer = id.clone();
    let by = match wire.judged {
        None => JoinedBy::Backend,
        Some(false) => JoinedBy::App,
        Some(true) => JoinedBy::AppIfAllowed,
    };
    match wire.kind {
        0 => Ok(Request::Sockets { id: id.ok_or(RequestError)?, selection }),
        1 => Ok(Request::Rooms { id: id.ok_or(RequestError)? }),
        2 => Ok(Request::Join { id: answer, selection, rooms, by }),
        3 => Ok(Request::Leave { id: answer, selection, rooms }),
        4 => Ok(Request::Disconnect { id: answer, selection, close: wire.close.unwrap_or_default() }),
        5 => Ok(Request::Fetch { id: id.ok_or(RequestError)?, selection }),
        REVIEW => Ok(Request::Review { id: id.ok_or(RequestError)?, rooms }),
        COUNT => Ok(Request::Count { id: id.ok_or(RequestError)?, selection }),
        6 => {
            let data = wire.data.ok_or(RequestError)?;
            let data = data.iter().map(|value| value.get()).collect::<Vec<_>>().join(",");
            Ok(Request::ServerSideEmit { uid: wire.uid.unwrap_or_default(), id, data })
        }
        _ => Err(RequestError),
    }
}

fn decode_ack_broadcast(message: &[u8], max: usize) -> Result<Request<'_>, RequestError> {
    let input = &mut &message[..];
    let (mut id, mut kind, mut timeout_ms) = (None, None, None);
    let mut broadcast = Broadcast::default();
    let mut read = || {
        for _ in 0..entries(input)? {
            match &*read_text(input)? {
                "uid" => broadcast.uid = read_text(input)?,
                "requestId" => id = Some(read_text(input)?.into_owned()),
                "type" => kind = Some(read_text(input)?.into_owned()),
                "packet" => read_packet(input, &mut broadcast)?,
                "opts" => {
                    timeout_ms = timeout_of(input);
                    read_options(input, &mut broadcast)?;
                }
                _ => skip(input)?,
            }
        }
        Ok::<_, super::BroadcastError>(())
    };
    read().map_err(|_| RequestError)?;
    let id = id.filter(|id| id.len() <= NAME_MAX).ok_or(RequestError)?;
    if kind.as_deref() != Some("7") || broadcast.body.json.is_empty() || broadcast.body.json.len() > max {
        return Err(RequestError);
    }
    Ok(Request::AckBroadcast { id, broadcast: Box::new(broadcast), timeout_ms })
}

/// `flags.timeout` of the options that begin here; nothing is taken off the input.
fn timeout_of(input: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Flags {
        timeout: Option<f64>,
    }
    #[derive(Deserialize)]
    struct Options {
        flags: Option<Flags>,
    }
    let (mut probe, mut text, mut none) = (input, String::new(), Vec::new());
    msgpack_to_json(&mut probe, &mut text, &mut none, 0).ok()?;
    let timeout = serde_json::from_str::<Options>(&text).ok()?.flags?.timeout?;
    std::time::Duration::try_from_secs_f64(timeout / 1_000.0)
        .ok()
        .and_then(|time| u64::try_from(time.as_millis()).ok())
}

/// Reads a response.
///
/// # Errors
/// [`RequestError`]: drop it.
pub fn decode_response(message: &[u8]) -> Result<Response, RequestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        request_id: Option<String>,
        #[serde(rename = "type")]
        kind: Option<u8>,
        client_count: Option<usize>,
        sockets: Option<Vec<FetchedSocket>>,
    }
    if message.first() != Some(&b'{') {
        return decode_acked(message);
    }
    let text = str::from_utf8(message).map_err(|_| RequestError)?;
    if !nests_at_most(text, JSON_DEPTH_MAX) {
        return Err(RequestError);
    }
    // Lists of ids (an answer to the oldest request) are no descriptions: of no interest, and no fault.
    let Ok(wire) = serde_json::from_str::<Wire>(text) else {
        return if serde_json::from_str::<&RawValue>(text).is_ok() {
            Ok(Response::Other)
        } else {
            Err(RequestError)
        };
    };
    Ok(match (wire.kind, wire.request_id, wire.client_count, wire.sockets) {
        (Some(8), Some(id), Some(count), _) => Response::ClientCount { id, count },
        (None, Some(id), _, Some(sockets)) => Response::Fetched { id, sockets },
        (None, Some(id), None, None) => Response::Done { id },
        _ => Response::Other,
    })
}

fn decode_acked(message: &[u8]) -> Result<Response, RequestError> {
    let input = &mut &message[..];
    let (mut id, mut kind, mut answer) = (None, None, sio::Answer::default());
    let mut read = || {
        for _ in 0..entries(input)? {
            match &*read_text(input)? {
                "requestId" => id = Some(read_text(input)?.into_owned()),
                "type" => kind = Some(read_text(input)?.into_owned()),
                "packet" => msgpack_to_json(input, &mut answer.json, &mut answer.attachments, 0)?,
                _ => skip(input)?,
            }
        }
        Ok::<_, super::BroadcastError>(())
    };
    read().map_err(|_| RequestError)?;
    match (kind.as_deref(), id) {
        (Some("9"), Some(id)) => {
            Ok(Response::Acked { id, answer: if answer.is_empty() { sio::Answer::null() } else { answer } })
        }
        (Some(_), Some(_)) => Ok(Response::Other),
        _ => Err(RequestError),
    }
}

fn selection(selection: &Selection) -> serde_json::Value {
    json!({"rooms": selection.rooms, "except": selection.except})
}

/// Sockets enter rooms; with `judged`, those that may be there by the rules of the room's app. Nodes of ours answer with
/// [`Response::Done`] or [`Response::ClientCount`] when theirs have; others do not.
#[must_use]
pub fn encode_join_sockets((uid, id): (&str, &str), of: &Selection, rooms: &[&str], judged: bool) -> Vec<u8> {
    json!({
        "uid": uid, "requestId": id, "type": 2, "opts": selection(of), "rooms": rooms, "judged": judged,
    })
    .to_string()
    .into()
}

/// Asks every node to judge whether its sockets in a room may still be there. Node.js servers pass over it.
#[must_use]
pub fn encode_review(uid: &str, id: &str, room: &str) -> Vec<u8> {
    json!({"uid": uid, "requestId": id, "type": REVIEW, "rooms": [room]}).to_string().into()
}

/// Sockets leave rooms.
#[must_use]
pub fn encode_leave_sockets(uid: &str, of: &Selection, rooms: &[&str]) -> Vec<u8> {
    json!({"uid": uid, "type": 3, "opts": selection(of), "rooms": rooms}).to_string().into()
}

/// Sockets are disconnected from the namespace, or `close`d altogether.
#[must_use]
pub fn encode_disconnect_sockets(uid: &str, of: &Selection, close: bool) -> Vec<u8> {
    json!({"uid": uid, "type": 4, "opts": selection(of), "close": close}).to_string().into()
}

/// Asks how many sockets there are. Node.js servers pass over it.
#[must_use]
pub fn encode_count(uid: &str, id: &str, of: &Selection) -> Vec<u8> {
    json!({"uid": uid, "requestId": id, "type": COUNT, "opts": selection(of)}).to_string().into()
}

/// Asks for descriptions of sockets.
#[must_use]
pub fn encode_fetch(uid: &str, id: &str, of: &Selection) -> Vec<u8> {
    json!({"uid": uid, "requestId": id, "type": 5, "opts": selection(of)}).to_string().into()
}

/// An event for servers; `args` are raw JSON.
#[must_use]
pub fn encode_server_side_emit(uid: &str, name: &str, args: &[&str]) -> Vec<u8> {
    let name = serde_json::Value::from(name).to_string();
    let data = std::iter::once(&*name).chain(args.iter().copied()).collect::<Vec<_>>().join(",");
    format!("{{\"uid\":\"{uid}\",\"type\":6,\"data\":[{data}]}}").into()
}

/// A broadcast that every receiver acknowledges.
///
/// # Errors
/// [`MsgpackError`] when an argument is no JSON.
pub fn encode_ack_broadcast(
    (uid, id): (&str, &str),
    event: &sio::Event<'_>,
    rooms: &[&str],
    except: &[&str],
    timeout_ms: u64,
) -> Result<Vec<u8>, MsgpackError> {
    let mut out = vec![0x85];
    for (key, value) in [("uid", uid), ("requestId", id)] {
        push_str(&mut out, key);
        push_str(&mut out, value);
    }
    push_str(&mut out, "type");
    out.push(7);
    push_str(&mut out, "packet");
    push_packet(&mut out, event)?;
    push_str(&mut out, "opts");
    out.push(0x83);
    push_options(&mut out, rooms, except, false, Some(timeout_ms));
    Ok(out)
}

/// The answer to [`Request::Rooms`].
#[must_use]
pub fn encode_rooms(id: &str, rooms: &[String]) -> Vec<u8> {
    json!({"requestId": id, "rooms": rooms}).to_string().into()
}

/// The answer to [`Request::Fetch`] and [`Request::Sockets`]: descriptions or ids, and to an old request for
/// nothing at all.
#[must_use]
pub fn encode_fetched(id: &str, sockets: Option<&[impl Serialize]>) -> Vec<u8> {
    match sockets {
        Some(sockets) => json!({"requestId": id, "sockets": sockets}).to_string().into(),
        None => json!({"requestId": id}).to_string().into(),
    }
}

/// How many sockets of this node got the broadcast.
#[must_use]
pub fn encode_client_count(id: &str, count: usize) -> Vec<u8> {
    json!({"type": 8, "requestId": id, "clientCount": count}).to_string().into()
}

/// What one socket answered.
///
/// # Errors
/// [`MsgpackError`] when that is no JSON.
pub fn encode_acked(id: &str, answer: &sio::Answer) -> Result<Vec<u8>, MsgpackError> {
    let mut out = vec![0x83];
    push_str(&mut out, "type");
    out.push(9);
    push_str(&mut out, "requestId");
    push_str(&mut out, id);
    push_str(&mut out, "packet");
    json_to_msgpack(&answer.json, &answer.attachments, &mut out)?;
    Ok(out)
}

/// The answer to [`Request::ServerSideEmit`] of a node that has nothing to say: without one its sender would
/// wait for its timeout.
#[must_use]
pub fn encode_server_side_ack(id: &str) -> Vec<u8> {
    json!({"type": 6, "requestId": id}).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
                Request::Leave { id: None, selection: of(&[]), rooms: vec!["q".into()] },
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
    fn what_is_written_is_read() {
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
        let review = encode_review("n1", "v", "visit:1");
        let asked = Request::Review { id: "v".into(), rooms: vec!["visit:1".into()] };
        assert_eq!(decode_request(&review, MAX), Ok(asked));
        let binary = r#"["one",{"_placeholder":true,"num":0},{"b":{"_placeholder":true,"num":1}}]"#;
        for (json, attachments) in [("{\"a\":[1]}", vec![]), ("null", vec![]), (binary, vec!["\u{1}", ""])] {
            let answer = sio::Answer {
                json: json.into(),
                attachments: attachments.into_iter().map(Into::into).collect(),
            };
            let acked = encode_acked("id", &answer).unwrap();
            assert_eq!(decode_response(&acked), Ok(Response::Acked { id: "id".into(), answer }));
        }
        let count = encode_client_count("id", 3);
        assert_eq!(decode_response(&count), Ok(Response::ClientCount { id: "id".into(), count: 3 }));
        let fetched = encode_fetched("id", Some(&[json!({"id": "s", "rooms": ["r", 1]})]));
        let socket = FetchedSocket { id: "s".into(), rooms: vec!["r".into(), "1".into()] };
        assert_eq!(
            decode_response(&fetched),
            Ok(Response::Fetched { id: "id".into(), sockets: vec![socket] })
        );
        assert_eq!(decode_response(&encode_server_side_ack("id")), Ok(Response::Other));
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
}

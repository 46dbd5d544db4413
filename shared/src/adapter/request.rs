//! Requests between nodes and their responses: JSON text, msgpack where packets are carried (protocol, 3.1).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::broadcast::{
    Broadcast, entries, push_options, push_packet, push_str, read_options, read_packet, read_text, read_uid,
    skip,
};
use super::javascript::{BadRooms, is_truthy_json, json_list, json_name, json_rooms};
use super::msgpack::{MsgpackError, json_to_msgpack, msgpack_to_json};
use crate::json::{nests_at_most, without_lone_surrogates};
use crate::limits::{JSON_DEPTH_MAX, NAME_MAX};
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
    uid: Option<serde_json::Value>,
    request_id: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    kind: f64,
    #[serde(borrow)]
    opts: Option<&'a RawValue>,
    #[serde(borrow)]
    rooms: Option<&'a RawValue>,
    #[serde(borrow)]
    close: Option<&'a RawValue>,
    sid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    /// Of our own joins alone: whether each socket is judged.
    judged: Option<bool>,
    #[serde(borrow)]
    data: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    packet: Option<WirePacket<'a>>,
}

#[derive(Deserialize)]
struct WirePacket<'a> {
    nsp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct WireSelection<'a> {
    #[serde(borrow)]
    rooms: Option<&'a RawValue>,
    #[serde(borrow)]
    except: Option<&'a RawValue>,
    #[serde(borrow)]
    flags: Option<&'a RawValue>,
}

impl<'a> WireSelection<'a> {
    /// Reads `opts`; `None` where Node.js passes over them, because they are nothing.
    fn read(opts: Option<&'a RawValue>) -> Result<Option<Self>, RequestError> {
        match opts.map(RawValue::get) {
            Some(opts) if opts.starts_with('{') => {
                serde_json::from_str(opts).map(Some).map_err(|_| RequestError)
            }
            // PHP writes an empty map so.
            Some(opts) if opts.starts_with('[') => Ok(Some(Self::default())),
            Some(opts) if is_truthy_json(opts) => Err(RequestError),
            Some(_) | None => Ok(None),
        }
    }

    fn selection(&self) -> Result<Selection, RequestError> {
        Ok(Selection { rooms: json_rooms(self.rooms)?, except: json_rooms(self.except)? })
    }
}

impl From<BadRooms> for RequestError {
    fn from(_: BadRooms) -> Self {
        Self
    }
}

/// Reads names of rooms of a socket, which may be numbers.
fn names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Option::<&RawValue>::deserialize(deserializer)?;
    json_rooms(names).map_err(|_| serde::de::Error::custom("no names of rooms"))
}

/// Reads a request; `max` bounds a broadcast in it. Either may be JSON or msgpack.
///
/// # Errors
/// [`RequestError`]: drop it.
pub fn decode_request(message: &[u8], max: usize) -> Result<Request<'_>, RequestError> {
    if message.first() == Some(&b'{') {
        let text = str::from_utf8(message).map_err(|_| RequestError)?;
        return decode_json(text, max);
    }
    if let Ok(request) = decode_ack_broadcast(message, max) {
        return Ok(request);
    }
    // No parser that anybody uses writes these as msgpack, but the adapter reads them.
    let (mut json, mut binary) = (String::new(), Vec::new());
    let input = &mut &message[..];
    msgpack_to_json(input, &mut json, &mut binary, 0).map_err(|_| RequestError)?;
    if !json.starts_with('{') || !binary.is_empty() {
        return Err(RequestError);
    }
    decode_json(&json, max).map(Request::into_owned)
}

fn decode_json(text: &str, max: usize) -> Result<Request<'_>, RequestError> {
    if !nests_at_most(text, JSON_DEPTH_MAX) {
        return Err(RequestError);
    }
    let wire: Wire<'_> = match serde_json::from_str(text) {
        Ok(wire) => wire,
        Err(_) => {
            let readable = without_lone_surrogates(text).ok_or(RequestError)?;
            return decode_json(&readable, max).map(Request::into_owned);
        }
    };
    let id = wire.request_id.as_deref().filter(|id| id.len() <= NAME_MAX).map(str::to_owned);
    let opts = WireSelection::read(wire.opts)?;
    let wanted = || id.clone().ok_or(RequestError);
    // The oldest form names one socket; its own room selects it.
    let selection = || match (&opts, &wire.sid) {
        (Some(opts), _) => opts.selection(),
        (None, Some(sid)) => Ok(Selection { rooms: vec![sid.as_ref().to_owned()], except: Vec::new() }),
        (None, None) => Err(RequestError),
    };
    let rooms = || {
        let rooms = if opts.is_some() { wire.rooms } else { wire.room.or(wire.rooms) };
        Ok::<_, RequestError>(json_list(rooms.ok_or(RequestError)?.get())?)
    };
    let by = match wire.judged {
        None => JoinedBy::Backend,
        Some(false) => JoinedBy::App,
        Some(true) => JoinedBy::AppIfAllowed,
    };
    match kind_of(wire.kind) {
        Some(0) => {
            let selection = Selection { rooms: json_rooms(wire.rooms)?, except: Vec::new() };
            Ok(Request::Sockets { id: wanted()?, selection })
        }
        Some(1) => Ok(Request::Rooms { id: wanted()? }),
        Some(2) => Ok(Request::Join { id: id.clone(), selection: selection()?, rooms: rooms()?, by }),
        Some(3) => Ok(Request::Leave { id: id.clone(), selection: selection()?, rooms: rooms()? }),
        Some(4) => {
            let close = wire.close.is_some_and(|close| is_truthy_json(close.get()));
            Ok(Request::Disconnect { id: id.clone(), selection: selection()?, close })
        }
        Some(5) => Ok(Request::Fetch { id: wanted()?, selection: selection()? }),
        Some(6) => {
            let data = wire.data.ok_or(RequestError)?;
            let uid = wire.uid.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            Ok(Request::ServerSideEmit { uid, id, data: joined(&data) })
        }
        Some(7) => {
            let (packet, opts) = (wire.packet.ok_or(RequestError)?, opts.ok_or(RequestError)?);
            let broadcast = broadcast_of_json(&packet, &opts, max)?;
            Ok(Request::AckBroadcast { id: wanted()?, broadcast, timeout_ms: timeout_of_json(opts.flags) })
        }
        Some(REVIEW) => Ok(Request::Review { id: wanted()?, rooms: json_rooms(wire.rooms)? }),
        Some(COUNT) => Ok(Request::Count { id: wanted()?, selection: selection()? }),
        _ => Err(RequestError),
    }
}

/// The type of a request; `None` for a number that is none.
fn kind_of(number: f64) -> Option<u8> {
    (0..=u8::MAX).find(|kind| f64::from(*kind) == number)
}

fn joined(values: &[&RawValue]) -> String {
    values.iter().map(|value| value.get()).collect::<Vec<_>>().join(",")
}

fn broadcast_of_json<'a>(
    packet: &WirePacket<'a>,
    opts: &WireSelection<'_>,
    max: usize,
) -> Result<Box<Broadcast<'a>>, RequestError> {
    let name =
        packet.data.first().filter(|name| name.get().starts_with(|c: char| c == '"' || c.is_ascii_digit()));
    let is_reserved =
        |name: &&RawValue| json_name(name.get()).is_none_or(|name| sio::RESERVED_EVENTS.contains(&&*name));
    let json = joined(&packet.data);
    if name.is_none_or(is_reserved) || json.len() > max {
        return Err(RequestError);
    }
    let Selection { rooms, except } = opts.selection()?;
    Ok(Box::new(Broadcast {
        namespace: packet.nsp.clone().unwrap_or("/".into()),
        body: super::Body { json, attachments: Vec::new() },
        rooms: rooms.into_iter().map(Cow::Owned).collect(),
        except: except.into_iter().map(Cow::Owned).collect(),
        ..Broadcast::default()
    }))
}

impl Request<'_> {
    /// The same, with nothing of the message that it was read from.
    fn into_owned<'b>(self) -> Request<'b> {
        let owned = |text: Cow<'_, str>| -> Cow<'b, str> { Cow::Owned(text.into_owned()) };
        match self {
            Self::Rooms { id } => Request::Rooms { id },
            Self::Sockets { id, selection } => Request::Sockets { id, selection },
            Self::Join { id, selection, rooms, by } => Request::Join { id, selection, rooms, by },
            Self::Leave { id, selection, rooms } => Request::Leave { id, selection, rooms },
            Self::Disconnect { id, selection, close } => Request::Disconnect { id, selection, close },
            Self::Fetch { id, selection } => Request::Fetch { id, selection },
            Self::Review { id, rooms } => Request::Review { id, rooms },
            Self::Count { id, selection } => Request::Count { id, selection },
            Self::ServerSideEmit { uid, id, data } => Request::ServerSideEmit { uid, id, data },
            Self::AckBroadcast { id, broadcast, timeout_ms } => {
                let Broadcast { uid, namespace, body, rooms, except, volatile, stamp, sequence } = *broadcast;
                let broadcast = Box::new(Broadcast {
                    uid: owned(uid),
                    namespace: owned(namespace),
                    body,
                    rooms: rooms.into_iter().map(owned).collect(),
                    except: except.into_iter().map(owned).collect(),
                    volatile,
                    stamp,
                    sequence,
                });
                Request::AckBroadcast { id, broadcast, timeout_ms }
            }
        }
    }
}

fn decode_ack_broadcast(message: &[u8], max: usize) -> Result<Request<'_>, RequestError> {
    let input = &mut &message[..];
    let (mut id, mut kind, mut timeout_ms) = (None, None, None);
    let mut broadcast = Broadcast::default();
    let mut read = || {
        for _ in 0..entries(input)? {
            match &*read_text(input)? {
                "uid" => broadcast.uid = read_uid(input)?,
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
    let (mut probe, mut text, mut none) = (input, String::new(), Vec::new());
    msgpack_to_json(&mut probe, &mut text, &mut none, 0).ok()?;
    timeout_of_json(serde_json::from_str::<WireSelection<'_>>(&text).ok()?.flags)
}

fn timeout_of_json(flags: Option<&RawValue>) -> Option<u64> {
    #[derive(Deserialize)]
    struct Flags {
        timeout: Option<f64>,
    }
    let timeout = serde_json::from_str::<Flags>(flags?.get()).ok()?.timeout?;
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
    fn every_spelling_that_the_adapter_takes_is_read() {
        let join = |selection: Selection, rooms: &[&str]| {
            let rooms = rooms.iter().map(|room| (*room).to_owned()).collect();
            Ok(Request::Join { id: None, selection, rooms, by: JoinedBy::Backend })
        };
        for (text, expected) in [
            // As the deppan emitter of Java writes it.
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
            // Lone surrogates aside, msgpack says the same.
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
        let Ok(Request::AckBroadcast { id, broadcast, timeout_ms }) = decode_request(text.as_bytes(), MAX)
        else {
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
}

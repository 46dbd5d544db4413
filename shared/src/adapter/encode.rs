//! Writes requests and responses between nodes (protocol, 3.1).

use serde::Serialize;
use serde_json::json;

use super::broadcast::{push_options, push_packet, push_str};
use super::msgpack::{MsgpackError, json_to_msgpack};
use super::request::{COUNT, REVIEW, Selection};
use crate::sio;

fn selection(selection: &Selection) -> serde_json::Value {
    json!({"rooms": selection.rooms, "except": selection.except})
}

/// Sockets enter rooms; with `judged`, only the sockets that the rules of the room's app allow. Muster nodes answer with
/// [`Response::Done`](super::Response::Done) or [`Response::ClientCount`](super::Response::ClientCount) when done; other servers do not answer.
#[must_use]
pub fn encode_join_sockets((uid, id): (&str, &str), of: &Selection, rooms: &[&str], judged: bool) -> Vec<u8> {
    json!({
        "uid": uid, "requestId": id, "type": 2, "opts": selection(of), "rooms": rooms, "judged": judged,
    })
    .to_string()
    .into()
}

/// Asks every node to remove sockets from a room that may no longer be in it. Node.js servers ignore it.
#[must_use]
pub fn encode_review(uid: &str, id: &str, room: &str) -> Vec<u8> {
    json!({"uid": uid, "requestId": id, "type": REVIEW, "rooms": [room]}).to_string().into()
}

/// Sockets leave rooms. Muster nodes answer as to [`encode_join_sockets`]; other servers do not.
#[must_use]
pub fn encode_leave_sockets((uid, id): (&str, &str), of: &Selection, rooms: &[&str]) -> Vec<u8> {
    json!({"uid": uid, "requestId": id, "type": 3, "opts": selection(of), "rooms": rooms}).to_string().into()
}

/// Sockets are disconnected from the namespace, or with `close` from the server. Nodes that have some of the sockets answer when
/// these have left; Node.js servers do not answer.
#[must_use]
pub fn encode_disconnect_sockets((uid, id): (&str, &str), of: &Selection, close: bool) -> Vec<u8> {
    json!({"uid": uid, "requestId": id, "type": 4, "opts": selection(of), "close": close}).to_string().into()
}

/// Asks for the number of sockets. Node.js servers ignore it.
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

/// A broadcast that every recipient acknowledges.
///
/// # Errors
/// [`MsgpackError`] when an argument is not JSON.
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

/// The answer to [`Request::Rooms`](super::Request::Rooms).
#[must_use]
pub fn encode_rooms(id: &str, rooms: &[String]) -> Vec<u8> {
    json!({"requestId": id, "rooms": rooms}).to_string().into()
}

/// The answer to [`Request::Fetch`](super::Request::Fetch) and [`Request::Sockets`](super::Request::Sockets):
/// descriptions or ids; for other old requests, neither.
#[must_use]
pub fn encode_fetched(id: &str, sockets: Option<&[impl Serialize]>) -> Vec<u8> {
    match sockets {
        Some(sockets) => json!({"requestId": id, "sockets": sockets}).to_string().into(),
        None => json!({"requestId": id}).to_string().into(),
    }
}

/// How many sockets of this node received the broadcast.
#[must_use]
pub fn encode_client_count(id: &str, count: usize) -> Vec<u8> {
    json!({"type": 8, "requestId": id, "clientCount": count}).to_string().into()
}

/// A socket's answer.
///
/// # Errors
/// [`MsgpackError`] when it is not JSON.
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

/// The answer to [`Request::ServerSideEmit`](super::Request::ServerSideEmit) of a node without anything to answer: otherwise the sender would wait for its
/// timeout.
#[must_use]
pub fn encode_server_side_ack(id: &str) -> Vec<u8> {
    json!({"type": 6, "requestId": id}).to_string().into()
}

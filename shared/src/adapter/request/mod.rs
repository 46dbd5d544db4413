//! Requests between nodes: JSON text, msgpack where packets are carried (protocol, 3.1).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::broadcast::{Broadcast, entries, read_options, read_packet, read_text, read_uid, skip};
use super::javascript::{BadRooms, is_truthy_json, json_list, json_name, json_rooms};
use super::msgpack::msgpack_to_json;
use crate::ids::NODE_CHARS;
use crate::json::{nests_at_most, without_lone_surrogates};
use crate::limits::{JSON_DEPTH_MAX, NAME_MAX};
use crate::sio;

/// A request or response that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed request or response")]
pub struct RequestError;

/// The sockets that a request is about: those in any of `rooms` (all, if empty) and in none of `except`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Rooms.
    pub rooms: Vec<String>,
    /// Rooms whose members are excluded.
    pub except: Vec<String>,
}

/// Types of requests that only Muster nodes know.
pub(super) const COUNT: u8 = 100;
pub(super) const REVIEW: u8 = 101;

/// The party that lets sockets enter a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinedBy {
    /// A backend: an emitter or a Node.js server. Only a backend removes them again.
    Backend,
    /// A Muster app, for every socket.
    App,
    /// A Muster app, for the sockets that its rules allow in the room.
    AppIfAllowed,
}

/// A request of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// The names of all rooms.
    Rooms {
        /// The id for the answer.
        id: String,
    },
    /// Ids of the sockets in rooms; a request of older nodes.
    Sockets {
        /// The id for the answer.
        id: String,
        /// The sockets.
        selection: Selection,
    },
    /// Sockets enter rooms.
    Join {
        /// The id for the answer; only the oldest form and Muster nodes request one.
        id: Option<String>,
        /// The sockets.
        selection: Selection,
        /// The rooms that they enter.
        rooms: Vec<String>,
        /// The party that lets them in.
        by: JoinedBy,
    },
    /// Sockets leave rooms.
    Leave {
        /// The id for the answer; only the oldest form and Muster nodes request one.
        id: Option<String>,
        /// The sockets.
        selection: Selection,
        /// The rooms that they leave.
        rooms: Vec<String>,
        /// A backend asks, not a Muster node: apps announce their own changes.
        is_of_backend: bool,
    },
    /// Sockets are disconnected.
    Disconnect {
        /// The id for the answer; only the oldest form and Muster nodes request one.
        id: Option<String>,
        /// The sockets.
        selection: Selection,
        /// Whether to close the whole connection, not only leave the namespace.
        close: bool,
    },
    /// Descriptions of sockets.
    Fetch {
        /// The id for the answer.
        id: String,
        /// The sockets.
        selection: Selection,
    },
    /// Removes sockets from rooms that they may no longer be in. Only Muster nodes ask and answer, with [`Response::Done`](super::Response::Done) or
    /// [`Response::ClientCount`](super::Response::ClientCount).
    Review {
        /// The id for the answer.
        id: String,
        /// The rooms.
        rooms: Vec<String>,
    },
    /// The number of sockets. Only Muster nodes ask and answer, with [`Response::ClientCount`](super::Response::ClientCount).
    Count {
        /// The id for the answer.
        id: String,
        /// The sockets.
        selection: Selection,
    },
    /// An event for servers.
    ServerSideEmit {
        /// The id of the sender.
        uid: String,
        /// The id for the answer, if one is requested.
        id: Option<String>,
        /// Name and arguments, raw JSON.
        data: String,
    },
    /// A broadcast that every recipient acknowledges.
    AckBroadcast {
        /// The id for the answer.
        id: String,
        /// The event and its recipients.
        broadcast: Box<Broadcast<'a>>,
        /// How long recipients may take, in milliseconds.
        timeout_ms: Option<u64>,
    },
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
    /// Only in joins of Muster nodes: whether each socket is checked.
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
    /// Reads `opts`; `None` where Node.js ignores them because they are missing.
    fn read(opts: Option<&'a RawValue>) -> Result<Option<Self>, RequestError> {
        match opts.map(RawValue::get) {
            Some(opts) if opts.starts_with('{') => {
                serde_json::from_str(opts).map(Some).map_err(|_| RequestError)
            }
            // PHP writes an empty map as a list.
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
    // No parser in use writes these as msgpack, but the adapter reads them.
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
        Some(3) => {
            let uid = wire.uid.as_ref().and_then(serde_json::Value::as_str);
            let is_of_backend = uid.is_none_or(|uid| uid.len() != NODE_CHARS);
            Ok(Request::Leave { id: id.clone(), selection: selection()?, rooms: rooms()?, is_of_backend })
        }
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
    /// The same, without borrowing from the message.
    fn into_owned<'b>(self) -> Request<'b> {
        let owned = |text: Cow<'_, str>| -> Cow<'b, str> { Cow::Owned(text.into_owned()) };
        match self {
            Self::Rooms { id } => Request::Rooms { id },
            Self::Sockets { id, selection } => Request::Sockets { id, selection },
            Self::Join { id, selection, rooms, by } => Request::Join { id, selection, rooms, by },
            Self::Leave { id, selection, rooms, is_of_backend } => {
                Request::Leave { id, selection, rooms, is_of_backend }
            }
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

/// `flags.timeout` of the options at the start of `input`, which is not advanced.
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

#[cfg(test)]
mod tests;

//! Broadcasts as they cross Redis: msgpack `[uid, packet, opts]`.

use std::borrow::Cow;

use bytes::Bytes;
use rmp::Marker;
use rmp::decode::read_marker;
use rmp::encode as write;
use smallvec::SmallVec;

use super::extension::is_undefined;
use super::javascript::{self, BadRooms, name};
use super::msgpack::{self, Fidelity, MsgpackError, json_to_msgpack, msgpack_to_json};
use crate::ids::NODE_CHARS;
use crate::limits::JSON_DEPTH_MAX;
use crate::sio::{self, Encoded, RESERVED_EVENTS};

/// The key of `opts` for a tracked broadcast's [`Stamp`]; the last one, so that the publish script can append the
/// value.
const STAMP: &str = "muster";

/// A broadcast that cannot be read or delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum BroadcastError {
    /// Not in the adapter's format.
    Malformed,
    /// Exceeds the size limit of a message.
    TooBig,
    /// An event with a name that the client reserves, or no event at all.
    BadEvent,
    /// More than [`BROADCAST_ROOMS_MAX`](crate::limits::BROADCAST_ROOMS_MAX) rooms.
    TooManyRooms,
    /// `rooms` or `except` is not something that the adapter can make a set of.
    Rooms,
    /// More than [`ATTACHMENTS_MAX`](crate::limits::ATTACHMENTS_MAX) binary values: clients refuse them.
    Attachments,
    /// Nested deeper than [`JSON_DEPTH_MAX`].
    Depth,
}

impl BroadcastError {
    /// The reason, for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed broadcast",
            Self::TooBig => "broadcast too big",
            Self::BadEvent => "no event that may be emitted",
            Self::TooManyRooms => "too many rooms",
            Self::Rooms => "rooms that are no list",
            Self::Attachments => "too many binary values",
            Self::Depth => "nested too deep",
        }
    }
}

impl From<MsgpackError> for BroadcastError {
    fn from(error: MsgpackError) -> Self {
        match error {
            MsgpackError::Attachments => Self::Attachments,
            MsgpackError::Depth => Self::Depth,
            MsgpackError::Malformed => Self::Malformed,
        }
    }
}

impl From<BadRooms> for BroadcastError {
    fn from(error: BadRooms) -> Self {
        match error {
            BadRooms::Malformed => Self::Rooms,
            BadRooms::TooMany => Self::TooManyRooms,
        }
    }
}

/// The place of a tracked broadcast in its room: offsets are contiguous within an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Changes whenever Redis may have lost data.
    pub epoch: Box<str>,
    /// From 1.
    pub offset: u64,
}

/// The event of a broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Body {
    /// The event's name and arguments, as the inside of a JSON array.
    pub json: String,
    /// The values of placeholders.
    pub attachments: Vec<Bytes>,
}

impl Body {
    /// The packet for clients; `ack` requests an ack.
    #[must_use]
    pub fn encode(&self, namespace: &str, ack: Option<u64>) -> Encoded {
        sio::encode_event_json(namespace, ack, &self.json, &self.attachments)
    }
}

/// Names of rooms.
pub type Rooms<'a> = SmallVec<[Cow<'a, str>; 2]>;

/// A received broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Broadcast<'a> {
    /// The id of its sender.
    pub uid: Cow<'a, str>,
    /// Its namespace; `/` by default.
    pub namespace: Cow<'a, str>,
    /// The event to emit.
    pub body: Body,
    /// Its rooms; none means the whole namespace.
    pub rooms: Rooms<'a>,
    /// Rooms whose members do not receive it.
    pub except: Rooms<'a>,
    /// Dropped for clients that cannot take it now.
    pub volatile: bool,
    /// Its place, if it is tracked.
    pub stamp: Option<Stamp>,
    /// Its place in an order that an app keeps.
    pub sequence: Option<i64>,
}

impl Broadcast<'_> {
    /// Whether a Muster node sent it. Ids of backends and other servers have another length.
    #[must_use]
    pub fn is_of_node(&self) -> bool {
        self.uid.len() == NODE_CHARS
    }
}

/// A broadcast to send.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The sender.
    pub uid: &'a str,
    /// The event; its `ack` is not sent.
    pub event: &'a sio::Event<'a>,
    /// Rooms; none means the whole namespace.
    pub rooms: &'a [&'a str],
    /// Rooms whose members do not receive it.
    pub except: &'a [&'a str],
    /// May be dropped.
    pub volatile: bool,
    /// Its place in an order that an app keeps.
    pub sequence: Option<i64>,
}

impl Outgoing<'_> {
    /// Encodes the message. A `tracked` one ends where the publish script appends the [`Stamp`], as a msgpack string
    /// `epoch:offset`.
    ///
    /// # Errors
    /// [`MsgpackError`] when an argument is not JSON.
    pub fn encode(&self, tracked: bool) -> Result<Vec<u8>, MsgpackError> {
        let args_len: usize = self.event.args.iter().map(|arg| arg.len()).sum();
        let binary_len: usize = self.event.attachments.iter().map(Bytes::len).sum();
        let mut out = Vec::with_capacity(96 + args_len + binary_len);
        out.push(0x93);
        push_str(&mut out, self.uid);
        let fidelity = push_packet(&mut out, self.event)?;
        // With attachments the original's numbering would be needed as well, so they are sent as they are.
        let raw = (fidelity == Fidelity::Changed && self.event.attachments.is_empty()).then(|| {
            let name = serde_json::Value::from(self.event.name).to_string();
            std::iter::once(&*name).chain(self.event.args.iter().copied()).collect::<Vec<_>>().join(",")
        });
        let entries = 3 + u8::from(raw.is_some()) + u8::from(self.sequence.is_some()) + u8::from(tracked);
        out.push(0x80 | entries);
        push_options(&mut out, self.rooms, self.except, self.volatile, None);
        if let Some(raw) = raw {
            push_str(&mut out, "raw");
            push_str(&mut out, &raw);
        }
        if let Some(sequence) = self.sequence {
            push_str(&mut out, "seq");
            // Writing to a Vec does not fail.
            let _ = write::write_sint(&mut out, sequence);
        }
        if tracked {
            push_str(&mut out, STAMP);
        }
        Ok(out)
    }
}

pub(super) fn push_str(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec does not fail.
    let _ = write::write_str(out, text);
}

/// Writes `{type: 2, data: [name, …], nsp}`.
pub(super) fn push_packet(out: &mut Vec<u8>, event: &sio::Event<'_>) -> Result<Fidelity, MsgpackError> {
    out.push(0x83);
    push_str(out, "type");
    out.push(2);
    push_str(out, "data");
    let count = u32::try_from(event.args.len() + 1).map_err(|_| MsgpackError::Malformed)?;
    // Writing to a Vec does not fail.
    let _ = write::write_array_len(out, count);
    push_str(out, event.name);
    let mut fidelity = Fidelity::Exact;
    for arg in event.args {
        if json_to_msgpack(arg, event.attachments, out)? == Fidelity::Changed {
            fidelity = Fidelity::Changed;
        }
    }
    push_str(out, "nsp");
    push_str(out, event.namespace);
    Ok(fidelity)
}

/// Writes the entries `rooms`, `except` and `flags` of a map.
pub(super) fn push_options(
    out: &mut Vec<u8>,
    rooms: &[&str],
    except: &[&str],
    volatile: bool,
    timeout_ms: Option<u64>,
) {
    for (key, names) in [("rooms", rooms), ("except", except)] {
        push_str(out, key);
        // Writing to a Vec does not fail.
        let _ = write::write_array_len(out, u32::try_from(names.len()).unwrap_or(u32::MAX));
        for name in names {
            push_str(out, name);
        }
    }
    push_str(out, "flags");
    out.push(0x80 | (u8::from(volatile) + u8::from(timeout_ms.is_some())));
    if volatile {
        push_str(out, "volatile");
        out.push(0xc3);
    }
    if let Some(timeout) = timeout_ms {
        push_str(out, "timeout");
        let _ = write::write_uint(out, timeout);
    }
}

/// Reads a broadcast of at most `max` bytes of text and attachments.
///
/// # Errors
/// [`BroadcastError`]: drop it.
pub fn decode_broadcast(message: &[u8], max: usize) -> Result<Broadcast<'_>, BroadcastError> {
    let input = &mut &message[..];
    let parts = match read_marker(input) {
        Ok(marker @ (Marker::FixArray(_) | Marker::Array16 | Marker::Array32)) => {
            msgpack::length(marker, input)?
        }
        _ => return Err(BroadcastError::Malformed),
    };
    if parts < 3 {
        return Err(BroadcastError::Malformed);
    }
    let mut broadcast = Broadcast { uid: read_uid(input)?, ..Broadcast::default() };
    read_packet(input, &mut broadcast)?;
    read_options(input, &mut broadcast)?;
    let size: usize = broadcast.body.attachments.iter().map(Bytes::len).sum();
    if size + broadcast.body.json.len() > max {
        return Err(BroadcastError::TooBig);
    }
    Ok(broadcast)
}

/// The sender's id, if it is a text or number. Node.js compares it with its own id, and treats any other value as
/// another sender's.
pub(super) fn read_uid<'a>(input: &mut &'a [u8]) -> Result<Cow<'a, str>, BroadcastError> {
    let mut probe = *input;
    if let Ok(uid) = name(&mut probe) {
        *input = probe;
        return Ok(uid);
    }
    skip(input).map(|()| "".into())
}

pub(super) fn entries(input: &mut &[u8]) -> Result<usize, BroadcastError> {
    match read_marker(input) {
        Ok(marker @ (Marker::FixMap(_) | Marker::Map16 | Marker::Map32)) => {
            Ok(msgpack::length(marker, input)?)
        }
        _ => Err(BroadcastError::Malformed),
    }
}

/// A key, or another plain value, as its text.
pub(super) fn read_text<'a>(input: &mut &'a [u8]) -> Result<Cow<'a, str>, BroadcastError> {
    Ok(name(input)?)
}

/// Skips a value.
pub(super) fn skip(input: &mut &[u8]) -> Result<(), BroadcastError> {
    let (mut ignored, mut none) = (String::new(), Vec::new());
    msgpack_to_json(input, &mut ignored, &mut none, 0).map_err(BroadcastError::from)
}

pub(super) fn read_packet<'a>(input: &mut &'a [u8], into: &mut Broadcast<'a>) -> Result<(), BroadcastError> {
    into.namespace = "/".into();
    let (mut is_event, mut has_data) = (false, false);
    for _ in 0..entries(input)? {
        match &*read_text(input)? {
            "type" => is_event = matches!(&*read_text(input)?, "2" | "5"),
            "data" => {
                read_data(input, &mut into.body)?;
                has_data = true;
            }
            "nsp" if is_undefined(input) => skip(input)?,
            "nsp" => into.namespace = read_text(input)?,
            _ => skip(input)?,
        }
    }
    if is_event && has_data { Ok(()) } else { Err(BroadcastError::BadEvent) }
}

/// Reads `[name, …]` as the inside of a JSON array.
fn read_data(input: &mut &[u8], body: &mut Body) -> Result<(), BroadcastError> {
    let count = match read_marker(input) {
        Ok(marker @ (Marker::FixArray(_) | Marker::Array16 | Marker::Array32)) => {
            msgpack::length(marker, input)?
        }
        _ => return Err(BroadcastError::Malformed),
    };
    if count == 0 {
        return Err(BroadcastError::BadEvent);
    }
    if event_name(input).is_none_or(|name| RESERVED_EVENTS.contains(&&*name)) {
        return Err(BroadcastError::BadEvent);
    }
    body.json.reserve(input.len());
    for index in 0..count {
        if index > 0 {
            body.json.push(',');
        }
        msgpack_to_json(input, &mut body.json, &mut body.attachments, 0)?;
    }
    Ok(())
}

/// The event's name at the start of `input`: clients accept texts and numbers.
fn event_name(input: &[u8]) -> Option<Cow<'_, str>> {
    match read_marker(&mut &*input).ok()? {
        Marker::Null | Marker::True | Marker::False | Marker::FixExt1 => None,
        _ => name(&mut &*input).ok(),
    }
}

pub(super) fn read_options<'a>(input: &mut &'a [u8], into: &mut Broadcast<'a>) -> Result<(), BroadcastError> {
    if is_list(input) {
        // PHP writes an empty map as a list, and a list has none of the keys either.
        return skip(input);
    }
    for _ in 0..entries(input)? {
        match &*read_text(input)? {
            "rooms" => into.rooms = javascript::rooms(input)?,
            "except" => into.except = javascript::rooms(input)?,
            "flags" => read_flags(input, into)?,
            "raw" => {
                let raw = read_text(input)?;
                // Messages are trusted only as far as Redis is.
                if crate::json::nests_at_most(&raw, JSON_DEPTH_MAX) && is_json_list(&raw) {
                    into.body = Body { json: raw.into_owned(), attachments: Vec::new() };
                }
            }
            "seq" => into.sequence = read_text(input)?.parse().ok(),
            STAMP => {
                into.stamp = read_text(input)?.split_once(':').and_then(|(epoch, offset)| {
                    Some(Stamp { epoch: epoch.into(), offset: offset.parse().ok()? })
                });
            }
            _ => skip(input)?,
        }
    }
    Ok(())
}

fn is_json_list(raw: &str) -> bool {
    serde_json::from_str::<Vec<&serde_json::value::RawValue>>(&format!("[{raw}]")).is_ok_and(|list| {
        let name = list.first().and_then(|name| serde_json::from_str::<Cow<'_, str>>(name.get()).ok());
        name.is_some_and(|name| !RESERVED_EVENTS.contains(&&*name))
    })
}

fn read_flags(input: &mut &[u8], into: &mut Broadcast<'_>) -> Result<(), BroadcastError> {
    let is_map = matches!(read_marker(&mut &**input), Ok(Marker::FixMap(_) | Marker::Map16 | Marker::Map32));
    if !is_map {
        return skip(input);
    }
    for _ in 0..entries(input)? {
        match &*read_text(input)? {
            "volatile" => into.volatile = javascript::is_truthy(input)?,
            _ => skip(input)?,
        }
    }
    Ok(())
}

fn is_list(input: &[u8]) -> bool {
    matches!(read_marker(&mut &*input), Ok(Marker::FixArray(_) | Marker::Array16 | Marker::Array32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BROADCAST_ROOMS_MAX;

    const MAX: usize = 1_000_000;

    fn event<'a>(args: &'a [&'a str], attachments: &'a [Bytes]) -> sio::Event<'a> {
        sio::Event { namespace: "/a", name: "hi", args, ack: None, attachments }
    }

    fn outgoing<'a>(event: &'a sio::Event<'a>) -> Outgoing<'a> {
        Outgoing { uid: "AbC1", event, rooms: &["r"], except: &["s"], volatile: true, sequence: Some(7) }
    }

    #[test]
    fn the_references_own_message_is_read() {
        // Protocol, 3.1: what socket.io 4.8 with redis-adapter 8.3 published for io.emit("hi", 1, "a").
        let mut wire = b"\x93\xa6RnwBcF\x83\xa4type\x02\xa4data\x93\xa2hi\x01\xa1a\xa3nsp\xa1/".to_vec();
        wire.extend(b"\x83\xa5rooms\x90\xa6except\x90\xa5flags\x80");
        let read = decode_broadcast(&wire, MAX).unwrap();
        assert_eq!((&*read.uid, &*read.namespace, &*read.body.json), ("RnwBcF", "/", "\"hi\",1,\"a\""));
        assert!(read.rooms.is_empty() && read.except.is_empty() && !read.volatile && read.stamp.is_none());
        let expected =
            sio::Event { namespace: "/", name: "hi", args: &["1", "\"a\""], ack: None, attachments: &[] };
        assert_eq!(read.body.encode("/", None), expected.encode());
    }

    #[test]
    fn our_broadcasts_return_with_their_stamp() {
        let attachments = [Bytes::from_static(b"\x01\x02")];
        let event = event(&["{\"_placeholder\":true,\"num\":0}", "2"], &attachments);
        let mut wire = outgoing(&event).encode(true).unwrap();
        push_str(&mut wire, "e1:42");
        let read = decode_broadcast(&wire, MAX).unwrap();
        assert_eq!(read.body.encode("/a", None), event.encode());
        assert_eq!(read.rooms.as_slice(), ["r"]);
        assert_eq!(read.except.as_slice(), ["s"]);
        assert!(read.volatile);
        assert_eq!(read.stamp, Some(Stamp { epoch: "e1".into(), offset: 42 }));
        assert_eq!(read.sequence, Some(7));
        let plain = outgoing(&event).encode(false).unwrap();
        assert_eq!(decode_broadcast(&plain, MAX).unwrap().stamp, None);
    }

    #[test]
    fn every_form_that_the_adapter_accepts_is_read() {
        use serde_json::json;
        let packet = json!({"type": 2, "data": ["hi"], "nsp": "/a"});
        let read = |message: &serde_json::Value| {
            let mut wire = Vec::new();
            json_to_msgpack(&message.to_string(), &[], &mut wire).unwrap();
            decode_broadcast(&wire, MAX).map(|broadcast| {
                let names = |rooms: Rooms<'_>| rooms.iter().map(|room| room.to_string()).collect::<Vec<_>>();
                (names(broadcast.rooms), names(broadcast.except), broadcast.volatile)
            })
        };
        let to_all = (vec![], vec![], false);
        for options in [
            json!({"rooms": "", "except": ""}),
            json!({"rooms": null, "except": null, "flags": null}),
            json!({"rooms": [], "flags": []}),
            json!({"flags": {"volatile": 0, "compress": true, "deep": {"volatile": true}}}),
            json!({"flags": true}),
            json!({}),
            json!([]),
            json!([1]),
        ] {
            assert_eq!(read(&json!(["e", packet, options])), Ok(to_all.clone()), "{options}");
        }
        for uid in [json!(null), json!(7), json!(1.5), json!({}), json!([])] {
            assert_eq!(read(&json!([uid, packet, {}, "more"])), Ok(to_all.clone()), "{uid}");
        }
        let some = read(&json!(["e", packet, {"rooms": "ab", "except": [1.5], "flags": {"volatile": 1}}]));
        assert_eq!(some, Ok((vec!["a".into(), "b".into()], vec!["1.5".into()], true)));
        for (options, error) in [
            (json!({"rooms": {}}), BroadcastError::Rooms),
            (json!({"rooms": 7}), BroadcastError::Rooms),
            (json!({"except": true}), BroadcastError::Rooms),
            (json!("x"), BroadcastError::Malformed),
            (json!(null), BroadcastError::Malformed),
        ] {
            assert_eq!(read(&json!(["e", packet, options])), Err(error), "{options}");
        }
        assert_eq!(read(&json!(["e", packet])), Err(BroadcastError::Malformed));
        for data in
            [json!([]), json!([null, 1]), json!([true]), json!([[]]), json!([{}]), json!("x"), json!(null)]
        {
            let bad = json!(["e", {"type": 2, "data": data}, {}]);
            assert!(read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_without_a_msgpack_form_are_sent_beside_it() {
        let event = event(&[r#""\ud83d""#, "1e400"], &[]);
        let wire = outgoing(&event).encode(false).unwrap();
        assert_eq!(decode_broadcast(&wire, MAX).unwrap().body.encode("/a", None), event.encode());
    }

    #[test]
    fn events_that_may_not_be_emitted_are_refused() {
        let reserved = sio::Event { name: "disconnect", ..event(&[], &[]) };
        let wire = outgoing(&reserved).encode(false).unwrap();
        assert_eq!(decode_broadcast(&wire, MAX), Err(BroadcastError::BadEvent));
        let long = format!("\"{}\"", "x".repeat(100));
        let args = [&*long];
        let big = event(&args, &[]);
        let wire = outgoing(&big).encode(false).unwrap();
        assert_eq!(decode_broadcast(&wire, 50), Err(BroadcastError::TooBig));
        let many = vec!["r"; BROADCAST_ROOMS_MAX + 1];
        let small = event(&[], &[]);
        let wire = Outgoing { rooms: &many, ..outgoing(&small) }.encode(false).unwrap();
        assert_eq!(decode_broadcast(&wire, MAX), Err(BroadcastError::TooManyRooms));
        for bad in [&b""[..], b"{}", b"\x93", b"\x93\xa1a\x80\x80", b"\x93\xa1a\x90\x80", b"\x92\xa1a\x80"] {
            assert!(decode_broadcast(bad, MAX).is_err());
        }
    }
}

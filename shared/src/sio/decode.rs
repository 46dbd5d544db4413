//! Decodes the text of a Socket.IO packet to a [`Packet`] (protocol, 2.1).
//!
//! Stricter than the reference where no client is affected: a bare `42` closes, ack ids end at 2^53−1, and JSON
//! may nest [`JSON_DEPTH_MAX`] deep.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::RESERVED_EVENTS;
use crate::json::nests_at_most;
use crate::limits::{ACK_ID_MAX, ARGUMENTS_MAX, ATTACHMENTS_MAX, JSON_DEPTH_MAX};

/// A malformed packet; the whole session is closed, as in the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header or the JSON is malformed, or the payload does not fit the packet's type.
    #[error("malformed Socket.IO packet")]
    Malformed,
    /// None, or more than [`ATTACHMENTS_MAX`], attachments announced.
    #[error("bad number of attachments")]
    Attachments,
    /// A text while attachments are awaited, or an unexpected attachment.
    #[error("attachments out of order")]
    OutOfOrder,
    /// A placeholder that names no attachment.
    #[error("illegal placeholder")]
    Placeholder,
    /// The attachments of one packet exceed the limit of one message.
    #[error("attachments too big")]
    TooBig,
    /// JSON nested too deep.
    #[error("JSON nested too deep")]
    Depth,
}

/// Arguments of an event or ack, each as raw JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Args<'a> {
    /// At most [`ARGUMENTS_MAX`].
    pub raw: SmallVec<[&'a str; 2]>,
    /// There were more; the event must be refused.
    pub too_many: bool,
}

/// The type and content of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Joins a namespace.
    Connect {
        /// The auth payload, a JSON object; `None` means `{}`.
        auth: Option<&'a str>,
    },
    /// Leaves a namespace.
    Disconnect,
    /// An event with its arguments.
    Event {
        /// Any text except reserved ones; a number becomes its text.
        name: Cow<'a, str>,
        /// The arguments after the name.
        args: Args<'a>,
        /// The sender requests an ack under this id.
        ack: Option<u64>,
    },
    /// The ack to an event of the server.
    Ack {
        /// `None` is ignored, as in the reference.
        id: Option<u64>,
        /// The arguments.
        args: Args<'a>,
    },
}

/// One packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The namespace as written; `/` by default.
    pub namespace: &'a str,
    /// How many binary messages follow.
    pub attachments: usize,
    /// Its type and content.
    pub kind: Kind<'a>,
}

/// Decodes the text of a packet (without Engine.IO's `4`).
///
/// # Errors
/// [`DecodeError`]: close the session.
pub fn decode(text: &str) -> Result<Packet<'_>, DecodeError> {
    let &kind = text.as_bytes().first().ok_or(DecodeError::Malformed)?;
    // A type is one byte; a longer character is not a type.
    let mut rest = text.get(1..).ok_or(DecodeError::Malformed)?;
    let mut attachments = 0;
    if matches!(kind, b'5' | b'6') {
        let (count, tail) = rest.split_once('-').ok_or(DecodeError::Attachments)?;
        attachments = digits(count)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=ATTACHMENTS_MAX).contains(n))
            .ok_or(DecodeError::Attachments)?;
        rest = tail;
    }
    let mut namespace = "/";
    if rest.starts_with('/') {
        // However long: a CONNECT to an invalid namespace gets the same answer as one to an unknown namespace.
        (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
    }
    let end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    let (id, json) = rest.split_at(end);
    let id = if id.is_empty() {
        None
    } else {
        Some(digits(id).filter(|id| *id <= ACK_ID_MAX).ok_or(DecodeError::Malformed)?)
    };
    if !nests_at_most(json, JSON_DEPTH_MAX) {
        return Err(DecodeError::Depth);
    }
    let kind = match kind {
        b'0' => Kind::Connect { auth: object(json)? },
        b'1' if json.is_empty() => Kind::Disconnect,
        b'2' | b'5' => {
            let (name, args) = array::<true>(json)?;
            Kind::Event { name, args, ack: id }
        }
        b'3' | b'6' => Kind::Ack { id, args: array::<false>(json)?.1 },
        _ => return Err(DecodeError::Malformed),
    };
    Ok(Packet { namespace, attachments, kind })
}

/// Decimal digits that fit into a `u64`, without a sign.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn object(json: &str) -> Result<Option<&str>, DecodeError> {
    if json.is_empty() {
        return Ok(None);
    }
    let raw: &RawValue = serde_json::from_str(json).map_err(|_| DecodeError::Malformed)?;
    if raw.get().starts_with('{') { Ok(Some(raw.get())) } else { Err(DecodeError::Malformed) }
}

fn array<const NAMED: bool>(json: &str) -> Result<(Cow<'_, str>, Args<'_>), DecodeError> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let found = reader
        .deserialize_seq(ArgsVisitor::<NAMED>)
        .and_then(|found| reader.end().map(|()| found))
        .map_err(|_| DecodeError::Malformed)?;
    Ok(found)
}

struct ArgsVisitor<const NAMED: bool>;

impl<'de, const NAMED: bool> Visitor<'de> for ArgsVisitor<NAMED> {
    type Value = (Cow<'de, str>, Args<'de>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of arguments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut name = Cow::Borrowed("");
        if NAMED {
            let first: Option<&RawValue> = seq.next_element()?;
            name = first
                .and_then(|raw| event_name(raw.get()))
                .ok_or_else(|| serde::de::Error::custom("not an event name"))?;
        }
        let mut args = Args::default();
        while args.raw.len() < ARGUMENTS_MAX {
            match seq.next_element::<&RawValue>()? {
                Some(raw) => args.raw.push(raw.get()),
                None => return Ok((name, args)),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            args.too_many = true;
        }
        Ok((name, args))
    }
}

/// A string that is not reserved, or a number as its text.
fn event_name(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first()? {
        b'"' => {
            // Without a backslash the text is in the packet as is.
            let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
            let name = if inner.contains('\\') {
                // A lone surrogate is valid JSON but not Unicode: no app has an event of that name.
                serde_json::from_str(raw).map_or(Cow::Borrowed(inner), Cow::Owned)
            } else {
                Cow::Borrowed(inner)
            };
            (!RESERVED_EVENTS.contains(&&*name)).then_some(name)
        }
        b'0'..=b'9' | b'-' => Some(Cow::Borrowed(raw)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_arguments_as_they_were_sent() {
        let packet = decode(r#"2/relay,17["m",{"b":1,"a":1e400},"\ud83d"]"#).unwrap();
        assert_eq!(packet.namespace, "/relay");
        let Kind::Event { name, args, ack } = packet.kind else { panic!("an event") };
        assert_eq!((&*name, ack), ("m", Some(17)));
        assert_eq!(args.raw.as_slice(), [r#"{"b":1,"a":1e400}"#, r#""\ud83d""#]);
    }

    #[test]
    fn packets_that_close_the_session_are_not_decoded() {
        let too_many = format!("4{}-[\"e\"]", ATTACHMENTS_MAX + 1);
        for bad in [
            "",
            "abc",
            "7",
            "0[]",
            "0\"x\"",
            "0{",
            "1[\"x\"]",
            "2",
            "2[]",
            "2{}",
            "2\"x\"",
            "2[null]",
            "2[{}]",
            "2[\"connect\"]",
            "2[\"disconnect\"]",
            "4{\"message\":\"x\"}",
            "21.5[\"e\"]",
            "2abc[\"m\"]",
            "2-1[\"m\"]",
            "299999999999999999999[\"m\"]",
            "29007199254740992[\"m\"]",
            "50-[\"e\"]",
            "5-[\"e\"]",
            "51[\"e\"]",
            "5x-[\"e\"]",
            "511-[\"e\"]",
            "51e3-[\"e\"]",
            "599999999-[\"e\"]",
            "3{}",
            "2[\"e\"]x",
            "-1",
            &too_many,
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_may_nest_so_deep_and_no_deeper() {
        let nest = |n: usize| format!("2[\"e\",{}{}]", "[".repeat(n), "]".repeat(n));
        assert!(decode(&nest(JSON_DEPTH_MAX - 1)).is_ok());
        assert_eq!(decode(&nest(JSON_DEPTH_MAX)), Err(DecodeError::Depth));
        // Brackets in a text do not nest.
        assert!(decode(&format!("2[\"e\",\"{}\"]", "[".repeat(5000))).is_ok());
    }

    #[test]
    fn arguments_over_the_limit_are_reported_and_not_kept() {
        let with = |n: usize| format!("2[\"e\"{}]", ",1".repeat(n));
        let packet = |text: &str| match decode(text).unwrap().kind {
            Kind::Event { args, .. } => (args.raw.len(), args.too_many),
            _ => panic!("an event"),
        };
        assert_eq!(packet(&with(ARGUMENTS_MAX)), (ARGUMENTS_MAX, false));
        assert_eq!(packet(&with(100_000)), (ARGUMENTS_MAX, true));
    }

    #[test]
    fn a_namespace_may_end_with_the_packet() {
        assert_eq!(decode("0/custom").unwrap().namespace, "/custom");
        assert_eq!(decode("0/custom,").unwrap().namespace, "/custom");
        let long = format!("/{}", "x".repeat(5_000));
        assert_eq!(decode(&format!("0{long}")).unwrap().namespace, long);
    }
}

//! Reads values as Node.js' adapter does where it expects another type: rooms that are numbers, lists that are texts, flags
//! that are numbers. Emitters in other languages write many of these.
//!
//! Node.js makes a set of any value of `rooms` and `except`. A missing value is an empty set, which means all sockets; a list
//! is its items; a text is each of its characters, so that the empty text means all sockets, too. Any other value fails, here
//! as well.

use std::borrow::Cow;

use rmp::Marker;
use rmp::decode::read_marker;
use serde_json::value::RawValue;

use super::extension::{self, Extension, is_undefined};
use super::msgpack::{self, MsgpackError, number_text};
use crate::limits::BROADCAST_ROOMS_MAX;

/// Why a value is not a list of rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadRooms {
    /// Node.js cannot make a set of it.
    Malformed,
    /// More than [`BROADCAST_ROOMS_MAX`].
    TooMany,
}

impl From<MsgpackError> for BadRooms {
    fn from(_: MsgpackError) -> Self {
        Self::Malformed
    }
}

/// A plain value of msgpack as its text: JavaScript's rooms may be numbers, or even `true`.
pub(super) fn name<'a>(input: &mut &'a [u8]) -> Result<Cow<'a, str>, MsgpackError> {
    Ok(match read_marker(input).map_err(|_| MsgpackError::Malformed)? {
        marker @ (Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32) => {
            msgpack::text(marker, input)?
        }
        Marker::True => "true".into(),
        Marker::False => "false".into(),
        Marker::Null => "null".into(),
        marker @ (Marker::F32 | Marker::F64) => number_text(msgpack::float(marker, input)?).into(),
        marker @ Marker::FixExt1 => match extension::read(marker, input)? {
            Extension::Undefined => "undefined".into(),
            Extension::Date(_) | Extension::Bytes(_) | Extension::Unknown(..) => {
                return Err(MsgpackError::Malformed);
            }
        },
        marker => msgpack::integer(marker, input)?.into(),
    })
}

/// Rooms in msgpack.
pub(super) fn rooms<'a, L: Default + Extend<Cow<'a, str>>>(input: &mut &'a [u8]) -> Result<L, BadRooms> {
    let mut list = L::default();
    if is_undefined(input) {
        msgpack::take(input, 3)?;
        return Ok(list);
    }
    match read_marker(input).map_err(|_| BadRooms::Malformed)? {
        Marker::Null => {}
        marker @ (Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32) => {
            list.extend(characters(&msgpack::text(marker, input)?)?.into_iter().map(Cow::Owned));
        }
        marker @ (Marker::FixArray(_) | Marker::Array16 | Marker::Array32) => {
            let count = msgpack::length(marker, input)?;
            if count > BROADCAST_ROOMS_MAX {
                return Err(BadRooms::TooMany);
            }
            for _ in 0..count {
                list.extend([name(input)?]);
            }
        }
        _ => return Err(BadRooms::Malformed),
    }
    Ok(list)
}

/// Each character of a text as a room.
fn characters(text: &str) -> Result<Vec<String>, BadRooms> {
    if text.chars().count() > BROADCAST_ROOMS_MAX {
        return Err(BadRooms::TooMany);
    }
    Ok(text.chars().map(String::from).collect())
}

/// Whether the value is truthy in JavaScript. Removes it from the input.
pub(super) fn is_truthy(input: &mut &[u8]) -> Result<bool, MsgpackError> {
    let (mut json, mut binary) = (String::new(), Vec::new());
    if is_undefined(input) {
        msgpack::take(input, 3)?;
        return Ok(false);
    }
    msgpack::msgpack_to_json(input, &mut json, &mut binary, 0)?;
    Ok(is_truthy_json(&json))
}

/// Whether a JSON value is truthy in JavaScript.
pub(super) fn is_truthy_json(json: &str) -> bool {
    match json.trim_ascii() {
        "" | "null" | "false" | "\"\"" => false,
        number if number.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
            number.parse::<f64>().is_ok_and(|number| number != 0.0)
        }
        _ => true,
    }
}

/// Rooms in JSON that Node.js makes a set of.
pub(super) fn json_rooms(json: Option<&RawValue>) -> Result<Vec<String>, BadRooms> {
    let Some(json) = json.map(RawValue::get) else { return Ok(Vec::new()) };
    match json.as_bytes().first() {
        Some(b'[') => json_names(json),
        Some(b'"') => characters(&json_name(json).ok_or(BadRooms::Malformed)?),
        Some(b'n') => Ok(Vec::new()),
        _ => Err(BadRooms::Malformed),
    }
}

/// Rooms in JSON that sockets enter or leave: a list, or a single one.
pub(super) fn json_list(json: &str) -> Result<Vec<String>, BadRooms> {
    match json.as_bytes().first() {
        Some(b'[') => json_names(json),
        _ => Ok(vec![json_name(json).ok_or(BadRooms::Malformed)?]),
    }
}

fn json_names(json: &str) -> Result<Vec<String>, BadRooms> {
    let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| BadRooms::Malformed)?;
    if items.len() > BROADCAST_ROOMS_MAX {
        return Err(BadRooms::TooMany);
    }
    items.iter().map(|item| json_name(item.get()).ok_or(BadRooms::Malformed)).collect()
}

/// A plain value of JSON as its text.
pub(super) fn json_name(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => crate::json::read(json).ok(),
        b'{' | b'[' => None,
        b't' | b'f' | b'n' => Some(json.to_owned()),
        _ if json.parse::<i64>().is_ok() => Some(json.to_owned()),
        _ => json.parse().ok().map(number_text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &serde_json::Value) -> Vec<u8> {
        let mut out = Vec::new();
        msgpack::json_to_msgpack(&value.to_string(), &[], &mut out).unwrap();
        out
    }

    #[test]
    fn rooms_are_read_as_node_js_reads_them() {
        use serde_json::json;
        for (value, expected) in [
            (json!(null), Some(vec![])),
            (json!(""), Some(vec![])),
            (json!([]), Some(vec![])),
            (json!("aé"), Some(vec!["a", "é"])),
            (
                json!(["a b", "", 7, -1, 1.5, true, null]),
                Some(vec!["a b", "", "7", "-1", "1.5", "true", "null"]),
            ),
            (json!({}), None),
            (json!({"0": "a"}), None),
            (json!(7), None),
            (json!(false), None),
            (json!([["a"]]), None),
            (json!([{}]), None),
        ] {
            let expected = expected.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
            let bytes = written(&value);
            let read: Result<Vec<Cow<'_, str>>, _> = rooms(&mut &bytes[..]);
            assert_eq!(
                read.ok().map(|names| names.into_iter().map(Cow::into_owned).collect()),
                expected,
                "{value}"
            );
            let text = value.to_string();
            let raw: &RawValue = serde_json::from_str(&text).unwrap();
            assert_eq!(json_rooms(Some(raw)).ok(), expected, "{value}");
        }
        let none: Vec<Cow<'_, str>> = rooms(&mut &[0xd4, 0, 0][..]).unwrap();
        assert_eq!((none.len(), json_rooms(None).unwrap().len()), (0, 0));
        assert_eq!(json_list("\"one\"").unwrap(), ["one"]);
        assert_eq!(json_list(r#"["\ud83d",1e3]"#).unwrap(), ["\u{fffd}", "1000"]);
    }

    #[test]
    fn truthiness_is_that_of_javascript() {
        for (json, expected) in [
            ("true", true),
            ("1", true),
            ("-1", true),
            ("0.5", true),
            ("\"0\"", true),
            ("[]", true),
            ("{}", true),
            ("false", false),
            ("0", false),
            ("0.0", false),
            ("-0", false),
            ("\"\"", false),
            ("null", false),
        ] {
            let bytes = written(&serde_json::from_str(json).unwrap());
            assert_eq!(
                (is_truthy(&mut &bytes[..]).unwrap(), is_truthy_json(json)),
                (expected, expected),
                "{json}"
            );
        }
    }
}

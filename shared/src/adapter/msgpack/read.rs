//! Converts msgpack to JSON text, value by value.

use bytes::Bytes;
use rmp::Marker;
use rmp::decode::read_marker;

use super::super::extension::{self, Extension, is_undefined};
use super::marker::{float, integer, length, take, text};
use super::{MsgpackError, number_text, push_json_str};
use crate::limits::{ATTACHMENTS_MAX, JSON_DEPTH_MAX};

/// Writes one msgpack value as JSON text to `out` and removes it from `input`; binary values go to `attachments` and are
/// replaced by placeholders.
///
/// A map's keys that are not strings become strings. Values without a JSON form are written as `JSON.stringify` writes
/// them on a Node.js server that has read the same bytes: dates as ISO 8601 texts, `undefined` as `null`, or omitted
/// where it is the value of a key.
///
/// # Errors
/// [`MsgpackError`]; `out` is then unusable.
pub fn msgpack_to_json(
    input: &mut &[u8],
    out: &mut String,
    attachments: &mut Vec<Bytes>,
    depth: usize,
) -> Result<(), MsgpackError> {
    if depth > JSON_DEPTH_MAX {
        return Err(MsgpackError::Depth);
    }
    match read_marker(input).map_err(|_| MsgpackError::Malformed)? {
        Marker::Null => out.push_str("null"),
        Marker::True => out.push_str("true"),
        Marker::False => out.push_str("false"),
        marker @ (Marker::FixArray(_) | Marker::Array16 | Marker::Array32) => {
            let count = length(marker, input)?;
            out.push('[');
            for index in 0..count {
                if index > 0 {
                    out.push(',');
                }
                msgpack_to_json(input, out, attachments, depth + 1)?;
            }
            out.push(']');
        }
        marker @ (Marker::FixMap(_) | Marker::Map16 | Marker::Map32) => {
            map_to_json(length(marker, input)?, input, (out, attachments), depth)?;
        }
        marker @ (Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32) => {
            push_json_str(&text(marker, input)?, out);
        }
        marker @ (Marker::Bin8 | Marker::Bin16 | Marker::Bin32) => {
            let length = length(marker, input)?;
            push_attachment(take(input, length)?, out, attachments)?;
        }
        marker @ (Marker::F32 | Marker::F64) => push_number(float(marker, input)?, out),
        marker @ (Marker::FixExt1
        | Marker::FixExt2
        | Marker::FixExt4
        | Marker::FixExt8
        | Marker::FixExt16
        | Marker::Ext8
        | Marker::Ext16
        | Marker::Ext32) => push_extension(extension::read(marker, input)?, out, attachments)?,
        marker => out.push_str(&integer(marker, input)?),
    }
    Ok(())
}

/// Writes a map of `count` entries.
fn map_to_json(
    count: usize,
    input: &mut &[u8],
    (out, attachments): (&mut String, &mut Vec<Bytes>),
    depth: usize,
) -> Result<(), MsgpackError> {
    out.push('{');
    let mut is_first = true;
    for _ in 0..count {
        let before = out.len();
        if !is_first {
            out.push(',');
        }
        key_to_json(input, out, depth + 1)?;
        if is_undefined(input) {
            // As in `JSON.stringify`: its key is omitted as well.
            take(input, 3)?;
            out.truncate(before);
            continue;
        }
        is_first = false;
        out.push(':');
        msgpack_to_json(input, out, attachments, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

fn push_extension(
    extension: Extension<'_>,
    out: &mut String,
    attachments: &mut Vec<Bytes>,
) -> Result<(), MsgpackError> {
    match extension {
        Extension::Undefined => out.push_str("null"),
        Extension::Date(millis) => match millis.and_then(extension::iso) {
            Some(date) => push_json_str(&date, out),
            None => out.push_str("null"),
        },
        Extension::Bytes(data) => push_attachment(data, out, attachments)?,
        Extension::Unknown(kind, data) => {
            out.push('[');
            out.push_str(&kind.to_string());
            out.push(',');
            push_attachment(data, out, attachments)?;
            out.push(']');
        }
    }
    Ok(())
}

/// Keeps binary data as an attachment, and writes its placeholder.
fn push_attachment(data: &[u8], out: &mut String, attachments: &mut Vec<Bytes>) -> Result<(), MsgpackError> {
    if attachments.len() >= ATTACHMENTS_MAX {
        return Err(MsgpackError::Attachments);
    }
    out.push_str("{\"_placeholder\":true,\"num\":");
    out.push_str(&attachments.len().to_string());
    out.push('}');
    attachments.push(Bytes::copy_from_slice(data));
    Ok(())
}

/// A key: a text, or a plain value as its text. A nested key would be quoted once more at each depth, and grow without
/// bound.
fn key_to_json(input: &mut &[u8], out: &mut String, depth: usize) -> Result<(), MsgpackError> {
    let start = out.len();
    let mut none = Vec::new();
    let mut probe = *input;
    let is_text = match read_marker(&mut probe).map_err(|_| MsgpackError::Malformed)? {
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => true,
        Marker::FixMap(_)
        | Marker::Map16
        | Marker::Map32
        | Marker::FixArray(_)
        | Marker::Array16
        | Marker::Array32 => return Err(MsgpackError::Malformed),
        _ => false,
    };
    msgpack_to_json(input, out, &mut none, depth)?;
    if !is_text {
        let key = out.split_off(start);
        push_json_str(&key, out);
    }
    if none.is_empty() { Ok(()) } else { Err(MsgpackError::Malformed) }
}

fn push_number(number: f64, out: &mut String) {
    if number.is_finite() {
        out.push_str(&number_text(number));
    } else {
        out.push_str("null");
    }
}

//! JSON text to msgpack and back, without a tree between.
//!
//! Binary arguments are placeholders in JSON and `bin` in msgpack; both directions number them in the order
//! of the text.
//!
//! Ours, on `rmp`'s primitives, because a tree costs more than all the rest. Counted under callgrind for a publish of 128
//! bytes: by way of `serde_json::Value` and `rmp-serde` its argument alone takes 4,300 instructions to write and 5,400 to
//! read; the whole message, with its channel's fields and the frames that come out, takes 3,000 and 5,700 here.

use std::borrow::Cow;
use std::cmp::Reverse;

use super::extension::{self, Extension, is_undefined};
use crate::json::{self, count};
use crate::limits::{ATTACHMENTS_MAX, JSON_DEPTH_MAX};
use crate::sio::placeholders::{self, Found};
use bytes::Bytes;
use rmp::Marker;
use rmp::decode::read_marker;
use rmp::encode as write;

/// Whether what was written says exactly what the JSON said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// Writing it back gives the same text, byte for byte.
    Exact,
    /// A number, a lone surrogate or the spacing is not what it was.
    Changed,
}

/// Bytes or text that cannot be carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MsgpackError {
    /// Not msgpack, or not JSON.
    #[error("malformed")]
    Malformed,
    /// Nested deeper than [`JSON_DEPTH_MAX`].
    #[error("nested too deep")]
    Depth,
    /// More than [`ATTACHMENTS_MAX`] binary values, a placeholder that names none, or two that name one.
    #[error("bad binary values")]
    Attachments,
}

/// Writes JSON text as msgpack; placeholders become the `attachments` that they name.
///
/// # Errors
/// [`MsgpackError`]; `out` is then of no use.
pub fn json_to_msgpack(
    json: &str,
    attachments: &[Bytes],
    out: &mut Vec<u8>,
) -> Result<Fidelity, MsgpackError> {
    let mut placeholders = if attachments.is_empty() {
        Vec::new()
    } else {
        placeholders::find(json, attachments.len()).map_err(|_| MsgpackError::Attachments)?
    };
    // The next is the last; of one within another only the outer is met.
    placeholders.sort_by_key(|found| Reverse(found.at.start));
    let mut scanner =
        Scanner { text: json, at: 0, attachments, placeholders, used: Vec::new(), out, exact: true };
    scanner.value(0)?;
    scanner.space();
    if scanner.at == json.len() {
        Ok(if scanner.exact { Fidelity::Exact } else { Fidelity::Changed })
    } else {
        Err(MsgpackError::Malformed)
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    attachments: &'a [Bytes],
    /// Those not met yet, the next one last.
    placeholders: Vec<Found>,
    /// Attachments that have been written.
    used: Vec<usize>,
    out: &'a mut Vec<u8>,
    exact: bool,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
            self.exact = false;
        }
    }

    fn take(&mut self, expected: &str) -> Result<(), MsgpackError> {
        let rest = self.text.get(self.at..).ok_or(MsgpackError::Malformed)?;
        if !rest.starts_with(expected) {
            return Err(MsgpackError::Malformed);
        }
        self.at += expected.len();
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), MsgpackError> {
        if depth > JSON_DEPTH_MAX {
            return Err(MsgpackError::Depth);
        }
        self.space();
        match self.peek().ok_or(MsgpackError::Malformed)? {
            b'{' => {
                if self.binary()? {
                    return Ok(());
                }
                self.container(depth, b'}')
            }
            b'[' => self.container(depth, b']'),
            b'"' => self.string(),
            b't' => self.take("true").map(|()| self.out.push(0xc3)),
            b'f' => self.take("false").map(|()| self.out.push(0xc2)),
            b'n' => self.take("null").map(|()| self.out.push(0xc0)),
            _ => self.number(),
        }
    }

    /// Writes a placeholder as what it stands for; false when the object is none.
    fn binary(&mut self) -> Result<bool, MsgpackError> {
        while self.placeholders.pop_if(|found| found.at.start < self.at).is_some() {}
        let Some(found) = self.placeholders.pop_if(|found| found.at.start == self.at) else {
            return Ok(false);
        };
        // Named once each: what a text of one size may grow to has a bound.
        if self.used.contains(&found.num) {
            return Err(MsgpackError::Attachments);
        }
        self.used.push(found.num);
        let data = self.attachments.get(found.num).ok_or(MsgpackError::Attachments)?;
        write::write_bin(self.out, data).map_err(|_| MsgpackError::Malformed)?;
        self.at = found.at.end;
        Ok(true)
    }

    /// Writes an array or object; its length is known at its end only, so the header is put in afterwards.
    fn container(&mut self, depth: usize, close: u8) -> Result<(), MsgpackError> {
        self.at += 1;
        let start = self.out.len();
        // Room for the short header; longer ones move what follows.
        self.out.push(0);
        let mut count = 0_u32;
        self.space();
        while self.peek() != Some(close) {
            if count > 0 {
                self.take(",")?;
                self.space();
            }
            if close == b'}' {
                if self.peek() != Some(b'"') {
                    return Err(MsgpackError::Malformed);
                }
                self.string()?;
                self.space();
                self.take(":")?;
            }
            self.value(depth + 1)?;
            self.space();
            count = count.checked_add(1).ok_or(MsgpackError::Malformed)?;
        }
        self.at += 1;
        let (short, long) = if close == b'}' { (0x80, 0xde) } else { (0x90, 0xdc) };
        match (u8::try_from(count), u16::try_from(count)) {
            (Ok(count @ 0..=15), _) => self.out[start] = short | count,
            (_, Ok(count)) => {
                let [high, low] = count.to_be_bytes();
                self.out.splice(start..=start, [long, high, low]);
            }
            _ => {
                let [a, b, c, d] = count.to_be_bytes();
                self.out.splice(start..=start, [long + 1, a, b, c, d]);
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), MsgpackError> {
        let body = &self.text.as_bytes()[self.at + 1..];
        let mut length = memchr::memchr2(b'"', b'\\', body).ok_or(MsgpackError::Malformed)?;
        let escaped = body[length] == b'\\';
        while body.get(length) != Some(&b'"') {
            // A backslash: what it escapes is no end.
            let rest = body.get(length + 2..).ok_or(MsgpackError::Malformed)?;
            length += 2 + memchr::memchr2(b'"', b'\\', rest).ok_or(MsgpackError::Malformed)?;
        }
        let raw = &self.text[self.at + 1..self.at + 1 + length];
        if count(raw, |byte| byte < 0x20) > 0 {
            return Err(MsgpackError::Malformed);
        }
        self.at += length + 2;
        let text = if escaped { self.unescape(raw)? } else { Cow::Borrowed(raw) };
        write::write_str(self.out, &text).map_err(|_| MsgpackError::Malformed)
    }

    fn unescape<'a>(&mut self, raw: &'a str) -> Result<Cow<'a, str>, MsgpackError> {
        let quoted = format!("\"{raw}\"");
        let text = json::read::<String>(&quoted).map_err(|_| MsgpackError::Malformed)?;
        if self.exact {
            let mut again = String::with_capacity(quoted.len());
            push_json_str(&text, &mut again);
            self.exact = again == quoted;
        }
        Ok(Cow::Owned(text))
    }

    fn number(&mut self) -> Result<(), MsgpackError> {
        let rest = &self.text[self.at..];
        let end = rest
            .bytes()
            .position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        let text = &rest[..end];
        self.at += end;
        // Rust reads more as a number than JSON does.
        let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
        if !matches!(digits, [b'1'..=b'9', ..] | [b'0'] | [b'0', b'.' | b'e' | b'E', ..]) {
            return Err(MsgpackError::Malformed);
        }
        if let Ok(number) = text.parse::<i64>()
            && text != "-0"
        {
            write::write_sint(self.out, number).map_err(|_| MsgpackError::Malformed)?;
            return Ok(());
        }
        if let Ok(number) = text.parse::<u64>() {
            write::write_uint(self.out, number).map_err(|_| MsgpackError::Malformed)?;
            return Ok(());
        }
        let number: f64 = text.parse().map_err(|_| MsgpackError::Malformed)?;
        if !number.is_finite() || number_text(number) != text {
            self.exact = false;
        }
        let number = if number.is_finite() { number } else { f64::MAX.copysign(number) };
        write::write_f64(self.out, number).map_err(|_| MsgpackError::Malformed)
    }
}

/// A number as JavaScript writes it where that is plain; as Rust does where it is not.
pub(super) fn number_text(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    if number.fract() == 0.0 && number.abs() < 1e21 {
        return format!("{number:.0}");
    }
    serde_json::to_string(&number).unwrap_or_default()
}

fn push_json_str(text: &str, out: &mut String) {
    if count(text, |byte| byte < 0x20 || byte == b'"' || byte == b'\\') == 0 {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Writing a string cannot fail.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// Writes one msgpack value as JSON text to `out` and takes it off `input`; binary values go to
/// `attachments`, a placeholder takes their place.
///
/// A map's keys that are no strings become strings. What JSON has no word for is written as `JSON.stringify` writes it in
/// a Node.js server that has read the same bytes: dates as ISO 8601 texts, `undefined` as `null`, or not at all where it
/// is the value of a key.
///
/// # Errors
/// [`MsgpackError`]; `out` is then of no use.
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
            // As in `JSON.stringify`: the key is left out with it.
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

/// Keeps binary data as an attachment, and writes the placeholder that stands for it.
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

/// The number of entries or bytes that a marker announces; never more than the input could hold.
pub(super) fn length(marker: Marker, input: &mut &[u8]) -> Result<usize, MsgpackError> {
    let length = match marker {
        Marker::FixArray(n) | Marker::FixMap(n) | Marker::FixStr(n) => usize::from(n),
        Marker::Str8 | Marker::Bin8 | Marker::Ext8 => usize::from(read(input, u8::from_be_bytes)?),
        Marker::Array16 | Marker::Map16 | Marker::Str16 | Marker::Bin16 | Marker::Ext16 => {
            usize::from(read(input, u16::from_be_bytes)?)
        }
        Marker::Array32 | Marker::Map32 | Marker::Str32 | Marker::Bin32 | Marker::Ext32 => {
            usize::try_from(read(input, u32::from_be_bytes)?).map_err(|_| MsgpackError::Malformed)?
        }
        Marker::FixExt1 => 1,
        Marker::FixExt2 => 2,
        Marker::FixExt4 => 4,
        Marker::FixExt8 => 8,
        Marker::FixExt16 => 16,
        _ => return Err(MsgpackError::Malformed),
    };
    if length <= input.len() { Ok(length) } else { Err(MsgpackError::Malformed) }
}

fn read<const N: usize, T>(input: &mut &[u8], from: impl FnOnce([u8; N]) -> T) -> Result<T, MsgpackError> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(MsgpackError::Malformed)?;
    *input = rest;
    Ok(from(*head))
}

pub(super) fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], MsgpackError> {
    let (head, rest) = input.split_at_checked(length).ok_or(MsgpackError::Malformed)?;
    *input = rest;
    Ok(head)
}

/// The text behind a string's marker; bytes that are no UTF-8 are replaced, as JavaScript does.
pub(super) fn text<'a>(marker: Marker, input: &mut &'a [u8]) -> Result<Cow<'a, str>, MsgpackError> {
    let length = length(marker, input)?;
    let bytes = take(input, length)?;
    Ok(simdutf8::basic::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed))
}

/// The number behind the marker of one with a fraction.
pub(super) fn float(marker: Marker, input: &mut &[u8]) -> Result<f64, MsgpackError> {
    match marker {
        Marker::F32 => read(input, u32::from_be_bytes).map(|bits| f64::from(f32::from_bits(bits))),
        Marker::F64 => read(input, u64::from_be_bytes).map(f64::from_bits),
        _ => Err(MsgpackError::Malformed),
    }
}

/// The integer behind a marker, in decimal.
pub(super) fn integer(marker: Marker, input: &mut &[u8]) -> Result<String, MsgpackError> {
    Ok(match marker {
        Marker::FixPos(n) => n.to_string(),
        Marker::FixNeg(n) => n.to_string(),
        Marker::U8 => read(input, u8::from_be_bytes)?.to_string(),
        Marker::U16 => read(input, u16::from_be_bytes)?.to_string(),
        Marker::U32 => read(input, u32::from_be_bytes)?.to_string(),
        Marker::U64 => read(input, u64::from_be_bytes)?.to_string(),
        Marker::I8 => read(input, i8::from_be_bytes)?.to_string(),
        Marker::I16 => read(input, i16::from_be_bytes)?.to_string(),
        Marker::I32 => read(input, i32::from_be_bytes)?.to_string(),
        Marker::I64 => read(input, i64::from_be_bytes)?.to_string(),
        _ => return Err(MsgpackError::Malformed),
    })
}

/// A key: a text, or a plain value as its text. A key that has keys would be quoted once more at each depth, and so grow
/// without measure.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn back(bytes: &[u8]) -> (String, Vec<Bytes>) {
        let (mut input, mut out, mut attachments) = (bytes, String::new(), Vec::new());
        msgpack_to_json(&mut input, &mut out, &mut attachments, 0).unwrap();
        assert!(input.is_empty());
        (out, attachments)
    }

    #[test]
    fn placeholders_are_known_however_they_are_written_and_name_each_attachment_once() {
        let data = [Bytes::from_static(b"zero"), Bytes::from_static(b"one")];
        let padding = "x".repeat(200);
        let json = format!(
            r#"[{{"\u005fplaceholder":true,"num":1}},{{"pad":"{padding}","num":0,"_placeholder":true}}]"#
        );
        let mut out = Vec::new();
        json_to_msgpack(&json, &data, &mut out).unwrap();
        let (text, attachments) = back(&out);
        assert_eq!(attachments, [data[1].clone(), data[0].clone()]);
        assert_eq!(text, r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#);
        let twice = r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]"#;
        assert_eq!(json_to_msgpack(twice, &data, &mut Vec::new()), Err(MsgpackError::Attachments));
    }

    #[test]
    fn keys_are_plain() {
        let mut nested = vec![0x81; 60];
        nested.extend([0xa1, b'k'].repeat(61));
        for container in [&nested[..], &[0x81, 0x90, 0x01]] {
            let (mut input, mut out) = (container, String::new());
            let read = msgpack_to_json(&mut input, &mut out, &mut Vec::new(), 0);
            assert_eq!(read, Err(MsgpackError::Malformed));
            assert!(out.len() < 1_000);
        }
        assert_eq!(back(&[0x82, 0x07, 0xc3, 0xa1, b'k', 0xc0]).0, r#"{"7":true,"k":null}"#);
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let long_array = format!("[{}]", vec!["1"; 70_000].join(","));
        let medium =
            format!("{{{}}}", (0..20).map(|n| format!("\"k{n}\":{n}")).collect::<Vec<_>>().join(","));
        for json in [
            "null",
            "true",
            "false",
            "0",
            "-1",
            "127",
            "128",
            "-33",
            "65536",
            "9007199254740993",
            "18446744073709551615",
            "1.5",
            "-0.25",
            "\"\"",
            "\"héllo\"",
            r#""a\"b\\c\nd""#,
            "[]",
            "{}",
            r#"{"b":1,"a":[1,2,{"c":null}],"b":2}"#,
            r#"{"roomId":"r0","content":"x"}"#,
            &long_array,
            &medium,
        ] {
            let mut out = Vec::new();
            assert_eq!(json_to_msgpack(json, &[], &mut out), Ok(Fidelity::Exact), "{json:.60}");
            assert_eq!(back(&out).0, json);
        }
    }

    #[test]
    fn what_cannot_come_back_is_said() {
        for json in
            [r#""\ud83d""#, "1e400", "123456789012345678901234567890", "[1, 2]", r#""\u0041""#, "1.50", "-0"]
        {
            let mut out = Vec::new();
            assert_eq!(json_to_msgpack(json, &[], &mut out), Ok(Fidelity::Changed), "{json}");
            back(&out);
        }
        let mut out = Vec::new();
        json_to_msgpack(r#""a\ud83d\n\ud83d\ude00""#, &[], &mut out).unwrap();
        assert_eq!(back(&out).0, "\"a\u{fffd}\\n\u{1f600}\"");
    }

    #[test]
    fn placeholders_are_what_they_stand_for() {
        let attachments = [Bytes::from_static(b"zero"), Bytes::from_static(b"one")];
        let json = r#"[{"_placeholder":true,"num":1},{"x":{"num":0,"_placeholder":true}}]"#;
        let mut out = Vec::new();
        json_to_msgpack(json, &attachments, &mut out).unwrap();
        let (text, found) = back(&out);
        assert_eq!(text, r#"[{"_placeholder":true,"num":0},{"x":{"_placeholder":true,"num":1}}]"#);
        assert_eq!(found, [attachments[1].clone(), attachments[0].clone()]);
        let bad = r#"[{"_placeholder":true,"num":2}]"#;
        assert_eq!(json_to_msgpack(bad, &attachments, &mut Vec::new()), Err(MsgpackError::Attachments));
    }

    #[test]
    fn nonsense_is_refused_without_allocating_for_it() {
        for bad in [
            &[][..],
            &[0xc1],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0xdf, 0xff, 0xff, 0xff, 0xff, 1],
            &[0xdb, 0, 1, 0, 0, b'x'],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
            &[0x81, 0xc0],
            &[0xc7, 12, 0xff, 0],
        ] {
            let (mut input, mut out) = (bad, String::new());
            assert!(msgpack_to_json(&mut input, &mut out, &mut Vec::new(), 0).is_err(), "{bad:x?}");
        }
        let deep = [0x91; 200];
        let (mut input, mut out) = (&deep[..], String::new());
        assert_eq!(msgpack_to_json(&mut input, &mut out, &mut Vec::new(), 0), Err(MsgpackError::Depth));
        for bad in [
            "",
            "[",
            "{\"a\"}",
            "{1:2}",
            "[1,]",
            "\"",
            "\"\\",
            "tru",
            "+",
            "1 2",
            "[1]]",
            "{\"a\":1,}",
            "+1",
            "01",
            "-01",
            "-",
            ".5",
            "\"\0\"",
            "{\"a\nb\":1}",
        ] {
            assert!(json_to_msgpack(bad, &[], &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn dates_become_text() {
        // new Date(0) and new Date(1795231698228), as notepack.io writes them.
        assert_eq!(back(&[0xd6, 0xff, 0, 0, 0, 0]).0, "\"1970-01-01T00:00:00.000Z\"");
        let (seconds, nanos) = (1_795_231_698_u64, 228_000_000_u64);
        let mut wire = vec![0xd7, 0xff];
        wire.extend(((nanos << 34) | seconds).to_be_bytes());
        assert_eq!(back(&wire).0, "\"2026-11-21T03:28:18.228Z\"");
        // The same as notepack.io 2 wrote them, and one that is none.
        let older = |millis: i64| [&[0xd7, 0][..], &millis.to_be_bytes()].concat();
        assert_eq!(back(&older(1_795_231_698_228)).0, "\"2026-11-21T03:28:18.228Z\"");
        assert_eq!(back(&older(-1)).0, "\"1969-12-31T23:59:59.999Z\"");
        assert_eq!(back(&older(i64::MAX)).0, "null");
    }

    #[test]
    fn extensions_are_what_node_js_makes_of_them() {
        let placeholder = r#"{"_placeholder":true,"num":0}"#;
        for length in [0_u8, 1, 2, 4, 8, 16, 200] {
            let data = vec![7; usize::from(length)];
            // With a length before it, it is binary data, however long.
            let wire = [&[0xc7, length, 0][..], &data].concat();
            assert_eq!(back(&wire), (placeholder.to_owned(), vec![Bytes::from(data)]));
        }
        let long = vec![1; 70_000];
        let wire = [&[0xc9][..], &70_000_u32.to_be_bytes(), &[0], &long].concat();
        assert_eq!(back(&wire).1, [Bytes::from(long)]);
        assert_eq!(back(&[0x92, 0xd4, 0, 0, 1]).0, "[null,1]");
        assert_eq!(
            back(&[0x83, 0xa1, b'a', 0xd4, 0, 0, 0xa1, b'b', 1, 0xa1, b'c', 0xd4, 0, 9]).0,
            r#"{"b":1}"#
        );
        assert_eq!(back(&[0xd5, 5, 8, 9]), (format!("[5,{placeholder}]"), vec![Bytes::from_static(&[8, 9])]));
        let (mut input, mut out) = (&[0xd4, 0][..], String::new());
        assert!(msgpack_to_json(&mut input, &mut out, &mut Vec::new(), 0).is_err(), "cut off");
    }
}

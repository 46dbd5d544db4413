//! Converts JSON text to msgpack, in one pass.

use std::borrow::Cow;
use std::cmp::Reverse;

use bytes::Bytes;
use rmp::encode as write;

use super::{Fidelity, MsgpackError, number_text, push_json_str};
use crate::json::{self, count};
use crate::limits::JSON_DEPTH_MAX;
use crate::sio::placeholders::{self, Found};

/// Writes JSON text as msgpack; placeholders become the `attachments` that they name.
///
/// # Errors
/// [`MsgpackError`]; `out` is then unusable.
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
    // The last one is next; of nested placeholders only the outer one is reached.
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
    /// Those not reached yet, the next one last.
    placeholders: Vec<Found>,
    /// Attachments already written.
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

    /// Writes a placeholder as its attachment; false when the object is not a placeholder.
    fn binary(&mut self) -> Result<bool, MsgpackError> {
        while self.placeholders.pop_if(|found| found.at.start < self.at).is_some() {}
        let Some(found) = self.placeholders.pop_if(|found| found.at.start == self.at) else {
            return Ok(false);
        };
        // Each may be named once, which bounds the size of the output.
        if self.used.contains(&found.num) {
            return Err(MsgpackError::Attachments);
        }
        self.used.push(found.num);
        let data = self.attachments.get(found.num).ok_or(MsgpackError::Attachments)?;
        write::write_bin(self.out, data).map_err(|_| MsgpackError::Malformed)?;
        self.at = found.at.end;
        Ok(true)
    }

    /// Writes an array or object; its length is known only at its end, so the header is inserted
    /// afterwards.
    fn container(&mut self, depth: usize, close: u8) -> Result<(), MsgpackError> {
        self.at += 1;
        let start = self.out.len();
        // Space for the short header; longer ones move the following bytes.
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
            // A backslash: the escaped character does not end the string.
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
        // Rust accepts more numbers than JSON does.
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

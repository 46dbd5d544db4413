//! JSON text to msgpack and back, without a tree between.
//!
//! Binary arguments are placeholders in JSON and `bin` in msgpack; both directions number them in the order
//! of the text.
//!
//! Written on `rmp`'s primitives, because a tree costs more than all the rest. Counted under callgrind for a publish of 128
//! bytes: through `serde_json::Value` and `rmp-serde` its argument alone takes 4,300 instructions to write and 5,400 to read; the
//! whole message, with its channel's fields and the resulting frames, takes 3,000 and 5,700 here.

mod marker;
mod read;
mod write;

use crate::json::count;

pub(super) use marker::{float, integer, length, take, text};
pub use read::msgpack_to_json;
pub use write::json_to_msgpack;

/// Whether the msgpack carries exactly the content of the JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// Writing it back gives the same text, byte for byte.
    Exact,
    /// A number, a lone surrogate or the spacing has changed.
    Changed,
}

/// Bytes or text that cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MsgpackError {
    /// Not msgpack, or not JSON.
    #[error("malformed")]
    Malformed,
    /// Nested deeper than [`JSON_DEPTH_MAX`](crate::limits::JSON_DEPTH_MAX).
    #[error("nested too deep")]
    Depth,
    /// More than [`ATTACHMENTS_MAX`](crate::limits::ATTACHMENTS_MAX) binary values, a placeholder that names none, or two that name one.
    #[error("bad binary values")]
    Attachments,
}

/// A number as JavaScript writes it in plain notation; otherwise as Rust does.
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
    fn json_returns_unchanged() {
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
    fn changed_values_are_reported() {
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
    fn placeholders_become_their_attachments() {
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
        // The same as notepack.io 2 wrote them, and an invalid one.
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
            // With a length before it, it is binary data of any length.
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

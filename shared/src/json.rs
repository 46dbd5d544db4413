//! Checks JSON without parsing it to a value, and handles JavaScript's JSON that Rust does not read.

use serde::de::DeserializeOwned;

/// Counts matching bytes. In blocks whose count fits into a byte, so that the compiler uses whole registers: counting
/// or searching byte by byte takes twenty times as many instructions.
pub(crate) fn count(text: &str, is_meant: impl Fn(u8) -> bool) -> usize {
    let of_block = |block: &[u8]| block.iter().map(|byte| u8::from(is_meant(*byte))).sum::<u8>();
    text.as_bytes().chunks(192).map(|block| usize::from(of_block(block))).sum()
}

/// Whether arrays and objects nest at most `max` deep. Correct for JSON; for other text the result does not matter,
/// since it is refused anyway.
#[must_use]
pub fn nests_at_most(json: &str, max: usize) -> bool {
    // For nearly every text a simple count proves that it is shallow.
    if count(json, |byte| matches!(byte, b'[' | b'{')) <= max {
        return true;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > max {
                    return false;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// Parses JSON that JavaScript has written: lone surrogates become what [`without_lone_surrogates`] makes of them.
///
/// # Errors
/// When it is not a `T`.
pub fn read<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    serde_json::from_str(json).or_else(|error| match without_lone_surrogates(json) {
        Some(readable) => serde_json::from_str(&readable),
        None => Err(error),
    })
}

/// JSON that Rust can read. A JavaScript string may contain a lone surrogate, which JSON carries as an escape and a
/// Rust string cannot contain: it becomes U+FFFD, as it does wherever JavaScript writes UTF-8. `None` where there is
/// none.
#[must_use]
pub fn without_lone_surrogates(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len());
    let (mut rest, mut found) = (json, false);
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        let (before, escape) = rest.split_at_checked(at)?;
        out.push_str(before);
        let taken = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                found = true;
                out.push_str("\\ufffd");
                rest = escape.get(6..)?;
                continue;
            }
            _ => 2,
        };
        let (escape, after) = escape.split_at_checked(taken)?;
        out.push_str(escape);
        rest = after;
    }
    out.push_str(rest);
    found.then_some(out)
}

/// The code unit of an escape that `text` begins with.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_surrogate_pairs_are_replaced() {
        for (json, expected) in [
            (r#"{"a":"\ud83d","b":"x\ude00y"}"#, Some(r#"{"a":"\ufffd","b":"x\ufffdy"}"#)),
            (r#"["\ud83d\ude00\ud83d"]"#, Some(r#"["\ud83d\ude00\ufffd"]"#)),
            (r#"["\ud83d\ud83d\ude00"]"#, Some(r#"["\ufffd\ud83d\ude00"]"#)),
            (r#"["\\ud83d"]"#, None),
            (r#"["\ud83d\ude00","\n"]"#, None),
            (r#"["é\"#, None),
            (r#"["\u"#, None),
        ] {
            assert_eq!(without_lone_surrogates(json).as_deref(), expected, "{json}");
        }
        let read_text = |json| read::<String>(json).ok();
        assert_eq!(read_text(r#""a\ud83d\n\ud83d\ude00""#).as_deref(), Some("a\u{fffd}\n\u{1f600}"));
        for bad in ["\"", "x", "\"\\x\"", "\"\\ud83d\n\"", "\"\\ud83d\"\""] {
            assert_eq!(read_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_byte_is_counted_once() {
        for len in [0, 1, 191, 192, 193, 1000] {
            assert_eq!(count(&"x".repeat(len), |byte| byte == b'x'), len);
            assert_eq!(count(&"x".repeat(len), |byte| byte == b'y'), 0);
        }
    }

    #[test]
    fn only_brackets_outside_of_texts_nest() {
        assert!(nests_at_most("[[1],[2],{\"a\":[3]}]", 3));
        assert!(!nests_at_most("[[1],[2],{\"a\":[3]}]", 2));
        assert!(nests_at_most("[\"[[[\\\"[[[\"]", 1));
    }
}

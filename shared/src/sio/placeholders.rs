//! Finds placeholders of attachments in the JSON of a packet without parsing its strings and numbers: a client's
//! content is passed on unchanged, even if Rust has no value for it (`"\ud83d"`, `1e400`).

use std::ops::Range;

use smallvec::SmallVec;

use super::DecodeError;

/// A placeholder in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The object, from brace to brace.
    pub(crate) at: Range<usize>,
    /// The number of its attachment.
    pub(crate) num: usize,
}

/// Whether every placeholder, at any depth, names one of `count` attachments.
pub(super) fn check(json: &str, count: usize) -> Result<(), DecodeError> {
    find(json, count).map(drop)
}

/// The placeholders in `json`, each naming one of `count` attachments, in the order of their ends. `json` is valid
/// JSON of bounded depth (the decoder has checked it); for other text the result does not matter.
pub(crate) fn find(json: &str, count: usize) -> Result<Vec<Found>, DecodeError> {
    let mut found = Vec::new();
    let mut open: SmallVec<[Container; 8]> = SmallVec::new();
    let mut rest = json;
    while let Some(&first) = rest.as_bytes().first() {
        let length = token_length(rest);
        let (token, after) = rest.split_at_checked(length).ok_or(DecodeError::Malformed)?;
        rest = after;
        match first {
            b'{' | b'[' => {
                if let Some(parent) = open.last_mut() {
                    parent.take_value("");
                }
                open.push(Container {
                    start: json.len() - rest.len() - 1,
                    is_object: first == b'{',
                    is_key_next: first == b'{',
                    ..Container::default()
                });
            }
            b'}' | b']' => {
                let closed = open.pop().ok_or(DecodeError::Malformed)?;
                if closed.is_placeholder {
                    let num = closed.num.filter(|num| *num < count).ok_or(DecodeError::Placeholder)?;
                    found.push(Found { at: closed.start..json.len() - rest.len(), num });
                }
            }
            b',' | b':' => {
                if let Some(container) = open.last_mut() {
                    container.is_key_next = first == b',' && container.is_object;
                }
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => match open.last_mut() {
                Some(container) if container.is_key_next => container.key = Key::of(token),
                Some(container) => container.take_value(token),
                None => {}
            },
        }
    }
    Ok(found)
}

/// An array or object that is not closed yet.
#[derive(Debug, Default)]
struct Container {
    /// The position of its brace.
    start: usize,
    is_object: bool,
    is_key_next: bool,
    /// The key of the next value.
    key: Key,
    is_placeholder: bool,
    /// The number of its attachment.
    num: Option<usize>,
}

impl Container {
    /// Of a duplicate key the last value counts, as in JavaScript.
    fn take_value(&mut self, raw: &str) {
        match self.key {
            Key::Placeholder => self.is_placeholder = raw == "true",
            Key::Num => self.num = raw.parse().ok(),
            Key::Other => {}
        }
    }
}

#[derive(Debug, Default)]
enum Key {
    Placeholder,
    Num,
    #[default]
    Other,
}

impl Key {
    fn of(raw: &str) -> Self {
        let unescaped;
        let raw = if raw.contains('\\') {
            unescaped = serde_json::from_str::<String>(raw)
                .map_or_else(|_| String::new(), |key| format!("\"{key}\""));
            &unescaped
        } else {
            raw
        };
        match raw {
            "\"_placeholder\"" => Self::Placeholder,
            "\"num\"" => Self::Num,
            _ => Self::Other,
        }
    }
}

/// Length of the token at the start of `json`: a string with its quotes, a number or word, or one character.
fn token_length(json: &str) -> usize {
    let bytes = json.as_bytes();
    match bytes.first() {
        Some(b'"') => {
            let mut escaped = true;
            let end = bytes.iter().position(|&byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            });
            end.map_or(bytes.len(), |end| end + 1)
        }
        Some(b'{' | b'}' | b'[' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n') => 1,
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n');
            bytes.iter().position(is_end).unwrap_or(bytes.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_an_object_that_says_so() {
        for good in [
            "[]",
            r#"["e",{"_placeholder":true,"num":0},{"num":1,"_placeholder":true}]"#,
            r#"["e",[{"a":{"_placeholder" : true , "num" : 1 }}]]"#,
            // Without `true`, or only in a string, there is no placeholder.
            r#"["e",{"_placeholder":false,"num":7},{"_placeholder":"true"},{"_placeholder":{},"num":9}]"#,
            r#"["e","{\"_placeholder\":true,\"num\":7}","\\",["_placeholder",true]]"#,
            r#"["e",{"_placeholder":true,"num":9,"num":0}]"#,
            r#"["e",{"_placeholder":true,"_placeholder":null}]"#,
        ] {
            assert_eq!(check(good, 2), Ok(()), "{good}");
        }
        for bad in [
            r#"["e",{"_placeholder":true}]"#,
            r#"["e",{"_placeholder":true,"num":2}]"#,
            r#"["e",{"\u005fplaceholder":true,"n\u0075m":2}]"#,
            r#"["e",[[{"a":{"num":2,"_placeholder":true},"b":0}]]]"#,
            r#"["e",{"_placeholder":true,"num":[0]}]"#,
            r#"["e",{"_placeholder":true,"num":0,"num":"0"}]"#,
            r#"["e",{"a":{"num":0},"_placeholder":true}]"#,
        ] {
            assert_eq!(check(bad, 2), Err(DecodeError::Placeholder), "{bad}");
        }
    }

    #[test]
    fn placeholders_are_found_where_they_stand() {
        let json =
            r#"["e",{"a":{"\u005fplaceholder":true,"num":1}},{"_placeholder" : true,"pad":"}{","num":0}]"#;
        let found = find(json, 2).unwrap();
        let texts: Vec<_> = found.iter().map(|found| (&json[found.at.clone()], found.num)).collect();
        assert_eq!(
            texts,
            [
                (r#"{"\u005fplaceholder":true,"num":1}"#, 1),
                (r#"{"_placeholder" : true,"pad":"}{","num":0}"#, 0)
            ]
        );
    }

    #[test]
    fn values_without_a_rust_type_are_skipped() {
        assert_eq!(check(r#"["e","\ud83d",1e400,{"\ud83d":-0.0,"_placeholder":true,"num":0}]"#, 1), Ok(()));
    }
}

//! A client's answer to an event: JSON, and its binary values.

use std::collections::HashSet;
use std::fmt::Write as _;

use bytes::Bytes;

use super::placeholders::{self, Found};
use crate::limits::ATTACHMENTS_MAX;

/// An answer: the first argument of an ack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Raw JSON, with placeholders of the attachments.
    pub json: String,
    /// Its binary values, each named once.
    pub attachments: Vec<Bytes>,
}

impl Answer {
    /// Of an ack's first argument and its packet's attachments: keeps those that the argument names, in their order. `None`
    /// where it names more than a packet may have, or one twice.
    #[must_use]
    pub fn of(json: &str, attachments: &[Bytes]) -> Option<Self> {
        if attachments.is_empty() {
            return Some(Self { json: json.to_owned(), attachments: Vec::new() });
        }
        let mut answer = Self::default();
        answer.append(json, attachments, false).then_some(answer)
    }

    /// The answer `null`.
    #[must_use]
    pub fn null() -> Self {
        Self { json: "null".to_owned(), attachments: Vec::new() }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.json.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether its size is 0; no JSON is so short.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Several answers as one list for one packet. A client's parser accepts [`ATTACHMENTS_MAX`] attachments per packet:
    /// further binary values become what `JSON.stringify` makes of a Node.js `Buffer`.
    #[must_use]
    pub fn list(answers: &[Self]) -> (Vec<String>, Vec<Bytes>) {
        if answers.iter().all(|answer| answer.attachments.is_empty()) {
            return (answers.iter().map(|answer| answer.json.clone()).collect(), Vec::new());
        }
        let mut all = Self::default();
        let texts = answers.iter().map(|answer| {
            all.json.clear();
            // An answer with a malformed placeholder must not get another's attachment.
            let is_good = all.append(&answer.json, &answer.attachments, true);
            if is_good { all.json.clone() } else { "null".to_owned() }
        });
        (texts.collect(), all.attachments)
    }

    /// Appends `json`, renumbering its attachments; false if that is not possible.
    fn append(&mut self, json: &str, attachments: &[Bytes], spell_out: bool) -> bool {
        let Ok(mut found) = placeholders::find(json, attachments.len()) else { return false };
        found.sort_by_key(|found| found.at.start);
        let (mut copied, mut named) = (0, HashSet::new());
        for Found { at, num } in found {
            // Of nested placeholders only the outer one counts.
            if at.start < copied {
                continue;
            }
            // No client names one twice, and each further name would copy it.
            if !named.insert(num) {
                return false;
            }
            let (Some(before), Some(data)) = (json.get(copied..at.start), attachments.get(num)) else {
                return false;
            };
            self.json.push_str(before);
            copied = at.end;
            if self.attachments.len() < ATTACHMENTS_MAX {
                // Writing a string cannot fail.
                let _ = write!(self.json, r#"{{"_placeholder":true,"num":{}}}"#, self.attachments.len());
                self.attachments.push(data.clone());
            } else if spell_out {
                self.spell_out(data);
            } else {
                return false;
            }
        }
        self.json.push_str(json.get(copied..).unwrap_or_default());
        true
    }

    fn spell_out(&mut self, data: &[u8]) {
        self.json.push_str(r#"{"type":"Buffer","data":["#);
        for (at, byte) in data.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // Writing a string cannot fail.
            let _ = write!(self.json, "{comma}{byte}");
        }
        self.json.push_str("]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[&'static str]) -> Vec<Bytes> {
        values.iter().map(|value| Bytes::from_static(value.as_bytes())).collect()
    }

    #[test]
    fn the_attachments_of_the_first_argument_are_kept_and_those_of_others_are_not() {
        let all = bytes(&["a", "b", "c"]);
        let json = r#"["one",{"_placeholder":true,"num":2},{"x":{"num":0,"_placeholder":true}}]"#;
        let answer = Answer::of(json, &all).unwrap();
        assert_eq!(
            answer.json,
            r#"["one",{"_placeholder":true,"num":0},{"x":{"_placeholder":true,"num":1}}]"#
        );
        assert_eq!(answer.attachments, bytes(&["c", "a"]));
        assert_eq!(answer.len(), answer.json.len() + 2);
        let text = Answer::of("\"one\"", &all).unwrap();
        assert_eq!(text, Answer { json: "\"one\"".into(), attachments: Vec::new() });
        let twice = r#"[{"_placeholder":true,"num":1},{"_placeholder":true,"num":1}]"#;
        assert_eq!(Answer::of(twice, &all), None);
        assert_eq!(Answer::of(r#"{"_placeholder":true,"num":3}"#, &all), None);
        let many = format!("[{}]", [r#"{"_placeholder":true,"num":0}"#; ATTACHMENTS_MAX + 1].join(","));
        assert_eq!(Answer::of(&many, &all), None);
        let plain = r#"{"_placeholder":true,"num":7}"#;
        assert_eq!(Answer::of(plain, &[]).unwrap().json, plain, "as it came where nothing is binary");
    }

    #[test]
    fn answers_together_have_no_more_attachments_than_a_client_takes() {
        let one = Answer {
            json: r#"{"b":{"_placeholder":true,"num":0}}"#.into(),
            attachments: bytes(&["\u{1}\u{7f}"]),
        };
        let text = Answer { json: "\"text\"".into(), attachments: Vec::new() };
        let fake = Answer { json: r#"{"_placeholder":true,"num":0}"#.into(), attachments: Vec::new() };
        let (texts, attachments) = Answer::list(&[text, one.clone(), fake.clone(), one.clone()]);
        assert_eq!(texts[0], "\"text\"");
        assert_eq!(texts[1], r#"{"b":{"_placeholder":true,"num":0}}"#);
        assert_eq!(texts[2], "null");
        assert_eq!(texts[3], r#"{"b":{"_placeholder":true,"num":1}}"#);
        assert_eq!(attachments.len(), 2);
        let (texts, attachments) = Answer::list(&vec![one; ATTACHMENTS_MAX + 1]);
        assert_eq!(attachments.len(), ATTACHMENTS_MAX);
        assert_eq!(texts[ATTACHMENTS_MAX], r#"{"b":{"type":"Buffer","data":[1,127]}}"#);
        assert_eq!(Answer::list(std::slice::from_ref(&fake)), (vec![fake.json], Vec::new()));
    }
}

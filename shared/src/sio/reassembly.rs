//! Collects the attachments of a packet (protocol, 2.4).

use bytes::Bytes;

use super::decode::{DecodeError, Packet, decode};
use super::placeholders;

/// Collects the attachments of one packet. Bounded by the header's count and by one message's size for
/// all of them together; the caller bounds the time.
#[derive(Debug, Default)]
pub struct Reassembly {
    pending: Option<Box<Pending>>,
}

#[derive(Debug)]
struct Pending {
    text: String,
    expected: usize,
    bytes: usize,
    attachments: Vec<Bytes>,
}

/// A packet with all of its attachments.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    /// The text; [`decode`] reads it.
    pub text: String,
    /// Binary data in the order of the placeholders' numbers.
    pub attachments: Vec<Bytes>,
}

impl Reassembly {
    /// Whether attachments are awaited.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Bytes held until the last attachment arrives.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.text.len() + pending.bytes)
    }

    /// Takes a packet's text. Returns the packet if it is complete; keeps it if attachments follow.
    ///
    /// # Errors
    /// [`DecodeError`], also if attachments of an earlier packet are awaited: close the session.
    pub fn text<'a>(&mut self, text: &'a str) -> Result<Option<Packet<'a>>, DecodeError> {
        if self.is_waiting() {
            return Err(DecodeError::OutOfOrder);
        }
        let packet = decode(text)?;
        if packet.attachments == 0 {
            return Ok(Some(packet));
        }
        self.pending = Some(Box::new(Pending {
            text: text.to_owned(),
            expected: packet.attachments,
            bytes: 0,
            attachments: Vec::new(),
        }));
        Ok(None)
    }

    /// Takes an attachment; returns the packet after the last one. All attachments of a packet together
    /// may have `max_bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] when none was awaited, they are too big, or a placeholder names none of them.
    pub fn binary(&mut self, data: Bytes, max_bytes: usize) -> Result<Option<Whole>, DecodeError> {
        let pending = self.pending.as_mut().ok_or(DecodeError::OutOfOrder)?;
        pending.bytes += data.len();
        if pending.bytes > max_bytes {
            return Err(DecodeError::TooBig);
        }
        pending.attachments.push(data);
        if pending.attachments.len() < pending.expected {
            return Ok(None);
        }
        let Some(whole) = self.pending.take() else { return Ok(None) };
        let start = whole.text.find(['[', '{']).unwrap_or(whole.text.len());
        let (_, json) = whole.text.split_at(start);
        placeholders::check(json, whole.expected)?;
        Ok(Some(Whole { text: whole.text, attachments: whole.attachments }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"51-["f",{"a":[{"_placeholder":true,"num":0}]}]"#;

    #[test]
    fn a_packet_is_whole_with_its_last_attachment() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.text(ONE), Ok(None));
        let whole = reassembly.binary(Bytes::from_static(b"x"), 10).unwrap().unwrap();
        assert_eq!(whole.attachments, [Bytes::from_static(b"x")]);
        assert_eq!(whole.text, ONE);
        assert!(!reassembly.is_waiting());
    }

    #[test]
    fn text_and_attachments_keep_their_order() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.binary(Bytes::new(), 10), Err(DecodeError::OutOfOrder));
        assert_eq!(reassembly.text(ONE), Ok(None));
        assert_eq!(reassembly.text(r#"2["e"]"#), Err(DecodeError::OutOfOrder));
    }

    #[test]
    fn a_placeholder_must_name_an_attachment() {
        for num in ["5", "1", "-1", "0.5", "\"0\"", "\"splice\"", "null", "1e300"] {
            let text = format!(r#"51-["f",{{"_placeholder":true,"num":{num}}}]"#);
            let mut reassembly = Reassembly::default();
            assert_eq!(reassembly.text(&text), Ok(None), "{num}");
            assert_eq!(reassembly.binary(Bytes::new(), 10), Err(DecodeError::Placeholder), "{num}");
        }
    }

    #[test]
    fn values_without_a_rust_type_arrive_as_they_were_sent() {
        let text = r#"51-["f","\ud83d",1e400,{"_placeholder":true,"num":0}]"#;
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.text(text), Ok(None));
        let whole = reassembly.binary(Bytes::new(), 10).unwrap().unwrap();
        assert_eq!(whole.text, text);
    }

    #[test]
    fn attachments_count_against_one_limit_together() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.text(r#"52-["f"]"#), Ok(None));
        assert_eq!(reassembly.binary(Bytes::from_static(b"123456"), 10), Ok(None));
        assert_eq!(reassembly.binary(Bytes::from_static(b"123456"), 10), Err(DecodeError::TooBig));
    }
}

//! The packets that the floor supports.

use std::borrow::Cow;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

/// One Engine.IO text of a client. `tag` is the namespace with its comma, or empty.
#[derive(Debug)]
pub(super) enum Packet<'a> {
    Connect {
        tag: &'a str,
    },
    Join {
        tag: &'a str,
        ack: Option<&'a str>,
        room: String,
    },
    Leave {
        tag: &'a str,
        ack: Option<&'a str>,
    },
    /// Returned unchanged as the ack's arguments.
    Echo {
        tag: &'a str,
        ack: &'a str,
        data: &'a str,
    },
    Publish(Publish<'a>),
    /// Pongs, and events the floor does not know.
    Other,
}

/// A publish and its deliveries.
#[derive(Debug)]
pub(super) struct Publish<'a> {
    pub(super) tag: &'a str,
    pub(super) ack: Option<&'a str>,
    pub(super) body: PublishBody<'a>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PublishBody<'a> {
    #[serde(borrow)]
    pub(super) room: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    /// Passed on unchanged.
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct JoinBody {
    room: String,
}

impl Publish<'_> {
    /// Appends the event as members receive it.
    pub(super) fn write_event(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(b"42");
        out.extend_from_slice(self.tag.as_bytes());
        out.push(b'[');
        serde_json::to_writer(&mut *out, &self.body.event)?;
        out.push(b',');
        out.extend_from_slice(self.body.data.get().as_bytes());
        out.push(b']');
        Ok(())
    }
}

/// Reads one packet. An `Err` closes the connection.
pub(super) fn read(text: &[u8]) -> Result<Packet<'_>> {
    let text = std::str::from_utf8(text)?;
    if let Some(rest) = text.strip_prefix("40") {
        let (tag, _) = split_tag(rest);
        return Ok(Packet::Connect { tag });
    }
    let Some(rest) = text.strip_prefix("42") else {
        return Ok(Packet::Other);
    };
    let (tag, rest) = split_tag(rest);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (ack, array) = rest.split_at(digits);
    let ack = (!ack.is_empty()).then_some(ack);
    if array.starts_with(r#"["publish","#) {
        let (_, body): (Cow<'_, str>, PublishBody<'_>) = serde_json::from_str(array).context("publish")?;
        return Ok(Packet::Publish(Publish { tag, ack, body }));
    }
    if let (Some(ack), Some(data)) = (ack, array.strip_prefix(r#"["echo","#)) {
        let data = data.strip_suffix(']').context("echo")?;
        return Ok(Packet::Echo { tag, ack, data });
    }
    if array.starts_with(r#"["leave","#) {
        return Ok(Packet::Leave { tag, ack });
    }
    if array.starts_with(r#"["join","#) {
        let (_, body): (String, JoinBody) = serde_json::from_str(array).context("join")?;
        let room = body.room;
        return Ok(Packet::Join { tag, ack, room });
    }
    Ok(Packet::Other)
}

/// Splits `/ns,rest` after the comma. A namespace without one runs to the end of the packet.
fn split_tag(rest: &str) -> (&str, &str) {
    if !rest.starts_with('/') {
        return ("", rest);
    }
    rest.split_at(rest.find(',').map_or(rest.len(), |comma| comma + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_becomes_the_event_in_its_namespace() {
        let text = br#"42/relay,["publish",{"room":"r0","event":"new_message","data":{"b":1.0,"a":"x"}}]"#;
        let Packet::Publish(publish) = read(text).unwrap() else {
            panic!("not a publish");
        };
        assert_eq!((publish.ack, &*publish.body.room), (None, "r0"));
        let mut out = Vec::new();
        publish.write_event(&mut out).unwrap();
        assert_eq!(out, br#"42/relay,["new_message",{"b":1.0,"a":"x"}]"#);
    }

    #[test]
    fn a_join_has_room_and_ack() {
        let packet = read(br#"42/relay,17["join",{"room":"r0"}]"#).unwrap();
        assert!(matches!(packet, Packet::Join { tag: "/relay,", ack: Some("17"), room } if room == "r0"));
        let packet = read(br#"42["join",{"room":"r0"}]"#).unwrap();
        assert!(matches!(packet, Packet::Join { tag: "", ack: None, .. }));
    }

    #[test]
    fn connects_are_taken_with_and_without_a_payload() {
        for (text, expected) in [("40/a,", "/a,"), ("40/a,{}", "/a,"), ("40", ""), ("40{}", "")] {
            let packet = read(text.as_bytes()).unwrap();
            assert!(matches!(packet, Packet::Connect { tag } if tag == expected));
        }
    }

    #[test]
    fn the_rest_is_other_or_an_error() {
        assert!(matches!(read(b"3").unwrap(), Packet::Other));
        assert!(matches!(read(br#"42["echo",1]"#).unwrap(), Packet::Other));
        assert!(read(br#"42["join",{}]"#).is_err());
        assert!(read(b"42\xff").is_err());
    }
}

//! One Engine.IO packet, and the payload of a long-polling body (protocol, 1.4).
//!
//! On a WebSocket each packet is one message. In a polling body packets are joined by the byte `0x1e`, and binary
//! is `b` with base64, as on the WebSocket of a client that requested no binary frames (`b64`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::base64::decode;
use crate::limits::PACKETS_PER_PAYLOAD_MAX;
use crate::ws;

/// Separates packets of a polling payload.
const SEPARATOR: u8 = 0x1e;

/// A malformed packet; its session is closed (`parse error`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed Engine.IO packet")]
pub struct BadPacket;

/// A packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: only servers send it; ignored.
    Open,
    /// `1`: the client leaves.
    Close,
    /// `2`: a heartbeat in the wrong direction.
    Ping,
    /// `2probe`: the first packet of a WebSocket that will replace a polling session's transport.
    PingProbe,
    /// `3`: the answer to our ping.
    Pong,
    /// `4`: a Socket.IO packet's text.
    Message(&'a str),
    /// `5`: the WebSocket replaces polling.
    Upgrade,
    /// `6`: ignored.
    Noop,
    /// An attachment: a binary frame, or `b` and base64.
    Binary(Vec<u8>),
}

impl<'a> Packet<'a> {
    /// Reads one packet from a text frame or one part of a polling body.
    ///
    /// # Errors
    /// [`BadPacket`] for an empty text or an unknown type.
    pub fn decode(text: &'a str) -> Result<Self, BadPacket> {
        let mut chars = text.chars();
        let kind = chars.next().ok_or(BadPacket)?;
        let data = chars.as_str();
        match (kind, data) {
            ('0', _) => Ok(Self::Open),
            ('1', _) => Ok(Self::Close),
            ('2', "probe") => Ok(Self::PingProbe),
            ('2', _) => Ok(Self::Ping),
            ('3', _) => Ok(Self::Pong),
            ('4', data) => Ok(Self::Message(data)),
            ('5', _) => Ok(Self::Upgrade),
            ('6', _) => Ok(Self::Noop),
            ('b', data) => Ok(Self::Binary(decode(data))),
            _ => Err(BadPacket),
        }
    }
}

/// The packets of a polling body, in order. Stops at the first bad one; earlier ones count.
#[derive(Debug, Clone)]
pub struct Payload<'a> {
    rest: Option<&'a str>,
    left: usize,
}

impl<'a> Payload<'a> {
    /// Reads `body` as a payload.
    #[must_use]
    pub fn new(body: &'a str) -> Self {
        Self { rest: Some(body), left: PACKETS_PER_PAYLOAD_MAX }
    }
}

impl<'a> Iterator for Payload<'a> {
    type Item = Result<Packet<'a>, BadPacket>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        if self.left == 0 {
            return Some(Err(BadPacket));
        }
        self.left -= 1;
        let text = match memchr::memchr(SEPARATOR, rest.as_bytes()) {
            None => rest,
            Some(at) => {
                let (text, tail) = rest.split_at(at);
                self.rest = tail.strip_prefix('\u{1e}');
                text
            }
        };
        let packet = Packet::decode(text);
        if packet.is_err() {
            self.rest = None;
        }
        Some(packet)
    }
}

/// Appends WebSocket frames (as a send queue holds them) to a polling body.
///
/// Both transports share one form of a packet, so that a packet queued before an upgrade can be sent after it,
/// and a broadcast is encoded once for both.
pub fn push_polling(body: &mut String, wire: &[u8]) {
    for (opcode, payload) in ws::frames(wire) {
        if !body.is_empty() {
            body.push('\u{1e}');
        }
        if opcode == ws::OP_TEXT {
            // This crate encodes frames from `str`s.
            body.push_str(str::from_utf8(payload).unwrap_or_default());
        } else {
            push_binary(body, payload);
        }
    }
}

/// The same frames with binary ones as texts, for a client that accepts no binary frames; `None` if there are
/// none.
#[must_use]
pub fn without_binary(wire: &[u8]) -> Option<Vec<u8>> {
    if ws::frames(wire).all(|(opcode, _)| opcode != ws::OP_BINARY) {
        return None;
    }
    let mut rewritten = Vec::with_capacity(wire.len() * 2);
    for (opcode, payload) in ws::frames(wire) {
        if opcode == ws::OP_BINARY {
            let mut text = String::new();
            push_binary(&mut text, payload);
            ws::push_frame(&mut rewritten, ws::OP_TEXT, text.as_bytes());
        } else {
            ws::push_frame(&mut rewritten, opcode, payload);
        }
    }
    Some(rewritten)
}

fn push_binary(text: &mut String, payload: &[u8]) {
    text.push('b');
    STANDARD.encode_string(payload, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_before_a_bad_one_are_delivered() {
        let found: Vec<_> = Payload::new("4a\u{1e}x\u{1e}4b").collect();
        assert_eq!(found, [Ok(Packet::Message("a")), Err(BadPacket)]);
    }

    #[test]
    fn a_payload_of_separators_ends_at_its_first_packet() {
        let body = "\u{1e}".repeat(100_000);
        assert_eq!(Payload::new(&body).collect::<Vec<_>>(), [Err(BadPacket)]);
    }

    #[test]
    fn a_payload_has_a_bounded_number_of_packets() {
        let body = vec!["3"; PACKETS_PER_PAYLOAD_MAX + 1].join("\u{1e}");
        let found: Vec<_> = Payload::new(&body).collect();
        assert_eq!(found.len(), PACKETS_PER_PAYLOAD_MAX + 1);
        assert_eq!(found.last(), Some(&Err(BadPacket)));
    }

    #[test]
    fn a_polling_body_carries_the_same_packets_as_frames() {
        let mut wire = Vec::new();
        ws::push_frame(&mut wire, ws::OP_TEXT, b"4hello");
        ws::push_frame(&mut wire, ws::OP_BINARY, &[1, 2, 3, 4]);
        let mut body = String::new();
        push_polling(&mut body, &wire);
        assert_eq!(body, "4hello\u{1e}bAQIDBA==");
        let back: Vec<_> = Payload::new(&body).collect();
        assert_eq!(back, [Ok(Packet::Message("hello")), Ok(Packet::Binary(vec![1, 2, 3, 4]))]);
    }

    #[test]
    fn frames_without_binary_carry_the_same() {
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        ws::push_frame(&mut wire, ws::OP_TEXT, b"4hello");
        assert_eq!(without_binary(&wire), None);
        ws::push_frame(&mut wire, ws::OP_BINARY, &[1, 2, 3, 4]);
        ws::push_frame(&mut expected, ws::OP_TEXT, b"4hello");
        ws::push_frame(&mut expected, ws::OP_TEXT, b"bAQIDBA==");
        assert_eq!(without_binary(&wire), Some(expected));
    }
}

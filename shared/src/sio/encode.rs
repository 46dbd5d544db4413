//! Encodes values to [`Encoded`] packets: the only writer of Socket.IO's wire text.

use bytes::Bytes;

use crate::ws;

/// One encoded packet: its text frame and the frames of its attachments, as a server writes them to a
/// WebSocket. Server frames are not masked, so all recipients share these bytes;
/// [`crate::eio::push_polling`] makes a polling body from them. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded(Bytes);

impl Encoded {
    /// The frames.
    #[must_use]
    pub fn wire(&self) -> &Bytes {
        &self.0
    }

    /// Takes the frames out.
    #[must_use]
    pub fn into_wire(self) -> Bytes {
        self.0
    }
}

/// An event to encode.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name; never a reserved one.
    pub name: &'a str,
    /// Raw JSON of each argument.
    pub args: &'a [&'a str],
    /// The id of the requested ack.
    pub ack: Option<u64>,
    /// Binary data of the placeholders in `args`, at most ten.
    pub attachments: &'a [Bytes],
}

impl Event<'_> {
    /// Encodes the event once for all recipients.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        let kind = if self.attachments.is_empty() { b'2' } else { b'5' };
        packet(kind, self.namespace, self.ack, Some(self.name), self.args, self.attachments)
    }
}

/// An event whose name and arguments are the inside of a JSON array already.
#[must_use]
pub fn encode_event_json(namespace: &str, ack: Option<u64>, json: &str, attachments: &[Bytes]) -> Encoded {
    let kind = if attachments.is_empty() { b'2' } else { b'5' };
    packet(kind, namespace, ack, None, &[json], attachments)
}

/// The ack to event `id`; `args` are raw JSON.
#[must_use]
pub fn encode_ack(namespace: &str, id: u64, args: &[&str], attachments: &[Bytes]) -> Encoded {
    let kind = if attachments.is_empty() { b'3' } else { b'6' };
    packet(kind, namespace, Some(id), None, args, attachments)
}

/// The reply to CONNECT.
#[must_use]
pub fn encode_connect(namespace: &str, sid: &str) -> Encoded {
    text(b'0', namespace, &format!("{{\"sid\":\"{sid}\"}}"))
}

/// The refusal of a CONNECT: `{message, data?}`; the stock client does not reconnect automatically.
#[must_use]
pub fn encode_connect_error(namespace: &str, message: &str, data: Option<&serde_json::Value>) -> Encoded {
    let message = serde_json::Value::from(message);
    let data = data.map(|data| format!(",\"data\":{data}")).unwrap_or_default();
    text(b'4', namespace, &format!("{{\"message\":{message}{data}}}"))
}

/// Ends a socket; the stock client does not reconnect automatically.
#[must_use]
pub fn encode_disconnect(namespace: &str) -> Encoded {
    text(b'1', namespace, "")
}

fn text(kind: u8, namespace: &str, json: &str) -> Encoded {
    let mut out = String::with_capacity(namespace.len() + json.len() + 3);
    out.push('4');
    out.push(char::from(kind));
    if namespace != "/" {
        out.push_str(namespace);
        out.push(',');
    }
    out.push_str(json);
    let mut wire = Vec::new();
    ws::push_frame(&mut wire, ws::OP_TEXT, out.as_bytes());
    Encoded(wire.into())
}

/// Characters of `n` in decimal.
fn decimal_len(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Writes a packet with an array as its payload into one exact allocation.
fn packet(
    kind: u8,
    namespace: &str,
    id: Option<u64>,
    name: Option<&str>,
    args: &[&str],
    attachments: &[Bytes],
) -> Encoded {
    // Names that need escaping are rare; serde_json writes those.
    let name = name.map(|name| {
        if name.bytes().all(|b| b >= 0x20 && !matches!(b, b'"' | b'\\' | 0x7f..)) {
            format!("\"{name}\"")
        } else {
            serde_json::Value::from(name).to_string()
        }
    });
    let values = name.as_deref().into_iter().chain(args.iter().copied());
    let namespace = if namespace == "/" { "" } else { namespace };
    let count = attachments.len();
    let text_len = 2
        + if count == 0 { 0 } else { decimal_len(count as u64) + 1 }
        + if namespace.is_empty() { 0 } else { namespace.len() + 1 }
        + id.map_or(0, decimal_len)
        + 2
        + values.clone().map(str::len).sum::<usize>()
        + values.clone().count().saturating_sub(1);
    let binary_len: usize = attachments.iter().map(|a| ws::header_len(a.len()) + a.len()).sum();
    let mut out = Vec::with_capacity(ws::header_len(text_len) + text_len + binary_len);
    ws::push_header(&mut out, ws::OP_TEXT, text_len);
    let start = out.len();
    out.extend_from_slice(&[b'4', kind]);
    if count > 0 {
        out.extend_from_slice(count.to_string().as_bytes());
        out.push(b'-');
    }
    if !namespace.is_empty() {
        out.extend_from_slice(namespace.as_bytes());
        out.push(b',');
    }
    if let Some(id) = id {
        out.extend_from_slice(id.to_string().as_bytes());
    }
    out.push(b'[');
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b']');
    debug_assert_eq!(out.len() - start, text_len, "the header must have the text's length");
    for attachment in attachments {
        ws::push_frame(&mut out, ws::OP_BINARY, attachment);
    }
    Encoded(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(encoded: &Encoded) -> Vec<(u8, Vec<u8>)> {
        ws::frames(encoded.wire()).map(|(op, payload)| (op, payload.to_vec())).collect()
    }

    #[test]
    fn header_and_attachments_are_one_unit() {
        let event = Event {
            namespace: "/relay",
            name: "m",
            args: &[r#"{"_placeholder":true,"num":0}"#],
            ack: Some(12),
            attachments: &[Bytes::from_static(&[1, 2])],
        };
        assert_eq!(
            texts(&event.encode()),
            [
                (ws::OP_TEXT, br#"451-/relay,12["m",{"_placeholder":true,"num":0}]"#.to_vec()),
                (ws::OP_BINARY, vec![1, 2]),
            ]
        );
    }

    #[test]
    fn lengths_are_right_at_every_header_size() {
        for len in [0, 1, 110, 111, 112, 113, 125, 126, 65_000, 65_530, 65_536, 70_000] {
            let arg = format!("\"{}\"", "x".repeat(len));
            let event = Event { namespace: "/", name: "e", args: &[&arg], ack: None, attachments: &[] };
            let frames = texts(&event.encode());
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].1, format!("42[\"e\",{arg}]").into_bytes());
        }
    }

    #[test]
    fn a_refusal_is_an_object_with_a_message() {
        let data = serde_json::json!({"code": "invalid_token"});
        let refusal = encode_connect_error("/a", "Invalid token", Some(&data));
        assert_eq!(
            texts(&refusal)[0].1,
            br#"44/a,{"message":"Invalid token","data":{"code":"invalid_token"}}"#
        );
        assert_eq!(texts(&encode_disconnect("/"))[0].1, b"41");
        assert_eq!(texts(&encode_connect("/a", "x"))[0].1, br#"40/a,{"sid":"x"}"#);
    }
}

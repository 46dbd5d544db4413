//! The Engine.IO and Socket.IO packets that a client sends, and the parser of a server's packets.
//!
//! Text only, without parsed values: a load tester repeats the same few shapes, and the command line
//! sets the templates, because other servers name their events differently.

use anyhow::{Result, bail};

/// The kinds of server packets that a client must distinguish.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// Engine.IO open.
    Open,
    /// Engine.IO ping.
    Ping,
    /// Engine.IO close.
    Close,
    /// The namespace accepted the socket.
    Connected,
    /// The namespace refused or disconnected the socket; the packet's data.
    Refused(&'a str),
    /// An event's array, from `[` on.
    Event(&'a [u8]),
    /// An ack: its id, and its array from `[` on.
    Ack { id: u32, array: &'a [u8] },
    /// Another namespace, a binary packet or a noop: ignored.
    Other,
}

/// The namespace as packets carry it: empty for `/`, else with the comma.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    tag: String,
    /// `42` and the tag: what nearly every received packet begins with.
    event: Vec<u8>,
}

impl Namespace {
    /// `/` or `/name`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        if !name.starts_with('/') || name.contains(',') {
            bail!("namespace {name:?}: expected a name that begins with '/' and has no comma");
        }
        let tag = if name == "/" { String::new() } else { format!("{name},") };
        let event = format!("42{tag}").into_bytes();
        Ok(Self { tag, event })
    }

    /// `40/relay,{"token":"…"}`.
    pub(crate) fn connect(&self, auth: &str) -> String {
        format!("40{}{auth}", self.tag)
    }

    /// `41/relay,`.
    pub(crate) fn disconnect(&self) -> String {
        format!("41{}", self.tag)
    }

    /// `42/relay,["event",payload]`, with the ack id before the array if one is wanted.
    pub(crate) fn event(&self, ack: Option<u32>, event: &str, payload: &str) -> String {
        let tag = &self.tag;
        let id = ack.map(|id| id.to_string()).unwrap_or_default();
        let comma = if payload.is_empty() { "" } else { "," };
        format!("42{tag}{id}[\"{event}\"{comma}{payload}]")
    }

    /// Classifies `packet` for a client that is in this namespace only and sends events without
    /// attachments.
    #[inline]
    pub(crate) fn read<'a>(&self, packet: &'a [u8]) -> Incoming<'a> {
        match packet.strip_prefix(self.event.as_slice()) {
            Some(rest) if rest.first() == Some(&b'[') => Incoming::Event(rest),
            // An event that requests an ack. The tester sends none: the server's patience is not under
            // test.
            Some(rest) if rest.first().is_some_and(u8::is_ascii_digit) => Incoming::Event(split_id(rest).1),
            _ => self.read_rare(packet),
        }
    }

    fn read_rare<'a>(&self, packet: &'a [u8]) -> Incoming<'a> {
        match packet {
            [b'0', ..] => Incoming::Open,
            [b'1'] => Incoming::Close,
            [b'2'] => Incoming::Ping,
            [b'4', kind, rest @ ..] => self.read_message(*kind, rest),
            _ => Incoming::Other,
        }
    }

    fn read_message<'a>(&self, kind: u8, rest: &'a [u8]) -> Incoming<'a> {
        let foreign = self.tag.is_empty() && rest.first() == Some(&b'/');
        let Some(rest) = rest.strip_prefix(self.tag.as_bytes()).filter(|_| !foreign) else {
            return Incoming::Other;
        };
        match kind {
            b'0' => Incoming::Connected,
            b'1' => Incoming::Refused("the server disconnected the socket"),
            b'3' => {
                let (id, array) = split_id(rest);
                Incoming::Ack { id, array }
            }
            b'4' => Incoming::Refused(std::str::from_utf8(rest).unwrap_or("(not UTF-8)")),
            _ => Incoming::Other,
        }
    }
}

/// Splits an ack id from the rest. An unknown or missing id yields some number.
fn split_id(rest: &[u8]) -> (u32, &[u8]) {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = |id: u32, digit: &u8| id.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'));
    (rest[..digits].iter().fold(0, value), &rest[digits..])
}

/// Whether an event's array is of the event `name`.
pub(crate) fn is_event(array: &[u8], name: &str) -> bool {
    array
        .strip_prefix(b"[\"")
        .and_then(|rest| rest.strip_prefix(name.as_bytes()))
        .is_some_and(|rest| rest.first() == Some(&b'"'))
}

/// Whether an ack's array is a refusal. Other formats count as success.
pub(crate) fn is_refusal(array: &[u8]) -> bool {
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(array) else {
        return true;
    };
    answer.get(0).is_some_and(|first| {
        first.get("success") == Some(&serde_json::Value::Bool(false))
            || first.get("error").is_some_and(|error| !error.is_null())
    })
}

/// Fills a template's `{room}` and `{user}`.
pub(crate) fn fill(template: &str, room: &str, user: usize) -> String {
    template.replace("{room}", room).replace("{user}", &user.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> Namespace {
        Namespace::new("/relay").unwrap()
    }

    fn root() -> Namespace {
        Namespace::new("/").unwrap()
    }

    #[test]
    fn packets_of_the_own_namespace_are_classified() {
        let relay = relay();
        assert_eq!(relay.read(br#"0{"sid":"x"}"#), Incoming::Open);
        assert_eq!(relay.read(b"2"), Incoming::Ping);
        assert_eq!(relay.read(b"1"), Incoming::Close);
        assert_eq!(relay.read(br#"40/relay,{"sid":"x"}"#), Incoming::Connected);
        assert_eq!(relay.read(br#"42/relay,["e",1]"#), Incoming::Event(br#"["e",1]"#));
        assert_eq!(relay.read(br#"42/relay,17["e"]"#), Incoming::Event(br#"["e"]"#));
        assert_eq!(relay.read(b"43/relay,1[{}]"), Incoming::Ack { id: 1, array: b"[{}]" });
        assert_eq!(relay.read(br#"44/relay,{"message":"no"}"#), Incoming::Refused(r#"{"message":"no"}"#));
        assert!(matches!(relay.read(b"41/relay,"), Incoming::Refused(_)));
        assert_eq!(root().read(br#"42["e"]"#), Incoming::Event(br#"["e"]"#));
        assert_eq!(root().read(br#"40{"sid":"x"}"#), Incoming::Connected);
        assert_eq!(root().read(b"431[]"), Incoming::Ack { id: 1, array: b"[]" });
    }

    #[test]
    fn packets_of_other_namespaces_are_not_ours() {
        for packet in
            [&b"42[\"e\"]"[..], b"42/relay2,[\"e\"]", b"40{\"sid\":\"x\"}", b"451-/relay,[\"e\"]", b"6", b""]
        {
            assert_eq!(relay().read(packet), Incoming::Other);
        }
        for packet in [&b"42/relay,[\"e\"]"[..], b"40/relay,{}", b"43/relay,1[]"] {
            assert_eq!(root().read(packet), Incoming::Other);
        }
    }

    #[test]
    fn events_are_written_with_and_without_namespace_ack_and_payload() {
        assert_eq!(relay().event(Some(1), "join", r#"{"room":"r0"}"#), r#"42/relay,1["join",{"room":"r0"}]"#);
        assert_eq!(root().event(None, "ping", ""), r#"42["ping"]"#);
        assert_eq!(relay().connect(r#"{"token":"t"}"#), r#"40/relay,{"token":"t"}"#);
        assert!(Namespace::new("relay").is_err());
        assert!(Namespace::new("/a,b").is_err());
    }

    #[test]
    fn refusals_are_recognised_in_both_common_forms() {
        assert!(is_refusal(br#"[{"success":false,"error":"Not allowed"}]"#));
        assert!(is_refusal(br#"[{"error":"no"}]"#));
        assert!(is_refusal(b"[broken"));
        assert!(!is_refusal(br#"[{"success":true,"room":"r0","error":null}]"#));
        assert!(!is_refusal(b"[]"));
        assert!(!is_refusal(br#"["ok"]"#));
    }

    #[test]
    fn an_event_name_must_match_whole() {
        assert!(is_event(br#"["joined",1]"#, "joined"));
        assert!(!is_event(br#"["joined_late",1]"#, "joined"));
        assert!(!is_event(br#"["join"]"#, "joined"));
    }
}

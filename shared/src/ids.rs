//! Ids that the system generates.
//!
//! Engine.IO session ids and Socket.IO socket ids are 20 characters of the base64url alphabet, as the
//! ecosystem expects (the sharded Redis adapter recognises private rooms by that length). The first
//! [`NODE_CHARS`] name the node that made them, so any node can route by an id alone; the rest is random.
//! A session id is a bearer secret and shares no random part with the socket ids of its session.

use std::fmt;

/// Characters of an id.
pub const ID_CHARS: usize = 20;

/// Characters of an id that name its node.
pub const NODE_CHARS: usize = 4;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// One start of a node: four characters, random for each start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; NODE_CHARS]);

impl NodeId {
    /// A node id from random bytes.
    #[must_use]
    pub fn from_random(random: [u8; NODE_CHARS]) -> Self {
        // Letters and digits alone: the id is also the node's `uid` in the adapter's channel names.
        Self(random.map(|b| ALPHABET[usize::from(b) % 62]))
    }

    fn of(id: &[u8; ID_CHARS]) -> Self {
        let [a, b, c, d, ..] = *id;
        Self([a, b, c, d])
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn fill(node: NodeId, random: [u8; ID_CHARS - NODE_CHARS]) -> [u8; ID_CHARS] {
    let mut id = [0; ID_CHARS];
    id[..NODE_CHARS].copy_from_slice(&node.0);
    for (slot, byte) in id[NODE_CHARS..].iter_mut().zip(random) {
        *slot = ALPHABET[usize::from(byte & 63)];
    }
    id
}

fn parse(text: &str) -> Option<[u8; ID_CHARS]> {
    let id: [u8; ID_CHARS] = text.as_bytes().try_into().ok()?;
    id.iter().all(|b| ALPHABET.contains(b)).then_some(id)
}

/// Random bytes for an id; six bits of each are used, 96 in all.
pub type IdEntropy = [u8; ID_CHARS - NODE_CHARS];

/// An Engine.IO session's id. Its holder can read and write the session: never log it completely.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; ID_CHARS]);

impl SessionId {
    /// Makes the id of a session of `node`.
    #[must_use]
    pub fn new(node: NodeId, random: IdEntropy) -> Self {
        Self(fill(node, random))
    }

    /// Parses an id from a client; `None` when it is invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse(text).map(Self)
    }

    /// The node that made it.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId::of(&self.0)
    }

    /// The whole id: for the wire only.
    #[must_use]
    pub fn secret(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The first part of the id: enough to find a session in logs, but not to take it over.
    #[must_use]
    pub fn short(&self) -> &str {
        str::from_utf8(&self.0[..10]).unwrap_or_default()
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.short())
    }
}

/// One session's presence in one namespace. Public.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId([u8; ID_CHARS]);

impl SocketId {
    /// Makes the id of a socket on `node`.
    #[must_use]
    pub fn new(node: NodeId, random: IdEntropy) -> Self {
        Self(fill(node, random))
    }

    /// Parses an id; `None` when it is invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse(text).map(Self)
    }

    /// The node that made it.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId::of(&self.0)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_20_characters_and_begins_with_its_node() {
        let node = NodeId::from_random([255, 0, 61, 62]);
        let id = SocketId::new(node, [7; 16]);
        assert_eq!(id.as_str().len(), ID_CHARS);
        assert!(id.as_str().starts_with(node.as_str()));
        assert_eq!(SocketId::parse(id.as_str()), Some(id));
    }

    #[test]
    fn invalid_ids_are_not_parsed() {
        for bad in ["", "../x", &"x".repeat(19), &"x".repeat(21), "aaaaaaaaaaaaaaaaaaa=", &"é".repeat(10)] {
            assert_eq!(SessionId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_session_id_is_not_printed_whole() {
        let id = SessionId::new(NodeId::from_random([1; 4]), [2; 16]);
        assert!(!format!("{id:?}").contains(id.secret()));
    }
}

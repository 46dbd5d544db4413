//! Names of Redis channels: only this module writes and parses them.

use std::borrow::Cow;
use std::sync::Arc;

/// Suffix of a room's channel for broadcasts of Muster nodes.
const OWN: char = '!';

/// Writes and parses the channel names of one prefix (`socket.io` by default).
#[derive(Debug, Clone)]
pub struct Channels {
    prefix: Arc<str>,
}

/// The purpose of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel<'a> {
    /// Broadcasts: to the one room in the name, or to the rooms in the message.
    Broadcast {
        /// The namespace.
        namespace: &'a str,
        /// The only room addressed.
        room: Option<&'a str>,
        /// Sent by a Muster node, to nodes that have members of the room ([`Channels::own_room`]).
        own: bool,
    },
    /// Requests to every node.
    Request {
        /// The namespace.
        namespace: &'a str,
    },
    /// Responses, shared or to one node only.
    Response {
        /// The namespace.
        namespace: &'a str,
    },
}

impl Channels {
    /// Channel names that begin with `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The prefix of all of them.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Broadcasts to no room or to several.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> String {
        format!("{}#{namespace}#", self.prefix)
    }

    /// Broadcasts to exactly one room, as backends send them.
    #[must_use]
    pub fn room(&self, namespace: &str, room: &str) -> String {
        format!("{}#{namespace}#{room}#", self.prefix)
    }

    /// A pattern that only [`Self::namespace`] matches. Servers on `@socket.io/redis-streams-adapter` count each other by
    /// the subscribers of that channel's name (`PUBSUB NUMSUB`, which ignores patterns), and wait for the answer of each.
    /// Nodes do not answer them, so they subscribe by this pattern.
    #[must_use]
    pub fn namespace_pattern(&self, namespace: &str) -> String {
        format!("{}#{}#", literal(&self.prefix), literal(namespace))
    }

    /// A pattern for [`Self::room`] of every room, which matches none of the channels of [`Self::own_room`].
    #[must_use]
    pub fn rooms_of_backends(&self, namespace: &str) -> String {
        format!("{}#{}#*#", literal(&self.prefix), literal(namespace))
    }

    /// Broadcasts of Muster nodes to exactly one room. A Node.js server receives them by its pattern, since it removes the
    /// last character, whatever it is; only nodes with members of the room receive them.
    #[must_use]
    pub fn own_room(&self, namespace: &str, room: &str) -> String {
        format!("{}#{namespace}#{room}{OWN}", self.prefix)
    }

    /// A pattern for [`Self::own_room`] of any socket of a node, whose id is letters and digits.
    #[must_use]
    pub fn sockets_of_node(&self, namespace: &str, node: &str) -> String {
        format!("{}#{}#{node}????????????????{OWN}", literal(&self.prefix), literal(namespace))
    }

    /// Requests.
    #[must_use]
    pub fn request(&self, namespace: &str) -> String {
        format!("{}-request#{namespace}#", self.prefix)
    }

    /// Responses that all nodes read.
    #[must_use]
    pub fn response(&self, namespace: &str) -> String {
        format!("{}-response#{namespace}#", self.prefix)
    }

    /// Responses to one node.
    #[must_use]
    pub fn own_response(&self, namespace: &str, uid: &str) -> String {
        format!("{}-response#{namespace}#{uid}#", self.prefix)
    }

    /// Parses a channel's name; `None` if it is not one of Muster's.
    #[must_use]
    pub fn parse<'a>(&self, channel: &'a str) -> Option<Channel<'a>> {
        let rest = channel.strip_prefix(&*self.prefix)?;
        if let Some(rest) = rest.strip_prefix("-request#") {
            return Some(Channel::Request { namespace: rest.strip_suffix('#')? });
        }
        if let Some(rest) = rest.strip_prefix("-response#") {
            let (namespace, _) = rest.split_once('#')?;
            return Some(Channel::Response { namespace });
        }
        let (namespace, room) = rest.strip_prefix('#')?.split_once('#')?;
        if room.is_empty() {
            return Some(Channel::Broadcast { namespace, room: None, own: false });
        }
        let (room, own) = match room.strip_suffix(OWN) {
            Some(room) => (room, true),
            None => (room.strip_suffix('#')?, false),
        };
        Some(Channel::Broadcast { namespace, room: Some(room), own })
    }
}

/// A text as a literal part of a Redis pattern.
fn literal(text: &str) -> Cow<'_, str> {
    const GLOB: [char; 5] = ['*', '?', '[', ']', '\\'];
    if !text.contains(GLOB) {
        return text.into();
    }
    let escaped = |c: char| GLOB.contains(&c).then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(escaped).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_configured_names_literally() {
        let channels = Channels::new("socket.io");
        assert_eq!(channels.namespace_pattern("/a"), "socket.io#/a#");
        let odd = Channels::new(r"a*b?[c-d]\^");
        assert_eq!(odd.namespace_pattern("/"), r"a\*b\?\[c-d\]\\^#/#");
        assert_eq!(odd.sockets_of_node("/*", "AbC1"), r"a\*b\?\[c-d\]\\^#/\*#AbC1????????????????!");
        assert_eq!(odd.rooms_of_backends("/*"), r"a\*b\?\[c-d\]\\^#/\*#*#");
    }

    #[test]
    fn channel_names_are_parsed_as_written() {
        let channels = Channels::new("socket.io");
        let broadcast = |namespace, room, own| Some(Channel::Broadcast { namespace, room, own });
        assert_eq!(channels.parse(&channels.namespace("/")), broadcast("/", None, false));
        assert_eq!(channels.parse(&channels.room("/a", "sos:1")), broadcast("/a", Some("sos:1"), false));
        assert_eq!(channels.parse(&channels.own_room("/a", "sos:1")), broadcast("/a", Some("sos:1"), true));
        assert_eq!(channels.parse(&channels.room("/a", "x!")), broadcast("/a", Some("x!"), false));
        assert_eq!(channels.parse(&channels.own_room("/a", "x#")), broadcast("/a", Some("x#"), true));
        assert_eq!(channels.parse("socket.io#/#a#b#"), broadcast("/", Some("a#b"), false));
        assert_eq!(channels.parse(&channels.request("/a")), Some(Channel::Request { namespace: "/a" }));
        for response in [channels.response("/a"), channels.own_response("/a", "AbC1")] {
            assert_eq!(channels.parse(&response), Some(Channel::Response { namespace: "/a" }));
        }
        for bad in
            ["", "socket.io", "socket.io#", "socket.io#/", "socket.io#/#room", "other#/#", "socket.iox#/#"]
        {
            assert_eq!(channels.parse(bad), None, "{bad}");
        }
        assert_eq!(channels.sockets_of_node("/", "AbC1").len(), "socket.io#/##".len() + 20);
    }
}

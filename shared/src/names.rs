//! Names that cross the edge of the system, checked once when they enter it.
//!
//! The contract: names and ids are opaque texts, compared byte by byte. It has three rules:
//!
//! - **Ids** ([`is_id`]): users, and rooms that backends name. Identity providers and Node.js servers write them, so
//!   they may be any text of 1–255 bytes. What a server on the same Redis calls a room is bounded in bytes alone
//!   ([`Room::of_server`]).
//! - **Names** ([`is_name`]): what clients name, such as rooms of chat, incidents and messages. Any text of 1–128
//!   characters.
//! - **Words** ([`is_word`]): what programs compare, such as events, kinds and namespaces. 1–128 characters of
//!   `A–Z a–z 0–9 . _ : -`.
//!
//! Ids and names hold no control characters, and something that can be seen ([`is_blank`]), which a room of a backend need
//! not. A value of one of these types has passed its check, so nothing behind the edge checks again.
//!
//! **Ids inside other names.** `user:ID`, `notifications:ID` and `presence:ID` need no escaping: all behind the first
//! colon is the id. `chat:A:B` holds two, so there `%` and `:` are escaped ([`escaped`]), and nothing else: for most
//! ids the room is what the document says.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use crate::blank::is_blank;
use crate::limits::{ID_MAX_BYTES, NAME_MAX, ROOM_MAX_BYTES};

/// A text that is no word: empty, too long, or with other characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ : -")]
pub struct BadWord;

/// A text that is no name: empty or blank, too long, or with control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {NAME_MAX} characters, none of them a control character")]
pub struct BadName;

/// A text that is no id: empty or blank, too long, or with control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {ID_MAX_BYTES} bytes, none of them a control character")]
pub struct BadId;

/// Whether `text` is a word by the contract's rule.
#[must_use]
pub fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// Whether clients may call something `text`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    // Four bytes are the longest character.
    text.len() <= 4 * NAME_MAX && text.chars().count() <= NAME_MAX && is_plain(text)
}

/// Whether `text` is valid as a user's id, or as a backend's name of a room.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() <= ID_MAX_BYTES && is_plain(text)
}

/// Without control characters, and with a visible character.
fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control) && !is_blank(text)
}

/// An id as one of several parts separated by colons. `%` and `:` are escaped as `%25` and `%3A`, so no two lists of ids are
/// written alike.
#[must_use]
pub fn escaped(id: &str) -> Cow<'_, str> {
    if id.contains(['%', ':']) { id.replace('%', "%25").replace(':', "%3A").into() } else { id.into() }
}

/// The id that [`escaped`] wrote as `part`; `None` where it cannot have written it. An id has one spelling.
#[must_use]
pub fn unescaped(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains('%') {
        return (!part.contains(':')).then_some(part.into());
    }
    let id = part.replace("%3A", ":").replace("%25", "%");
    (escaped(&id) == part).then_some(id.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $rule:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            #[doc = concat!("Checks `text` by [`", stringify!($rule), "`].")]
            ///
            /// # Errors
            #[doc = concat!("[`", stringify!($error), "`].")]
            pub fn parse(text: &str) -> Result<Self, $error> {
                if $rule(text) { Ok(Self(text.into())) } else { Err($error) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as text that shares its memory.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A room of a namespace, as it is called in the cluster.
    Room, is_name, BadName
}
name! {
    /// A user, across sockets, nodes and namespaces.
    UserId, is_id, BadId
}

/// Prefix of the room of all sockets of a user. No socket enters such a room; every socket belongs to its user's.
pub const USER_ROOM_PREFIX: &str = "user:";

impl Room {
    /// The room of all sockets of a user.
    #[must_use]
    pub fn of_user(user: &UserId) -> Self {
        Self::prefixed(USER_ROOM_PREFIX, user.as_str())
    }

    /// A room as backends name it (contract, "Names and ids"): any text of 1–255 bytes without control characters. A name may
    /// have more bytes, and an app's room even more, because a prefix precedes the name or ids.
    #[must_use]
    pub fn of_cluster(text: &str) -> Option<Self> {
        let has_prefix = || text.split_once(':').is_some_and(|(prefix, _)| is_word(prefix));
        let fits =
            text.len() <= ID_MAX_BYTES || is_name(text) || (text.len() <= ROOM_MAX_BYTES && has_prefix());
        (fits && !text.is_empty() && !text.chars().any(char::is_control)).then(|| Self(text.into()))
    }

    /// A room as a server on the same Redis names it: any text that is not too long, as on a Node.js server.
    #[must_use]
    pub fn of_server(text: &str) -> Option<Self> {
        (text.len() <= ROOM_MAX_BYTES).then(|| Self(text.into()))
    }

    /// A room of an app: `prefix` (with its colon) and a checked name or id.
    #[must_use]
    pub fn prefixed(prefix: &str, name: &str) -> Self {
        let mut text = String::with_capacity(prefix.len() + name.len());
        text.push_str(prefix);
        text.push_str(name);
        Self(text.into())
    }
}

/// A Socket.IO namespace, with its leading slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Checks a namespace: `/`, or `/` and path segments that are words.
    ///
    /// # Errors
    /// [`BadWord`] when it does not start with a slash, is too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, BadWord> {
        let Some(path) = text.strip_prefix('/') else { return Err(BadWord) };
        let ok = path.is_empty() || path.split('/').all(is_word);
        if ok && text.len() <= NAME_MAX { Ok(Self(text.into())) } else { Err(BadWord) }
    }

    /// The namespace as text, with its slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_1_to_128_plain_characters() {
        for good in ["a", "asteroid-2465633", "user:U_1.x", &"x".repeat(NAME_MAX)] {
            assert!(is_word(good), "{good}");
        }
        for bad in ["", "a b", "a}{b", "*", "a\r\nb", "a\0", "é", &"x".repeat(NAME_MAX + 1)] {
            assert!(!is_word(bad), "{bad}");
        }
    }

    /// Neither ids nor names.
    const NO_NAMES: &[&str] = &[
        "", " ", "\t", "\0", "a\0", "a\r\nb", "a\u{7f}", "a\u{85}b", "\u{a0}", "\u{200b}", "\u{202e}",
        "\u{3164}",
    ];

    #[test]
    fn a_users_id_is_any_text_of_an_issuer() {
        let good = [
            "auth0|5f7c8ec7c33c6c004bbafe82",
            "google-oauth2|103547991597142817347",
            "user@example.org",
            "f:2f1cbbf1-1a2b-4c3d-8e9f-001122334455:user@example.org",
            "abc@clients",
            "dXNlcg==",
            "josé",
            "user+tag",
            "https://issuer.example/users/1?x=%20#y",
            r"DOMAIN\user",
            "CN=Ann Bee,O=Example",
            "{curly}",
            "a b",
            "*",
            "👩\u{200d}🚀",
            &"x".repeat(ID_MAX_BYTES),
        ];
        for good in good {
            assert_eq!(UserId::parse(good).map(|user| user.to_string()).as_deref(), Ok(good));
        }
        let (long, wide) = ("x".repeat(ID_MAX_BYTES + 1), "é".repeat(ID_MAX_BYTES / 2 + 1));
        for bad in NO_NAMES.iter().chain(&[&*long, &wide]) {
            assert_eq!(UserId::parse(bad), Err(BadId), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_1_to_128_characters_of_any_script() {
        for good in ["General Chat", "team/42", "é", "{a}", "*", "東京", &"😀".repeat(NAME_MAX)] {
            assert!(is_name(good), "{good}");
        }
        let (long, wide) = ("x".repeat(NAME_MAX + 1), "😀".repeat(NAME_MAX + 1));
        for bad in NO_NAMES.iter().chain(&[&*long, &wide]) {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_room_of_the_cluster_is_an_id_or_longer_by_what_apps_put_before_it() {
        let user = UserId::parse(&"é:%".repeat(63)).unwrap();
        let two = format!("chat:{}:{}", escaped(user.as_str()), escaped(&":".repeat(ID_MAX_BYTES)));
        for good in [
            "General Chat",
            "team/42",
            "a:b",
            Room::of_user(&user).as_str(),
            &two,
            &format!("room:{}", "😀".repeat(NAME_MAX)),
            &"😀".repeat(NAME_MAX),
        ] {
            assert_eq!(Room::of_cluster(good).as_ref().map(Room::as_str), Some(good));
        }
        let (long, longest) = ("x".repeat(ID_MAX_BYTES + 1), format!("chat:{}", "x".repeat(ROOM_MAX_BYTES)));
        for bad in ["", "\t", "\0", "a\0", "a\r\nb", "a\u{7f}", "a\u{85}b", &long, &longest] {
            assert_eq!(Room::of_cluster(bad), None, "{bad:?}");
        }
        for invisible in [" ", "\u{a0}", "\u{200b}"] {
            assert!(Room::of_cluster(invisible).is_some(), "{invisible:?}");
        }
    }

    #[test]
    fn a_room_of_a_server_is_any_text() {
        for good in ["", " ", "a\0\n", "a#b", "проект-1", &"x".repeat(ROOM_MAX_BYTES)] {
            assert_eq!(Room::of_server(good).as_ref().map(Room::as_str), Some(good));
        }
        assert_eq!(Room::of_server(&"x".repeat(ROOM_MAX_BYTES + 1)), None);
    }

    #[test]
    fn an_escaped_id_has_one_spelling_and_no_colon() {
        for (id, part) in [
            ("u1", "u1"),
            ("auth0|5f7c", "auth0|5f7c"),
            ("f:1:a@b", "f%3A1%3Aa@b"),
            ("100%", "100%25"),
            ("%3A", "%253A"),
            ("é/ {}", "é/ {}"),
        ] {
            assert_eq!(escaped(id), part);
            assert_eq!(unescaped(part).as_deref(), Some(id));
        }
        for other in ["a:b", "a%3ab", "a%", "a%2", "a%41", "%7C", "%253a%3"] {
            assert_eq!(unescaped(other), None, "{other}");
        }
    }

    #[test]
    fn a_namespace_starts_with_a_slash() {
        for good in ["/", "/relay", "/a/b-c"] {
            assert!(Namespace::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "relay", "//", "/a/", "/../admin?", "/a b"] {
            assert!(Namespace::parse(bad).is_err(), "{bad}");
        }
    }
}

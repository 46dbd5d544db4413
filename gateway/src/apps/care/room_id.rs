//! Rooms of `care` and access to them (document 004, "Room ID Formats"; contract, "care").
//!
//! The room of two users is `chat:A:B`. Their ids are sorted, and `%` and `:` in them are escaped as `%25` and
//! `%3A` ([`escaped`]). So every two users have one room, and no two pairs share one. Most ids contain neither
//! character and appear unchanged.

use std::borrow::Cow;
use std::cmp::Ordering;

use shared::auth::Claims;
use shared::names::{Room, UserId, escaped, is_id, is_name, unescaped};

use crate::error::AppError;

/// The prefixes of this app's rooms.
pub(crate) const ROOM_PREFIXES: &[&str] =
    &["chat:", "visit:", "call:", "notifications:", "topic:", PRESENCE_PREFIX];

/// The prefix of the room of a user's watchers.
pub(super) const PRESENCE_PREFIX: &str = "presence:";

/// A room that clients may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoomId {
    room: Room,
}

/// Who may enter a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// These two users.
    Two(Cow<'a, str>, Cow<'a, str>),
    /// This user.
    One(&'a str),
    /// Users with a grant in the records or the token.
    Granted,
    Everyone,
    Nobody,
}

impl RoomId {
    /// Parses a room id from a client.
    ///
    /// # Errors
    /// [`AppError::BadInput`].
    pub(super) fn parse(text: &str) -> Result<Self, AppError> {
        // Room ids of users may exceed the length of a name by the length of user ids; others by their prefix.
        let is_good = is_name(text)
            || match text.split_once(':') {
                Some(("chat", rest)) => two_in(rest).is_some(),
                Some(("notifications", user)) => is_id(user),
                Some(("visit" | "call" | "topic", name)) => is_name(name),
                _ => false,
            };
        if is_good {
            Ok(Self { room: Room::prefixed("", text) })
        } else {
            Err(AppError::BadInput("Invalid room id".into()))
        }
    }

    /// A room, if it belongs to this app and clients may name it.
    pub(super) fn of_cluster(room: &Room) -> Option<Self> {
        let (kind, _) = room.as_str().split_once(':')?;
        let is_ours = matches!(kind, "chat" | "notifications" | "visit" | "call" | "topic");
        is_ours.then(|| Self { room: room.clone() })
    }

    /// The room of a visit.
    pub(super) fn of_visit(visit: &str) -> Result<Self, AppError> {
        if is_name(visit) { Self::parse(&format!("visit:{visit}")) } else { Self::parse(" ") }
    }

    /// The room as the node names it.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn as_str(&self) -> &str {
        self.room.as_str()
    }

    /// The two users of a conversation.
    pub(super) fn two(&self) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
        match self.access() {
            Access::Two(a, b) => Some((a, b)),
            Access::One(_) | Access::Granted | Access::Everyone | Access::Nobody => None,
        }
    }

    /// Whether backends can grant access to it.
    pub(super) fn is_granted(&self) -> bool {
        self.access() == Access::Granted
    }

    /// Whether members receive events about each other. A notification room has only one user.
    pub(super) fn opens_for_members(&self) -> bool {
        matches!(self.access(), Access::Two(..) | Access::Granted | Access::Everyone)
    }

    /// Who may enter it.
    pub(super) fn access(&self) -> Access<'_> {
        let Some((kind, rest)) = self.as_str().split_once(':').filter(|(_, rest)| !rest.is_empty()) else {
            return Access::Nobody;
        };
        match kind {
            "chat" => two_in(rest).map_or(Access::Nobody, |(a, b)| Access::Two(a, b)),
            "notifications" => Access::One(rest),
            "visit" | "call" => Access::Granted,
            "topic" => Access::Everyone,
            _ => Access::Nobody,
        }
    }

    /// Whether the token alone grants access. `None` if the records decide.
    pub(super) fn opens_for(&self, claims: &Claims) -> Option<bool> {
        let user = claims.user.as_str();
        match self.access() {
            Access::Two(a, b) => Some(user == a || user == b),
            Access::One(only) => Some(user == only),
            Access::Everyone => Some(true),
            Access::Nobody => Some(false),
            Access::Granted if claims.may_join(self.as_str()) => Some(true),
            Access::Granted => None,
        }
    }
}

/// The two users in a room's name after its prefix.
fn two_in(rest: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (a, b) = rest.split_once(':')?;
    let (a, b) = (unescaped(a)?, unescaped(b)?);
    (is_id(&a) && is_id(&b) && order(&a, &b) == Ordering::Less).then_some((a, b))
}

/// The order of two users in the name of their room: by UTF-16, as JavaScript's `sort`. It differs from byte order
/// only for characters beyond the first 65,536.
fn order(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

/// The id of a conversation of two users: the name of their room, or the older unescaped form for ids with a colon,
/// because conversations are stored with it.
pub(super) fn conversation_of(a: &UserId, b: &UserId) -> String {
    let (a, b) = (a.as_str(), b.as_str());
    if a.contains(':') || b.contains(':') {
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        return format!("direct:{}:{a}:{b}", a.len());
    }
    let (a, b) = if order(a, b).is_le() { (a, b) } else { (b, a) };
    format!("chat:{}:{}", escaped(a), escaped(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_tell_who_may_enter() {
        for (id, access) in [
            ("chat:a:b", Access::Two("a".into(), "b".into())),
            ("chat:auth0|5f7c:josé@example.org", Access::Two("auth0|5f7c".into(), "josé@example.org".into())),
            ("chat:f%3A1%3Aa@b:u1", Access::Two("f:1:a@b".into(), "u1".into())),
            ("chat:100%25:u1", Access::Two("100%".into(), "u1".into())),
            // JavaScript sorts characters beyond the first 65,536 before U+FF21.
            ("chat:\u{1f600}:\u{ff21}", Access::Two("\u{1f600}".into(), "\u{ff21}".into())),
            ("chat:\u{ff21}:\u{1f600}", Access::Nobody),
            ("chat:f:1:a@b:u1", Access::Nobody),
            ("chat:a%3ab:c", Access::Nobody),
            ("chat:a%7Cb:c", Access::Nobody),
            ("chat:100%:u1", Access::Nobody),
            ("chat:b:a", Access::Nobody),
            ("chat:a:a", Access::Nobody),
            ("chat:a", Access::Nobody),
            ("chat:a:b:c", Access::Nobody),
            ("chat::b", Access::Nobody),
            ("notifications:a:b", Access::One("a:b")),
            ("visit:7", Access::Granted),
            ("call:visit-123", Access::Granted),
            ("topic:appointments", Access::Everyone),
            ("topic:", Access::Nobody),
            ("presence:a", Access::Nobody),
            ("user:a", Access::Nobody),
            ("anything", Access::Nobody),
        ] {
            assert_eq!(RoomId::parse(id).unwrap().access(), access, "{id}");
        }
        for bad in ["", " ", "a\nb", "\u{200b}", &"x".repeat(129), &format!("topic:{}", "x".repeat(129))] {
            assert!(RoomId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RoomId::parse("General Chat").is_ok() && RoomId::of_visit("").is_err());
    }

    #[test]
    fn two_users_have_one_conversation() {
        let user = |id: &str| UserId::parse(id).unwrap();
        assert_eq!(conversation_of(&user("b"), &user("a")), "chat:a:b");
        let with = |a: &str, b: &str| conversation_of(&user(a), &user(b));
        assert_eq!(with("a:b", "c"), with("c", "a:b"));
        assert_ne!(with("a:b", "c"), with("a", "b:c"));
        assert_eq!(with("100%", "auth0|5f7c"), "chat:100%25:auth0|5f7c");
    }

    #[test]
    fn every_two_users_have_a_room_of_their_own() {
        let long = ":".repeat(255);
        let ids = [
            "a",
            "a:b",
            "b",
            "b:c",
            "c",
            "a%3Ab",
            "a%",
            "%3A",
            ":",
            "::",
            "%",
            "é",
            "auth0|5f7c",
            "\u{1f600}",
            "\u{ff21}",
            &long,
        ];
        let mut rooms = std::collections::HashMap::new();
        for a in ids {
            for b in ids {
                if order(a, b) != Ordering::Less {
                    continue;
                }
                let text = format!("chat:{}:{}", escaped(a), escaped(b));
                let room = RoomId::parse(&text).unwrap();
                assert_eq!(room.two(), Some((a.into(), b.into())));
                assert_eq!(
                    Room::of_cluster(&text).as_ref(),
                    Some(room.room()),
                    "and it is a valid room name"
                );
                assert_eq!(rooms.insert(text, (a, b)), None);
            }
        }
    }

    #[test]
    fn rooms_of_users_and_visits_are_as_long_as_their_ids() {
        let user = "é".repeat(127);
        let claims = |sub: &str| {
            Claims::from_json(serde_json::json!({"sub": sub, "exp": 1}).as_object().unwrap()).unwrap()
        };
        let own = RoomId::parse(&format!("notifications:{user}")).unwrap();
        assert_eq!((own.opens_for(&claims(&user)), own.opens_for(&claims("u"))), (Some(true), Some(false)));
        assert!(RoomId::of_visit(&"x".repeat(128)).is_ok() && RoomId::of_visit(&"x".repeat(129)).is_err());
    }
}

//! Rooms of `care` and who may enter them (document 004, "Room ID Formats"; contract, "care").

use shared::auth::Claims;
use shared::names::{Room, UserId, is_name};

use crate::error::AppError;

/// What the rooms of this app are called in the cluster.
pub(crate) const ROOM_PREFIXES: &[&str] =
    &["chat:", "visit:", "call:", "notifications:", "topic:", PRESENCE_PREFIX];

/// Before a user's id: who watches them.
pub(super) const PRESENCE_PREFIX: &str = "presence:";

/// A room that clients may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoomId {
    room: Room,
}

/// What decides who may enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// These two users.
    Two(&'a str, &'a str),
    /// This user.
    One(&'a str),
    /// Whom the records or the token name.
    Granted,
    Everyone,
    Nobody,
}

impl RoomId {
    /// A room's id by a client.
    ///
    /// # Errors
    /// [`AppError::BadInput`].
    pub(super) fn parse(text: &str) -> Result<Self, AppError> {
        if is_name(text) {
            Ok(Self { room: Room::prefixed("", text) })
        } else {
            Err(AppError::BadInput("Invalid room id".into()))
        }
    }

    /// A room of the cluster, if it is one of this app's that clients may name.
    pub(super) fn of_cluster(room: &Room) -> Option<Self> {
        let (kind, _) = room.as_str().split_once(':')?;
        let is_ours = matches!(kind, "chat" | "notifications" | "visit" | "call" | "topic");
        is_ours.then(|| Self { room: room.clone() })
    }

    /// The room of a visit.
    pub(super) fn of_visit(visit: &str) -> Result<Self, AppError> {
        if is_name(visit) { Self::parse(&format!("visit:{visit}")) } else { Self::parse(" ") }
    }

    /// The room in the cluster.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn as_str(&self) -> &str {
        self.room.as_str()
    }

    /// The two whose conversation it is.
    pub(super) fn two(&self) -> Option<(&str, &str)> {
        match self.access() {
            Access::Two(a, b) => Some((a, b)),
            Access::One(_) | Access::Granted | Access::Everyone | Access::Nobody => None,
        }
    }

    /// Whether access to it can be granted.
    pub(super) fn is_granted(&self) -> bool {
        self.access() == Access::Granted
    }

    /// Whether members hear of each other in it; notifications are for one alone.
    pub(super) fn opens_for_members(&self) -> bool {
        matches!(self.access(), Access::Two(..) | Access::Granted | Access::Everyone)
    }

    /// What decides who may enter.
    pub(super) fn access(&self) -> Access<'_> {
        let Some((kind, rest)) = self.as_str().split_once(':').filter(|(_, rest)| !rest.is_empty()) else {
            return Access::Nobody;
        };
        match kind {
            "chat" => match rest.split_once(':') {
                // Sorted, so that two users have one room; a user id with a colon has none.
                Some((a, b)) if a < b && !a.is_empty() && !b.contains(':') => Access::Two(a, b),
                _ => Access::Nobody,
            },
            "notifications" => Access::One(rest),
            "visit" | "call" => Access::Granted,
            "topic" => Access::Everyone,
            _ => Access::Nobody,
        }
    }

    /// Whether a token alone opens it; `None` where the records decide.
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

/// What a conversation of two is called: like their room, where their ids allow one.
pub(super) fn conversation_of(a: &UserId, b: &UserId) -> String {
    let (a, b) = if a <= b { (a.as_str(), b.as_str()) } else { (b.as_str(), a.as_str()) };
    if a.contains(':') || b.contains(':') {
        format!("direct:{}:{a}:{b}", a.len())
    } else {
        format!("chat:{a}:{b}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_tell_who_may_enter() {
        for (id, access) in [
            ("chat:a:b", Access::Two("a", "b")),
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
        assert!(RoomId::parse("a b").is_err() && RoomId::of_visit("").is_err());
    }

    #[test]
    fn two_users_have_one_conversation() {
        let user = |id: &str| UserId::parse(id).unwrap();
        assert_eq!(conversation_of(&user("b"), &user("a")), "chat:a:b");
        let with = |a: &str, b: &str| conversation_of(&user(a), &user(b));
        assert_eq!(with("a:b", "c"), with("c", "a:b"));
        assert_ne!(with("a:b", "c"), with("a", "b:c"));
    }
}

//! Events of clients, decoded and checked; and the bodies of ours.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::limits::{CHAT_HISTORY, CHAT_MESSAGE_MAX, PAGE_MAX};
use shared::names::{Room, is_name};
use shared::sio::Args;

use crate::apps::{first, unknown_event};
use crate::describe::forms::{False, Name, OwnId, Time, UserIdText};
use crate::error::AppError;
use crate::text::checked;

/// What chat rooms are called in the cluster, so that none can be another app's.
pub(super) const ROOM_PREFIX: &str = "room:";

/// A chat room's id, as clients write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RoomId {
    room: Room,
}

impl RoomId {
    pub(super) fn parse(text: &str) -> Result<Self, AppError> {
        if is_name(text) {
            Ok(Self { room: Room::prefixed(ROOM_PREFIX, text) })
        } else {
            Err(AppError::BadInput("Invalid room id".into()))
        }
    }

    /// The id of a room of the cluster, if it is one of chat's.
    pub(super) fn of_room(room: &Room) -> Option<&str> {
        room.as_str().strip_prefix(ROOM_PREFIX)
    }

    /// A room of the cluster, if it is one of chat's.
    pub(super) fn of_cluster(text: &str) -> Option<Self> {
        Self::parse(text.strip_prefix(ROOM_PREFIX)?).ok()
    }

    /// The room in the cluster.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn as_str(&self) -> &str {
        Self::of_room(&self.room).unwrap_or_default()
    }
}

/// A message to be sent: trimmed, not empty, not too long.
#[derive(Debug)]
pub(super) struct NewMessage {
    pub(super) room: RoomId,
    pub(super) content: String,
}

/// A page of history.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) room: RoomId,
    /// The id of the message before which the page ends.
    pub(super) before: Option<String>,
    pub(super) limit: u32,
}

/// An event of a client.
#[derive(Debug)]
pub(super) enum ChatEvent {
    Join(RoomId),
    Leave(RoomId),
    Send(NewMessage),
    TypingStart(RoomId),
    TypingStop(RoomId),
    History(Page),
}

/// A message to be sent.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SendBody {
    #[schemars(with = "Name")]
    room_id: String,
    /// Trimmed; then 1 to 1,000 characters, none of them NUL.
    content: String,
}

/// The page of a history that is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageBody {
    #[schemars(with = "Name")]
    room_id: String,
    /// The id of the message before which the page ends.
    before: Option<String>,
    /// 1 to 100, clamped; 50 unless asked for.
    limit: Option<i64>,
}

impl ChatEvent {
    /// Reads an event.
    ///
    /// # Errors
    /// [`AppError::BadInput`] with the documents' words.
    pub(super) fn decode(name: &str, args: &Args<'_>) -> Result<Self, AppError> {
        let room = || RoomId::parse(&first::<String>(args).unwrap_or_default());
        match name {
            "join_room" => room().map(Self::Join),
            "leave_room" => room().map(Self::Leave),
            "typing_start" => room().map(Self::TypingStart),
            "typing_stop" => room().map(Self::TypingStop),
            "send_message" => new_message(args).map(Self::Send),
            "room_history" => page(args).map(Self::History),
            _ => Err(unknown_event()),
        }
    }
}

fn new_message(args: &Args<'_>) -> Result<NewMessage, AppError> {
    let body: SendBody =
        first(args).ok_or_else(|| AppError::BadInput("Expected {roomId, content}".into()))?;
    let room = RoomId::parse(&body.room_id)?;
    Ok(NewMessage { room, content: checked(&body.content, "Message", CHAT_MESSAGE_MAX)? })
}

fn page(args: &Args<'_>) -> Result<Page, AppError> {
    let body: PageBody =
        first(args).ok_or_else(|| AppError::BadInput("Expected {roomId, before?, limit?}".into()))?;
    let limit = body.limit.unwrap_or_else(|| i64::from(CHAT_HISTORY)).clamp(1, i64::from(PAGE_MAX));
    Ok(Page {
        room: RoomId::parse(&body.room_id)?,
        before: body.before,
        limit: u32::try_from(limit).unwrap_or(PAGE_MAX),
    })
}

/// Who wrote a message.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Author {
    #[schemars(with = "Name")]
    pub(super) id: String,
    pub(super) name: String,
    pub(super) avatar: Option<String>,
}

/// A stored message as clients see it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    #[schemars(with = "OwnId")]
    pub(super) id: String,
    pub(super) content: String,
    #[schemars(with = "Name")]
    pub(super) room_id: String,
    #[schemars(with = "UserIdText")]
    pub(super) user_id: String,
    #[schemars(with = "Time")]
    pub(super) created_at: String,
    pub(super) user: Author,
    /// Its place in the room; ours alone.
    #[serde(skip)]
    pub(super) seq: i64,
}

/// Messages of a room.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RoomHistory<'a> {
    #[schemars(with = "Name")]
    pub(super) room_id: &'a str,
    /// Oldest first.
    pub(super) messages: &'a [Message],
}

/// The room that was entered or left.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct InRoom<'a> {
    #[schemars(with = "Name")]
    pub(super) room_id: &'a str,
}

/// The message as it is stored.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Sent {
    pub(super) message: Message,
    /// `false` where it is stored and the others are told later, because Redis is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "False")]
    pub(super) realtime: Option<bool>,
}

/// Who has come or gone.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserMoved<'a> {
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
    pub(super) email: Option<&'a str>,
    #[schemars(with = "Time")]
    pub(super) timestamp: String,
}

/// Who types.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserTyping<'a> {
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
    pub(super) email: Option<&'a str>,
}

/// Who types no more.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserStoppedTyping<'a> {
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(name: &str, json: &str) -> Result<ChatEvent, AppError> {
        let mut args = Args::default();
        args.raw.push(json);
        ChatEvent::decode(name, &args)
    }

    #[test]
    fn every_event_is_decoded_by_its_name() {
        for name in ["join_room", "leave_room", "typing_start", "typing_stop"] {
            assert!(decode(name, "\"asteroid-1\"").is_ok(), "{name}");
            for bad in ["\" \"", "7", "{}", "\"\"", r#""a\nb""#, "\"\u{200b}\""] {
                assert_eq!(decode(name, bad).unwrap_err().say(), "Invalid room id", "{name} {bad}");
            }
        }
    }

    #[test]
    fn a_message_is_trimmed_and_has_1_to_1000_characters() {
        let send = |content: &str| {
            decode("send_message", &serde_json::json!({"roomId": "r", "content": content}).to_string())
        };
        let Ok(ChatEvent::Send(message)) = send("  hi \n") else { panic!("a message") };
        assert_eq!(message.content, "hi");
        // Scalar values count, not bytes.
        assert!(send(&"😀".repeat(CHAT_MESSAGE_MAX)).is_ok());
        let refused = |content: &str| send(content).unwrap_err().say().to_owned();
        assert_eq!(refused(&"x".repeat(CHAT_MESSAGE_MAX + 1)), "Message too long (max 1000 characters)");
        assert_eq!(refused(" \t "), "Message cannot be empty");
    }

    #[test]
    fn a_page_is_bounded() {
        let limit =
            |limit: &str| match decode("room_history", &format!("{{\"roomId\":\"r\",\"limit\":{limit}}}")) {
                Ok(ChatEvent::History(page)) => Some(page.limit),
                _ => None,
            };
        assert_eq!(limit("null"), Some(CHAT_HISTORY));
        assert_eq!(limit("7"), Some(7));
        assert_eq!(limit("0"), Some(1));
        assert_eq!(limit("-1"), Some(1));
        assert_eq!(limit("1000000000"), Some(PAGE_MAX));
        assert_eq!(limit("\"abc\""), None);
    }
}

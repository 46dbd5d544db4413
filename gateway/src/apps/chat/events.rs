//! Decodes and validates client events, and defines the bodies of server events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::limits::PAGE_MAX;
use shared::names::{Room, is_name};
use shared::sio::Args;

use super::limits::{CHAT_HISTORY, CHAT_MESSAGE_MAX};
use crate::apps::{first, unknown_event};
use crate::describe::forms::{False, Name, OwnId, Time, UserIdText};
use crate::error::AppError;
use crate::text::checked;

/// The prefix of chat rooms, which keeps them apart from other apps' rooms.
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

    /// The chat room id of a room, if it is a chat room.
    pub(super) fn of_room(room: &Room) -> Option<&str> {
        room.as_str().strip_prefix(ROOM_PREFIX)
    }

    /// Parses a room name, if it is a chat room.
    pub(super) fn of_cluster(text: &str) -> Option<Self> {
        Self::parse(text.strip_prefix(ROOM_PREFIX)?).ok()
    }

    /// The room as the node names it.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn as_str(&self) -> &str {
        Self::of_room(&self.room).unwrap_or_default()
    }
}

/// A validated message: trimmed, neither empty nor too long.
#[derive(Debug)]
pub(super) struct NewMessage {
    pub(super) room: RoomId,
    pub(super) content: String,
}

/// A validated request for a page of history.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) room: RoomId,
    /// The id of the message before which the page ends.
    pub(super) before: Option<String>,
    pub(super) limit: u32,
}

/// A client event.
#[derive(Debug)]
pub(super) enum ChatEvent {
    Join(RoomId),
    Leave(RoomId),
    Send(NewMessage),
    TypingStart(RoomId),
    TypingStop(RoomId),
    History(Page),
}

/// A message to send.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewChatMessage")]
#[serde(rename_all = "camelCase")]
pub(super) struct SendBody {
    #[schemars(with = "Name")]
    room_id: String,
    /// Trimmed, then 1 to 1,000 characters without NUL.
    content: String,
}

/// A request for a page of history.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatHistoryQuery")]
#[serde(rename_all = "camelCase")]
pub(super) struct PageBody {
    #[schemars(with = "Name")]
    room_id: String,
    /// The id of the message before which the page ends.
    before: Option<String>,
    /// 1 to 100, clamped. Default: 50.
    limit: Option<i64>,
}

impl ChatEvent {
    /// Decodes an event.
    ///
    /// # Errors
    /// [`AppError::BadInput`] with the documents' wording.
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

/// The author of a message.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ChatAuthor")]
pub(super) struct Author {
    #[schemars(with = "Name")]
    pub(super) id: String,
    pub(super) name: String,
    pub(super) avatar: Option<String>,
}

/// A stored message in the form that clients receive.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ChatMessage")]
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
    /// Its sequence number in the room. Clients do not receive it.
    #[serde(skip)]
    pub(super) seq: i64,
}

/// Messages of a room.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatHistory")]
#[serde(rename_all = "camelCase")]
pub(super) struct RoomHistory<'a> {
    #[schemars(with = "Name")]
    pub(super) room_id: &'a str,
    /// Oldest first.
    pub(super) messages: &'a [Message],
}

/// The room that the socket entered or left.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatRoom")]
#[serde(rename_all = "camelCase")]
pub(super) struct InRoom<'a> {
    #[schemars(with = "Name")]
    pub(super) room_id: &'a str,
}

/// The stored message.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatMessageSent")]
pub(super) struct Sent {
    pub(super) message: Message,
    /// `false` if the message is stored but will be delivered later, because Redis is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "False")]
    pub(super) realtime: Option<bool>,
}

/// A user who entered or left a room.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatMembershipChanged")]
#[serde(rename_all = "camelCase")]
pub(super) struct UserMoved<'a> {
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
    pub(super) email: Option<&'a str>,
    #[schemars(with = "Time")]
    pub(super) timestamp: String,
}

/// A user who is typing.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatUserTyping")]
#[serde(rename_all = "camelCase")]
pub(super) struct UserTyping<'a> {
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
    pub(super) email: Option<&'a str>,
}

/// A user who has stopped typing.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatUserStoppedTyping")]
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
        // Counts scalar values, not bytes.
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

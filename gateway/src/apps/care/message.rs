//! [`Message`]: the stored and public form of a message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::describe::forms::{Name, OwnId, RoomName, Time, UserIdText};

/// The delivery status of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "MessageStatus")]
pub(super) enum Status {
    Sent,
    /// A recipient's socket received it.
    Delivered,
    Read,
}

/// A message as it is stored and sent to clients.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CareMessage")]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    #[schemars(with = "OwnId")]
    pub(super) id: String,
    /// The same id for both users of a conversation, or for all members of a room.
    pub(super) conversation_id: String,
    /// The room that it was sent to, if any.
    #[schemars(with = "Option<RoomName>")]
    pub(super) room_id: Option<String>,
    #[schemars(with = "UserIdText")]
    pub(super) sender_id: String,
    pub(super) sender_name: String,
    pub(super) sender_role: Option<String>,
    /// `null` if it was sent to a group room.
    #[schemars(with = "Option<UserIdText>")]
    pub(super) recipient_id: Option<String>,
    #[schemars(with = "Option<Name>")]
    pub(super) visit_id: Option<String>,
    /// May be empty if there are attachments.
    pub(super) message: String,
    /// As the sender sent them.
    #[schemars(with = "Vec<Map<String, Value>>")]
    pub(super) attachments: Box<RawValue>,
    /// As the sender sent it.
    #[schemars(with = "Map<String, Value>")]
    pub(super) metadata: Box<RawValue>,
    #[schemars(with = "Time")]
    pub(super) timestamp: String,
    pub(super) status: Status,
    #[schemars(with = "Option<Name>")]
    pub(super) client_message_id: Option<String>,
    /// Its sequence number in the conversation, from 1. Messages that users sent through two nodes at the same time
    /// may arrive in another order.
    pub(super) seq: i64,
}

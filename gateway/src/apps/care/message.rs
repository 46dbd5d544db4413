//! [`Message`]: what is stored and shown of a message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::describe::forms::{Name, OwnId, RoomName, Time, UserIdText};

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "MessageStatus")]
pub(super) enum Status {
    Sent,
    /// A socket of a recipient got it.
    Delivered,
    Read,
}

/// A message as it is stored and shown.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    #[schemars(with = "OwnId")]
    pub(super) id: String,
    /// The same for both of two users, and for everybody in a room.
    pub(super) conversation_id: String,
    /// The room it was sent to, if it was.
    #[schemars(with = "Option<RoomName>")]
    pub(super) room_id: Option<String>,
    #[schemars(with = "UserIdText")]
    pub(super) sender_id: String,
    pub(super) sender_name: String,
    pub(super) sender_role: Option<String>,
    /// `null` where it is for a room of many.
    #[schemars(with = "Option<UserIdText>")]
    pub(super) recipient_id: Option<String>,
    #[schemars(with = "Option<Name>")]
    pub(super) visit_id: Option<String>,
    /// May be empty where there are attachments.
    pub(super) message: String,
    /// As they were sent.
    #[schemars(with = "Vec<Map<String, Value>>")]
    pub(super) attachments: Box<RawValue>,
    /// As it was sent.
    #[schemars(with = "Map<String, Value>")]
    pub(super) metadata: Box<RawValue>,
    #[schemars(with = "Time")]
    pub(super) timestamp: String,
    pub(super) status: Status,
    #[schemars(with = "Option<Name>")]
    pub(super) client_message_id: Option<String>,
    /// Its place in the conversation, from 1: messages of the same moment that were sent through two nodes may arrive in
    /// another order.
    pub(super) seq: i64,
}

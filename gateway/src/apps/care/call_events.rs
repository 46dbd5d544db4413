//! What is told of calls: the bodies of events and of acks.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::describe::forms::{False, Name, OwnId, Time, UserIdText};

/// A call that rings.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Incoming<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) caller_id: &'a str,
    pub(super) caller_name: &'a str,
    #[schemars(extend("enum" = ["video", "audio"]))]
    pub(super) call_type: &'a str,
    #[schemars(with = "Option<Name>")]
    pub(super) visit_id: Option<&'a str>,
    #[schemars(with = "Time")]
    pub(super) timestamp: String,
}

/// Who has taken a call.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// The recipient.
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
    #[schemars(with = "Time")]
    pub(super) timestamp: String,
}

/// A call that another of the user's sockets has taken.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnsweredElsewhere<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
}

/// Who has declined a call.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rejected<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// The recipient.
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
    pub(super) reason: Option<&'a str>,
}

/// How a call was over.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// Whole seconds since it was accepted.
    pub(super) duration: u64,
    /// `failed` where a party was lost.
    #[schemars(extend("enum" = ["ended", "failed"]))]
    pub(super) reason: &'static str,
    /// The party who ended it; `null` where one was lost.
    #[schemars(with = "Option<UserIdText>")]
    pub(super) ended_by: Option<&'a str>,
}

/// A call that was not taken in time.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Missed<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) caller_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) recipient_id: &'a str,
}

/// Something of WebRTC.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Signalled<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// As the other party sent it.
    pub(super) signal: &'a RawValue,
    /// The other party.
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
}

/// The call that was begun, taken or declined.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Call")]
pub(super) struct Stepped<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// `false` where it is stored and the others are told later, because Redis is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "False")]
    pub(super) realtime: Option<bool>,
}

/// The call that was ended.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndedCall")]
pub(super) struct SteppedToEnd<'a> {
    #[serde(flatten)]
    pub(super) call: Stepped<'a>,
    /// Whole seconds since it was accepted.
    pub(super) duration: u64,
}

//! The bodies of call events and acks.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::describe::forms::{False, Name, OwnId, Time, UserIdText};

/// A ringing call.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CallIncoming")]
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

/// A call that was accepted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CallAccepted")]
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

/// A call that another of the user's sockets has accepted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CallAnsweredElsewhere")]
#[serde(rename_all = "camelCase")]
pub(super) struct AnsweredElsewhere<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
}

/// A call that was rejected.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CallRejected")]
#[serde(rename_all = "camelCase")]
pub(super) struct Rejected<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// The recipient.
    #[schemars(with = "UserIdText")]
    pub(super) user_id: &'a str,
    pub(super) reason: Option<&'a str>,
}

/// A call that has ended.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CallEnded")]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// Whole seconds since the call was accepted.
    pub(super) duration: u64,
    /// `failed` if a party was lost.
    #[schemars(extend("enum" = ["ended", "failed"]))]
    pub(super) reason: &'static str,
    /// The party who ended it; `null` if a party was lost.
    #[schemars(with = "Option<UserIdText>")]
    pub(super) ended_by: Option<&'a str>,
}

/// A call that was not accepted in time.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CallMissed")]
#[serde(rename_all = "camelCase")]
pub(super) struct Missed<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) caller_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) recipient_id: &'a str,
}

/// A WebRTC signal.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CallSignalReceived")]
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

/// The call that was started, accepted or rejected.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Call")]
pub(super) struct Stepped<'a> {
    #[schemars(with = "OwnId")]
    pub(super) call_id: &'a str,
    /// `false` if the change is stored but will be announced later, because Redis is unavailable.
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
    /// Whole seconds since the call was accepted.
    pub(super) duration: u64,
}

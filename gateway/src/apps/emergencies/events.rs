//! Events of clients, decoded and checked; and the bodies of ours (document 002).

use fanout::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::limits::EMERGENCY_MESSAGE_MAX;
use shared::names::{is_id, is_name};
use shared::sio::Args;

use super::emergency::{HelperStatus, Shown, ShownHelper, ShownMessage, Status};
use crate::apps::{first, unknown_event};
use crate::describe::forms::{False, Latitude, Longitude, Name, OwnId, Time, UserIdText, Word};
use crate::error::AppError;
use crate::geo::Degrees;

/// An event of a client.
#[derive(Debug)]
pub(super) enum ClientEvent {
    Join(String),
    Leave(String),
    Message(NewMessage),
    Location(Place),
}

/// Which emergency.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Which {
    #[schemars(with = "Name")]
    emergency_id: String,
}

/// A message to be sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewMessage {
    #[schemars(with = "Name")]
    pub(super) emergency_id: String,
    /// From the owner: one of the helpers; all of them unless sent. From a helper: the owner, who need not be named, and
    /// in anonymous mode cannot be.
    #[schemars(with = "Option<UserIdText>")]
    pub(super) recipient_id: Option<String>,
    /// Trimmed; then 1 to 1,000 characters, none of them NUL.
    pub(super) message: String,
}

fn id(text: String) -> Result<String, AppError> {
    if is_name(&text) { Ok(text) } else { Err(AppError::BadInput("Invalid emergencyId".into())) }
}

impl ClientEvent {
    pub(super) fn decode(name: &str, args: &Args<'_>) -> Result<Self, AppError> {
        let which = || {
            let which: Option<Which> = first(args);
            id(which.ok_or_else(|| AppError::BadInput("Expected {emergencyId}".into()))?.emergency_id)
        };
        match name {
            "emergency:join" => which().map(Self::Join),
            "emergency:leave" => which().map(Self::Leave),
            "location:update" => {
                let degrees: Option<Degrees> = first(args);
                let expected = || AppError::BadInput("Expected {latitude, longitude}".into());
                degrees.ok_or_else(expected)?.place().map(Self::Location)
            }
            "emergency:message" => message(args).map(Self::Message),
            _ => Err(unknown_event()),
        }
    }
}

fn message(args: &Args<'_>) -> Result<NewMessage, AppError> {
    let expected = || AppError::BadInput("Expected {emergencyId, recipientId?, message}".into());
    let NewMessage { emergency_id, recipient_id, message } = first(args).ok_or_else(expected)?;
    if recipient_id.as_deref().is_some_and(|user| !is_id(user)) {
        return Err(AppError::BadInput("Invalid recipientId".into()));
    }
    let message = crate::text::checked(&message, "Message", EMERGENCY_MESSAGE_MAX)?;
    Ok(NewMessage { emergency_id: id(emergency_id)?, recipient_id, message })
}

/// An emergency, and how many are told that it is near.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created<'a> {
    pub(super) emergency: &'a Shown<'a>,
    pub(super) nearby_helper_count: usize,
    /// `true` where the count is at its bound of 10,000: there may be more, who hear `emergency:created` alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) nearby_helpers_truncated: bool,
}

/// An emergency, and how far it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Nearby<'a> {
    pub(super) emergency: &'a Shown<'a>,
    /// Whole metres.
    pub(super) distance: f64,
}

/// The room that was entered.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entered<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    /// What the cluster calls the emergency's room.
    pub(super) room: &'a str,
    pub(super) message: &'static str,
}

/// The room that was entered, and what it is about.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Joined<'a> {
    #[serde(flatten)]
    pub(super) entered: Entered<'a>,
    pub(super) emergency: Shown<'a>,
}

/// The room that was left.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Left<'a> {
    #[schemars(with = "Name")]
    pub(super) emergency_id: &'a str,
    pub(super) room: &'a str,
}

/// The message as it is stored.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Sent<'a> {
    pub(super) message: ShownMessage<'a>,
    /// `false` where it is stored and the others are told later, because Redis is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "False")]
    pub(super) realtime: Option<bool>,
    /// `true` where more helpers respond than the 1,000 that it was sent to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) truncated: bool,
}

/// Who responds.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperJoined<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    pub(super) helper: ShownHelper<'a>,
}

/// How far a helper is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperMoved<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) helper_id: &'a str,
    pub(super) status: HelperStatus,
    pub(super) notes: Option<&'a str>,
    #[schemars(with = "Time")]
    pub(super) updated_at: String,
}

/// What has changed of an emergency.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed<'a> {
    #[schemars(with = "OwnId")]
    pub(super) id: &'a str,
    pub(super) status: Status,
    #[schemars(with = "Time")]
    pub(super) updated_at: &'a str,
}

/// An emergency's new status.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusChanged<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    pub(super) status: Status,
    pub(super) emergency: Changed<'a>,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

/// How an emergency was resolved.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resolved<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    #[schemars(with = "Time")]
    pub(super) resolved_at: &'a str,
    /// A user; `null` in anonymous mode.
    #[schemars(with = "Option<UserIdText>")]
    pub(super) resolved_by: Option<&'a str>,
    #[schemars(with = "Option<Word>")]
    pub(super) resolution_type: Option<&'a str>,
    pub(super) resolution_notes: Option<&'a str>,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

/// An emergency that was called off.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cancelled<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

/// An emergency that needs no help any more.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    pub(super) status: Status,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

/// The place that was told.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Located {
    #[schemars(with = "Latitude")]
    pub(super) latitude: f64,
    #[schemars(with = "Longitude")]
    pub(super) longitude: f64,
    pub(super) message: &'static str,
}

/// Where a helper is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperLocation<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) helper_id: &'a str,
    #[schemars(with = "Latitude")]
    pub(super) latitude: f64,
    #[schemars(with = "Longitude")]
    pub(super) longitude: f64,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

/// A helper who has come or gone.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperPresence<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    #[schemars(with = "UserIdText")]
    pub(super) helper_id: &'a str,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

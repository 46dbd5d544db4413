//! Decodes and validates client events, and defines the bodies of server events (document 002).

use fanout::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::names::{is_id, is_name};
use shared::sio::Args;

use super::emergency::{HelperStatus, Shown, ShownHelper, ShownMessage, Status};
use super::limits::EMERGENCY_MESSAGE_MAX;
use crate::apps::{first, unknown_event};
use crate::describe::forms::{False, Latitude, Longitude, Name, OwnId, Time, UserIdText, Word};
use crate::error::AppError;
use crate::geo::Degrees;

/// A client event.
#[derive(Debug)]
pub(super) enum ClientEvent {
    Join(String),
    Leave(String),
    Message(NewMessage),
    Location(Place),
}

/// The emergency that an event is about.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EmergencyReference")]
#[serde(rename_all = "camelCase")]
pub(super) struct Which {
    #[schemars(with = "Name")]
    emergency_id: String,
}

/// A message to send.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "NewEmergencyMessage")]
#[serde(rename_all = "camelCase")]
pub(super) struct NewMessage {
    #[schemars(with = "Name")]
    pub(super) emergency_id: String,
    /// From the owner: one of the helpers; default: all of them. From a helper: the owner, who may be left out, and
    /// must be in anonymous mode.
    #[schemars(with = "Option<UserIdText>")]
    pub(super) recipient_id: Option<String>,
    /// Trimmed, then 1 to 1,000 characters without NUL.
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

/// An emergency, and how many helpers receive `emergency:nearby`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyCreated")]
#[serde(rename_all = "camelCase")]
pub(super) struct Created<'a> {
    pub(super) emergency: &'a Shown<'a>,
    pub(super) nearby_helper_count: usize,
    /// `true` if the count is at its limit of 10,000. Further nearby helpers may receive only `emergency:created`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) nearby_helpers_truncated: bool,
}

/// An emergency and its distance.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyNearby")]
pub(super) struct Nearby<'a> {
    pub(super) emergency: &'a Shown<'a>,
    /// Whole metres.
    pub(super) distance: f64,
}

/// The room that the socket entered.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyJoined")]
#[serde(rename_all = "camelCase")]
pub(super) struct Entered<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    /// The room's name.
    pub(super) room: &'a str,
    pub(super) message: &'static str,
}

/// The room that the socket entered, and its emergency.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyJoin")]
pub(super) struct Joined<'a> {
    #[serde(flatten)]
    pub(super) entered: Entered<'a>,
    pub(super) emergency: Shown<'a>,
}

/// The room that the socket left.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyLeft")]
#[serde(rename_all = "camelCase")]
pub(super) struct Left<'a> {
    #[schemars(with = "Name")]
    pub(super) emergency_id: &'a str,
    pub(super) room: &'a str,
}

/// The stored message.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyMessageSent")]
pub(super) struct Sent<'a> {
    pub(super) message: ShownMessage<'a>,
    /// `false` if the message is stored but will be delivered later, because Redis is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "False")]
    pub(super) realtime: Option<bool>,
    /// `true` if more helpers respond than the 1,000 that received it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) truncated: bool,
}

/// A helper who has responded.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperJoined<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    pub(super) helper: ShownHelper<'a>,
}

/// A helper's status.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HelperStatusChanged")]
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

/// The changed fields of an emergency.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyChange")]
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
#[schemars(rename = "EmergencyStatusChanged")]
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
#[schemars(rename = "EmergencyResolved")]
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

/// A cancelled emergency.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyCancelled")]
#[serde(rename_all = "camelCase")]
pub(super) struct Cancelled<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

/// An emergency that is closed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyEnded")]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended<'a> {
    #[schemars(with = "OwnId")]
    pub(super) emergency_id: &'a str,
    pub(super) status: Status,
    #[schemars(with = "Time")]
    pub(super) timestamp: &'a str,
}

/// The app's fields in a request to the push notification service.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmergencyPush")]
#[serde(rename_all = "camelCase")]
pub(super) struct Pushed<'a> {
    pub(super) emergency: Shown<'a>,
    /// Helpers near the emergency, whether connected or not; empty after it has ended.
    #[schemars(with = "Vec<UserIdText>")]
    pub(super) nearby_helper_ids: &'a [&'a str],
}

/// The accepted location.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LocationUpdated")]
pub(super) struct Located {
    #[schemars(with = "Latitude")]
    pub(super) latitude: f64,
    #[schemars(with = "Longitude")]
    pub(super) longitude: f64,
    pub(super) message: &'static str,
}

/// A helper's location.
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

/// A helper who has come online or gone offline.
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

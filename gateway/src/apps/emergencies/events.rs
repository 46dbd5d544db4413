//! Events of clients, decoded and checked; and the bodies of ours (document 002).

use fanout::Place;
use serde::{Deserialize, Serialize};
use shared::limits::EMERGENCY_MESSAGE_MAX;
use shared::names::is_name;
use shared::sio::Args;

use super::emergency::{HelperStatus, Shown, ShownHelper, Status};
use crate::apps::first;
use crate::error::AppError;
use crate::geo::Degrees;

/// Events of clients.
pub(crate) const EVENTS: &[&str] =
    &["emergency:join", "emergency:leave", "emergency:message", "location:update"];

/// An event of a client.
#[derive(Debug)]
pub(super) enum ClientEvent {
    Join(String),
    Leave(String),
    Message(NewMessage),
    Location(Place),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Which {
    emergency_id: String,
}

/// `emergency:message`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewMessage {
    pub(super) emergency_id: String,
    pub(super) recipient_id: Option<String>,
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
            _ => message(args).map(Self::Message),
        }
    }
}

fn message(args: &Args<'_>) -> Result<NewMessage, AppError> {
    let expected = || AppError::BadInput("Expected {emergencyId, recipientId?, message}".into());
    let NewMessage { emergency_id, recipient_id, message } = first(args).ok_or_else(expected)?;
    if recipient_id.as_deref().is_some_and(|user| !is_name(user)) {
        return Err(AppError::BadInput("Invalid recipientId".into()));
    }
    let message = crate::text::checked(&message, "Message", EMERGENCY_MESSAGE_MAX)?;
    Ok(NewMessage { emergency_id: id(emergency_id)?, recipient_id, message })
}

/// `emergency:created`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created<'a> {
    pub(super) emergency: &'a Shown<'a>,
    pub(super) nearby_helper_count: usize,
}

/// `emergency:nearby`.
#[derive(Debug, Serialize)]
pub(super) struct Nearby<'a> {
    pub(super) emergency: &'a Shown<'a>,
    /// Whole metres.
    pub(super) distance: f64,
}

/// `emergency:joined` and `emergency:left`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Moved<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) room: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<&'a str>,
}

/// `helper:joined`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperJoined<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) helper: ShownHelper<'a>,
}

/// `helper:status_update`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperMoved<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) helper_id: &'a str,
    pub(super) status: HelperStatus,
    pub(super) notes: Option<&'a str>,
    pub(super) updated_at: String,
}

/// What `emergency:status_changed` shows of the emergency.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed<'a> {
    pub(super) id: &'a str,
    pub(super) status: Status,
    pub(super) updated_at: &'a str,
}

/// `emergency:status_changed`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusChanged<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) status: Status,
    pub(super) emergency: Changed<'a>,
    pub(super) timestamp: &'a str,
}

/// `emergency:resolved`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resolved<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) resolved_at: &'a str,
    pub(super) resolved_by: Option<&'a str>,
    pub(super) resolution_type: Option<&'a str>,
    pub(super) resolution_notes: Option<&'a str>,
    pub(super) timestamp: &'a str,
}

/// `emergency:cancelled`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cancelled<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) timestamp: &'a str,
}

/// `emergency:ended`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) status: Status,
    pub(super) timestamp: &'a str,
}

/// `location:updated`.
#[derive(Debug, Serialize)]
pub(super) struct Located {
    pub(super) latitude: f64,
    pub(super) longitude: f64,
    pub(super) message: &'static str,
}

/// `helper:location`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperLocation<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) helper_id: &'a str,
    pub(super) latitude: f64,
    pub(super) longitude: f64,
    pub(super) timestamp: &'a str,
}

/// `helper:online` and `helper:offline`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HelperPresence<'a> {
    pub(super) emergency_id: &'a str,
    pub(super) helper_id: &'a str,
    pub(super) timestamp: &'a str,
}

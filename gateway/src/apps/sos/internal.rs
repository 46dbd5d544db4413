//! The internal API of `sos` (document 000; contract, "sos"), under `/internal/participants`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use fanout::RoomCount;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::blank::is_blank;
use shared::limits::MEMBERS_MAX;
use shared::names::{UserId, is_name};

use super::limits::TIME_AHEAD_MAX_MS;
use super::participants::{Entry, USER_TYPES};
use super::rest::checked_type;
use super::stories::{Joining, type_of};
use super::{Sos, room};
use crate::clock::now_ms;
use crate::describe::Operation;
use crate::describe::forms::{Millis, Name, Time, True, UserIdText};
use crate::error::AppError;
use crate::rest::reply::{self, Answer, Freshness};
use crate::rest::{InternalCaller, JsonBody, Names, Routes};

pub(super) fn routes() -> Routes<Arc<Sos>> {
    Routes::new()
        .route(
            Operation::post(
                "/internal/participants/joined",
                "Records that a user joined, as the REST API does.",
            )
                .id("addParticipant")
            .of_backend()
            .body::<Joined>()
            .answer::<Receipt<Entered>>(200, "Recorded, and sent to the room.")
            .refuse_all(
                400,
                &[
                    "Invalid sosId",
                    "Invalid userId",
                    "Invalid userType: expected citizen, rescuer or admin",
                    "Invalid displayName",
                    "Invalid joinedAt",
                ],
            )
            .refuse(409, "SOS has ended"),
            joined,
        )
        .route(
            Operation::post(
                "/internal/participants/left",
                "Records that a user left, as the REST API does.",
            )
                .id("removeParticipant")
            .of_backend()
            .body::<Left>()
            .answer::<Receipt<Gone>>(200, "Recorded, and sent to the room.")
            .refuse_all(400, &["Invalid sosId", "Invalid userId", "Invalid leftAt"])
            .refuse(404, "Participant not found"),
            left,
        )
        .route(
            Operation::get(
                "/internal/participants/{sosId}/active",
                "Lists the sockets in the incident's room on all nodes.",
            )
                .id("listConnectedParticipants")
            .of_backend()
            .answer::<Answer<Active<'_>>>(
                200,
                "At most 10,000 sockets are listed, and `truncated` is `true` if there are more. The counts include all.",
            )
            .refuse(400, "Invalid sosId"),
            active,
        )
        .route(
            Operation::get("/internal/participants/{sosId}/count", "Counts the sockets in the incident's room.")
                .id("countConnectedParticipants")
                .of_backend()
                .answer::<Answer<Count>>(200, "The counts.")
                .refuse(400, "Invalid sosId"),
            count,
        )
}

/// A new participant. Other fields are ignored, so backends may send the whole record.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewParticipant")]
#[serde(rename_all = "camelCase")]
struct Joined {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "UserIdText")]
    user_id: String,
    #[schemars(extend("enum" = USER_TYPES))]
    user_type: String,
    /// At most 256 characters. Default: the user's id.
    display_name: Option<String>,
    /// Default: now. At most 5 minutes ahead.
    #[schemars(with = "Option<Time>")]
    joined_at: Option<String>,
}

/// A participant who has left. Other fields are ignored.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "FormerParticipant")]
#[serde(rename_all = "camelCase")]
struct Left {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "UserIdText")]
    user_id: String,
    /// Default: now. At most 5 minutes ahead.
    #[schemars(with = "Option<Time>")]
    left_at: Option<String>,
}

/// The confirmation to a backend.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Response")]
struct Receipt<T> {
    #[schemars(with = "True")]
    success: bool,
    message: &'static str,
    /// `true` if the change is recorded but not every node has applied it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    incomplete: Option<bool>,
    data: T,
}

/// A new participant and the incident's room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ParticipantAdded")]
#[serde(rename_all = "camelCase")]
struct Entered {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "UserIdText")]
    user_id: String,
    #[schemars(extend("enum" = USER_TYPES))]
    user_type: String,
    room_name: String,
}

/// A participant who has left, and the incident's room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ParticipantRemoved")]
#[serde(rename_all = "camelCase")]
struct Gone {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "UserIdText")]
    user_id: String,
    room_name: String,
}

/// A socket in an incident's room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConnectedParticipant")]
#[serde(rename_all = "camelCase")]
struct Present<'a> {
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    display_name: &'a str,
    /// From the participation, or else from the token's role.
    #[schemars(extend("enum" = USER_TYPES))]
    user_type: &'a str,
    socket_id: &'a str,
    #[schemars(with = "Millis")]
    connected_at: u64,
}

/// The sockets in an incident's room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConnectedParticipants")]
#[serde(rename_all = "camelCase")]
struct Active<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    participants: Vec<Present<'a>>,
    /// The number of sockets.
    count: usize,
    /// The number of distinct users.
    users: usize,
    /// `true` if not all sockets are listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

/// The counts of an incident's room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ParticipantCount")]
#[serde(rename_all = "camelCase")]
struct Count {
    #[schemars(with = "Name")]
    sos_id: String,
    /// Sockets.
    count: usize,
    /// Distinct users.
    users: usize,
    #[serde(flatten)]
    freshness: Freshness,
}

/// Parses an ISO 8601 time that is not in the future, as milliseconds. Default: now.
fn time(text: Option<&str>, what: &'static str) -> Result<u64, AppError> {
    let now = now_ms();
    let Some(text) = text else { return Ok(now) };
    let time =
        text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    time.filter(|time| *time <= now + TIME_AHEAD_MAX_MS).ok_or(AppError::BadInput(what.into()))
}

fn checked<'a>(name: &'a str, what: &'static str) -> Result<&'a str, AppError> {
    if is_name(name) { Ok(name) } else { Err(AppError::BadInput(what.into())) }
}

async fn joined(
    _: InternalCaller,
    State(sos): State<Arc<Sos>>,
    JsonBody(body): JsonBody<Joined>,
) -> Result<Json<Receipt<Entered>>, AppError> {
    let sos_id = checked(&body.sos_id, "Invalid sosId")?;
    let user = UserId::parse(&body.user_id).map_err(|_| AppError::BadInput("Invalid userId".into()))?;
    let user_type = checked_type(&body.user_type)?;
    let display_name = body.display_name.as_deref().filter(|name| !is_blank(name)).unwrap_or(user.as_str());
    if display_name.chars().count() > 256 || display_name.contains('\0') {
        return Err(AppError::BadInput("Invalid displayName".into()));
    }
    let entry = Entry {
        sos_id: sos_id.to_owned(),
        user_id: user.clone(),
        user_type,
        display_name: display_name.to_owned(),
        actor_type: "USER",
        joined_at_ms: time(body.joined_at.as_deref(), "Invalid joinedAt")?,
    };
    let Joining { record, is_done, .. } = sos.join(entry).await?;
    Ok(Json(Receipt {
        success: true,
        message: "Participant joined event broadcasted",
        incomplete: (!is_done).then_some(true),
        data: Entered {
            sos_id: sos_id.to_owned(),
            user_id: record.user_id,
            user_type: record.user_type,
            room_name: room(sos_id).as_str().to_owned(),
        },
    }))
}

async fn left(
    _: InternalCaller,
    State(sos): State<Arc<Sos>>,
    JsonBody(body): JsonBody<Left>,
) -> Result<Json<Receipt<Gone>>, AppError> {
    let sos_id = checked(&body.sos_id, "Invalid sosId")?;
    let user = UserId::parse(&body.user_id).map_err(|_| AppError::BadInput("Invalid userId".into()))?;
    let left_at = time(body.left_at.as_deref(), "Invalid leftAt")?;
    let is_done = sos.leave(sos_id.to_owned(), user.clone(), left_at).await?;
    Ok(Json(Receipt {
        success: true,
        message: "Participant left event broadcasted",
        incomplete: (!is_done).then_some(true),
        data: Gone {
            sos_id: sos_id.to_owned(),
            user_id: user.as_str().to_owned(),
            room_name: room(sos_id).as_str().to_owned(),
        },
    }))
}

/// Lists the sockets in the room. The user type comes from the participation, or else from the token.
async fn active(
    _: InternalCaller,
    State(sos): State<Arc<Sos>>,
    Names([sos_id]): Names<1>,
) -> Result<Response, AppError> {
    let members = sos.context.fanout.members(sos.namespace.as_str(), room(&sos_id).as_str()).await?;
    let (recorded, _) = sos.active(&sos_id).await.unwrap_or_default();
    let recorded: HashMap<&str, &str> =
        recorded.iter().map(|record| (&*record.user_id, &*record.user_type)).collect();
    let RoomCount { sockets, users } = RoomCount::of(&members);
    let participants: Vec<Present<'_>> = members
        .iter()
        .take(MEMBERS_MAX)
        .map(|member| Present {
            user_id: member.user.as_str(),
            display_name: &member.display_name,
            user_type: recorded
                .get(member.user.as_str())
                .copied()
                .unwrap_or_else(|| type_of(member.role.as_deref())),
            socket_id: member.socket.as_str(),
            connected_at: member.connected_at_ms,
        })
        .collect();
    let timestamp = now_ms();
    let truncated = sockets > participants.len();
    let active = Active { sos_id: &sos_id, participants, count: sockets, users, truncated, timestamp };
    Ok(reply::answer(active).into_response())
}

async fn count(
    _: InternalCaller,
    State(sos): State<Arc<Sos>>,
    Names([sos_id]): Names<1>,
) -> Result<Json<Answer<Count>>, AppError> {
    let counted = sos.context.fanout.count(sos.namespace.as_str(), room(&sos_id).as_str()).await?;
    let RoomCount { sockets: count, users } = counted.count;
    Ok(reply::answer(Count { sos_id, count, users, freshness: Freshness::of(&counted) }))
}

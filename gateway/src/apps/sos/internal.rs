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
use shared::limits::{MEMBERS_MAX, TIME_AHEAD_MAX_MS};
use shared::names::{UserId, is_name};

use super::rest::checked_type;
use super::store::{Entry, USER_TYPES};
use super::stories::type_of;
use super::{Sos, room};
use crate::clock::now_ms;
use crate::describe::Operation;
use crate::describe::forms::{Millis, Name, Time, True, UserIdText};
use crate::error::AppError;
use crate::rest::reply::{self, Answer, Freshness};
use crate::rest::{InternalCaller, JsonBody, Names, Routes};

/// Its endpoints, mounted and described.
pub(super) fn routes() -> Routes<Arc<Sos>> {
    Routes::new()
        .route(
            Operation::post(
                "/internal/participants/joined",
                "A user takes part: the same as joining by the REST API.",
            )
            .of_backend()
            .body::<Joined>()
            .answer::<Heard<Entered>>(200, "Recorded, and told to the room.")
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
                "A user takes part no more: the same as leaving by the REST API.",
            )
            .of_backend()
            .body::<Left>()
            .answer::<Heard<Gone>>(200, "Recorded, and told to the room.")
            .refuse_all(400, &["Invalid sosId", "Invalid userId", "Invalid leftAt"])
            .refuse(404, "Participant not found"),
            left,
        )
        .route(
            Operation::get(
                "/internal/participants/{sosId}/active",
                "Lists the sockets that are in the incident's room now, on all nodes.",
            )
            .of_backend()
            .answer::<Answer<Active<'_>>>(
                200,
                "10,000 sockets at most; the counts are of all, and `truncated` says that not all are listed.",
            )
            .refuse(400, "Invalid sosId"),
            active,
        )
        .route(
            Operation::get("/internal/participants/{sosId}/count", "Counts them.")
                .of_backend()
                .answer::<Answer<Count>>(200, "The counts.")
                .refuse(400, "Invalid sosId"),
            count,
        )
}

/// Who has begun to take part. Other fields are of no interest: backends may send a participant's whole record.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Joined {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "UserIdText")]
    user_id: String,
    #[schemars(extend("enum" = USER_TYPES))]
    user_type: String,
    /// 256 characters at most; the user's id unless sent.
    display_name: Option<String>,
    /// Now unless sent; at most 5 minutes ahead.
    #[schemars(with = "Option<Time>")]
    joined_at: Option<String>,
}

/// Who takes part no more. Other fields are of no interest.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Left {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "UserIdText")]
    user_id: String,
    /// Now unless sent; at most 5 minutes ahead.
    #[schemars(with = "Option<Time>")]
    left_at: Option<String>,
}

/// The answer to a backend's news.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Heard")]
struct Heard<T> {
    #[schemars(with = "True")]
    success: bool,
    message: &'static str,
    data: T,
}

/// Who takes part, and where.
#[derive(Serialize, JsonSchema)]
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

/// Who takes part no more, and where.
#[derive(Serialize, JsonSchema)]
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
#[serde(rename_all = "camelCase")]
struct Present<'a> {
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    display_name: &'a str,
    /// As in the participation, else as the token's role says.
    #[schemars(extend("enum" = USER_TYPES))]
    user_type: &'a str,
    socket_id: &'a str,
    #[schemars(with = "Millis")]
    connected_at: u64,
}

/// Who is in an incident's room.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Active<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    participants: Vec<Present<'a>>,
    /// How many sockets there are.
    count: usize,
    /// How many distinct users that is.
    users: usize,
    /// `true` where not all are listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

/// How many are in an incident's room.
#[derive(Serialize, JsonSchema)]
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

/// Milliseconds of an ISO 8601 time that is not to come; now where there is none.
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
) -> Result<Json<Heard<Entered>>, AppError> {
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
    let (record, _) = sos.join(entry).await?;
    Ok(Json(Heard {
        success: true,
        message: "Participant joined event broadcasted",
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
) -> Result<Json<Heard<Gone>>, AppError> {
    let sos_id = checked(&body.sos_id, "Invalid sosId")?;
    let user = UserId::parse(&body.user_id).map_err(|_| AppError::BadInput("Invalid userId".into()))?;
    let left_at = time(body.left_at.as_deref(), "Invalid leftAt")?;
    sos.leave(sos_id.to_owned(), user.clone(), left_at).await?;
    Ok(Json(Heard {
        success: true,
        message: "Participant left event broadcasted",
        data: Gone {
            sos_id: sos_id.to_owned(),
            user_id: user.as_str().to_owned(),
            room_name: room(sos_id).as_str().to_owned(),
        },
    }))
}

/// Who is in the room now, socket by socket; what they are there stands in their participation, else in their
/// token.
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

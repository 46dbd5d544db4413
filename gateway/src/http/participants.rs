//! The internal API of `sos` (document 000; contract, "sos"), under `/internal/participants`.

use std::collections::HashMap;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use fanout::RoomCount;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::limits::{MEMBERS_MAX, TIME_AHEAD_MAX_MS};
use shared::names::{UserId, is_name};

use super::Site;
use super::body::JsonBody;
use super::caller::InternalCaller;
use super::query::Names;
use super::rooms::freshness;
use super::sos::{app, checked_type};
use crate::apps::sos::room;
use crate::apps::sos::store::Entry;
use crate::apps::sos::stories::type_of;
use crate::clock::now_ms;
use crate::error::AppError;

/// Its routes.
pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route("/internal/participants/joined", post(joined))
        .route("/internal/participants/left", post(left))
        .route("/internal/participants/{sosId}/active", get(active))
        .route("/internal/participants/{sosId}/count", get(count))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Joined {
    sos_id: String,
    user_id: String,
    user_type: String,
    display_name: Option<String>,
    joined_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Left {
    sos_id: String,
    user_id: String,
    left_at: Option<String>,
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
    State(site): State<Site>,
    JsonBody(body): JsonBody<Joined>,
) -> Result<Json<Value>, AppError> {
    let sos_id = checked(&body.sos_id, "Invalid sosId")?;
    let user = UserId::parse(&body.user_id).map_err(|_| AppError::BadInput("Invalid userId".into()))?;
    let user_type = checked_type(&body.user_type)?;
    let display_name = body.display_name.as_deref().unwrap_or(user.as_str());
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
    let (record, _) = app(&site)?.join(entry).await?;
    let room = room(sos_id);
    Ok(Json(json!({
        "success": true,
        "message": "Participant joined event broadcasted",
        "data": {
            "sosId": sos_id, "userId": record.user_id, "userType": record.user_type, "roomName": room.as_str(),
        },
    })))
}

async fn left(
    _: InternalCaller,
    State(site): State<Site>,
    JsonBody(body): JsonBody<Left>,
) -> Result<Json<Value>, AppError> {
    let sos_id = checked(&body.sos_id, "Invalid sosId")?;
    let user = UserId::parse(&body.user_id).map_err(|_| AppError::BadInput("Invalid userId".into()))?;
    let left_at = time(body.left_at.as_deref(), "Invalid leftAt")?;
    app(&site)?.leave(sos_id.to_owned(), user.clone(), left_at).await?;
    Ok(Json(json!({
        "success": true,
        "message": "Participant left event broadcasted",
        "data": {"sosId": sos_id, "userId": user.as_str(), "roomName": room(sos_id).as_str()},
    })))
}

/// Who is in the room now, socket by socket; what they are there stands in their participation, else in their
/// token.
async fn active(
    _: InternalCaller,
    State(site): State<Site>,
    Names([sos_id]): Names<1>,
) -> Result<Json<Value>, AppError> {
    let sos = app(&site)?;
    let members = site.context.fanout.members(sos.namespace().as_str(), room(&sos_id).as_str()).await?;
    let recorded = sos.active(&sos_id).await.unwrap_or_default();
    let recorded: HashMap<&str, &str> =
        recorded.iter().map(|record| (&*record.user_id, &*record.user_type)).collect();
    let RoomCount { sockets, users } = RoomCount::of(&members);
    let listed: Vec<Value> = members
        .iter()
        .take(MEMBERS_MAX)
        .map(|member| {
            json!({
                "userId": member.user.as_str(),
                "displayName": member.display_name,
                "userType": recorded
                    .get(member.user.as_str())
                    .copied()
                    .unwrap_or_else(|| type_of(member.role.as_deref())),
                "socketId": member.socket.as_str(),
                "connectedAt": member.connected_at_ms,
            })
        })
        .collect();
    Ok(Json(json!({"success": true, "data": {
        "sosId": sos_id,
        "participants": listed,
        "count": sockets,
        "users": users,
        "timestamp": now_ms(),
    }})))
}

async fn count(
    _: InternalCaller,
    State(site): State<Site>,
    Names([sos_id]): Names<1>,
) -> Result<Json<Value>, AppError> {
    let sos = app(&site)?;
    let counted = site.context.fanout.count(sos.namespace().as_str(), room(&sos_id).as_str()).await?;
    let mut data = json!({"sosId": sos_id, "count": counted.count.sockets, "users": counted.count.users});
    freshness(&mut data, &counted);
    Ok(Json(json!({"success": true, "data": data})))
}

//! The internal API of `care`: notifications, and whom a room is granted (contract, "care").

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::limits::{CARE_JSON_MAX, NOTIFICATION_TEXT_MAX, NOTIFICATION_TITLE_MAX, ROOM_GRANTS_MAX};
use shared::names::{UserId, is_name};

use super::Site;
use super::body::JsonBody;
use super::caller::InternalCaller;
use super::emit::key_of;
use super::query::Names;
use super::reply::{self, Data};
use crate::apps::care::{Care, NewNotification, Notification};
use crate::error::AppError;
use crate::text::{bounded, checked};

/// Its routes; none where the app is not mounted.
pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route("/internal/notifications", post(notify))
        .route("/internal/rooms/{room}/members", put(grant).get(grants))
}

/// The app; 404 where it is not mounted.
fn app(site: &Site) -> Result<&Arc<Care>, AppError> {
    site.care.as_ref().ok_or_else(|| AppError::NotFound("Not found".into()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notify {
    user_id: String,
    title: String,
    message: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    data: Option<Box<RawValue>>,
}

async fn notify(
    _: InternalCaller,
    State(site): State<Site>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Notify>,
) -> Result<(StatusCode, Json<Data<Notification>>), AppError> {
    if body.kind.as_deref().is_some_and(|kind| !is_name(kind)) {
        return Err(AppError::BadInput("Invalid type".into()));
    }
    if body.data.as_ref().is_some_and(|data| data.get().len() > CARE_JSON_MAX) {
        return Err(AppError::BadInput(format!("Data too large (max {CARE_JSON_MAX} bytes)").into()));
    }
    let new = NewNotification {
        user: user(&body.user_id)?,
        title: checked(&body.title, "Title", NOTIFICATION_TITLE_MAX)?,
        message: bounded(&body.message, "Message", NOTIFICATION_TEXT_MAX)?,
        kind: body.kind,
        data: body.data,
        key: key_of(&headers)?,
    };
    let (notification, is_new) = app(&site)?.notify(new).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, reply::data(notification)))
}

fn user(id: &str) -> Result<UserId, AppError> {
    UserId::parse(id).map_err(|_| AppError::BadInput("Invalid userId".into()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Grants {
    user_ids: Vec<String>,
}

async fn grant(
    _: InternalCaller,
    State(site): State<Site>,
    Names([room]): Names<1>,
    JsonBody(Grants { user_ids }): JsonBody<Grants>,
) -> Result<Json<Data<Granted>>, AppError> {
    if user_ids.len() > ROOM_GRANTS_MAX {
        return Err(AppError::BadInput(format!("Too many userIds (max {ROOM_GRANTS_MAX})").into()));
    }
    let users: Vec<UserId> = user_ids.iter().map(|id| user(id)).collect::<Result<_, _>>()?;
    let users = app(&site)?.grant(&room, users).await?;
    Ok(granted(room, users))
}

async fn grants(
    _: InternalCaller,
    State(site): State<Site>,
    Names([room]): Names<1>,
) -> Result<Json<Data<Granted>>, AppError> {
    let users = app(&site)?.grants(&room).await?;
    Ok(granted(room, users))
}

/// Whom a room is granted.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    room_id: String,
    user_ids: Vec<String>,
    count: usize,
}

fn granted(room_id: String, user_ids: Vec<String>) -> Json<Data<Granted>> {
    reply::data(Granted { count: user_ids.len(), room_id, user_ids })
}

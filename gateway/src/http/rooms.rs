//! `GET /internal/rooms/:room/active` and `/count`: who is in a room of any app (contract, "sos").

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use fanout::RoomCount;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Site;
use crate::clock::{iso, now_ms};
use crate::error::AppError;
use crate::members::listed;
use crate::transport::bearer;

/// A backend or an operator: whoever sends `X-Internal-Request: true`, and the internal token where one is
/// set.
pub(super) struct InternalCaller;

impl FromRequestParts<Site> for InternalCaller {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let marked = parts.headers.get("x-internal-request").is_some_and(|value| value == "true");
        if marked && is_token(&parts.headers, site.internal_token.as_deref()) {
            Ok(Self)
        } else {
            Err(AppError::Forbidden("Internal requests only".into()))
        }
    }
}

fn is_token(headers: &HeaderMap, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given = bearer(headers).unwrap_or_default();
    // Every byte is compared, so the time tells nothing of where a guess went wrong.
    let same = given.bytes().zip(token.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b));
    given.len() == token.len() && same == 0
}

/// A room of the cluster in the path. An app's prefix may make it longer than a name.
pub(super) struct RoomPath(String);

impl FromRequestParts<Site> for RoomPath {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let path = Path::<String>::from_request_parts(parts, site).await;
        let Path(room) = path.map_err(|_| AppError::BadInput("Invalid room".into()))?;
        let name = room.strip_prefix("room:").unwrap_or(&room);
        if shared::names::is_name(name) {
            Ok(Self(room))
        } else {
            Err(AppError::BadInput("Invalid room".into()))
        }
    }
}

#[derive(Deserialize)]
struct Asked {
    namespace: Option<String>,
}

/// The namespace in the query; `/` when there is none.
pub(super) struct InNamespace(String);

impl FromRequestParts<Site> for InNamespace {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let query = Query::<Asked>::from_request_parts(parts, site).await;
        let Query(asked) = query.map_err(|_| AppError::BadInput("Invalid query".into()))?;
        Ok(Self(asked.namespace.unwrap_or_else(|| "/".to_owned())))
    }
}

pub(super) async fn active(
    _: InternalCaller,
    State(site): State<Site>,
    RoomPath(room): RoomPath,
    InNamespace(namespace): InNamespace,
) -> Result<Json<Value>, AppError> {
    let (namespace, room) = (namespace.as_str(), room.as_str());
    let members = site.context.fanout.members(namespace, room).await?;
    let count = RoomCount::of(&members);
    let now = now_ms();
    Ok(Json(json!({"success": true, "data": {
        "room": room,
        "namespace": namespace,
        "members": listed(&members),
        "count": count.sockets,
        "users": count.users,
        "asOf": iso(now),
        "timestamp": now,
    }})))
}

pub(super) async fn count(
    _: InternalCaller,
    State(site): State<Site>,
    RoomPath(room): RoomPath,
    InNamespace(namespace): InNamespace,
) -> Result<Json<Value>, AppError> {
    let (namespace, room) = (namespace.as_str(), room.as_str());
    let count = site.context.fanout.count(namespace, room).await?;
    let now = now_ms();
    Ok(Json(json!({"success": true, "data": {
        "room": room,
        "namespace": namespace,
        "count": count.sockets,
        "users": count.users,
        "asOf": iso(now),
        "timestamp": now,
    }})))
}

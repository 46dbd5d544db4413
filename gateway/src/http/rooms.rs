//! `GET /internal/rooms/:room/active` and `/count`: who is in a room of any app (contract, "sos").

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use fanout::{Counted, RoomCount};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::names::Room;

use super::Site;
use super::caller::InternalCaller;
use crate::clock::{iso, now_ms};
use crate::error::AppError;
use crate::members::listed;

/// A room of the cluster in the path. An app's prefix may make it longer than a name.
pub(super) struct RoomPath(String);

impl FromRequestParts<Site> for RoomPath {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let path = Path::<String>::from_request_parts(parts, site).await;
        let Path(room) = path.map_err(|_| AppError::BadInput("Invalid room".into()))?;
        match Room::of_cluster(&room) {
            Some(_) => Ok(Self(room)),
            None => Err(AppError::BadInput("Invalid room".into())),
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
    let counted = site.context.fanout.count(namespace, room).await?;
    let count = counted.count;
    let mut data =
        json!({"room": room, "namespace": namespace, "count": count.sockets, "users": count.users});
    freshness(&mut data, &counted);
    Ok(Json(json!({"success": true, "data": data})))
}

/// Says of what moment a count is, and where it may not be so any more.
pub(super) fn freshness(data: &mut Value, counted: &Counted) {
    let now = now_ms();
    let age = u64::try_from(counted.age.max(Duration::ZERO).as_millis()).unwrap_or_default();
    data["asOf"] = iso(now.saturating_sub(age)).into();
    data["timestamp"] = now.into();
    if counted.stale {
        data["stale"] = true.into();
    }
}

//! `GET /internal/rooms/:room/active` and `/count`: the members of a room of any app (contract, "sos").

use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use fanout::RoomCount;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::names::Room;

use super::Site;
use crate::clock::{iso, now_ms};
use crate::describe::Operation;
use crate::describe::forms::{Millis, Time};
use crate::error::AppError;
use crate::members::{Listed, listed};
use crate::rest::reply::{self, Answer, Freshness};
use crate::rest::{InternalCaller, Routes};

/// A room of the cluster in the path. With an app's prefix it may be longer than a room's name.
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

// Refuses unknown parameters: a typo must not return another namespace's room.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The room's namespace. Default: `/`.
    namespace: Option<String>,
}

/// The namespace in the query; `/` without one.
pub(super) struct InNamespace(String);

impl FromRequestParts<Site> for InNamespace {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let query = Query::<Asked>::from_request_parts(parts, site).await;
        let Query(asked) = query.map_err(|_| AppError::BadInput("Invalid query".into()))?;
        Ok(Self(asked.namespace.unwrap_or_else(|| "/".to_owned())))
    }
}

/// The endpoints.
pub(super) fn routes() -> Routes<Site> {
    Routes::new()
        .route(
            Operation::get("/internal/rooms/{room}/active", "Lists the members of a room of any app, on all nodes.")
                .id("listRoomMembers")
                .detail("The room's name includes its app's prefix.")
                .of_backend()
                .query::<Asked>()
                .answer::<Answer<Active<'_>>>(
                    200,
                    "At most 10,000 sockets. The counts cover all of them; `truncated` says that the list is incomplete.",
                )
                .refuse_all(400, &["Invalid room", "Invalid query"])
                .refuse(404, "Namespace not found"),
            active,
        )
        .route(
            Operation::get("/internal/rooms/{room}/count", "Counts them.")
                .id("countRoomMembers")
                .of_backend()
                .query::<Asked>()
                .answer::<Answer<Count<'_>>>(200, "The counts.")
                .refuse_all(400, &["Invalid room", "Invalid query"])
                .refuse(404, "Namespace not found"),
            count,
        )
}

/// The members of a room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomMembers")]
#[serde(rename_all = "camelCase")]
struct Active<'a> {
    room: &'a str,
    namespace: &'a str,
    members: Vec<Listed<'a>>,
    /// The number of sockets.
    count: usize,
    /// The number of distinct users.
    users: usize,
    /// `true` if the list is incomplete.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[schemars(with = "Time")]
    as_of: String,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

/// The number of members of a room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomCount")]
struct Count<'a> {
    room: &'a str,
    namespace: &'a str,
    /// Sockets.
    count: usize,
    /// Distinct users.
    users: usize,
    #[serde(flatten)]
    freshness: Freshness,
}

async fn active(
    _: InternalCaller,
    State(site): State<Site>,
    RoomPath(room): RoomPath,
    InNamespace(namespace): InNamespace,
) -> Result<Response, AppError> {
    let (namespace, room) = (namespace.as_str(), room.as_str());
    let members = site.context.fanout.members(namespace, room).await?;
    let RoomCount { sockets: count, users } = RoomCount::of(&members);
    let (members, timestamp) = (listed(&members), now_ms());
    let (as_of, truncated) = (iso(timestamp), count > members.len());
    let active = Active { room, namespace, members, count, users, truncated, as_of, timestamp };
    Ok(reply::answer(active).into_response())
}

async fn count(
    _: InternalCaller,
    State(site): State<Site>,
    RoomPath(room): RoomPath,
    InNamespace(namespace): InNamespace,
) -> Result<Response, AppError> {
    let (namespace, room) = (namespace.as_str(), room.as_str());
    let counted = site.context.fanout.count(namespace, room).await?;
    let RoomCount { sockets: count, users } = counted.count;
    Ok(reply::answer(Count { room, namespace, count, users, freshness: Freshness::of(&counted) })
        .into_response())
}

//! `GET /internal/rooms/:room/active` and `/count`: who is in a room of any app (contract, "sos").

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

// Who misspells the parameter must not be told of another namespace's room.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Where the room is; `/` unless sent.
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

/// Its endpoints.
pub(super) fn routes() -> Routes<Site> {
    Routes::new()
        .route(
            Operation::get("/internal/rooms/{room}/active", "Lists who is in a room of any app, on all nodes.")
                .detail("The room is named as the cluster calls it, with its app's prefix.")
                .of_backend()
                .query::<Asked>()
                .answer::<Answer<Active<'_>>>(
                    200,
                    "10,000 sockets at most; the counts are of all, and `truncated` says that not all are listed.",
                )
                .refuse_all(400, &["Invalid room", "Invalid query"])
                .refuse(404, "Namespace not found"),
            active,
        )
        .route(
            Operation::get("/internal/rooms/{room}/count", "Counts them.")
                .of_backend()
                .query::<Asked>()
                .answer::<Answer<Count<'_>>>(200, "The counts.")
                .refuse_all(400, &["Invalid room", "Invalid query"])
                .refuse(404, "Namespace not found"),
            count,
        )
}

/// Who is in a room.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Active<'a> {
    room: &'a str,
    namespace: &'a str,
    members: Vec<Listed<'a>>,
    /// How many sockets there are.
    count: usize,
    /// How many distinct users that is.
    users: usize,
    /// `true` where not all are listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[schemars(with = "Time")]
    as_of: String,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

/// How many are in a room.
#[derive(Serialize, JsonSchema)]
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

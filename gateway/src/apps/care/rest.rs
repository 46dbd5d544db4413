//! The internal API of `care`: notifications and room grants (contract, "care").

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::names::{UserId, is_word};

use super::Care;
use super::limits::{CARE_JSON_MAX, NOTIFICATION_TEXT_MAX, NOTIFICATION_TITLE_MAX, ROOM_GRANTS_MAX};
use super::notifications::{NewNotification, Notification};
use crate::describe::Operation;
use crate::describe::forms::{RoomName, True, UserIdText, Word};
use crate::error::AppError;
use crate::rest::reply::{self, Data};
use crate::rest::{InternalCaller, JsonBody, Names, Routes, key_of};
use crate::text::{bounded, checked};

pub(super) fn routes() -> Routes<Arc<Care>> {
    const MEMBERS: &str = "/internal/rooms/{room}/members";
    const ROOMS: [&str; 2] = ["Invalid room", "Only rooms that begin with visit: or call: are granted"];
    Routes::new()
        .route(
            Operation::post("/internal/notifications", "Sends a user a notification.")
                .id("sendNotification")
                .detail("The node stores it, and the user's sockets receive `notification:new`.")
                .of_backend()
                .header(
                    "Idempotency-Key",
                    "1 to 128 visible characters. A user receives one notification per key.",
                )
                .body::<Notify>()
                .answer::<Data<Notification>>(201, "The notification.")
                .answer::<Data<Notification>>(200, "The notification that was sent before with this key.")
                .refuse_all(
                    400,
                    &[
                        "Invalid userId",
                        "Title cannot be empty",
                        "Title too long (max 200 characters)",
                        "Title contains a null character",
                        "Message too long (max 2000 characters)",
                        "Message contains a null character",
                        "Invalid type",
                        "Data too large (max 8192 bytes)",
                        "Invalid Idempotency-Key: expected 1 to 128 visible characters",
                    ],
                )
                .refuse(422, "Idempotency-Key was used for something else"),
            notify,
        )
        .route(
            Operation::put(MEMBERS, "Grants a room to exactly these users.")
                .id("replaceRoomGrants")
                .detail(
                    "For rooms `visit:…` and `call:…`. Other users' sockets are removed from the room on every node \
                     before the node answers, unless their token lists the room or they are parties of the call. Their \
                     clients receive `muster:removed`, and the room's other members `room:userLeft`.",
                )
                .of_backend()
                .body::<Grants>()
                .answer::<Data<Granted>>(200, "The users with a grant.")
                .refuse_all(400, &ROOMS)
                .refuse_all(400, &["Invalid userId", "Too many userIds (max 1000)"]),
            grant,
        )
        .route(
            Operation::get(MEMBERS, "Lists the users with a grant for a room.")
                .id("listRoomGrants")
                .of_backend()
                .answer::<Data<Granted>>(200, "The users with a grant.")
                .refuse_all(400, &ROOMS),
            grants,
        )
}

/// A notification to send.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewNotification")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Notify {
    #[schemars(with = "UserIdText")]
    user_id: String,
    /// Trimmed, then 1 to 200 characters without NUL.
    title: String,
    /// At most 2,000 characters, without NUL.
    message: String,
    #[serde(rename = "type")]
    #[schemars(with = "Option<Word>")]
    kind: Option<String>,
    /// Any JSON of at most 8,192 bytes.
    data: Option<Box<RawValue>>,
}

async fn notify(
    _: InternalCaller,
    State(care): State<Arc<Care>>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Notify>,
) -> Result<(StatusCode, Json<Data<Notification>>), AppError> {
    if body.kind.as_deref().is_some_and(|kind| !is_word(kind)) {
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
    let (notification, is_new) = care.notify(new).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, reply::data(notification)))
}

fn user(id: &str) -> Result<UserId, AppError> {
    UserId::parse(id).map_err(|_| AppError::BadInput("Invalid userId".into()))
}

/// The users to grant a room to.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RoomGrantRequest")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Grants {
    /// At most 1,000.
    #[schemars(with = "Vec<UserIdText>")]
    user_ids: Vec<String>,
}

async fn grant(
    _: InternalCaller,
    State(care): State<Arc<Care>>,
    Names([room]): Names<1>,
    JsonBody(Grants { user_ids }): JsonBody<Grants>,
) -> Result<Json<Data<Granted>>, AppError> {
    if user_ids.len() > ROOM_GRANTS_MAX {
        return Err(AppError::BadInput(format!("Too many userIds (max {ROOM_GRANTS_MAX})").into()));
    }
    let users: Vec<UserId> = user_ids.iter().map(|id| user(id)).collect::<Result<_, _>>()?;
    let (users, is_done) = care.grant(&room, users).await?;
    Ok(granted(room, users, is_done))
}

async fn grants(
    _: InternalCaller,
    State(care): State<Arc<Care>>,
    Names([room]): Names<1>,
) -> Result<Json<Data<Granted>>, AppError> {
    let users = care.grants(&room).await?;
    Ok(granted(room, users, true))
}

/// The users with a grant for a room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomGrant")]
#[serde(rename_all = "camelCase")]
struct Granted {
    #[schemars(with = "RoomName")]
    room_id: String,
    #[schemars(with = "Vec<UserIdText>")]
    user_ids: Vec<String>,
    /// The number of entries in `userIds`.
    count: usize,
    /// `true` if not every node has confirmed in time that it has removed sockets without access. Each does so as
    /// soon as it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    incomplete: Option<bool>,
}

fn granted(room_id: String, user_ids: Vec<String>, is_done: bool) -> Json<Data<Granted>> {
    let incomplete = (!is_done).then_some(true);
    reply::data(Granted { count: user_ids.len(), room_id, user_ids, incomplete })
}

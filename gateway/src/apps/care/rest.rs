//! The internal API of `care`: notifications, and whom a room is granted (contract, "care").

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::limits::{CARE_JSON_MAX, NOTIFICATION_TEXT_MAX, NOTIFICATION_TITLE_MAX, ROOM_GRANTS_MAX};
use shared::names::{UserId, is_word};

use super::Care;
use super::notifications::{NewNotification, Notification};
use crate::describe::Operation;
use crate::describe::forms::{RoomName, True, UserIdText, Word};
use crate::error::AppError;
use crate::rest::reply::{self, Data};
use crate::rest::{InternalCaller, JsonBody, Names, Routes, key_of};
use crate::text::{bounded, checked};

/// Its endpoints, mounted and described.
pub(super) fn routes() -> Routes<Arc<Care>> {
    const MEMBERS: &str = "/internal/rooms/{room}/members";
    const ROOMS: [&str; 2] = ["Invalid room", "Only rooms that begin with visit: or call: are granted"];
    Routes::new()
        .route(
            Operation::post("/internal/notifications", "Sends a user a notification.")
                .detail("It is stored; the user's sockets hear `notification:new`.")
                .of_backend()
                .header(
                    "Idempotency-Key",
                    "1 to 128 visible characters. Under one key a user is sent one notification.",
                )
                .body::<Notify>()
                .answer::<Data<Notification>>(201, "The notification.")
                .answer::<Data<Notification>>(200, "The notification as it was sent before under its key.")
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
            Operation::put(MEMBERS, "Grants a room to these users and nobody else.")
                .detail(
                    "Rooms `visit:…` and `call:…`. Sockets in it of other users are taken out of it on every node \
                     before the answer, unless their token lists the room or they are parties of the call. Their \
                     clients receive `muster:removed`, the others in the room `room:userLeft`.",
                )
                .of_backend()
                .body::<Grants>()
                .answer::<Data<Granted>>(200, "Whom the room is granted.")
                .refuse_all(400, &ROOMS)
                .refuse_all(400, &["Invalid userId", "Too many userIds (max 1000)"]),
            grant,
        )
        .route(
            Operation::get(MEMBERS, "Lists whom a room is granted.")
                .of_backend()
                .answer::<Data<Granted>>(200, "Whom the room is granted.")
                .refuse_all(400, &ROOMS),
            grants,
        )
}

/// A notification to be sent.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Notify {
    #[schemars(with = "UserIdText")]
    user_id: String,
    /// Trimmed; then 1 to 200 characters, none of them NUL.
    title: String,
    /// 2,000 characters at most, none of them NUL.
    message: String,
    #[serde(rename = "type")]
    #[schemars(with = "Option<Word>")]
    kind: Option<String>,
    /// Anything of 8,192 bytes of JSON at most.
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

/// Whom a room shall be granted.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Grants {
    /// 1,000 at most.
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

/// Whom a room is granted.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Granted {
    #[schemars(with = "RoomName")]
    room_id: String,
    #[schemars(with = "Vec<UserIdText>")]
    user_ids: Vec<String>,
    /// How many there are in `userIds`.
    count: usize,
    /// `true` where not every node has said in time that it has taken out who may not be in the room any more. It does so
    /// as soon as it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    incomplete: Option<bool>,
}

fn granted(room_id: String, user_ids: Vec<String>, is_done: bool) -> Json<Data<Granted>> {
    let incomplete = (!is_done).then_some(true);
    reply::data(Granted { count: user_ids.len(), room_id, user_ids, incomplete })
}

//! The citizens' API of `sos` (document 001; contract, "sos"), under `/api/sos`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::names::UserId;

use super::Sos;
use super::incidents::Incident;
use super::store::{Entry, Of, Participant, USER_TYPES};
use super::stories::{self, Near, Raised};
use crate::clock::now_ms;
use crate::describe::Operation;
use crate::describe::forms::{Latitude, Longitude};
use crate::error::AppError;
use crate::rest::reply::{self, Data, List, Told};
use crate::rest::{Around, AroundQuery, MaybeJsonBody, Names, PageQuery, Paged, Routes, User};

/// Its endpoints, mounted and described.
pub(super) fn routes() -> Routes<Arc<Sos>> {
    incidents().merge(endings()).merge(participation()).merge(participants())
}

const TOO_MANY: &str = "Too many requests";
const OVER: &str = "SOS has ended";

fn incidents() -> Routes<Arc<Sos>> {
    Routes::new()
        .route(
            Operation::post("/api/sos", "Raises an incident; who raises it takes part.")
                .of_user()
                .maybe_body::<Raise>()
                .detail(
                    "A user may raise ten at once, and one more every six seconds, on all nodes together. An incident \
                     ends when its last participant leaves, when its raiser or an admin ends it, when it is marked as \
                     false, or by its age (`SOS_AGE`).",
                )
                .answer::<Data<Incident>>(201, "The incident.")
                .refuse_all(
                    400,
                    &[
                        "Invalid latitude or longitude",
                        "Description too long (max 2000 characters)",
                        "Description contains a null character",
                    ],
                )
                .refuse(429, TOO_MANY),
            raise,
        )
        .route(
            Operation::get("/api/sos/nearby", "Pages through the active incidents around a place.")
                .detail(
                    "Of each user the nearest first, before anybody's second one, and within that the nearest. (Of a \
                     user with more than ten open ones the first ten count; the rest comes after everybody's first.) \
                     `hasMore` says whether there are more, and `nextCursor` asks for them; a page may be shorter than \
                     asked for. What is raised or ends meanwhile moves nothing else.",
                )
                .of_user()
                .query::<AroundQuery>()
                .answer::<List<Near>>(200, "A page.")
                .refuse_all(
                    400,
                    &[
                        "Expected latitude, longitude and radius?",
                        "Invalid radius: expected 0 to 100000 metres",
                        "Invalid latitude or longitude",
                        "Invalid limit",
                        "Invalid cursor",
                    ],
                )
                .refuse(429, TOO_MANY),
            nearby,
        )
}

fn endings() -> Routes<Arc<Sos>> {
    Routes::new()
        .route(
            Operation::post("/api/sos/{sosId}/end", "Ends an incident.")
                .detail(
                    "By who raised it or an `admin`. Nobody takes part any more: the room hears `sos:ended`, and all \
                     sockets leave it. They stay connected.",
                )
                .of_user()
                .answer::<Data<Incident>>(200, "The incident.")
                .refuse(400, "Invalid sosId")
                .refuse(403, "Only who raised the SOS or an admin may do this")
                .refuse(404, "SOS not found")
                .refuse(409, OVER),
            end,
        )
        .route(
            Operation::post("/api/sos/{sosId}/false-alarm", "Marks an incident as false: it ends.")
                .detail(
                    "By a `rescuer` or an `admin`. As ending it; `endedBy` and `endedAt` say who marked it, and when. Its \
                     raiser hears `sos:ended` also where they do not take part.",
                )
                .of_user()
                .answer::<Data<Incident>>(200, "The incident.")
                .refuse(400, "Invalid sosId")
                .refuse(403, "Only rescuers and admins may do this")
                .refuse(404, "SOS not found")
                .refuse(409, OVER)
                .refuse(429, TOO_MANY),
            mark_false,
        )
}

fn participation() -> Routes<Arc<Sos>> {
    Routes::new()
        .route(
            Operation::post("/api/sos/{sosId}/participants/join", "Takes part.")
                .detail(
                    "The user's sockets enter the incident's room, on whichever node they are; then the room \
                     hears `participant:joined`.",
                )
                .of_user()
                .maybe_body::<Join>()
                .answer::<Data<Participant>>(201, "The record.")
                .answer::<Data<Participant>>(
                    200,
                    "The record there was: the user takes part already. Nobody is told.",
                )
                .refuse_all(400, &["Invalid sosId", "Invalid userType: expected citizen, rescuer or admin"])
                .refuse(409, OVER),
            join,
        )
        .route(
            Operation::patch("/api/sos/{sosId}/participants/{userId}/leave", "Takes part no more.")
                .detail(
                    "By the user or an `admin`. The room hears `participant:left`; then the user's sockets in \
                     it are disconnected. The last one to leave an incident that was raised here ends it.",
                )
                .of_user()
                .answer::<Told>(200, "Done.")
                .refuse_all(400, &["Invalid sosId", "Invalid userId"])
                .refuse(403, "Only the user or an admin may do this")
                .refuse(404, "Participant not found"),
            leave,
        )
}

fn participants() -> Routes<Arc<Sos>> {
    const NOT_SEEN: &str = "Not a participant of this SOS";
    const HISTORY: &str = "Newest `joinedAt` first; who rejoined has a record for each time.";
    Routes::new()
        .route(
            Operation::get(
                "/api/sos/{sosId}/participants/active",
                "Lists who takes part, in the order they joined.",
            )
            .detail("For who takes part or has, rescuers and admins.")
            .of_user()
            .answer::<List<Participant>>(200, "10,000 at most; `hasMore` is `true` where there are more.")
            .refuse(400, "Invalid sosId")
            .refuse(403, NOT_SEEN),
            active,
        )
        .route(
            Operation::get("/api/sos/{sosId}/participants/history", "Pages through who takes part or has.")
                .detail(HISTORY)
                .of_user()
                .query::<PageQuery>()
                .answer::<List<Participant>>(200, "A page.")
                .refuse_all(400, &["Invalid sosId", "Invalid limit or before", "Invalid before"])
                .refuse(403, NOT_SEEN),
            history,
        )
        .route(
            Operation::get("/api/sos/{sosId}/participants/{userId}/check", "Whether a user takes part now.")
                .detail("For that user, who takes part or has, rescuers and admins.")
                .of_user()
                .answer::<Data<Check>>(200, "Whether.")
                .refuse_all(400, &["Invalid sosId", "Invalid userId"])
                .refuse(403, NOT_SEEN),
            check,
        )
        .route(
            Operation::get(
                "/api/sos/{sosId}/participants/user/{userId}/history",
                "Pages through a user's participations in all incidents.",
            )
            .detail(HISTORY)
            .of_user()
            .query::<PageQuery>()
            .answer::<List<Participant>>(200, "A page.")
            .refuse_all(
                400,
                &["Invalid sosId", "Invalid userId", "Invalid limit or before", "Invalid before"],
            )
            .refuse(403, "Only the user, a rescuer or an admin may see this"),
            user_history,
        )
}

fn user_id(text: &str) -> Result<UserId, AppError> {
    UserId::parse(text).map_err(|_| AppError::BadInput("Invalid userId".into()))
}

/// An incident to be raised.
#[derive(Deserialize, Default, JsonSchema)]
struct Raise {
    /// With a longitude or not at all.
    #[schemars(with = "Option<Latitude>")]
    latitude: Option<f64>,
    #[schemars(with = "Option<Longitude>")]
    longitude: Option<f64>,
    /// 2,000 characters at most, none of them NUL.
    description: Option<String>,
}

async fn raise(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    MaybeJsonBody(body): MaybeJsonBody<Raise>,
) -> Result<(StatusCode, Json<Data<Incident>>), AppError> {
    let Raise { latitude, longitude, description } = body;
    let incident = sos.raise(&claims, Raised { latitude, longitude, description }).await?;
    Ok((StatusCode::CREATED, reply::data(incident)))
}

async fn nearby(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Around(looked): Around,
) -> Result<Json<List<Near>>, AppError> {
    let (near, next) = sos.nearby(&claims.user, &looked).await?;
    Ok(reply::page(near, next.as_ref()))
}

async fn end(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id]): Names<1>,
) -> Result<Json<Data<Incident>>, AppError> {
    Ok(reply::data(sos.end(&claims, &sos_id).await?))
}

async fn mark_false(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id]): Names<1>,
) -> Result<Json<Data<Incident>>, AppError> {
    Ok(reply::data(sos.mark_false(&claims, &sos_id).await?))
}

/// How to take part.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Join {
    /// Gives no rights. The token's role unless sent, or `citizen`.
    #[schemars(extend("enum" = ["citizen", "rescuer", "admin", null]))]
    user_type: Option<String>,
}

async fn join(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id]): Names<1>,
    MaybeJsonBody(Join { user_type }): MaybeJsonBody<Join>,
) -> Result<(StatusCode, Json<Data<Participant>>), AppError> {
    let user_type = match &user_type {
        None => stories::default_type(&claims),
        Some(asked) => checked_type(asked)?,
    };
    let entry = Entry {
        sos_id,
        user_id: claims.user.clone(),
        user_type,
        display_name: claims.display_name.to_string(),
        actor_type: stories::actor_type(&claims),
        joined_at_ms: now_ms(),
    };
    let (record, is_new) = sos.join(entry).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, reply::data(record)))
}

/// One of the user types there are.
pub(super) fn checked_type(text: &str) -> Result<&'static str, AppError> {
    USER_TYPES
        .into_iter()
        .find(|kind| *kind == text)
        .ok_or_else(|| AppError::BadInput("Invalid userType: expected citizen, rescuer or admin".into()))
}

async fn leave(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id, user]): Names<2>,
) -> Result<Json<Told>, AppError> {
    let user = user_id(&user)?;
    if claims.user != user && claims.role.as_deref() != Some("admin") {
        return Err(AppError::Forbidden("Only the user or an admin may do this".into()));
    }
    let now = now_ms();
    sos.leave(sos_id, user, now).await?;
    Ok(reply::told("Participant left SOS", now))
}

async fn active(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id]): Names<1>,
) -> Result<Json<List<Participant>>, AppError> {
    sos.must_see(&claims, &sos_id).await?;
    let (active, has_more) = sos.active(&sos_id).await?;
    Ok(reply::cut_list(active, has_more))
}

async fn history(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id]): Names<1>,
    Paged { limit, before }: Paged,
) -> Result<Json<List<Participant>>, AppError> {
    sos.must_see(&claims, &sos_id).await?;
    let records = sos.history(Of::Incident(&sos_id), before.as_deref(), limit).await?;
    Ok(reply::list(records))
}

/// Whether somebody takes part.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Check {
    is_active: bool,
}

async fn check(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id, user]): Names<2>,
) -> Result<Json<Data<Check>>, AppError> {
    // Whether one takes part oneself is no secret from oneself.
    if claims.user.as_str() != user {
        sos.must_see(&claims, &sos_id).await?;
    }
    let is_active = sos.is_active(&sos_id, &user).await?;
    Ok(reply::data(Check { is_active }))
}

async fn user_history(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([_, user]): Names<2>,
    Paged { limit, before }: Paged,
) -> Result<Json<List<Participant>>, AppError> {
    if claims.user.as_str() != user && !stories::sees_all(&claims) {
        return Err(AppError::Forbidden("Only the user, a rescuer or an admin may see this".into()));
    }
    let records = sos.history(Of::User(&user), before.as_deref(), limit).await?;
    Ok(reply::list(records))
}

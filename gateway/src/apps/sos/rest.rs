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
use super::participants::{Entry, Participant, USER_TYPES};
use super::store::Of;
use super::stories::{self, Joining, Near, Raised};
use crate::clock::now_ms;
use crate::describe::Operation;
use crate::describe::forms::{Latitude, Longitude};
use crate::error::AppError;
use crate::rest::reply::{self, Change, Confirmation, Data, List};
use crate::rest::{Around, AroundQuery, MaybeJsonBody, Names, PageQuery, Paged, Routes, User};

pub(super) fn routes() -> Routes<Arc<Sos>> {
    incidents().merge(endings()).merge(participation()).merge(participants())
}

const TOO_MANY: &str = "Too many requests";
const OVER: &str = "SOS has ended";

fn incidents() -> Routes<Arc<Sos>> {
    Routes::new()
        .route(
            Operation::post("/api/sos", "Raises an incident, and its raiser joins it.")
                .id("raiseIncident")
                .of_user()
                .maybe_body::<Raise>()
                .detail(
                    "A user may raise ten incidents in a burst, and one more every six seconds, on all nodes together. \
                     An incident ends when its last participant leaves, when its raiser or an admin ends it, when it is \
                     marked as a false alarm, or when it reaches the age `SOS_AGE`.",
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
                .id("listNearbyIncidents")
                .detail(
                    "Lists each user's nearest incident before any user's second one, nearest first. (For a user with \
                     more than ten open incidents, this applies to the first ten; the rest comes after all users' first \
                     ones.) `hasMore` says whether more exist, and `nextCursor` requests them; a page may be shorter than \
                     requested. Incidents that start or end meanwhile do not change the order of the rest.",
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
                .id("endIncident")
                .detail(
                    "For its raiser and an `admin`. This ends every participation: the room receives `sos:ended`, and all \
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
            Operation::post("/api/sos/{sosId}/false-alarm", "Marks an incident as a false alarm, which ends it.")
                .id("reportFalseAlarm")
                .detail(
                    "For a `rescuer` or an `admin`. `endedBy` and `endedAt` say who marked it, and when. Its \
                     raiser receives `sos:ended` even if they do not participate.",
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
            Operation::post("/api/sos/{sosId}/participants/join", "Joins an incident.")
                .id("joinIncident")
                .detail(
                    "The user's sockets on all nodes enter the incident's room; then the room \
                     receives `participant:joined`.",
                )
                .of_user()
                .maybe_body::<Join>()
                .answer::<Change<Participant>>(201, "The record.")
                .answer::<Change<Participant>>(
                    200,
                    "The existing record: the user had already joined. No event is sent.",
                )
                .refuse_all(400, &["Invalid sosId", "Invalid userType: expected citizen, rescuer or admin"])
                .refuse(409, OVER),
            join,
        )
        .route(
            Operation::patch("/api/sos/{sosId}/participants/{userId}/leave", "Leaves an incident.")
                .id("leaveIncident")
                .detail(
                    "For the user or an `admin`. The room receives `participant:left`; then the user's sockets in \
                     it are disconnected. When the last participant of an incident that was raised here leaves, it ends.",
                )
                .of_user()
                .answer::<Confirmation>(200, "Done: no node counts the user's sockets in the room anymore.")
                .refuse_all(400, &["Invalid sosId", "Invalid userId"])
                .refuse(403, "Only the user or an admin may do this")
                .refuse(404, "Participant not found"),
            leave,
        )
}

fn participants() -> Routes<Arc<Sos>> {
    const NOT_SEEN: &str = "Not a participant of this SOS";
    const HISTORY: &str = "Newest `joinedAt` first. A user who rejoined has one record per participation.";
    Routes::new()
        .route(
            Operation::get(
                "/api/sos/{sosId}/participants/active",
                "Lists the active participants in the order they joined.",
            )
            .id("listActiveParticipants")
            .detail("For current and former participants, rescuers and admins.")
            .of_user()
            .answer::<List<Participant>>(200, "At most 10,000; `hasMore` is `true` if there are more.")
            .refuse(400, "Invalid sosId")
            .refuse(403, NOT_SEEN),
            active,
        )
        .route(
            Operation::get(
                "/api/sos/{sosId}/participants/history",
                "Pages through current and former participants.",
            )
            .id("listParticipantHistory")
            .detail(HISTORY)
            .of_user()
            .query::<PageQuery>()
            .answer::<List<Participant>>(200, "A page.")
            .refuse_all(400, &["Invalid sosId", "Invalid limit or before", "Invalid before"])
            .refuse(403, NOT_SEEN),
            history,
        )
        .route(
            Operation::get(
                "/api/sos/{sosId}/participants/{userId}/check",
                "Checks whether a user participates.",
            )
            .id("checkParticipation")
            .detail("For that user, current and former participants, rescuers and admins.")
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
            .id("listUserParticipations")
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

/// A new incident.
#[derive(Deserialize, Default, JsonSchema)]
#[schemars(rename = "NewIncident")]
struct Raise {
    /// Requires a longitude.
    #[schemars(with = "Option<Latitude>")]
    latitude: Option<f64>,
    #[schemars(with = "Option<Longitude>")]
    longitude: Option<f64>,
    /// At most 2,000 characters, without NUL.
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

/// The request to join.
#[derive(Deserialize, Default, JsonSchema)]
#[schemars(rename = "ParticipationRequest")]
#[serde(rename_all = "camelCase")]
struct Join {
    /// Grants no rights. Default: the token's role, or `citizen`.
    #[schemars(extend("enum" = ["citizen", "rescuer", "admin", null]))]
    user_type: Option<String>,
}

async fn join(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id]): Names<1>,
    MaybeJsonBody(Join { user_type }): MaybeJsonBody<Join>,
) -> Result<(StatusCode, Json<Change<Participant>>), AppError> {
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
    let Joining { record, is_new, is_done } = sos.join(entry).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, reply::change(record, is_done)))
}

/// Parses a user type.
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
) -> Result<Json<Confirmation>, AppError> {
    let user = user_id(&user)?;
    if claims.user != user && claims.role.as_deref() != Some("admin") {
        return Err(AppError::Forbidden("Only the user or an admin may do this".into()));
    }
    let now = now_ms();
    let is_done = sos.leave(sos_id, user, now).await?;
    Ok(reply::confirmation("Participant left SOS", now, is_done))
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

/// Whether a user participates.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ParticipationCheck")]
#[serde(rename_all = "camelCase")]
struct Check {
    is_active: bool,
}

async fn check(
    State(sos): State<Arc<Sos>>,
    User(claims): User,
    Names([sos_id, user]): Names<2>,
) -> Result<Json<Data<Check>>, AppError> {
    // Users may always check their own participation.
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

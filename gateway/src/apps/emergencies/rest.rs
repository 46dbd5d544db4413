//! The API of `emergencies` (document 002; contract, "emergencies"), under `/api/v1/emergencies`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use shared::auth::Claims;
use shared::names::is_word;

use super::Emergencies;
use super::emergency::{HelperStatus, Priority, ShownMessage};
use super::limits::{EMERGENCY_ADDRESS_MAX, EMERGENCY_TEXT_MAX};
use super::stories::{Detailed, Near, Raise, Resolution, ShownRaised};
use crate::describe::Operation;
use crate::describe::forms::Word;
use crate::error::AppError;
use crate::geo::Degrees;
use crate::rest::reply::{self, Change, Data, List};
use crate::rest::{Around, AroundQuery, JsonBody, MaybeJsonBody, Names, PageQuery, Paged, Routes, User};
use crate::text::bounded;

pub(super) fn routes() -> Routes<Arc<Emergencies>> {
    raising().merge(helping()).merge(ending()).merge(looking())
}

const NOT_SEEN: &str = "Not authorized to see this emergency";
const NOT_FOUND: &str = "Emergency not found";
const TOO_MANY: &str = "Too many requests";
const NOTES: [&str; 2] = ["Notes too long (max 2000 characters)", "Notes contains a null character"];
const OVER: [&str; 2] = ["Emergency is resolved", "Emergency is cancelled"];

fn raising() -> Routes<Arc<Emergencies>> {
    Routes::new()
        .route(
            Operation::post("/api/v1/emergencies", "Raises an emergency.")
                .id("raiseEmergency")
                .detail(
                    "The owner's sockets enter its room. All helpers receive `emergency:created`, and the nearest \
                     ones `emergency:nearby`.",
                )
                .of_user()
                .body::<NewEmergency>()
                .answer::<Data<ShownRaised<'_>>>(201, "The emergency.")
                .refuse_all(
                    400,
                    &[
                        "Invalid type",
                        "Invalid category",
                        "Invalid severity: expected 1 to 10",
                        "Invalid priority: expected low, medium, high or critical",
                        "Invalid latitude or longitude",
                        "Description too long (max 2000 characters)",
                        "Description contains a null character",
                        "Address too long (max 500 characters)",
                        "Address contains a null character",
                    ],
                )
                .refuse(429, TOO_MANY),
            raise,
        )
}

fn helping() -> Routes<Arc<Emergencies>> {
    Routes::new()
        .route(
            Operation::post("/api/v1/emergencies/{id}/respond", "Responds to an emergency.")
                .id("respondToEmergency")
                .detail(
                    "For helpers. Their sockets on all nodes enter its room; then the room receives \
                     `helper:joined`, and `emergency:status_changed` for the first helper. Responding again sends \
                     no event.",
                )
                .of_user()
                .answer::<Change<Detailed<'_>>>(200, "The emergency and its helpers.")
                .refuse(400, "Invalid id")
                .refuse_all(403, &["Only helpers may respond", "The owner cannot respond"])
                .refuse(404, NOT_FOUND)
                .refuse_all(409, &OVER)
                .refuse(429, TOO_MANY),
            respond,
        )
        .route(
            Operation::put("/api/v1/emergencies/{id}/helper-status", "Sets the helper's status.")
                .id("updateHelperStatus")
                .detail("The room receives `helper:status_update`. A helper who cancels then leaves it.")
                .of_user()
                .body::<NewStatus>()
                .answer::<Change<Detailed<'_>>>(200, "The emergency and its helpers.")
                .refuse_all(
                    400,
                    &[
                        "Invalid id",
                        "Invalid status: expected responding, on_way, arrived, completed or cancelled",
                    ],
                )
                .refuse_all(400, &NOTES)
                .refuse(403, "Only responding helpers may do this")
                .refuse(404, NOT_FOUND)
                .refuse(409, "You do not respond any more")
                .refuse_all(409, &OVER)
                .refuse(429, TOO_MANY),
            set_helper_status,
        )
}

fn ending() -> Routes<Arc<Emergencies>> {
    Routes::new()
        .route(
            Operation::post("/api/v1/emergencies/{id}/resolve", "Resolves an emergency.")
                .id("resolveEmergency")
                .detail(
                    "For its owner or an `admin`. Its room receives `emergency:resolved`, and all helpers \
                 `emergency:ended`.",
                )
                .of_user()
                .maybe_body::<Resolved>()
                .answer::<Data<Detailed<'_>>>(200, "The emergency and its helpers.")
                .refuse_all(400, &["Invalid id", "Invalid resolutionType"])
                .refuse_all(400, &NOTES)
                .refuse(403, "Only the owner or an admin may do this")
                .refuse(404, NOT_FOUND)
                .refuse_all(409, &OVER),
            resolve,
        )
        .route(
            Operation::post("/api/v1/emergencies/{id}/cancel", "Cancels an emergency.")
                .id("cancelEmergency")
                .detail(
                    "For its owner or an `admin`. Its room receives `emergency:cancelled`, and all helpers \
                 `emergency:ended`.",
                )
                .of_user()
                .answer::<Data<Detailed<'_>>>(200, "The emergency and its helpers.")
                .refuse(400, "Invalid id")
                .refuse(403, "Only the owner or an admin may do this")
                .refuse(404, NOT_FOUND)
                .refuse_all(409, &OVER),
            cancel,
        )
}

fn looking() -> Routes<Arc<Emergencies>> {
    Routes::new()
        .route(
            Operation::get(
                "/api/v1/emergencies/nearby",
                "Pages through the open emergencies around a place.",
            )
                .id("listNearbyEmergencies")
            .detail(
                "For helpers and admins. Lists each owner's nearest emergency before any owner's second one, nearest \
                 first. (For an owner with more than ten open emergencies, this applies to the first ten; the rest \
                 comes after all owners' first ones.) `hasMore` says whether more exist, and `nextCursor` requests \
                 them; a page may be shorter than requested.",
            )
            .of_user()
            .query::<AroundQuery>()
            .answer::<List<Near<'_>>>(200, "A page.")
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
            .refuse(403, "Only helpers may do this")
            .refuse(429, TOO_MANY),
            nearby,
        )
        .route(
            Operation::get("/api/v1/emergencies/{id}", "An emergency and its helpers.")
                .id("getEmergency")
                .detail("For its owner, helpers and admins.")
                .of_user()
                .answer::<Data<Detailed<'_>>>(200, "The emergency and its helpers.")
                .refuse(400, "Invalid id")
                .refuse(403, NOT_SEEN)
                .refuse(404, NOT_FOUND),
            find,
        )
        .route(
            Operation::get("/api/v1/emergencies/{id}/messages", "Pages through an emergency's messages.")
                .id("listEmergencyMessages")
                .detail(
                    "Newest first. Owners and admins see all messages; helpers see those between the owner \
                     and them.",
                )
                .of_user()
                .query::<PageQuery>()
                .answer::<List<ShownMessage<'_>>>(200, "A page.")
                .refuse_all(400, &["Invalid id", "Invalid limit or before", "Invalid before"])
                .refuse(403, "Not authorized to read these messages")
                .refuse(404, NOT_FOUND),
            messages,
        )
}

/// An emergency's location.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EmergencyLocation")]
struct Location {
    #[serde(flatten)]
    degrees: Degrees,
    /// At most 500 characters, without NUL.
    address: Option<String>,
}

/// A new emergency.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NewEmergency {
    #[serde(rename = "type")]
    #[schemars(with = "Word")]
    kind: String,
    #[schemars(with = "Option<Word>")]
    category: Option<String>,
    /// At most 2,000 characters, without NUL.
    description: Option<String>,
    location: Location,
    /// Default: `medium`.
    #[schemars(with = "Option<Priority>")]
    priority: Option<String>,
    #[schemars(range(min = 1, max = 10))]
    severity: Option<i64>,
    /// Whether only admins may see the owner.
    anonymous_mode: Option<bool>,
}

impl NewEmergency {
    fn checked(self) -> Result<Raise, AppError> {
        if !is_word(&self.kind) {
            return Err(AppError::BadInput("Invalid type".into()));
        }
        if self.category.as_deref().is_some_and(|category| !is_word(category)) {
            return Err(AppError::BadInput("Invalid category".into()));
        }
        if self.severity.is_some_and(|severity| !(1..=10).contains(&severity)) {
            return Err(AppError::BadInput("Invalid severity: expected 1 to 10".into()));
        }
        let priority = match &self.priority {
            None => Priority::DEFAULT,
            Some(word) => Priority::parse(word).ok_or_else(|| {
                AppError::BadInput("Invalid priority: expected low, medium, high or critical".into())
            })?,
        };
        let text = |text: Option<String>, what, max| text.map(|text| bounded(&text, what, max)).transpose();
        Ok(Raise {
            kind: self.kind,
            category: self.category,
            description: text(self.description, "Description", EMERGENCY_TEXT_MAX)?,
            place: self.location.degrees.place()?,
            address: text(self.location.address, "Address", EMERGENCY_ADDRESS_MAX)?,
            priority,
            severity: self.severity,
            anonymous: self.anonymous_mode.unwrap_or_default(),
        })
    }
}

async fn raise(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    JsonBody(body): JsonBody<NewEmergency>,
) -> Result<Response, AppError> {
    let raised = app.raise(&claims, body.checked()?).await?;
    Ok((StatusCode::CREATED, reply::data(raised.shown())).into_response())
}

async fn nearby(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    Around(looked): Around,
) -> Result<Response, AppError> {
    app.nearby(&claims, &looked, |near, next| reply::page(near, next).into_response()).await
}

async fn find(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    Names([id]): Names<1>,
) -> Result<Response, AppError> {
    show(&app, &claims, &id).await
}

async fn show(app: &Emergencies, claims: &Claims, id: &str) -> Result<Response, AppError> {
    app.show(claims, id, |detailed| reply::data(detailed).into_response()).await
}

async fn show_change(
    app: &Emergencies,
    claims: &Claims,
    id: &str,
    is_done: bool,
) -> Result<Response, AppError> {
    app.show(claims, id, |detailed| reply::change(detailed, is_done).into_response()).await
}

async fn respond(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    Names([id]): Names<1>,
) -> Result<Response, AppError> {
    let is_done = app.respond(&claims, id.clone()).await?;
    show_change(&app, &claims, &id, is_done).await
}

/// A helper's status.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "HelperStatusUpdate")]
struct NewStatus {
    #[schemars(with = "HelperStatus")]
    status: String,
    /// At most 2,000 characters, without NUL.
    notes: Option<String>,
}

async fn set_helper_status(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    Names([id]): Names<1>,
    JsonBody(NewStatus { status, notes }): JsonBody<NewStatus>,
) -> Result<Response, AppError> {
    let status = HelperStatus::parse(&status).ok_or_else(|| {
        let say = "Invalid status: expected responding, on_way, arrived, completed or cancelled";
        AppError::BadInput(say.into())
    })?;
    let notes = notes.map(|notes| bounded(&notes, "Notes", EMERGENCY_TEXT_MAX)).transpose()?;
    let is_done = app.set_helper_status(&claims, id.clone(), (status, notes)).await?;
    show_change(&app, &claims, &id, is_done).await
}

/// How an emergency was resolved.
#[derive(Deserialize, Default, JsonSchema)]
#[schemars(rename = "EmergencyResolution")]
#[serde(rename_all = "camelCase")]
struct Resolved {
    /// Default: `user_resolved` or `admin_resolved`.
    #[schemars(with = "Option<Word>")]
    resolution_type: Option<String>,
    /// At most 2,000 characters, without NUL.
    resolution_notes: Option<String>,
}

async fn resolve(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    Names([id]): Names<1>,
    MaybeJsonBody(body): MaybeJsonBody<Resolved>,
) -> Result<Response, AppError> {
    if body.resolution_type.as_deref().is_some_and(|kind| !is_word(kind)) {
        return Err(AppError::BadInput("Invalid resolutionType".into()));
    }
    let notes =
        body.resolution_notes.map(|notes| bounded(&notes, "Notes", EMERGENCY_TEXT_MAX)).transpose()?;
    let resolution = Resolution { kind: body.resolution_type, notes };
    app.end(&claims, id.clone(), Some(resolution)).await?;
    show(&app, &claims, &id).await
}

async fn cancel(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    Names([id]): Names<1>,
) -> Result<Response, AppError> {
    app.end(&claims, id.clone(), None).await?;
    show(&app, &claims, &id).await
}

async fn messages(
    State(app): State<Arc<Emergencies>>,
    User(claims): User,
    Names([id]): Names<1>,
    Paged { limit, before }: Paged,
) -> Result<Response, AppError> {
    let page = (before.as_deref(), limit);
    app.messages(&claims, &id, page, |messages| reply::list(messages).into_response()).await
}

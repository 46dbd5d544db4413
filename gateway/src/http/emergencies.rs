//! The API of `emergencies` (document 002; contract, "emergencies"), under `/api/v1/emergencies`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use shared::auth::Claims;
use shared::limits::{EMERGENCY_ADDRESS_MAX, EMERGENCY_TEXT_MAX};
use shared::names::is_name;

use super::Site;
use super::body::{JsonBody, MaybeJsonBody};
use super::caller::User;
use super::query::{Around, Names, Paged};
use super::reply::{self, Data};
use crate::apps::emergencies::{Emergencies, HelperStatus, Priority, Raise, Resolution};
use crate::error::AppError;
use crate::geo::Degrees;
use crate::text::bounded;

/// Its routes; none where the app is not mounted.
pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route("/api/v1/emergencies", post(raise))
        .route("/api/v1/emergencies/nearby", get(nearby))
        .route("/api/v1/emergencies/{id}", get(find))
        .route("/api/v1/emergencies/{id}/respond", post(respond))
        .route("/api/v1/emergencies/{id}/helper-status", put(set_helper_status))
        .route("/api/v1/emergencies/{id}/resolve", post(resolve))
        .route("/api/v1/emergencies/{id}/cancel", post(cancel))
        .route("/api/v1/emergencies/{id}/messages", get(messages))
}

/// The app; 404 where it is not mounted.
fn app(site: &Site) -> Result<&Arc<Emergencies>, AppError> {
    site.emergencies.as_ref().ok_or_else(|| AppError::NotFound("Not found".into()))
}

#[derive(Deserialize)]
struct Location {
    #[serde(flatten)]
    degrees: Degrees,
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewEmergency {
    #[serde(rename = "type")]
    kind: String,
    category: Option<String>,
    description: Option<String>,
    location: Location,
    priority: Option<String>,
    severity: Option<i64>,
    anonymous_mode: Option<bool>,
}

impl NewEmergency {
    fn checked(self) -> Result<Raise, AppError> {
        if !is_name(&self.kind) {
            return Err(AppError::BadInput("Invalid type".into()));
        }
        if self.category.as_deref().is_some_and(|category| !is_name(category)) {
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
    State(site): State<Site>,
    User(claims): User,
    JsonBody(body): JsonBody<NewEmergency>,
) -> Result<(StatusCode, Json<Data<Value>>), AppError> {
    let data = app(&site)?.raise(&claims, body.checked()?).await?;
    Ok((StatusCode::CREATED, reply::data(data)))
}

async fn nearby(
    State(site): State<Site>,
    User(claims): User,
    Around { place, radius }: Around,
) -> Result<Response, AppError> {
    app(&site)?.nearby(&claims, (place, radius), |near| reply::list(near).into_response()).await
}

async fn find(
    State(site): State<Site>,
    User(claims): User,
    Names([id]): Names<1>,
) -> Result<Response, AppError> {
    show(&site, &claims, &id).await
}

async fn show(site: &Site, claims: &Claims, id: &str) -> Result<Response, AppError> {
    app(site)?.show(claims, id, |detailed| reply::data(detailed).into_response()).await
}

async fn respond(
    State(site): State<Site>,
    User(claims): User,
    Names([id]): Names<1>,
) -> Result<Response, AppError> {
    app(&site)?.respond(&claims, id.clone()).await?;
    show(&site, &claims, &id).await
}

#[derive(Deserialize)]
struct NewStatus {
    status: String,
    notes: Option<String>,
}

async fn set_helper_status(
    State(site): State<Site>,
    User(claims): User,
    Names([id]): Names<1>,
    JsonBody(NewStatus { status, notes }): JsonBody<NewStatus>,
) -> Result<Response, AppError> {
    let status = HelperStatus::parse(&status).ok_or_else(|| {
        let say = "Invalid status: expected responding, on_way, arrived, completed or cancelled";
        AppError::BadInput(say.into())
    })?;
    let notes = notes.map(|notes| bounded(&notes, "Notes", EMERGENCY_TEXT_MAX)).transpose()?;
    app(&site)?.set_helper_status(&claims, id.clone(), (status, notes)).await?;
    show(&site, &claims, &id).await
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Resolved {
    resolution_type: Option<String>,
    resolution_notes: Option<String>,
}

async fn resolve(
    State(site): State<Site>,
    User(claims): User,
    Names([id]): Names<1>,
    MaybeJsonBody(body): MaybeJsonBody<Resolved>,
) -> Result<Response, AppError> {
    if body.resolution_type.as_deref().is_some_and(|kind| !is_name(kind)) {
        return Err(AppError::BadInput("Invalid resolutionType".into()));
    }
    let notes =
        body.resolution_notes.map(|notes| bounded(&notes, "Notes", EMERGENCY_TEXT_MAX)).transpose()?;
    let resolution = Resolution { kind: body.resolution_type, notes };
    app(&site)?.end(&claims, id.clone(), Some(resolution)).await?;
    show(&site, &claims, &id).await
}

async fn cancel(
    State(site): State<Site>,
    User(claims): User,
    Names([id]): Names<1>,
) -> Result<Response, AppError> {
    app(&site)?.end(&claims, id.clone(), None).await?;
    show(&site, &claims, &id).await
}

async fn messages(
    State(site): State<Site>,
    User(claims): User,
    Names([id]): Names<1>,
    Paged { limit, before }: Paged,
) -> Result<Response, AppError> {
    let page = (before.as_deref(), limit);
    app(&site)?.messages(&claims, &id, page, |messages| reply::list(messages).into_response()).await
}

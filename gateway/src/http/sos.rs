//! The citizens' API of `sos` (document 001; contract, "sos"), under `/api/sos`.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, patch, post};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::names::UserId;

use super::Site;
use super::body::MaybeJsonBody;
use super::caller::User;
use super::query::{Around, Names, Paged, listed};
use crate::apps::sos::Sos;
use crate::apps::sos::store::{Entry, Of};
use crate::apps::sos::stories::{self, Raised, USER_TYPES};
use crate::clock::{iso, now_ms};
use crate::error::AppError;

/// Its routes; none where the app is not mounted.
pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route("/api/sos", post(raise))
        .route("/api/sos/nearby", get(nearby))
        .route("/api/sos/{sosId}/participants/join", post(join))
        .route("/api/sos/{sosId}/participants/active", get(active))
        .route("/api/sos/{sosId}/participants/history", get(history))
        .route("/api/sos/{sosId}/participants/{userId}/leave", patch(leave))
        .route("/api/sos/{sosId}/participants/{userId}/check", get(check))
        .route("/api/sos/{sosId}/participants/user/{userId}/history", get(user_history))
}

/// The app; 404 where it is not mounted.
pub(super) fn app(site: &Site) -> Result<&Arc<Sos>, AppError> {
    site.sos.as_ref().ok_or_else(|| AppError::NotFound("Not found".into()))
}

fn user_id(text: &str) -> Result<UserId, AppError> {
    UserId::parse(text).map_err(|_| AppError::BadInput("Invalid userId".into()))
}

#[derive(Deserialize, Default)]
struct Raise {
    latitude: Option<f64>,
    longitude: Option<f64>,
    description: Option<String>,
}

async fn raise(
    State(site): State<Site>,
    User(claims): User,
    MaybeJsonBody(body): MaybeJsonBody<Raise>,
) -> Result<(StatusCode, Json<Value>), AppError> {
    let Raise { latitude, longitude, description } = body;
    let incident = app(&site)?.raise(&claims, Raised { latitude, longitude, description }).await?;
    let body = json!({"success": true, "data": incident, "timestamp": iso(now_ms())});
    Ok((StatusCode::CREATED, Json(body)))
}

async fn nearby(
    State(site): State<Site>,
    User(_): User,
    Around { place, radius }: Around,
) -> Result<Json<Value>, AppError> {
    let near = app(&site)?.nearby(place, radius).await?;
    Ok(listed(&near, near.len()))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Join {
    user_type: Option<String>,
}

async fn join(
    State(site): State<Site>,
    User(claims): User,
    Names([sos_id]): Names<1>,
    MaybeJsonBody(Join { user_type }): MaybeJsonBody<Join>,
) -> Result<(StatusCode, Json<Value>), AppError> {
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
    let (record, is_new) = app(&site)?.join(entry).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({"success": true, "data": record, "timestamp": iso(now_ms())}))))
}

/// One of the user types there are.
pub(super) fn checked_type(text: &str) -> Result<&'static str, AppError> {
    USER_TYPES
        .into_iter()
        .find(|kind| *kind == text)
        .ok_or_else(|| AppError::BadInput("Invalid userType: expected citizen, rescuer or admin".into()))
}

async fn leave(
    State(site): State<Site>,
    User(claims): User,
    Names([sos_id, user]): Names<2>,
) -> Result<Json<Value>, AppError> {
    let user = user_id(&user)?;
    if claims.user != user && claims.role.as_deref() != Some("admin") {
        return Err(AppError::Forbidden("Only the user or an admin may do this".into()));
    }
    let now = now_ms();
    app(&site)?.leave(sos_id, user, now).await?;
    Ok(Json(json!({"success": true, "message": "Participant left SOS", "timestamp": iso(now)})))
}

async fn active(
    State(site): State<Site>,
    User(claims): User,
    Names([sos_id]): Names<1>,
) -> Result<Json<Value>, AppError> {
    let sos = app(&site)?;
    sos.must_see(&claims, &sos_id).await?;
    let participants = sos.active(&sos_id).await?;
    Ok(listed(&participants, participants.len()))
}

async fn history(
    State(site): State<Site>,
    User(claims): User,
    Names([sos_id]): Names<1>,
    Paged { limit, before }: Paged,
) -> Result<Json<Value>, AppError> {
    let sos = app(&site)?;
    sos.must_see(&claims, &sos_id).await?;
    let records = sos.history(Of::Incident(&sos_id), before.as_deref(), limit).await?;
    Ok(listed(&records, records.len()))
}

async fn check(
    State(site): State<Site>,
    User(claims): User,
    Names([sos_id, user]): Names<2>,
) -> Result<Json<Value>, AppError> {
    let sos = app(&site)?;
    // Whether one takes part oneself is no secret from oneself.
    if claims.user.as_str() != user {
        sos.must_see(&claims, &sos_id).await?;
    }
    let is_active = sos.is_active(&sos_id, &user).await?;
    Ok(Json(json!({"success": true, "data": {"isActive": is_active}, "timestamp": iso(now_ms())})))
}

async fn user_history(
    State(site): State<Site>,
    User(claims): User,
    Names([_, user]): Names<2>,
    Paged { limit, before }: Paged,
) -> Result<Json<Value>, AppError> {
    if claims.user.as_str() != user && !stories::sees_all(&claims) {
        return Err(AppError::Forbidden("Only the user, a rescuer or an admin may see this".into()));
    }
    let records = app(&site)?.history(Of::User(&user), before.as_deref(), limit).await?;
    Ok(listed(&records, records.len()))
}

//! [`JsonBody`]: a request's JSON, bounded and checked, with the contract's errors.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::header;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use shared::json::nests_at_most;
use shared::limits::{BODY_MAX_MS, JSON_DEPTH_MAX, REST_BODY_MAX_BYTES};

use super::Site;
use crate::error::AppError;

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct MaybeJsonBody<T>(pub(super) T);

/// A JSON body with an event for clients in it, as large as one of theirs may be.
pub(super) struct LargeJsonBody<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = AppError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AppError> {
        must_be_json(&request)?;
        parse(&collect(request, REST_BODY_MAX_BYTES).await?).map(Self)
    }
}

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeJsonBody<T> {
    type Rejection = AppError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AppError> {
        let is_json = must_be_json(&request);
        let bytes = collect(request, REST_BODY_MAX_BYTES).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        is_json.and_then(|()| parse(&bytes)).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<Site> for LargeJsonBody<T> {
    type Rejection = AppError;

    async fn from_request(request: Request, site: &Site) -> Result<Self, AppError> {
        must_be_json(&request)?;
        // Room for the other fields beside a payload of the full size.
        let max = site.transports.engine.max_payload + REST_BODY_MAX_BYTES;
        parse(&collect(request, max).await?).map(Self)
    }
}

fn must_be_json(request: &Request) -> Result<(), AppError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(AppError::UnsupportedMedia) }
}

async fn collect(request: Request, max: usize) -> Result<Bytes, AppError> {
    let body = Limited::new(request.into_body(), max).collect();
    let read = tokio::time::timeout(Duration::from_millis(BODY_MAX_MS), body).await;
    match read {
        Err(_) => Err(AppError::TooSlow),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(AppError::TooLarge(format!("Body too large (max {max} bytes)").into()))
        }
        Ok(Err(_)) => Err(AppError::BadInput("Body could not be read".into())),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AppError> {
    let invalid = || AppError::BadInput("Body is not valid JSON".into());
    let text = str::from_utf8(bytes).map_err(|_| invalid())?;
    if !nests_at_most(text, JSON_DEPTH_MAX) {
        return Err(AppError::BadInput("Body is nested too deep".into()));
    }
    serde_json::from_str(text).map_err(|error| {
        // What is missing or of the wrong type is named; the text has no part of the input.
        let say = match error.classify() {
            serde_json::error::Category::Data => format!("Invalid body: {}", plain(&error)),
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => return invalid(),
        };
        AppError::BadInput(say.into())
    })
}

/// Which field is wrong, without the value that was sent and without positions.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once('`') {
        Some((before, rest)) if before.starts_with("missing field") => {
            format!("missing field {}", rest.split('`').next().unwrap_or_default())
        }
        _ => "a field is not of the expected type".to_owned(),
    }
}

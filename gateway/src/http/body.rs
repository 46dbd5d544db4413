//! [`JsonBody`]: a request's JSON, bounded and checked, with the contract's errors.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use shared::json::nests_at_most;
use shared::limits::{BODY_MAX_MS, JSON_DEPTH_MAX, REST_BODY_MAX_BYTES};

use crate::error::AppError;

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = AppError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AppError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(AppError::UnsupportedMedia);
        }
        let body = Limited::new(request.into_body(), REST_BODY_MAX_BYTES).collect();
        let read = tokio::time::timeout(Duration::from_millis(BODY_MAX_MS), body).await;
        let bytes = match read {
            Err(_) => return Err(AppError::TooSlow),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let say = format!("Body too large (max {REST_BODY_MAX_BYTES} bytes)");
                return Err(AppError::TooLarge(say.into()));
            }
            Ok(Err(_)) => return Err(AppError::BadInput("Body could not be read".into())),
            Ok(Ok(collected)) => collected.to_bytes(),
        };
        let invalid = || AppError::BadInput("Body is not valid JSON".into());
        let text = str::from_utf8(&bytes).map_err(|_| invalid())?;
        if !nests_at_most(text, JSON_DEPTH_MAX) {
            return Err(AppError::BadInput("Body is nested too deep".into()));
        }
        serde_json::from_str(text).map(Self).map_err(|error| {
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

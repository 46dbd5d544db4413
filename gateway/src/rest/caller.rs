//! The caller of a request: a user with a token, or a backend.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use shared::auth::Claims;
use shared::limits::IDEMPOTENCY_KEY_MAX;

use super::{Carrier, HasContext};
use crate::auth::{bearer, refused};
use crate::error::AppError;

/// A user, identified by a valid token in `Authorization: Bearer`.
pub(crate) struct User(pub(crate) Claims);

impl<S: HasContext + Send + Sync> FromRequestParts<S> for User {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AppError> {
        let token = bearer(&parts.headers).filter(|token| !token.is_empty());
        // The wording of document 001.
        let token = token.ok_or_else(|| AppError::Unauthorized("Unauthorized - User ID required".into()))?;
        let verified = state.context().tokens.verify(token).await;
        let claims = verified.inspect_err(|error| refused(error, "REST", None))?;
        if let Some(Carrier(connection)) = parts.extensions.get() {
            connection.trust();
        }
        Ok(Self(claims))
    }
}

/// A backend or an operator: sends `X-Internal-Request: true`, and the internal token if one is configured.
pub(crate) struct InternalCaller;

impl<S: HasContext + Send + Sync> FromRequestParts<S> for InternalCaller {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AppError> {
        if is_internal(&parts.headers, state.context().internal_token.as_deref()) {
            Ok(Self)
        } else {
            Err(AppError::Forbidden("Internal requests only".into()))
        }
    }
}

/// Whether a request comes from a backend or another node.
pub(crate) fn is_internal(headers: &HeaderMap, token: Option<&str>) -> bool {
    headers.get("x-internal-request").is_some_and(|value| value == "true") && is_token(headers, token)
}

fn is_token(headers: &HeaderMap, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given = bearer(headers).unwrap_or_default();
    // Compares every byte, so that the timing does not reveal where a guess differs.
    let same = given.bytes().zip(token.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b));
    given.len() == token.len() && same == 0
}

/// Reads a request's `Idempotency-Key`.
///
/// # Errors
/// A client-facing description of the problem.
pub(crate) fn key_of(headers: &HeaderMap) -> Result<Option<String>, AppError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let invalid =
        || AppError::BadInput("Invalid Idempotency-Key: expected 1 to 128 visible characters".into());
    let key = value.to_str().map_err(|_| invalid())?;
    let visible =
        !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_MAX && key.bytes().all(|b| b.is_ascii_graphic());
    if visible { Ok(Some(key.to_owned())) } else { Err(invalid()) }
}

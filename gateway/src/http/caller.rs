//! Who makes a request: a user with a token, or a backend.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use shared::auth::Claims;

use super::Site;
use crate::auth::refused;
use crate::error::AppError;
use crate::transport::{Guest, bearer};

/// A user: whoever sends `Authorization: Bearer` with a token that is believed.
pub(super) struct User(pub(super) Claims);

impl FromRequestParts<Site> for User {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let token = bearer(&parts.headers).filter(|token| !token.is_empty());
        // The words of document 001.
        let token = token.ok_or_else(|| AppError::Unauthorized("Unauthorized - User ID required".into()))?;
        let verified = site.context.tokens.verify(token).await;
        let claims = verified.inspect_err(|error| refused(error, "REST", None))?;
        if let Some(guest) = parts.extensions.get::<Arc<Guest>>() {
            guest.trust();
        }
        Ok(Self(claims))
    }
}

/// A backend or an operator: whoever sends `X-Internal-Request: true`, and the internal token where one is
/// set.
pub(super) struct InternalCaller;

impl FromRequestParts<Site> for InternalCaller {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        if is_internal(&parts.headers, site.internal_token.as_deref()) {
            Ok(Self)
        } else {
            Err(AppError::Forbidden("Internal requests only".into()))
        }
    }
}

/// Whether a request is a backend's or another node's.
pub(super) fn is_internal(headers: &HeaderMap, token: Option<&str>) -> bool {
    headers.get("x-internal-request").is_some_and(|value| value == "true") && is_token(headers, token)
}

fn is_token(headers: &HeaderMap, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given = bearer(headers).unwrap_or_default();
    // Every byte is compared, so the time tells nothing of where a guess went wrong.
    let same = given.bytes().zip(token.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b));
    given.len() == token.len() && same == 0
}

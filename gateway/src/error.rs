//! [`AppError`]: why a request or event failed, and its two representations: an HTTP answer, and an ack or `error`
//! event.
//!
//! A client may read a [`Say`], which consists of constants and validated input. The cause is for the operator: this
//! file logs it once and never sends it, and no conversion leads from a cause to a `Say`.

use std::borrow::Cow;
use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanout::FanoutError;
use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::AuthError;
use shared::limits::WATCHED_PER_USER_MAX;

use crate::describe::forms::False;
use crate::metrics;

/// A sentence that clients may read.
pub(crate) type Say = Cow<'static, str>;

/// Why a request, or an event with an ack, was refused.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ErrorResponse")]
pub(crate) struct Refusal<'a> {
    #[schemars(with = "False")]
    success: bool,
    /// The error sentence. It is the same each time.
    error: &'a str,
}

/// Why an event that asked for no ack was refused.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorEvent<'a> {
    /// The error sentence.
    message: &'a str,
}

impl<'a> Refusal<'a> {
    pub(crate) fn new(error: &'a str) -> Self {
        Self { success: false, error }
    }
}

/// Why a request or an event was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AppError {
    /// 400: the input is invalid.
    BadInput(Say),
    /// 401: no token, or an invalid one.
    Unauthorized(Say),
    /// 403: the caller may not do this.
    Forbidden(Say),
    /// 404: it does not exist.
    NotFound(Say),
    /// 408: the request did not arrive in time.
    TooSlow,
    /// 409: the current state does not allow it.
    WrongState(Say),
    /// 422: the idempotency key was used for a different request.
    Conflict(Say),
    /// 413: larger than allowed.
    TooLarge(Say),
    /// 414: the request target is too long.
    UriTooLong,
    /// 415: not JSON.
    UnsupportedMedia,
    /// 429: rate limited; seconds until a retry is worthwhile.
    Limited(Say, u64),
    /// 503: a service that the node needs is down. Logged where the error is created.
    Unavailable,
    /// 500: a bug in the node. Logged where the error is created.
    Internal,
}

impl AppError {
    /// The database failed or did not answer.
    pub(crate) fn records(cause: &dyn Display) -> Self {
        metrics::get().records_errors.increment(1);
        tracing::warn!(%cause, "records are not available");
        Self::Unavailable
    }

    /// A bug, or a machine out of resources.
    pub(crate) fn internal(cause: &dyn Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::Internal
    }

    /// The sentence that the client reads.
    pub(crate) fn say(&self) -> &str {
        match self {
            Self::BadInput(say)
            | Self::Unauthorized(say)
            | Self::Forbidden(say)
            | Self::NotFound(say)
            | Self::WrongState(say)
            | Self::Conflict(say)
            | Self::TooLarge(say)
            | Self::Limited(say, _) => say,
            Self::UriTooLong => "URI too long",
            Self::TooSlow => "Request took too long",
            Self::UnsupportedMedia => "Expected Content-Type: application/json",
            Self::Unavailable => "Service temporarily unavailable",
            Self::Internal => "Internal error",
        }
    }

    /// The refusal of a request, and of an event with an ack.
    pub(crate) fn refusal(&self) -> Refusal<'_> {
        Refusal::new(self.say())
    }

    /// The refusal of an event without an ack.
    pub(crate) fn event(&self) -> ErrorEvent<'_> {
        ErrorEvent { message: self.say() }
    }

    /// A stable label for metrics.
    pub(crate) fn outcome(&self) -> metrics::Outcome {
        match self {
            Self::BadInput(_)
            | Self::TooSlow
            | Self::UriTooLong
            | Self::TooLarge(_)
            | Self::UnsupportedMedia
            | Self::WrongState(_)
            | Self::Conflict(_)
            | Self::NotFound(_) => metrics::Outcome::BadInput,
            Self::Unauthorized(_) | Self::Forbidden(_) => metrics::Outcome::Refused,
            Self::Limited(..) => metrics::Outcome::Limited,
            Self::Unavailable | Self::Internal => metrics::Outcome::Failed,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadInput(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::WrongState(_) => StatusCode::CONFLICT,
            Self::Conflict(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Limited(..) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let body = axum::Json(self.refusal());
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        match self {
            // The unread rest of the body must not be parsed as a request.
            Self::TooSlow | Self::TooLarge(_) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Unauthorized(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Limited(_, seconds) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}

impl From<AuthError> for AppError {
    fn from(error: AuthError) -> Self {
        match error {
            // The token may be valid.
            AuthError::Unavailable => Self::Unavailable,
            refused => Self::Unauthorized(refused.to_string().into()),
        }
    }
}

impl From<FanoutError> for AppError {
    fn from(error: FanoutError) -> Self {
        match error {
            FanoutError::TooManyRooms => {
                metrics::get().rate_limited(metrics::Limit::RoomsPerSocket);
                Self::Limited("Too many rooms".into(), 1)
            }
            FanoutError::TooManyWatched => {
                metrics::get().rate_limited(metrics::Limit::WatchedPerUser);
                let say = format!("Too many subscriptions (max {WATCHED_PER_USER_MAX} of all your devices)");
                Self::Limited(say.into(), 1)
            }
            FanoutError::TooManySockets => Self::Limited("Too many connections".into(), 1),
            FanoutError::Gone => Self::BadInput("Socket is disconnected".into()),
            FanoutError::TooManyQuestions => Self::Limited("Too many open questions".into(), 1),
            FanoutError::Unavailable => Self::Unavailable,
            FanoutError::BadPacket => Self::BadInput("Attachments must be named once each".into()),
            FanoutError::TooLarge => Self::TooLarge("Message too large".into()),
            FanoutError::UnknownNamespace => Self::NotFound("Namespace not found".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_never_reads_a_cause() {
        let error = AppError::records(&"SQLITE_IOERR: /var/lib/muster.db");
        assert_eq!(error.say(), "Service temporarily unavailable");
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

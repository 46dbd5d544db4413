//! [`JsonBody`]: a request's JSON body, limited in size, validated, with the contract's errors.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::header;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, OptionFuture};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use shared::json::nests_at_most;
use shared::limits::{BODY_MAX_MS, JSON_DEPTH_MAX, REST_BODY_MAX_BYTES, STRANGER_INPUT_MAX_BYTES};
use shared::names::is_word;

use crate::error::AppError;

/// The connection that carries a request and counts the body bytes read from it. The listener adds it to each
/// request.
#[derive(Clone)]
pub(crate) struct Carrier(pub(crate) Arc<dyn Carries>);

/// What request bodies and callers need from a connection.
pub(crate) trait Carries: Send + Sync {
    /// Whether the client has presented a valid token. Other clients may send less.
    fn is_trusted(&self) -> bool;

    /// Records that the client has presented a valid token.
    fn trust(&self);

    /// Whether a body of at most so many bytes counts as input that the node holds.
    fn counts(&self, at_most: u64) -> bool;

    /// Starts counting a body.
    fn hold(&self) -> Held;
}

/// A body that is being read. Dropping this releases what it holds.
pub(crate) struct Held {
    /// Counts received bytes.
    pub(crate) grow: Box<dyn FnMut(usize) + Send>,
    /// Resolves when the node has no capacity left for this body.
    pub(crate) refused: BoxFuture<'static, ()>,
}

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// An optional JSON body.
pub(crate) struct MaybeJsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = AppError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AppError> {
        read_json(request, REST_BODY_MAX_BYTES).await.map(Self)
    }
}

/// Reads a request's JSON body of at most `max` bytes.
///
/// # Errors
/// A client-facing description of the problem.
pub(crate) async fn read_json<T: DeserializeOwned>(request: Request, max: usize) -> Result<T, AppError> {
    must_be_json(&request)?;
    parse(&collect(request, max).await?)
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for MaybeJsonBody<T> {
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

fn must_be_json(request: &Request) -> Result<(), AppError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(AppError::UnsupportedMedia) }
}

/// Reads a body of at most `max` bytes. The limit is lower for unauthenticated clients.
async fn collect(request: Request, max: usize) -> Result<Bytes, AppError> {
    let carrier = request.extensions().get::<Carrier>().cloned();
    let is_stranger = carrier.as_ref().is_some_and(|carrier| !carrier.0.is_trusted());
    let max = if is_stranger { max.min(STRANGER_INPUT_MAX_BYTES) } else { max };
    let mut body = request.into_body();
    let too_large = || AppError::TooLarge(format!("Body too large (max {max} bytes)").into());
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let at_most = body.size_hint().upper().unwrap_or(u64::MAX);
    let held = carrier.filter(|carrier| carrier.0.counts(at_most)).map(|carrier| carrier.0.hold());
    let (mut grow, refused) = held.map(|Held { grow, refused }| (grow, refused)).unzip();
    let refused = OptionFuture::from(refused);
    let read = async {
        // Copied because a frame keeps its whole read buffer alive.
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| AppError::BadInput("Body could not be read".into()))?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > max {
                return Err(too_large());
            }
            read.extend_from_slice(&data);
            if let Some(grow) = &mut grow {
                grow(read.len());
            }
        }
        Ok(read.freeze())
    };
    tokio::select! {
        read = tokio::time::timeout(Duration::from_millis(BODY_MAX_MS), read) => {
            read.unwrap_or(Err(AppError::TooSlow))
        }
        Some(()) = refused => Err(AppError::Unavailable),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AppError> {
    let invalid = || AppError::BadInput("Body is not valid JSON".into());
    let text = str::from_utf8(bytes).map_err(|_| invalid())?;
    if !nests_at_most(text, JSON_DEPTH_MAX) {
        return Err(AppError::BadInput("Body is nested too deep".into()));
    }
    shared::json::read(text).map_err(|error| {
        // Names the missing or mistyped field, without any part of the input.
        let say = match error.classify() {
            serde_json::error::Category::Data => format!("Invalid body: {}", plain(&error)),
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => return invalid(),
        };
        AppError::BadInput(say.into())
    })
}

/// Names the wrong field, without the value that was sent and without positions.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once('`') {
        Some((before, rest)) if before.starts_with("missing field") => {
            format!("missing field {}", rest.split('`').next().unwrap_or_default())
        }
        Some((before, rest)) if before.starts_with("unknown field") => unknown_field(rest),
        _ => "a field is not of the expected type".to_owned(),
    }
}

/// Describes an unknown field by its name, where serde gives it, and the known names. `rest` is serde's text from
/// the name on.
fn unknown_field(rest: &str) -> String {
    let (name, known) = rest.rsplit_once("`, expected").unwrap_or((rest, ""));
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let name = if is_word(name) { format!(" {name}") } else { String::new() };
    format!("unknown field{name}, expected {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Two {
        #[expect(dead_code, reason = "only its name matters")]
        to: String,
        #[expect(dead_code, reason = "only its name matters")]
        event: Option<String>,
    }

    #[test]
    fn what_is_wrong_with_a_field_is_said() {
        let said = |body: &str| parse::<Two>(body.as_bytes()).unwrap_err().say().to_owned();
        assert_eq!(said("{}"), "Invalid body: missing field to");
        assert_eq!(said(r#"{"to":7}"#), "Invalid body: a field is not of the expected type");
        assert_eq!(
            said(r#"{"to":"a","except":["b"]}"#),
            "Invalid body: unknown field except, expected to, event"
        );
        assert_eq!(
            said(r#"{"to":"a","`, expected `<b>":1}"#),
            "Invalid body: unknown field, expected to, event"
        );
    }
}

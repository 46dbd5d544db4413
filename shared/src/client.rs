//! A client of the internal API of `sos` (document 000), for backends in Rust. Feature `client`.
//!
//! Each call is bounded in time and attempts: it takes at most [`ClientOptions::timeout`] times the attempts, plus the pauses
//! between them. A failure is logged and returned, and the backend continues without it, as the document requires.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backoff::Backoff;
use crate::names::is_name;

/// Options of the client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The internal listener of any node, such as `http://127.0.0.1:9090`.
    pub base_url: String,
    /// The nodes' `INTERNAL_TOKEN`.
    pub token: Option<String>,
    /// The timeout of one attempt.
    pub timeout: Duration,
    /// Retries where a node is away or overloaded. A refusal is not retried.
    pub retries: u32,
    /// Pause before the first retry, doubled before each further one up to half a minute; with jitter, so that callers that
    /// failed together do not retry together.
    pub pause: Duration,
}

impl ClientOptions {
    /// Four seconds per attempt, which is longer than a node takes that waits for all others, and two retries.
    #[must_use]
    pub fn new(base_url: &str) -> Self {
        let (timeout, pause) = (Duration::from_secs(4), Duration::from_millis(100));
        Self { base_url: base_url.trim_end_matches('/').to_owned(), token: None, timeout, retries: 2, pause }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The name cannot be part of a path; nothing was sent.
    #[error("invalid sosId")]
    BadId,
    /// No node could be reached, or none answered in time.
    #[error("the realtime service cannot be reached: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// The node's refusal.
    #[error("the realtime service answered {status}: {error}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The node's error message.
        error: String,
    },
    /// Not a node's answer.
    #[error("the realtime service's answer cannot be read")]
    BadAnswer,
}

/// A participant who has joined.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParticipantJoined {
    /// The incident.
    pub sos_id: String,
    /// The participant.
    pub user_id: String,
    /// `citizen`, `rescuer` or `admin`.
    pub user_type: String,
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// ISO 8601; `None` for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<String>,
}

/// A participant who has left.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParticipantLeft {
    /// The incident.
    pub sos_id: String,
    /// The participant.
    pub user_id: String,
    /// ISO 8601; `None` for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_at: Option<String>,
}

/// A socket in an incident's room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveParticipant {
    /// Its user.
    pub user_id: String,
    /// The name to show.
    pub display_name: String,
    /// The user's type in the incident.
    pub user_type: String,
    /// The socket.
    pub socket_id: String,
    /// Milliseconds since the epoch.
    pub connected_at: u64,
}

#[derive(Deserialize, Default)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize, Default)]
struct Active {
    participants: Vec<ActiveParticipant>,
}

#[derive(Deserialize, Default)]
struct Count {
    count: u64,
}

/// The client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RealtimeServiceClient {
    http: reqwest::Client,
    options: ClientOptions,
}

impl RealtimeServiceClient {
    /// Creates a client; it connects later.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the system's TLS cannot be set up.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder().timeout(options.timeout).build()?;
        Ok(Self { http, options })
    }

    /// `POST /internal/participants/joined`.
    ///
    /// # Errors
    /// [`ClientError`], logged.
    pub async fn broadcast_participant_joined(&self, joined: &ParticipantJoined) -> Result<(), ClientError> {
        self.call::<Value>(Method::POST, "joined", Some(joined), false).await.map(drop)
    }

    /// `POST /internal/participants/left`. Every attempt has the same time.
    ///
    /// # Errors
    /// [`ClientError`], logged.
    pub async fn broadcast_participant_left(&self, left: &ParticipantLeft) -> Result<(), ClientError> {
        let mut left = left.clone();
        left.left_at.get_or_insert_with(|| jiff::Timestamp::now().to_string());
        // A participant who is gone at the second attempt has left by the first, whose answer was lost.
        self.call::<Value>(Method::POST, "left", Some(&left), true).await.map(drop)
    }

    /// `GET /internal/participants/:sosId/active`: sockets in the room now, on all nodes.
    ///
    /// # Errors
    /// [`ClientError`], logged.
    pub async fn active_participants(&self, sos_id: &str) -> Result<Vec<ActiveParticipant>, ClientError> {
        let path = path(sos_id, "active")?;
        let answer: Answer<Active> = self.call(Method::GET, &path, None::<&()>, false).await?;
        Ok(answer.data.participants)
    }

    /// `GET /internal/participants/:sosId/count`.
    ///
    /// # Errors
    /// [`ClientError`], logged.
    pub async fn participant_count(&self, sos_id: &str) -> Result<u64, ClientError> {
        let path = path(sos_id, "count")?;
        let answer: Answer<Count> = self.call(Method::GET, &path, None::<&()>, false).await?;
        Ok(answer.data.count)
    }

    async fn call<T: DeserializeOwned + Default>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        gone_is_done: bool,
    ) -> Result<T, ClientError> {
        let mut backoff = Backoff::new(self.options.pause, LONGEST_PAUSE);
        for attempt in 0.. {
            let error = match self.attempt(method.clone(), path, body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_gone = matches!(error, ClientError::Refused { status: StatusCode::NOT_FOUND, .. });
            if gone_is_done && attempt > 0 && is_gone {
                return Ok(T::default());
            }
            if attempt >= self.options.retries || !is_worth_another_try(&error) {
                tracing::warn!(%error, path, "a call of the realtime service failed");
                return Err(error);
            }
            tokio::time::sleep(backoff.pause(rand::random())).await;
        }
        Err(ClientError::BadAnswer)
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ClientError> {
        let url = format!("{}/internal/participants/{path}", self.options.base_url);
        let mut request = self.http.request(method, url).header("X-Internal-Request", "true");
        if let Some(token) = &self.options.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            let json = serde_json::to_string(body).map_err(|_| ClientError::BadAnswer)?;
            request = request.header("Content-Type", "application/json").body(json);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|_| ClientError::BadAnswer);
        }
        let said = serde_json::from_str::<Value>(&text).ok();
        let error = said.as_ref().and_then(|said| said["error"].as_str()).unwrap_or("no reason given");
        Err(ClientError::Refused { status, error: error.to_owned() })
    }
}

/// The upper bound of a pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The characters escaped in a part of a path.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b':');

fn path(sos_id: &str, what: &str) -> Result<String, ClientError> {
    // One or two dots are steps in a path, even escaped.
    if is_name(sos_id) && !matches!(sos_id, "." | "..") {
        return Ok(format!("{}/{what}", utf8_percent_encode(sos_id, ESCAPED)));
    }
    tracing::warn!(what, "a call of the realtime service was not made: invalid sosId");
    Err(ClientError::BadId)
}

/// A repeated join changes nothing, and a repeated leave only its answer: temporary failures are retried.
fn is_worth_another_try(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) => true,
        ClientError::Refused { status, .. } => {
            status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
        }
        ClientError::BadId | ClientError::BadAnswer => false,
    }
}

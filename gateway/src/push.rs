//! The hook-out for push notifications: a signed POST to whoever reaches people that are not connected (contract,
//! "emergencies").
//!
//! Nobody waits for it: requests stand in a bounded queue, each is tried a few times, and what is given up is counted.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::json;
use sha2::Sha256;
use shared::backoff::Backoff;
use shared::config::PushConfig;
use shared::limits::{PUSH_AT_ONCE, PUSH_QUEUE_MAX, PUSH_RETRY_MS, PUSH_TIMEOUT_MS, PUSH_TRIES_MAX};
use tokio::sync::mpsc;

use crate::clock::{iso, now_ms, now_s};
use crate::metrics::{self, Push};
use crate::tasks::Tasks;

/// The way to the queue. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pusher {
    queue: Option<mpsc::Sender<Request>>,
}

#[derive(Debug)]
struct Request {
    id: String,
    body: String,
}

impl Pusher {
    /// Starts the tasks that send; without a configuration nothing is ever sent.
    ///
    /// # Errors
    /// When no client for HTTP can be made.
    pub(crate) fn start(config: Option<PushConfig>, tasks: &Tasks) -> Result<Self, reqwest::Error> {
        let Some(config) = config else { return Ok(Self::default()) };
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(PUSH_TIMEOUT_MS))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let (queue, requests) = mpsc::channel(PUSH_QUEUE_MAX);
        tasks.spawn_until_stop(run(client, config, requests));
        Ok(Self { queue: Some(queue) })
    }

    /// Asks for an event to be pushed: `{id, event, …body, timestamp}`. An event about the same `subject` has the same id,
    /// so that who gets it twice, of two nodes, knows.
    pub(crate) fn push(&self, event: &str, subject: &str, body: &impl Serialize) {
        let Some(queue) = &self.queue else { return };
        let id = format!("{event}:{subject}");
        let mut content = json!({"id": id, "event": event, "timestamp": iso(now_ms())});
        if let (Some(content), Ok(serde_json::Value::Object(body))) =
            (content.as_object_mut(), serde_json::to_value(body))
        {
            content.extend(body);
        }
        if queue.try_send(Request { id, body: content.to_string() }).is_err() {
            metrics::get().push(Push::Dropped);
            tracing::warn!(event, "too many push requests wait; one is dropped");
        }
    }
}

/// Sends what is asked for, a few at once, so that one slow answer does not hold up the others.
async fn run(client: reqwest::Client, config: PushConfig, requests: mpsc::Receiver<Request>) {
    let requests = futures_util::stream::unfold(requests, |mut requests| async move {
        requests.recv().await.map(|request| (request, requests))
    });
    let send_all = |request| deliver(&client, &config, request);
    futures_util::StreamExt::for_each_concurrent(requests, PUSH_AT_ONCE, send_all).await;
}

async fn deliver(client: &reqwest::Client, config: &PushConfig, request: Request) {
    let longest = Duration::from_millis(PUSH_RETRY_MS << PUSH_TRIES_MAX);
    let mut backoff = Backoff::new(Duration::from_millis(PUSH_RETRY_MS), longest);
    for again in 0..PUSH_TRIES_MAX {
        if again > 0 {
            tokio::time::sleep(backoff.pause(rand::random())).await;
        }
        match send(client, config, &request).await {
            Ok(status) if status.is_success() => {
                metrics::get().push(Push::Sent);
                return;
            }
            Ok(status) => {
                tracing::debug!(status = status.as_u16(), id = request.id, "a push request was refused");
                let is_final = status.is_client_error() && status.as_u16() != 408 && status.as_u16() != 429;
                if is_final {
                    break;
                }
            }
            Err(error) => {
                tracing::debug!(error = %error.without_url(), id = request.id, "a push request failed");
            }
        }
        metrics::get().push(Push::Retried);
    }
    metrics::get().push(Push::Failed);
    tracing::warn!(id = request.id, "a push request was given up");
}

async fn send(
    client: &reqwest::Client,
    config: &PushConfig,
    request: &Request,
) -> Result<reqwest::StatusCode, reqwest::Error> {
    let timestamp = now_s().to_string();
    let mut post = client
        .post(config.url.expose())
        .header("content-type", "application/json")
        .header("idempotency-key", &request.id)
        .header("x-muster-timestamp", &timestamp);
    if let Some(secret) = &config.secret {
        post = post.header("x-muster-signature", signature(&secret.0, &timestamp, &request.body));
    }
    Ok(post.body(request.body.clone()).send().await?.status())
}

/// `sha256=` and the HMAC of `timestamp.body` in hexadecimal digits.
fn signature(secret: &str, timestamp: &str, body: &str) -> String {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_over_the_time_and_the_body() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
        let expected = "sha256=a438e398bfafc57e";
        let signed = signature("key", "1700000000", r#"{"a":1}"#);
        assert_eq!(signed.len(), "sha256=".len() + 64);
        assert!(signed.starts_with(expected), "{signed}");
        assert_ne!(signed, signature("key", "1700000001", r#"{"a":1}"#));
        assert_ne!(signed, signature("other", "1700000000", r#"{"a":1}"#));
    }
}

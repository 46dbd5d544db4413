//! The webhook for push notifications: a signed POST to a service that reaches users without a connection (contract,
//! "emergencies").
//!
//! No caller waits for a request: a bounded queue holds them, each is tried a few times, and requests that fail or do
//! not fit are counted.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use schemars::JsonSchema;
use serde::Serialize;
use sha2::Sha256;
use shared::backoff::Backoff;
use shared::config::{AppSetting, AppSettings, Secret, SecretUrl};
use shared::limits::{PUSH_AT_ONCE, PUSH_QUEUE_MAX, PUSH_RETRY_MS, PUSH_TIMEOUT_MS, PUSH_TRIES_MAX};
use tokio::sync::mpsc;

use crate::clock::{iso, now_ms, now_s};
use crate::describe::forms::Time;
use crate::describe::{self, Webhook as Described};
use crate::metrics::{self, Push};
use crate::tasks::Tasks;
use crate::text::json;

/// The URL of the webhook. An app that sends requests lists it among its settings.
pub(crate) static WEBHOOK_URL: AppSetting<Option<SecretUrl>> = AppSetting::web_address(
    "push_webhook_url",
    "URL to which `emergencies` POSTs requests for push notifications.",
    "anyone on the network path can read who is in need",
);

/// The key of the signatures. An app that sends requests lists it, too.
pub(crate) static WEBHOOK_SECRET: AppSetting<Option<Secret>> =
    AppSetting::secret("push_webhook_secret", "Key that signs those requests (HMAC-SHA256).");

/// The webhook's URL and key.
#[derive(Debug)]
struct Webhook {
    url: SecretUrl,
    /// Without a key the requests are unsigned.
    secret: Option<Secret>,
}

/// The sender of the queue. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pusher {
    queue: Option<mpsc::Sender<Request>>,
}

#[derive(Debug)]
struct Request {
    id: String,
    body: String,
}

/// The body of a request: the app's fields, and those of every request.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Request")]
struct Notice<'a, T> {
    /// The event's name and the subject's id. A repeated request has the same `id`.
    id: &'a str,
    /// The event's name.
    event: &'a str,
    /// When the event happened.
    #[schemars(with = "Time")]
    timestamp: String,
    #[serde(flatten)]
    body: &'a T,
}

/// Describes the requests about an event; `name` is the webhook's.
pub(crate) fn described<T: JsonSchema + 'static>(
    name: &'static str,
    event: &'static str,
    summary: &'static str,
) -> Described {
    let id = format!("{event}:{}", describe::EXAMPLE_ID);
    Described::new::<Notice<'static, T>>(
        name,
        summary,
        format!(
            "The node POSTs it to `PUSH_WEBHOOK_URL`, for a service that notifies users without a connection.\n\n\
             The node tries up to {PUSH_TRIES_MAX} times. It waits {} s before the second try, and then twice as long \
             each time. It waits {} s for an answer and does not follow redirects. At most {PUSH_QUEUE_MAX} requests \
             wait; the node drops and counts further ones. A request may arrive twice: requests with the same `id` \
             are the same.",
            PUSH_RETRY_MS / 1_000,
            PUSH_TIMEOUT_MS / 1_000
        ),
    )
    .header("Idempotency-Key", "The body's `id`.", id.clone())
    .header(
        "X-Muster-Timestamp",
        "When the node sent this attempt, in seconds since 1970. The signature covers it.",
        "1795253400",
    )
    .header(
        "X-Muster-Signature",
        "`sha256=` and the hexadecimal HMAC-SHA256 of `<X-Muster-Timestamp>.<body>`, with `PUSH_WEBHOOK_SECRET` \
         as the key. Without a secret the header is missing.",
        signature("example", "1795253400", "{}"),
    )
    .shows("/event", event)
    .shows("/id", id)
    .answer("2XX", "Accepted. The node ignores the answer's body.")
    .answer("408", "The node tries again.")
    .answer("429", "The node tries again.")
    .answer("3XX", "The node tries again.")
    .answer("4XX", "Refused: the node does not try again.")
    .answer("5XX", "The node tries again, as it does without an answer.")
}

impl Pusher {
    /// Starts the tasks that send; without [`WEBHOOK_URL`] none.
    ///
    /// # Errors
    /// If no HTTP client can be created.
    pub(crate) fn start(settings: &AppSettings, tasks: &Tasks) -> Result<Self, reqwest::Error> {
        let Some(url) = settings.get(&WEBHOOK_URL) else { return Ok(Self::default()) };
        let webhook = Webhook { url, secret: settings.get(&WEBHOOK_SECRET) };
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(PUSH_TIMEOUT_MS))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let (queue, requests) = mpsc::channel(PUSH_QUEUE_MAX);
        tasks.spawn_until_stop(run(client, webhook, requests));
        Ok(Self { queue: Some(queue) })
    }

    /// Queues a push request: `{id, event, …body, timestamp}`. Requests about the same `subject` have the same id, so
    /// that a receiver can discard duplicates from two nodes.
    pub(crate) fn push(&self, event: &str, subject: &str, body: &impl Serialize) {
        let Some(queue) = &self.queue else { return };
        let id = format!("{event}:{subject}");
        let body = json(&Notice { id: &id, event, timestamp: iso(now_ms()), body });
        if queue.try_send(Request { id, body }).is_err() {
            metrics::get().push(Push::Dropped);
            tracing::warn!(event, "the queue of push requests is full; dropping one");
        }
    }
}

/// Sends queued requests, a few at once, so that a slow answer does not delay the others.
async fn run(client: reqwest::Client, webhook: Webhook, requests: mpsc::Receiver<Request>) {
    let requests = futures_util::stream::unfold(requests, |mut requests| async move {
        requests.recv().await.map(|request| (request, requests))
    });
    let send_all = |request| deliver(&client, &webhook, request);
    futures_util::StreamExt::for_each_concurrent(requests, PUSH_AT_ONCE, send_all).await;
}

async fn deliver(client: &reqwest::Client, webhook: &Webhook, request: Request) {
    let longest = Duration::from_millis(PUSH_RETRY_MS << PUSH_TRIES_MAX);
    let mut backoff = Backoff::new(Duration::from_millis(PUSH_RETRY_MS), longest);
    for again in 0..PUSH_TRIES_MAX {
        if again > 0 {
            tokio::time::sleep(backoff.pause(rand::random())).await;
        }
        match send(client, webhook, &request).await {
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
    webhook: &Webhook,
    request: &Request,
) -> Result<reqwest::StatusCode, reqwest::Error> {
    let timestamp = now_s().to_string();
    let mut post = client
        .post(webhook.url.expose())
        .header("content-type", "application/json")
        .header("idempotency-key", &request.id)
        .header("x-muster-timestamp", &timestamp);
    if let Some(secret) = &webhook.secret {
        post = post.header("x-muster-signature", signature(&secret.0, &timestamp, &request.body));
    }
    Ok(post.body(request.body.clone()).send().await?.status())
}

/// `sha256=` and the HMAC of `timestamp.body` in hexadecimal digits.
fn signature(secret: &str, timestamp: &str, body: &str) -> String {
    // HMAC accepts a key of any length.
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

//! Is the process alive, is it ready, and how is it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::Serialize;

use super::Site;
use crate::describe::{Operation, Section};

/// The process runs.
#[derive(Serialize, JsonSchema)]
struct Alive {
    #[schemars(extend("enum" = ["alive"]))]
    status: &'static str,
}

/// Whether new clients may come.
#[derive(Serialize, JsonSchema)]
struct Readiness {
    #[schemars(extend("enum" = ["ready", "not ready"]))]
    status: &'static str,
    /// The names of the checks that failed.
    failed: Vec<&'static str>,
    #[serde(skip_serializing_if = "Details::is_empty")]
    details: Details,
}

/// Why a check failed, or is about to, where a sentence helps.
#[derive(Serialize, JsonSchema)]
struct Details {
    /// What was wrong with the last fetch of the key set. While an earlier one holds, the check is `ok` all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<String>,
}

impl Details {
    fn of(site: &Site) -> Self {
        let tokens = site.context.tokens.trouble().map(|trouble| format!("The key set: {trouble}"));
        Self { tokens }
    }

    fn is_empty(&self) -> bool {
        self.tokens.is_none()
    }
}

/// What the node is and how its parts are.
#[derive(Serialize, JsonSchema)]
struct Health {
    #[schemars(extend("enum" = ["ok", "degraded"]))]
    status: &'static str,
    version: &'static str,
    /// The node's id.
    node: String,
    /// Open sessions.
    connections: usize,
    checks: Checks,
    #[serde(skip_serializing_if = "Details::is_empty")]
    details: Details,
    /// What an operator should change, though the node works.
    warnings: Vec<Warning>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Warning {
    /// The latest logins and handshakes all came through a proxy that `TRUSTED_PROXIES` does not name, so all
    /// clients share its address.
    ProxyNotTrusted,
}

/// Each `ok` or `failed`.
#[derive(Serialize, JsonSchema)]
struct Checks {
    /// In a cluster: commands, subscriptions and the lease.
    redis: Condition,
    records: Condition,
    /// Whether tokens can be verified.
    tokens: Condition,
    /// Not while the node drains.
    accepting: Condition,
    /// Failed when every place is taken by a client in a namespace: no other can come in.
    capacity: Condition,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Condition {
    Ok,
    Failed,
}

impl Condition {
    fn of(good: bool) -> Self {
        if good { Self::Ok } else { Self::Failed }
    }
}

impl Checks {
    async fn of(site: &Site) -> Self {
        Self {
            redis: Condition::of(site.context.fanout.is_ready()),
            records: Condition::of(site.context.records.is_ready().await),
            tokens: Condition::of(site.context.tokens.is_ready()),
            accepting: Condition::of(!site.transports.gate.is_draining()),
            capacity: Condition::of(!site.transports.is_full()),
        }
    }

    fn failed(&self) -> Vec<&'static str> {
        let named = [
            ("redis", self.redis),
            ("records", self.records),
            ("tokens", self.tokens),
            ("accepting", self.accepting),
            ("capacity", self.capacity),
        ];
        named.into_iter().filter(|(_, is)| *is == Condition::Failed).map(|(name, _)| name).collect()
    }
}

/// Describes the routes.
pub(super) fn describe(section: &mut Section) {
    section.operation(
        Operation::get("/live", "Whether the process runs.")
            .detail("Asks nothing else, so that nobody restarts a node because a database is down.")
            .on_both()
            .answer::<Alive>(200, "It does."),
    );
    section.operation(
        Operation::get("/ready", "Whether the node is ready for new clients.")
            .on_both()
            .answer::<Readiness>(200, "It is.")
            .answer::<Readiness>(503, "It is not: with what failed."),
    );
    section.operation(
        Operation::get("/health", "For people: what the node is and how its parts are.")
            .on_both()
            .answer::<Health>(200, "The node, whatever its parts are like."),
    );
}

/// Alive: never asks anything else, so that nobody restarts a node because a database is down.
pub(super) async fn live() -> impl IntoResponse {
    Json(Alive { status: "alive" })
}

/// Ready for new clients: asks everything the node needs, and says what failed.
pub(super) async fn ready(State(site): State<Site>) -> impl IntoResponse {
    let failed = Checks::of(&site).await.failed();
    let code = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = if failed.is_empty() { "ready" } else { "not ready" };
    (code, Json(Readiness { status, failed, details: Details::of(&site) }))
}

/// For people: what the node is and how its parts are.
pub(super) async fn health(State(site): State<Site>) -> impl IntoResponse {
    let checks = Checks::of(&site).await;
    Json(Health {
        status: if checks.failed().is_empty() { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        node: site.context.fanout.node().as_str().to_owned(),
        connections: site.transports.engine.sessions.open(),
        checks,
        details: Details::of(&site),
        warnings: site
            .transports
            .gate
            .is_proxy_untrusted()
            .then_some(Warning::ProxyNotTrusted)
            .into_iter()
            .collect(),
    })
}

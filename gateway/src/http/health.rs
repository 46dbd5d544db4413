//! Liveness, readiness and health.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::Serialize;

use shared::names::Namespace;

use super::Site;
use crate::apps::App;
use crate::describe::Operation;
use crate::records::Sharing;
use crate::rest::Routes;

/// The process runs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Liveness")]
struct Alive {
    #[schemars(extend("enum" = ["alive"]))]
    status: &'static str,
}

/// Whether the node accepts new clients.
#[derive(Serialize, JsonSchema)]
struct Readiness {
    #[schemars(extend("enum" = ["ready", "not ready"]))]
    status: &'static str,
    /// The names of the checks that failed.
    failed: Vec<&'static str>,
    #[serde(skip_serializing_if = "Details::is_empty")]
    details: Details,
}

/// Why a check failed, or is about to, if a sentence helps.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CheckDetails")]
struct Details {
    /// What was wrong with the last fetch of the key set. While an earlier set is in use, the check is `ok` all the
    /// same.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<String>,
    /// How this node's configuration differs from that of the nodes that started before it, and what to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
}

impl Details {
    fn of(site: &Site) -> Self {
        let tokens = site.context.tokens.trouble().map(|trouble| format!("The key set: {trouble}"));
        Self { tokens, cluster: disagreement(site) }
    }

    fn is_empty(&self) -> bool {
        self.tokens.is_none() && self.cluster.is_none()
    }
}

/// How this node differs from the nodes that share its Redis or records, in a sentence.
fn disagreement(site: &Site) -> Option<String> {
    if let Some(conflict) = site.context.fanout.agreement().conflict {
        return Some(format!("The nodes of this Redis: {conflict}."));
    }
    match site.context.records.sharing() {
        Sharing::Taken { by } => Some(format!(
            "The database: {by}, which is another node or cluster, uses it and was there before, without this node's Redis. Both \
             would answer senders with success, and neither's members would hear the other's. Give both the same REDIS_URL \
             and REDIS_PREFIX, or each a database of its own."
        )),
        Sharing::Unknown | Sharing::Alone => None,
    }
}

/// The state of the node and its parts.
#[derive(Serialize, JsonSchema)]
struct Health {
    #[schemars(extend("enum" = ["ok", "degraded"]))]
    status: &'static str,
    version: &'static str,
    /// The node's id.
    node: String,
    /// Open sessions.
    connections: usize,
    /// The mounted apps and their namespaces.
    apps: Vec<MountedApp>,
    checks: Checks,
    #[serde(skip_serializing_if = "Details::is_empty")]
    details: Details,
    /// What an operator should change, although the node works.
    warnings: Vec<Warning>,
}

/// An app of the node.
#[derive(Serialize, JsonSchema)]
struct MountedApp {
    app: &'static str,
    namespace: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HealthWarning")]
#[serde(rename_all = "camelCase")]
enum Warning {
    /// The latest logins and handshakes all came through a proxy that `TRUSTED_PROXIES` does not name, so all
    /// clients share its address.
    ProxyNotTrusted,
}

/// Each `ok` or `failed`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HealthChecks")]
struct Checks {
    /// In a cluster: commands, subscriptions and the lease.
    redis: Condition,
    records: Condition,
    /// Whether this node agrees with the nodes that share its Redis or records: it has the same records and mounts.
    cluster: Condition,
    /// Whether tokens can be verified.
    tokens: Condition,
    /// `failed` while the node drains.
    accepting: Condition,
    /// `failed` if clients in namespaces take every slot, so that no other client can connect.
    capacity: Condition,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "CheckResult")]
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
        let (redis, records) = (site.context.fanout.is_ready(), site.context.records.is_ready().await);
        // If Redis or the records are unavailable, that is the problem to report.
        let is_known =
            site.context.fanout.agreement().is_known && site.context.records.sharing() != Sharing::Unknown;
        let agrees = disagreement(site).is_none() && (is_known || !redis || !records);
        Self {
            redis: Condition::of(redis),
            records: Condition::of(records),
            cluster: Condition::of(agrees),
            tokens: Condition::of(site.context.tokens.is_ready()),
            accepting: Condition::of(!site.transports.gate.is_draining()),
            capacity: Condition::of(!site.transports.is_full()),
        }
    }

    fn failed(&self) -> Vec<&'static str> {
        let named = [
            ("redis", self.redis),
            ("records", self.records),
            ("cluster", self.cluster),
            ("tokens", self.tokens),
            ("accepting", self.accepting),
            ("capacity", self.capacity),
        ];
        named.into_iter().filter(|(_, is)| *is == Condition::Failed).map(|(name, _)| name).collect()
    }
}

fn mounted(site: &Site) -> Vec<MountedApp> {
    let mounts = site.transports.engine.namespaces.mounted();
    let mut apps: Vec<_> = mounts.collect();
    apps.sort_by_key(|(app, _)| app.kind().number());
    let app = |(app, namespace): (&Arc<dyn App>, &Namespace)| MountedApp {
        app: app.kind().name(),
        namespace: namespace.as_str().to_owned(),
    };
    apps.into_iter().map(app).collect()
}

/// How often a node that is not ready checks again.
const LOOK: Duration = Duration::from_millis(200);

/// Returns when the node is ready for clients. Logs once which checks fail at first.
pub(crate) async fn becomes_ready(site: &Site) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        looks.tick().await;
        let failed = Checks::of(site).await.failed();
        if failed.is_empty() {
            return;
        }
        count += 1;
        // A cluster always needs a moment for its lease.
        if count == 10 {
            tracing::warn!(failed = %failed.join(", "), "started, but not ready yet");
        }
    }
}

/// The endpoints.
pub(super) fn routes() -> Routes<Site> {
    Routes::new()
        .route(
            Operation::get("/live", "Whether the process runs.")
                .id("getLiveness")
                .detail("Checks neither the database nor Redis: restarting the node would not help if one is down.")
                .on_both()
                .answer::<Alive>(200, "It does."),
            live,
        )
        .route(
            Operation::get("/ready", "Whether the node is ready for new clients.")
                .id("getReadiness")
                .on_both()
                .answer::<Readiness>(200, "It is.")
                .answer::<Readiness>(503, "It is not; `failed` lists the failed checks."),
            ready,
        )
        .route(
            Operation::get("/health", "The state of the node and its parts, for people.")
                .id("getHealth")
                .on_both()
                .answer::<Health>(200, "The state, even if checks fail."),
            health,
        )
}

/// Checks nothing else, because restarting the node would not help if a database is down.
async fn live() -> impl IntoResponse {
    Json(Alive { status: "alive" })
}

/// Checks everything that the node needs, and names what failed.
async fn ready(State(site): State<Site>) -> impl IntoResponse {
    let failed = Checks::of(&site).await.failed();
    let code = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = if failed.is_empty() { "ready" } else { "not ready" };
    (code, Json(Readiness { status, failed, details: Details::of(&site) }))
}

/// The state of the node and its parts, for people.
async fn health(State(site): State<Site>) -> impl IntoResponse {
    let checks = Checks::of(&site).await;
    Json(Health {
        status: if checks.failed().is_empty() { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        node: site.context.fanout.node().as_str().to_owned(),
        connections: site.transports.engine.sessions.open(),
        apps: mounted(&site),
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

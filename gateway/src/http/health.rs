//! Is the process alive, is it ready, and how is it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::json;

use super::Site;

/// Alive: never asks anything else, so that nobody restarts a node because a database is down.
pub(super) async fn live() -> impl IntoResponse {
    Json(json!({"status": "alive"}))
}

/// Ready for new clients: asks everything the node needs, and says what failed.
pub(super) async fn ready(State(site): State<Site>) -> impl IntoResponse {
    let checks = checks(&site).await;
    let failed: Vec<_> = checks.iter().filter(|(_, good)| !good).map(|(name, _)| name).collect();
    let status = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if failed.is_empty() { "ready" } else { "not ready" };
    (status, Json(json!({"status": word, "failed": failed})))
}

/// For people: what the node is and how its parts are.
pub(super) async fn health(State(site): State<Site>) -> impl IntoResponse {
    let checks = checks(&site).await;
    let good = checks.iter().all(|(_, good)| *good);
    let parts: serde_json::Map<_, _> = checks
        .iter()
        .map(|(name, good)| ((*name).to_owned(), if *good { "ok" } else { "failed" }.into()))
        .collect();
    Json(json!({
        "status": if good { "ok" } else { "degraded" },
        "version": env!("CARGO_PKG_VERSION"),
        "node": site.context.fanout.node().as_str(),
        "connections": site.transports.engine.sessions.open(),
        "checks": parts,
    }))
}

async fn checks(site: &Site) -> [(&'static str, bool); 4] {
    [
        ("redis", site.context.fanout.is_ready()),
        ("records", site.context.records.is_ready().await),
        ("tokens", site.context.tokens.is_ready()),
        ("accepting", !site.transports.gate.is_draining()),
    ]
}

//! What the two listeners serve. [`public_router`] and [`internal_router`] stand side by side, so that what
//! is served where can be seen at a glance; `/socket.io/` does not pass through here but for the stock
//! client's files.

mod assets;
mod body;
mod caller;
mod care;
mod docs;
mod emergencies;
mod emit;
pub(crate) mod guard;
pub(crate) mod health;
pub(crate) mod listener;
pub(crate) mod login;
mod participants;
mod query;
mod reply;
mod rooms;
mod sos;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::apps::App;
use crate::apps::care::Care;
use crate::apps::emergencies::Emergencies;
use crate::apps::sos::Sos;
use crate::context::Context;
use crate::error::{AppError, Refusal};
use crate::metrics::{self, BadInput};
use crate::transport::Transports;
use body::JsonBody;
use login::{Credentials, Login};

/// What routes may use.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) context: Context,
    pub(crate) transports: Arc<Transports>,
    pub(crate) login: Login,
    pub(crate) metrics: Arc<PrometheusHandle>,
    pub(crate) internal_token: Option<Arc<str>>,
    /// The apps with routes, where they are mounted.
    pub(crate) sos: Option<Arc<Sos>>,
    pub(crate) emergencies: Option<Arc<Emergencies>>,
    pub(crate) care: Option<Arc<Care>>,
    docs: Arc<docs::Documents>,
    sent: Arc<emit::Sent>,
}

impl Site {
    pub(crate) fn new(
        context: Context,
        transports: Arc<Transports>,
        login: Login,
        metrics: Arc<PrometheusHandle>,
        internal_token: Option<Arc<str>>,
    ) -> Self {
        let (mut sos, mut emergencies, mut care) = (None, None, None);
        for app in transports.engine.namespaces.apps() {
            match app {
                App::Sos(app) => sos = Some(Arc::clone(app)),
                App::Emergencies(app) => emergencies = Some(Arc::clone(app)),
                App::Care(app) => care = Some(Arc::clone(app)),
                App::Chat(_) | App::Relay(_) => {}
            }
        }
        let docs = Arc::new(docs::Documents::new(transports.engine.namespaces.mounts()));
        let sent = Arc::default();
        Self { context, transports, login, metrics, internal_token, sos, emergencies, care, docs, sent }
    }
}

/// The address of a request's client, by way of trusted proxies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// For browsers and clients.
pub(crate) fn public_router(site: Site) -> Router {
    let router = Router::new()
        .route("/", get(assets::index).options(probe))
        .route("/console/{file}", get(assets::console))
        .route("/favicon.ico", get(assets::favicon))
        .route("/socket.io/{file}", get(assets::client))
        .route("/api/v1/auth/login", post(log_in))
        .merge(sos::routes())
        .merge(emergencies::routes())
        .merge(docs::routes())
        .route("/health", get(health::health))
        .route("/live", get(health::live))
        .route("/ready", get(health::ready));
    finish(router.fallback(not_here), site)
}

/// For operators and backends. Never reachable from the public listener.
pub(crate) fn internal_router(site: Site) -> Router {
    let router = Router::new()
        .route("/metrics", get(render_metrics))
        .route("/health", get(health::health))
        .route("/live", get(health::live))
        .route("/ready", get(health::ready))
        .route("/internal/rooms/{room}/active", get(rooms::active))
        .route("/internal/rooms/{room}/count", get(rooms::count))
        .route("/internal/emit", post(emit::emit))
        .merge(participants::routes())
        .merge(care::routes());
    finish(router.fallback(not_found), site)
}

fn finish(router: Router<Site>, site: Site) -> Router {
    const NOSNIFF: (HeaderName, HeaderValue) =
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    router
        .method_not_allowed_fallback(method_not_allowed)
        .layer(SetResponseHeaderLayer::if_not_present(NOSNIFF.0, NOSNIFF.1))
        .layer(CatchPanicLayer::custom(|_| {
            AppError::internal(&"a request's handler panicked").into_response()
        }))
        .with_state(site)
}

async fn log_in(
    State(site): State<Site>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    JsonBody(credentials): JsonBody<Credentials>,
) -> Result<impl IntoResponse, AppError> {
    let logged_in = site.login.log_in(credentials, address).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(logged_in)))
}

async fn render_metrics(State(site): State<Site>) -> impl IntoResponse {
    let body = metrics::render(&site.metrics, site.context.fanout.stats(), &site.transports.shares());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body)
}

/// The answer to a balancer that asks `OPTIONS /`, as HAProxy does where its configuration says `option httpchk` alone: the
/// node takes clients. Whether its parts are well is told by `/ready`.
async fn probe(State(site): State<Site>) -> Response {
    const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    let takes = !site.transports.gate.is_draining();
    let status = if takes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [ALLOW]).into_response()
}

/// Nothing here; and what asks for the internal API at the public door is counted.
async fn not_here(uri: Uri) -> Response {
    if uri.path().trim_start_matches('/').starts_with("internal") {
        metrics::get().bad_input(BadInput::Internal);
    }
    not_found().await
}

async fn not_found() -> Response {
    AppError::NotFound("Not found".into()).into_response()
}

async fn method_not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, Json(Refusal::new("Method not allowed"))).into_response()
}

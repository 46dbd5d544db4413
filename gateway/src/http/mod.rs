//! The endpoints of the two listeners: the node's own ([`routes`]) and those of its apps. Each declares its listener.
//! Of `/socket.io/` only the stock client's files pass through here.

mod assets;
mod book;
mod docs;
mod emit;
pub(crate) mod guard;
pub(crate) mod health;
pub(crate) mod listener;
pub(crate) mod login;
mod rooms;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::options;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::context::Context;
use crate::describe::Operation;
use crate::error::{AppError, Refusal};
use crate::metrics::{self, BadInput};
use crate::rest::{HasContext, Routes, Served};
use crate::transport::Transports;
pub(crate) use docs::everything;
use login::Login;

/// The state that routes may use. Cheap to clone, as axum does for every request.
#[derive(Clone)]
pub(crate) struct Site(Arc<Parts>);

/// What a [`Site`] consists of.
pub(crate) struct Parts {
    pub(crate) context: Context,
    pub(crate) transports: Arc<Transports>,
    pub(crate) login: Login,
    pub(crate) metrics: Arc<PrometheusHandle>,
    docs: Arc<docs::Documents>,
}

impl Site {
    pub(crate) fn new(
        context: Context,
        transports: Arc<Transports>,
        login: Login,
        metrics: Arc<PrometheusHandle>,
    ) -> Self {
        let docs = Arc::new(docs::Documents::new(transports.engine.namespaces.mounted()));
        Self(Arc::new(Parts { context, transports, login, metrics, docs }))
    }

    /// The endpoints of the node and of its mounted apps.
    fn served(&self) -> Vec<Served> {
        let apps = self.transports.engine.namespaces.apps().map(|app| app.routes());
        [routes().with_state(self.clone())].into_iter().chain(apps).collect()
    }
}

impl Deref for Site {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl HasContext for Site {
    fn context(&self) -> &Context {
        &self.context
    }
}

/// The address of a request's client, as trusted proxies forward it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// For browsers and clients.
pub(crate) fn public_router(site: &Site) -> Router {
    let probe = Router::new().route("/", options(probe)).with_state(site.clone());
    let served = site.served().into_iter().map(|served| served.public);
    finish(served.fold(Router::new(), Router::merge).merge(probe).fallback(not_here))
}

/// For operators and backends. Not reachable from the public listener.
pub(crate) fn internal_router(site: &Site) -> Router {
    let served = site.served().into_iter().map(|served| served.internal);
    finish(served.fold(Router::new(), Router::merge).fallback(not_found))
}

/// The endpoints of every node, whatever is mounted on it.
fn routes() -> Routes<Site> {
    let console = "The console: rooms, discussions and a log of events, in a browser.";
    let client = "A file of the stock client: `socket.io.js`, its minified forms and their maps.";
    let file =
        |path, summary| Operation::get(path, summary).file("*/*", "The file.").refuse(404, "Not found");
    Routes::new()
        .route(Operation::get("/", console).hidden().file("text/html", "The page."), assets::index)
        .route(file("/console/{file}", "A file of the console.").hidden(), assets::console)
        .route(file("/socket.io/{file}", client).id("getClientFile"), assets::client)
        .route(
            Operation::get("/favicon.ico", "The logo.").hidden().file("image/svg+xml", "The logo."),
            assets::favicon,
        )
        .route(
            Operation::get("/metrics", "The node's metrics.")
                .id("getMetrics")
                .internal()
                .file("text/plain", "Prometheus text."),
            render_metrics,
        )
        .merge(login::routes())
        .merge(health::routes())
        .merge(rooms::routes())
        .merge(emit::routes())
        .merge(docs::routes())
        .merge(book::routes())
}

fn finish(router: Router) -> Router {
    const NOSNIFF: (HeaderName, HeaderValue) =
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    router
        .method_not_allowed_fallback(method_not_allowed)
        .layer(SetResponseHeaderLayer::if_not_present(NOSNIFF.0, NOSNIFF.1))
        .layer(CatchPanicLayer::custom(|_| {
            AppError::internal(&"a request's handler panicked").into_response()
        }))
}

async fn render_metrics(State(site): State<Site>) -> impl IntoResponse {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::get().jobs_due.set(site.context.jobs.count_late() as f64);
    let body = metrics::render(&site.metrics, site.context.fanout.stats(), &site.transports.shares());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body)
}

/// The answer to a load balancer that sends `OPTIONS /`, as HAProxy does if its configuration contains only `option
/// httpchk`: the node accepts clients. `/ready` reports the state of its parts.
async fn probe(State(site): State<Site>) -> Response {
    const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    let takes = !site.transports.gate.is_draining();
    let status = if takes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [ALLOW]).into_response()
}

/// Answers 404, and counts requests for the internal API on the public listener.
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

//! Files in the binary: the console page and the stock client.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::error::AppError;

#[derive(RustEmbed)]
#[folder = "assets/console"]
struct Console;

/// The stock client as its authors publish it, with its licence.
#[derive(RustEmbed)]
#[folder = "assets/client"]
struct Client;

/// The page that shows what the node serves.
#[derive(RustEmbed)]
#[folder = "assets/docs"]
struct Docs;

/// Nothing but our own files, and connections to ourselves.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; style-src 'self'; \
     script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The console page.
pub(super) async fn index(headers: HeaderMap) -> Response {
    page(Console::get("index.html"), &headers)
}

/// The page of the documents.
pub(super) async fn docs_index(headers: HeaderMap) -> Response {
    page(Docs::get("index.html"), &headers)
}

/// Its files.
pub(super) async fn docs(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(Docs::get(&file), &file, &headers)
}

fn page(file: Option<EmbeddedFile>, request: &HeaderMap) -> Response {
    let mut response = serve(file, "index.html", request);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The console's files.
pub(super) async fn console(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(Console::get(&file), &file, &headers)
}

/// For browsers that ask for it unbidden.
pub(super) async fn favicon(headers: HeaderMap) -> Response {
    serve(Console::get("logo.svg"), "logo.svg", &headers)
}

/// The stock client, where Socket.IO servers serve it.
pub(super) async fn client(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(Client::get(&file), &file, &headers)
}

/// Whether `path` is one of the stock client's files, not the engine's.
pub(crate) fn is_client_file(path: &str) -> bool {
    path.strip_prefix(crate::transport::PATH).is_some_and(|file| Client::get(file).is_some())
}

/// What a text is told from another of its name by.
pub(super) fn etag(hash: &[u8]) -> String {
    let hash: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("\"{hash}\"")
}

/// Whether who asks has it already.
pub(super) fn is_known(etag: &str, request: &HeaderMap) -> bool {
    request.get(header::IF_NONE_MATCH).is_some_and(|known| *known == *etag)
}

fn serve(file: Option<EmbeddedFile>, name: &str, request: &HeaderMap) -> Response {
    let Some(file) = file else { return AppError::NotFound("Not found".into()).into_response() };
    let etag = etag(&file.metadata.sha256_hash());
    if is_known(&etag, request) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let kind = match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "html" => "text/html; charset=utf-8",
        "js" => "application/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "map" => "application/json; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::ETAG, etag),
        (header::CACHE_CONTROL, "public, max-age=0".to_owned()),
    ];
    (headers, file.data).into_response()
}

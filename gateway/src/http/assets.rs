//! Files in the binary: the console page and the stock client.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};
use sha1::Digest as _;

use crate::error::AppError;

#[derive(RustEmbed)]
#[folder = "assets/console"]
struct Console;

/// The stock client as published, with its licence.
#[derive(RustEmbed)]
#[folder = "assets/client"]
struct Client;

/// The page that shows the API documents.
#[derive(RustEmbed)]
#[folder = "assets/docs"]
struct Docs;

/// The page may load only files from this node and connect only to it.
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

/// The page's files.
pub(super) async fn docs(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(Docs::get(&file), &file, &headers)
}

fn page(file: Option<EmbeddedFile>, request: &HeaderMap) -> Response {
    with_policy(serve(file, "index.html", request))
}

/// Adds the policy for a page, which may load only files from this node.
pub(super) fn with_policy(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The console's files.
pub(super) async fn console(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(Console::get(&file), &file, &headers)
}

/// For browsers, which request it on their own.
pub(super) async fn favicon(headers: HeaderMap) -> Response {
    serve(Console::get("logo.svg"), "logo.svg", &headers)
}

/// The stock client, at the address where Socket.IO servers serve it.
pub(super) async fn client(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(Client::get(&file), &file, &headers)
}

/// Whether `path` is a file of the stock client, not the engine's.
pub(crate) fn is_client_file(path: &str) -> bool {
    path.strip_prefix(crate::transport::PATH).is_some_and(|file| Client::get(file).is_some())
}

/// An entity tag from a file's hash.
pub(super) fn etag(hash: &[u8]) -> String {
    let hash: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("\"{hash}\"")
}

/// Whether the client has the file already.
pub(super) fn is_known(etag: &str, request: &HeaderMap) -> bool {
    request.get(header::IF_NONE_MATCH).is_some_and(|known| *known == *etag)
}

/// A file, or 404.
pub(super) fn serve(file: Option<EmbeddedFile>, name: &str, request: &HeaderMap) -> Response {
    let Some(file) = file else { return AppError::NotFound("Not found".into()).into_response() };
    let etag = etag(&file.metadata.sha256_hash());
    send(Bytes::from_owner(file.data), etag, name, request)
}

/// Answers with a generated text as if it were a file with that name.
pub(super) fn answer(text: Bytes, name: &str, request: &HeaderMap) -> Response {
    let etag = etag(&sha1::Sha1::digest(&text));
    send(text, etag, name, request)
}

fn send(body: Bytes, etag: String, name: &str, request: &HeaderMap) -> Response {
    if is_known(&etag, request) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let kind = match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "html" => "text/html; charset=utf-8",
        "js" => "application/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "map" | "json" => "application/json; charset=utf-8",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::ETAG, etag),
        (header::CACHE_CONTROL, "public, max-age=0".to_owned()),
    ];
    (headers, body).into_response()
}

//! `/api/openapi.json`, `/api/asyncapi.json`, and `/api/docs`, the page that shows both.
//!
//! What is described is what this node serves: its own endpoints and events, and those of the apps that are
//! mounted on it.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde_json::Value;
use sha1::Digest as _;
use shared::config::AppName;
use shared::names::Namespace;

use super::{Site, assets, care, emergencies, emit, health, login, participants, rooms, sos};
use crate::apps;
use crate::describe::{Description, Errors, Operation, Section};
use crate::error::{ErrorEvent, Refusal};
use crate::namespace;

/// The documents, written once.
#[derive(Debug)]
pub(super) struct Documents {
    openapi: Document,
    asyncapi: Document,
}

#[derive(Debug)]
struct Document {
    json: Bytes,
    etag: String,
}

/// The routes.
pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route("/api/docs", get(assets::docs_index))
        .route("/api/docs/{file}", get(assets::docs))
        .route("/api/openapi.json", get(openapi))
        .route("/api/asyncapi.json", get(asyncapi))
}

impl Documents {
    pub(super) fn new<'a>(mounts: impl Iterator<Item = (AppName, &'a Namespace)>) -> Self {
        let description = description(mounts);
        Self {
            openapi: Document::new(&description.openapi()),
            asyncapi: Document::new(&description.asyncapi()),
        }
    }
}

impl Document {
    fn new(document: &Value) -> Self {
        let json = document.to_string();
        let etag = assets::etag(&sha1::Sha1::digest(&json));
        Self { json: json.into(), etag }
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        if assets::is_known(&self.etag, request) {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        let headers = [
            (header::CONTENT_TYPE, "application/json"),
            (header::ETAG, self.etag.as_str()),
            (header::CACHE_CONTROL, "public, max-age=0"),
        ];
        (headers, self.json.clone()).into_response()
    }
}

async fn openapi(State(site): State<Site>, headers: HeaderMap) -> Response {
    site.docs.openapi.answer(&headers)
}

async fn asyncapi(State(site): State<Site>, headers: HeaderMap) -> Response {
    site.docs.asyncapi.answer(&headers)
}

fn description<'a>(mounts: impl Iterator<Item = (AppName, &'a Namespace)>) -> Description {
    let mounts: Vec<(AppName, &Namespace)> = mounts.collect();
    let mut namespaces: Vec<String> =
        mounts.iter().map(|(_, namespace)| namespace.as_str().to_owned()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut node = Section::new("gateway", namespaces);
    describe_node(&mut node);
    let mut sections = vec![node];
    for app in AppName::ALL {
        let Some((_, namespace)) = mounts.iter().find(|(name, _)| *name == app) else { continue };
        let mut section = Section::new(app.as_str(), vec![namespace.as_str().to_owned()]);
        apps::describe(app, &mut section);
        match app {
            AppName::Sos => {
                sos::describe(&mut section);
                participants::describe(&mut section);
            }
            AppName::Emergencies => emergencies::describe(&mut section),
            AppName::Care => care::describe(&mut section),
            AppName::Chat | AppName::Relay => {}
        }
        sections.push(section);
    }
    Description::new(sections, Errors::of::<Refusal<'_>, ErrorEvent<'_>>())
}

/// What a node serves whatever is mounted on it.
fn describe_node(section: &mut Section) {
    section.about(
        "The node itself: logging in, its condition, what backends ask of any app, and the events of every \
         namespace.",
    );
    login::describe(section);
    health::describe(section);
    rooms::describe(section);
    emit::describe(section);
    section.operation(
        Operation::get("/metrics", "What the node counts and measures.")
            .internal()
            .file("text/plain", "Prometheus text."),
    );
    section.operation(
        Operation::get("/api/openapi.json", "The endpoints of this node, as OpenAPI 3.1.")
            .answer::<Value>(200, "The document."),
    );
    section.operation(
        Operation::get("/api/asyncapi.json", "The events of this node, as AsyncAPI 3.0.")
            .answer::<Value>(200, "The document."),
    );
    for (path, summary) in [
        ("/api/docs", "The page that shows both documents."),
        ("/", "The console: rooms, discussions and a log of events, in a browser."),
    ] {
        section.operation(Operation::get(path, summary).file("text/html", "The page."));
    }
    for (path, summary) in [
        ("/api/docs/{file}", "A file of the documents' page."),
        ("/console/{file}", "A file of the console."),
        (
            "/socket.io/{file}",
            "A file of the stock client: `socket.io.js`, its minified forms and their maps.",
        ),
    ] {
        let operation = Operation::get(path, summary).file("*/*", "The file.");
        section.operation(operation.refuse(404, "Not found"));
    }
    section.operation(Operation::get("/favicon.ico", "The logo.").file("image/svg+xml", "The logo."));
    namespace::describe(section);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Description {
        let root = Namespace::parse("/").unwrap();
        description(AppName::ALL.into_iter().map(|app| (app, &root)))
    }

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for document in [everything().openapi(), everything().asyncapi()] {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() > 40, "{}", found.len());
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
        }
    }

    #[test]
    fn every_schema_is_used() {
        for document in [everything().openapi(), everything().asyncapi()] {
            let mut found = Vec::new();
            references(&document, &mut found);
            for name in document["components"]["schemas"].as_object().unwrap().keys() {
                let reference = format!("#/components/schemas/{name}");
                assert!(found.iter().any(|used| *used == reference), "{name}");
            }
        }
    }

    #[test]
    fn every_event_that_an_app_takes_is_described() {
        let document = everything().asyncapi();
        for app in AppName::ALL {
            let mut described: Vec<&str> = document["operations"]
                .as_object()
                .unwrap()
                .values()
                .filter(|operation| operation["tags"][0]["name"] == app.as_str())
                .filter(|operation| operation["action"] == "receive")
                .filter_map(|operation| operation["title"].as_str())
                .collect();
            described.sort_unstable();
            let mut taken = match app {
                AppName::Sos => apps::sos::EVENTS.to_vec(),
                AppName::Emergencies => apps::emergencies::EVENTS.to_vec(),
                AppName::Care => apps::care::EVENTS.to_vec(),
                AppName::Chat => apps::chat::EVENTS.to_vec(),
                AppName::Relay => apps::relay::EVENTS.to_vec(),
            };
            taken.sort_unstable();
            assert_eq!(described, taken, "{app:?}");
        }
    }

    #[test]
    fn descriptions_are_for_clients() {
        for document in [everything().openapi(), everything().asyncapi()] {
            let text = document.to_string();
            // What rustdoc links to, no client can follow.
            let link = text.find("[`").map(|at| text.get(at..at + 80));
            assert_eq!(link, None);
        }
    }

    #[test]
    fn only_what_is_mounted_is_described() {
        let root = Namespace::parse("/talk").unwrap();
        let description = description([(AppName::Chat, &root)].into_iter());
        let (openapi, asyncapi) = (description.openapi(), description.asyncapi());
        assert_eq!(asyncapi["channels"]["chat"]["address"], "/talk");
        assert!(asyncapi["channels"].get("sos").is_none());
        assert!(openapi["paths"].get("/api/sos").is_none());
        assert!(openapi["paths"].get("/api/v1/auth/login").is_some());
    }
}

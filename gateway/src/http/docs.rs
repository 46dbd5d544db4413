//! `/api/openapi.json`, `/api/asyncapi.json`, and `/api/docs`, the page that shows both.
//!
//! They describe what this node serves: its own endpoints and events, and those of its mounted apps.

use std::error::Error;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use shared::names::Namespace;

use super::{Site, assets};
use crate::apps::{APPS, App, AppKind, Mount};
use crate::context::Context;
use crate::describe::{Description, Errors, Operation, Section};
use crate::error::{ErrorEvent, Refusal};
use crate::namespace;
use crate::rest::Routes;

/// The documents, generated once.
#[derive(Debug)]
pub(super) struct Documents {
    openapi: Bytes,
    asyncapi: Bytes,
    types: Bytes,
}

impl Documents {
    /// The documents of a node with these apps.
    pub(super) fn new<'a>(apps: impl Iterator<Item = (&'a Arc<dyn App>, &'a Namespace)>) -> Self {
        let description = description(apps);
        let asyncapi = description.asyncapi();
        Self {
            openapi: description.openapi().to_string().into(),
            types: Description::typescript(&asyncapi).into(),
            asyncapi: asyncapi.to_string().into(),
        }
    }
}

async fn openapi(State(site): State<Site>, headers: HeaderMap) -> Response {
    assets::answer(site.docs.openapi.clone(), "openapi.json", &headers)
}

async fn asyncapi(State(site): State<Site>, headers: HeaderMap) -> Response {
    assets::answer(site.docs.asyncapi.clone(), "asyncapi.json", &headers)
}

async fn types(State(site): State<Site>, headers: HeaderMap) -> Response {
    assets::answer(site.docs.types.clone(), "types.d.ts", &headers)
}

fn description<'a>(apps: impl Iterator<Item = (&'a Arc<dyn App>, &'a Namespace)>) -> Description {
    let mut apps: Vec<_> = apps.collect();
    apps.sort_by_key(|(app, _)| app.kind().number());
    let mut namespaces: Vec<String> =
        apps.iter().map(|(_, namespace)| namespace.as_str().to_owned()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut node = Section::new("gateway", namespaces);
    node.about(
        "The node itself: logging in, its condition, what backends ask of any app, and the events of every \
         namespace.",
    );
    node.operations(super::routes().operations());
    namespace::describe(&mut node);
    let of_app = |(app, namespace): (&Arc<dyn App>, &Namespace)| {
        let mut section = app.kind().section(namespace);
        section.operations(app.routes().operations);
        section
    };
    let sections = [node].into_iter().chain(apps.into_iter().map(of_app)).collect();
    Description::new(sections, Errors::of::<Refusal<'_>, ErrorEvent<'_>>())
}

/// The two documents of a node with every app, each at its default namespace: OpenAPI and AsyncAPI.
///
/// # Errors
/// If an app cannot be started for its description.
pub(crate) async fn everything() -> Result<(Value, Value), Box<dyn Error>> {
    let mut namespaces = Vec::new();
    for kind in APPS {
        namespaces.push(Namespace::parse(kind.declaration.namespace).map_err(|error| error.to_string())?);
    }
    let context = Context::detached(&namespaces).await?;
    let start = |(kind, namespace): (&&'static AppKind, &Namespace)| {
        let mount = Mount { context: context.clone(), namespace: namespace.clone(), neighbours: &[] };
        (kind.start)(mount)
    };
    let started: Vec<Arc<dyn App>> = APPS.iter().zip(&namespaces).map(start).collect();
    let description = description(started.iter().zip(&namespaces));
    context.records.close().await;
    Ok((description.openapi(), description.asyncapi()))
}

/// The endpoints of the documents and of the page that shows them.
pub(super) fn routes() -> Routes<Site> {
    let page = Operation::get("/api/docs", "The page that shows both documents.").hidden();
    let file = Operation::get("/api/docs/{file}", "A file of the documents' page.").hidden();
    Routes::new()
        .route(
            Operation::get("/api/openapi.json", "The endpoints of this node, as OpenAPI 3.1.")
                .id("getOpenApi")
                .answer::<Value>(200, "The document."),
            openapi,
        )
        .route(
            Operation::get("/api/asyncapi.json", "The events of this node, as AsyncAPI 3.0.")
                .id("getAsyncApi")
                .answer::<Value>(200, "The document."),
            asyncapi,
        )
        .route(
            Operation::get("/api/types.d.ts", "The events of this node as TypeScript, for the stock client.")
                .id("getTypeDeclarations")
                .file("text/plain", "The declarations."),
            types,
        )
        .route(page.file("text/html", "The page."), assets::docs_index)
        .route(file.file("*/*", "The file.").refuse(404, "Not found"), assets::docs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps;

    async fn of(names: &[&str], namespace: &str) -> Description {
        let namespace = Namespace::parse(namespace).unwrap();
        let context = Context::alone(std::slice::from_ref(&namespace)).await;
        let start = |name: &&str| {
            let mount = Mount { context: context.clone(), namespace: namespace.clone(), neighbours: &[] };
            (apps::find(name).unwrap().start)(mount)
        };
        let started: Vec<Arc<dyn App>> = names.iter().map(start).collect();
        description(started.iter().map(|app| (app, &namespace)))
    }

    async fn everything() -> Description {
        of(&apps::names(), "/").await
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

    #[tokio::test]
    async fn every_reference_resolves() {
        for document in [everything().await.openapi(), everything().await.asyncapi()] {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() > 40, "{}", found.len());
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
        }
    }

    #[tokio::test]
    async fn every_schema_is_used() {
        for document in [everything().await.openapi(), everything().await.asyncapi()] {
            let mut found = Vec::new();
            references(&document, &mut found);
            for name in document["components"]["schemas"].as_object().unwrap().keys() {
                let reference = format!("#/components/schemas/{name}");
                assert!(found.iter().any(|used| *used == reference), "{name}");
            }
        }
    }

    #[tokio::test]
    async fn descriptions_are_for_clients() {
        for document in [everything().await.openapi(), everything().await.asyncapi()] {
            let text = document.to_string();
            // Clients cannot follow rustdoc's links.
            let link = text.find("[`").map(|at| text.get(at..at + 80));
            assert_eq!(link, None);
        }
    }

    #[tokio::test]
    async fn only_what_is_mounted_is_described() {
        let description = of(&["chat"], "/talk").await;
        let (openapi, asyncapi) = (description.openapi(), description.asyncapi());
        assert_eq!(asyncapi["channels"]["chat"]["address"], "/talk");
        assert!(asyncapi["channels"].get("sos").is_none());
        assert!(openapi["paths"].get("/api/sos").is_none());
        assert!(openapi["paths"].get("/api/v1/auth/login").is_some());
    }
}

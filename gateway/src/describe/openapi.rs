//! The HTTP endpoints as an OpenAPI 3.1 document.

use serde_json::{Map, Value, json};
use shared::limits::{
    BODY_MAX_MS, HEAD_MAX_BYTES, HEADERS_MAX, JSON_DEPTH_MAX, REST_BODY_MAX_BYTES, URI_MAX_BYTES,
};

use super::code;
use super::operation::{Answer, Body, Caller, Content, Listener, Operation};
use super::sample::sample;
use super::schemas::{Dialect, Schemas, Way};
use super::{Description, Section, Text};

pub(super) fn document(description: &Description) -> Value {
    let mut schemas = Schemas::new(Dialect::Draft2020);
    let refusal = schemas.of(Way::Written, description.errors.refusal);
    let (mut paths, mut webhooks) = (Map::new(), Map::new());
    for section in &description.sections {
        for operation in &section.operations {
            let described = describe(section, operation, &refusal, &mut schemas);
            let path = paths.entry(operation.path.to_owned()).or_insert_with(|| json!({}));
            path[operation.method.as_str()] = described;
        }
        for webhook in &section.webhooks {
            webhooks.insert(webhook.name.to_owned(), webhook.described(section, &mut schemas));
        }
    }
    let tags: Vec<Value> = description
        .sections
        .iter()
        .filter(|section| !section.operations.is_empty())
        .map(|section| json!({"name": section.name, "description": section.summary}))
        .collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster: HTTP",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT", "identifier": "MIT"},
            "summary": "Every endpoint of this node and of the apps mounted on it.",
            "description": preface(),
        },
        "servers": [public(), internal()],
        "tags": tags,
        "paths": paths,
        "webhooks": webhooks,
        "components": {"securitySchemes": security_schemes()},
    });
    schemas.settle(&mut document);
    add_examples(&mut document);
    add_code(&mut document);
    for webhook in description.sections.iter().flat_map(|section| &section.webhooks) {
        let root = document.clone();
        let content = &mut document["webhooks"][webhook.name]["post"]["requestBody"]["content"];
        let content = &mut content["application/json"];
        content["example"] = webhook.example(&root, &content["schema"]);
    }
    document
}

/// Adds code samples to every endpoint, made from its examples.
fn add_code(document: &mut Value) {
    for (path, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            operation["x-codeSamples"] = code::request(method, path, operation);
        }
    }
}

/// Gives every parameter, JSON body and answer an example.
fn add_examples(document: &mut Value) {
    let root = document.clone();
    for methods in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for operation in methods.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                let name = match parameter["name"].as_str() {
                    // Its full name, with the app's prefix.
                    Some("room") if parameter["in"] == "path" => "clusterRoom",
                    name => name.unwrap_or_default(),
                };
                let example = sample(&root, &parameter["schema"], name);
                parameter["example"] = example;
            }
            if let Some(content) = operation.pointer_mut("/requestBody/content/application~1json") {
                content["example"] = sample(&root, &content["schema"], "");
            }
            for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
                let error = response["x-errors"][0].clone();
                let Some(content) = response.pointer_mut("/content/application~1json") else { continue };
                let mut example = sample(&root, &content["schema"], "");
                if error.is_string() && example["error"].is_string() {
                    example["error"] = error;
                }
                content["example"] = example;
            }
        }
    }
}

/// What holds for all endpoints.
fn preface() -> String {
    format!(
        "Errors are always `{{\"success\": false, \"error\": \"…\"}}` with the right status; beside those \
         listed with an endpoint: 404 `Not found`, 405 `Method not allowed` with `Allow`, 403 to pages of \
         other sites that `CORS_ORIGINS` does not list, 414 for a target over {URI_MAX_BYTES} bytes, 431 \
         for a head over {HEAD_MAX_BYTES} bytes or {HEADERS_MAX} headers, 503 while a backend is down. A \
         429 says in `Retry-After` after how many seconds to try again.\n\n\
         JSON bodies may have {REST_BODY_MAX_BYTES} bytes, {JSON_DEPTH_MAX} levels, and {} s to arrive. \
         Names and ids are opaque: 1–128 characters of `A–Z a–z 0–9 . _ : -`. Times are ISO 8601 in \
         UTC.\n\n\
         `webhooks` are requests that the node itself sends. The public listener never serves endpoints marked \
         with the internal listener. Not described here: `/socket.io/`, which is Engine.IO's (see the AsyncAPI \
         document), and `/internal/engine`, by which nodes reach each other's sessions.",
        BODY_MAX_MS / 1_000
    )
}

fn public() -> Value {
    json!({
        "url": "/",
        "description": "The public listener (`LISTEN`), where this document comes from. It serves `/socket.io/` and \
                        the endpoints of users and anonymous callers, never `/internal` or the metrics.",
    })
}

fn internal() -> Value {
    json!({
        "url": "http://{address}",
        "description": "The internal listener (`INTERNAL_LISTEN`), for backends, monitoring and other nodes. It \
                        serves `/internal`, the metrics and the node's condition. It refuses web pages.",
        "variables": {
            "address": {
                "default": "127.0.0.1:9090",
                "description": "Where the node's internal listener is.",
            },
        },
    })
}

fn security_schemes() -> Value {
    json!({
        "userToken": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "A user's token: from `POST /api/v1/auth/login`, from `gateway token`, or from \
                            a service that holds the key.",
        },
        "internalRequest": {
            "type": "apiKey", "in": "header", "name": "X-Internal-Request",
            "description": "Always `true`.",
        },
        "internalToken": {
            "type": "http", "scheme": "bearer",
            "description": "The node's `INTERNAL_TOKEN`, where one is set.",
        },
    })
}

fn describe(section: &Section, operation: &Operation, refusal: &Value, schemas: &mut Schemas) -> Value {
    let app = section.name;
    let mut described = json!({
        "operationId": operation.id,
        "tags": [app],
        "summary": operation.summary,
        "responses": responses(operation, refusal, schemas),
        "security": security(operation.caller),
    });
    if let Some(detail) = &operation.detail {
        described["description"] = json!(detail);
    }
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if let Some(Body { shape, required }) = operation.body {
        let schema = schemas.of(Way::Read, shape);
        described["requestBody"] = json!({"required": required, "content": json_content(&schema)});
    }
    described["servers"] = match operation.listener {
        Listener::Public => json!([public()]),
        Listener::Internal => json!([internal()]),
        Listener::Both => json!([public(), internal()]),
    };
    described
}

fn security(caller: Caller) -> Value {
    match caller {
        Caller::Anyone => json!([]),
        Caller::User => json!([{"userToken": []}]),
        Caller::Backend => json!([{"internalRequest": [], "internalToken": []}, {"internalRequest": []}]),
    }
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut parameters = Vec::new();
    for part in operation.path.split('/') {
        if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            // A room of the cluster is longer than a name by its app's prefix.
            let schema = json!({"type": "string", "minLength": 1, "maxLength": 256});
            parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
        }
    }
    if let Some(shape) = operation.query {
        let schema = Schemas::whole(shape);
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let required = required.iter().any(|wanted| wanted == name);
            let mut schema = schema.clone();
            let text = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let mut parameter = json!({"name": name, "in": "query", "required": required, "schema": schema});
            if let Some(text) = text {
                parameter["description"] = text;
            }
            parameters.push(parameter);
        }
    }
    for (name, text) in &operation.headers {
        parameters
            .push(json!({"name": name, "in": "header", "description": text, "schema": {"type": "string"}}));
    }
    parameters
}

fn json_content(schema: &Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

fn responses(operation: &Operation, refusal: &Value, schemas: &mut Schemas) -> Map<String, Value> {
    let mut responses = Map::new();
    for Answer { status, text, content } in &operation.answers {
        let content = match content {
            Content::Json(shape) => json_content(&schemas.of(Way::Written, *shape)),
            Content::Other(media) => json!({*media: {}}),
        };
        responses.insert(status.to_string(), json!({"description": text, "content": content}));
    }
    let mut by_status: Vec<(u16, Vec<Text>)> = Vec::new();
    for (status, error) in operation.all_refusals() {
        match by_status.iter_mut().find(|(known, _)| *known == status) {
            Some((_, errors)) => errors.push(error),
            None => by_status.push((status, vec![error])),
        }
    }
    for (status, errors) in by_status {
        let said: Vec<String> = errors.iter().map(|error| format!("`{error}`")).collect();
        let mut response = json!({
            "description": said.join(", "),
            "content": json_content(refusal),
            "x-errors": errors,
        });
        if status == 429 {
            let schema = json!({"type": "integer", "minimum": 1});
            response["headers"] = json!({"Retry-After": {"description": "Seconds.", "schema": schema}});
        }
        responses.insert(status.to_string(), response);
    }
    responses
}

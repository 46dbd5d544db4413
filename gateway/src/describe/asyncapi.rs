//! The events as an AsyncAPI 3.0 document.
//!
//! A channel is an app on its namespace, a message an event of it, an ack the reply to an operation. Directions
//! are the node's: it receives what clients send.

use serde_json::{Map, Value, json};
use shared::limits::{ARGUMENTS_MAX, ATTACHMENTS_MAX, JSON_DEPTH_MAX};

use super::code;
use super::event::{Direction, Event};
use super::sample::sample;
use super::schemas::{Dialect, Schemas, Way};
use super::{Description, Section};

/// The message that refuses an event with an ack.
const REFUSED: &str = "refused";

pub(super) fn document(description: &Description) -> Value {
    let mut schemas = Schemas::new(Dialect::Draft7);
    let refusal = schemas.of(Way::Written, description.errors.refusal);
    let error = schemas.of(Way::Written, description.errors.event);
    let (mut channels, mut operations, mut tags) = (Map::new(), Map::new(), Vec::new());
    for section in description.sections.iter().filter(|section| !section.events.is_empty()) {
        channels.insert(section.name.to_owned(), channel(section, &mut schemas));
        for event in &section.events {
            operations.insert(operation_id(section, event), operation(section, event));
        }
        tags.push(json!({"name": section.name, "description": section.summary}));
    }
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Muster: events",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT"},
            "description": preface(),
            "tags": tags,
        },
        "defaultContentType": "application/json",
        "servers": {"public": server()},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                REFUSED: {
                    "name": REFUSED,
                    "title": "The ack of an event that was refused",
                    "payload": refusal,
                },
                "error": {
                    "name": "error",
                    "title": "Reports a refused event that had no ack",
                    "payload": error,
                },
            },
            "securitySchemes": {
                "token": {
                    "type": "httpApiKey", "in": "query", "name": "token",
                    "description": "A user's token (JWT), looked for in the CONNECT packet's auth payload \
                                    `{token}` first, then in the handshake's query, then in its \
                                    `Authorization: Bearer` header.",
                },
            },
        },
    });
    schemas.settle(&mut document);
    add_examples(&mut document);
    add_code(&mut document);
    document
}

/// Gives every message with a payload an example.
fn add_examples(document: &mut Value) {
    let root = document.clone();
    for channel in document["channels"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for message in channel["messages"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            let Some(payload) = message.get("payload") else { continue };
            // A room, where the payload is a text by itself.
            let example = sample(&root, payload, "room");
            message["examples"] = json!([{"payload": example}]);
        }
    }
}

/// Adds code samples to every event, made from its examples.
fn add_code(document: &mut Value) {
    let root = document.clone();
    let example = |reference: &Value| {
        let pointer = reference["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
        pointer.and_then(|pointer| root.pointer(pointer)?.pointer("/examples/0/payload"))
    };
    for operation in document["operations"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let app = operation["tags"][0]["name"].as_str().unwrap_or_default();
        let channel = &root["channels"][app];
        let address = match &channel["parameters"]["namespace"]["enum"][0] {
            Value::String(first) => first,
            _ => channel["address"].as_str().unwrap_or("/"),
        };
        let event = operation["title"].as_str().unwrap_or_default();
        let payload = example(&operation["messages"][0]);
        let samples = if operation["action"] == "receive" {
            code::emit(address, event, payload, example(&operation["reply"]["messages"][0]))
        } else {
            code::on(address, event, payload)
        };
        operation["x-codeSamples"] = samples;
    }
}

/// What holds for all events.
fn preface() -> String {
    format!(
        "The node speaks Socket.IO 5 on Engine.IO 4, over WebSocket and long-polling. A channel is an app; \
         its address is the namespace to connect to. A payload is the event's first argument, and the reply \
         is its ack, where the client asks for one.\n\n\
         An event that is refused is answered `{{success: false, error}}` in its ack, or without an ack by \
         the event `error` `{{message}}`; the connection survives. Beside the errors listed with an event: \
         `Unknown event`, `Too many arguments` (max {ARGUMENTS_MAX}), `Rate limit exceeded` \
         (`EVENTS_PER_SECOND`), `Too many rooms` (`ROOMS_PER_SOCKET`), `Service temporarily unavailable`, \
         `Internal error`. A message may have `MAX_PAYLOAD` bytes, {JSON_DEPTH_MAX} levels and \
         {ATTACHMENTS_MAX} binary attachments.\n\n\
         When a socket's token expires its connection is closed, unless it sent `auth:refresh` before; where the connection carries other \
         namespaces too, the namespace alone is ended."
    )
}

fn server() -> Value {
    json!({
        "host": "{host}",
        "protocol": "ws",
        "protocolVersion": "13",
        "pathname": "/socket.io/",
        "title": "The public listener",
        "description": "Where this document comes from; for the stock client: its origin and a namespace. The internal \
                        listener accepts no clients.",
        "variables": {
            "host": {
                "default": "127.0.0.1:8080",
                "description": "Where the node's public listener is (`LISTEN`).",
            },
        },
        "security": [{"$ref": "#/components/securitySchemes/token"}],
    })
}

fn channel(section: &Section, schemas: &mut Schemas) -> Value {
    let mut messages = Map::new();
    for event in &section.events {
        let way = match event.direction {
            Direction::FromClient => Way::Read,
            Direction::ToClient => Way::Written,
        };
        let mut message = json!({"name": event.name, "title": event.name, "summary": event.summary});
        if let Some(shape) = event.payload {
            message["payload"] = object(schemas.of(way, shape));
        }
        messages.insert(message_id(event), message);
        if !event.acks.is_empty() {
            let mut acks: Vec<Value> =
                event.acks.iter().map(|shape| schemas.of(Way::Written, *shape)).collect();
            let payload = if acks.len() == 1 { object(acks.remove(0)) } else { json!({"anyOf": acks}) };
            let title = format!("The ack of {}", event.name);
            messages.insert(ack_id(event), json!({"name": "ack", "title": title, "payload": payload}));
        }
    }
    messages.insert(REFUSED.to_owned(), json!({"$ref": format!("#/components/messages/{REFUSED}")}));
    let mut channel = json!({
        "title": section.name,
        "description": section.summary,
        "servers": [{"$ref": "#/servers/public"}],
        "messages": messages,
    });
    match section.namespaces.as_slice() {
        [namespace] => channel["address"] = json!(namespace),
        all => {
            channel["address"] = json!("{namespace}");
            channel["parameters"] =
                json!({"namespace": {"enum": all, "description": "Any namespace of the node."}});
        }
    }
    channel
}

/// A payload must be an object, also where anything goes.
fn object(schema: Value) -> Value {
    if schema == Value::Bool(true) { json!({}) } else { schema }
}

fn operation(section: &Section, event: &Event) -> Value {
    let app = section.name;
    let message = |id: &str| json!({"$ref": format!("#/channels/{app}/messages/{id}")});
    let channel = json!({"$ref": format!("#/channels/{app}")});
    let action = match event.direction {
        Direction::FromClient => "receive",
        Direction::ToClient => "send",
    };
    let mut operation = json!({
        "action": action,
        "channel": channel,
        "title": event.name,
        "summary": event.summary,
        "tags": [{"name": app}],
        "messages": [message(&message_id(event))],
    });
    let detail = [event.detail.as_deref(), event.to.as_deref()];
    if let [Some(detail), _] = detail {
        operation["description"] = json!(detail);
    }
    if let [_, Some(to)] = detail {
        operation["x-to"] = json!(to);
    }
    if !event.acks.is_empty() {
        operation["reply"] =
            json!({"channel": channel, "messages": [message(&ack_id(event)), message(REFUSED)]});
    }
    if !event.refusals.is_empty() {
        operation["x-errors"] = json!(event.refusals);
    }
    operation
}

/// An event may go both ways under one name.
fn message_id(event: &Event) -> String {
    match event.direction {
        Direction::FromClient => format!("receive.{}", event.name),
        Direction::ToClient => format!("send.{}", event.name),
    }
}

fn ack_id(event: &Event) -> String {
    format!("ack.{}", event.name)
}

/// The node's verb, the app and the event as a method's name: `receiveChatSendMessage`, `sendChatNewMessage`.
fn operation_id(section: &Section, event: &Event) -> String {
    let verb = match event.direction {
        Direction::FromClient => "receive",
        Direction::ToClient => "send",
    };
    let words = event.name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| *word != section.name);
    let mut id = verb.to_owned();
    for word in std::iter::once(section.name).chain(words) {
        let mut letters = word.chars();
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.push_str(letters.as_str());
    }
    id
}

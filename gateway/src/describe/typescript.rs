//! The events as TypeScript: every type under its public name, and for each app a namespace with `ServerToClientEvents`
//! and `ClientToServerEvents`, as the stock client's `Socket` takes them. Made from the AsyncAPI document, so that the
//! two cannot differ.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const INTRO: &str = "\
// The events of this node's apps, for the stock client:
//
//   import { io, type Socket } from 'socket.io-client';
//   import type { chat } from './muster';
//   const socket: Socket<chat.ServerToClientEvents, chat.ClientToServerEvents> = io(url, { auth: { token } });

";

/// The declarations, from the AsyncAPI document.
pub(super) fn declarations(asyncapi: &Value) -> String {
    let mut out = INTRO.to_owned();
    for (name, schema) in members(&asyncapi["components"]["schemas"]) {
        comment(&mut out, schema);
        // Writing to a String does not fail.
        let _ = writeln!(out, "export type {name} = {};", typed(schema));
    }
    let refused = typed(&asyncapi["components"]["messages"]["refused"]["payload"]);
    for (app, channel) in members(&asyncapi["channels"]) {
        // Writing to a String does not fail.
        let _ = write!(out, "\nexport namespace {app} {{\n");
        events(&mut out, "ServerToClientEvents", channel, "send.", &refused);
        events(&mut out, "ClientToServerEvents", channel, "receive.", &refused);
        out.push_str("}\n");
    }
    out
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn comment(out: &mut String, schema: &Value) {
    if let Some(text) = schema["description"].as_str() {
        // Writing to a String does not fail.
        let _ = writeln!(out, "/** {} */", text.replace('\n', " ").replace("*/", "* /"));
    }
}

fn events(out: &mut String, name: &str, channel: &Value, direction: &str, refused: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "  export interface {name} {{");
    for (id, message) in members(&channel["messages"]) {
        let Some(event) = id.strip_prefix(direction) else { continue };
        let mut arguments: Vec<String> = Vec::new();
        if let Some(payload) = message.get("payload") {
            arguments.push(format!("data: {}", typed(payload)));
        }
        if let Some(ack) = channel["messages"].get(format!("ack.{event}")) {
            arguments.push(format!("ack?: (answer: {} | {refused}) => void", typed(&ack["payload"])));
        }
        if let Some(summary) = message["summary"].as_str() {
            let _ = writeln!(out, "    /** {summary} */");
        }
        let _ = writeln!(out, "    {event:?}: ({}) => void;", arguments.join(", "));
    }
    out.push_str("  }\n");
}

/// A schema as a type.
fn typed(schema: &Value) -> String {
    let Value::Object(fields) = schema else { return "unknown".to_owned() };
    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
        return target.rsplit('/').next().unwrap_or("unknown").to_owned();
    }
    if let Some(value) = fields.get("const") {
        return value.to_string();
    }
    if let Some(values) = fields.get("enum").and_then(Value::as_array) {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    for (several, between) in [("allOf", " & "), ("anyOf", " | "), ("oneOf", " | ")] {
        if let Some(choices) = fields.get(several).and_then(Value::as_array) {
            let joined = choices.iter().map(typed).collect::<Vec<_>>().join(between);
            // An object may have fields beside its alternatives.
            let own = fields.get("properties").map(|_| format!("{} & ", object(fields)));
            return format!("{}({joined})", own.unwrap_or_default());
        }
    }
    match fields.get("type") {
        Some(Value::Array(kinds)) => {
            let kinds = kinds.iter().filter_map(Value::as_str);
            kinds.map(|kind| of_kind(kind, fields)).collect::<Vec<_>>().join(" | ")
        }
        Some(Value::String(kind)) => of_kind(kind, fields),
        _ if fields.contains_key("properties") => object(fields),
        _ => "unknown".to_owned(),
    }
}

fn of_kind(kind: &str, fields: &Map<String, Value>) -> String {
    match kind {
        "string" | "boolean" | "null" => kind.to_owned(),
        "integer" | "number" => "number".to_owned(),
        "array" => format!("({})[]", fields.get("items").map_or("unknown".to_owned(), typed)),
        "object" => object(fields),
        _ => "unknown".to_owned(),
    }
}

fn object(fields: &Map<String, Value>) -> String {
    let required = fields.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|wanted| wanted == name));
    let Some(properties) = fields.get("properties").and_then(Value::as_object) else {
        let values = fields.get("additionalProperties").filter(|values| values.is_object());
        return format!("{{ [name: string]: {} }}", values.map_or("unknown".to_owned(), typed));
    };
    let listed = properties.iter().map(|(name, schema)| {
        let mark = if is_required(name) { "" } else { "?" };
        format!("{name:?}{mark}: {}", typed(schema))
    });
    format!("{{ {} }}", listed.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_become_types() {
        let type_of = |schema: Value| typed(&schema);
        assert_eq!(type_of(json!({"type": ["string", "null"]})), "string | null");
        assert_eq!(type_of(json!({"enum": ["a", "b"]})), "\"a\" | \"b\"");
        assert_eq!(type_of(json!({"$ref": "#/components/schemas/ChatMessage"})), "ChatMessage");
        assert_eq!(type_of(json!({"type": "array", "items": {"type": "integer"}})), "(number)[]");
        assert_eq!(
            type_of(
                json!({"type": "object", "properties": {"a": {"const": true}, "b": {}}, "required": ["a"]})
            ),
            "{ \"a\": true; \"b\"?: unknown }"
        );
        assert_eq!(type_of(json!(true)), "unknown");
        assert_eq!(type_of(json!({"type": "object"})), "{ [name: string]: unknown }");
    }
}

//! Examples: a value that fits a schema, with texts that mean something to a reader.
//!
//! A field's value follows from its name, its format and its bounds. `gateway/tests/node/api_docs.test.mjs` holds every
//! example against its schema.

use serde_json::{Map, Value, json};

/// Levels of an example, references counted, at which fields that may be absent are left out.
const OPTIONAL_DEPTH_MAX: usize = 4;

/// Levels at which an example ends, whatever its schema says: one that names itself would have no end.
const DEPTH_MAX: usize = 32;

const TIME: &str = "2026-11-21T09:30:00.000Z";
/// An id that the node generated.
pub(crate) const ID: &str = "01932d0c-6f3a-7c6e-9a53-2f0b8d1c4e77";

/// Texts by the name of their field.
const TEXTS: &[(&str, &str)] = &[
    ("address", "Alexanderplatz 1, Berlin"),
    ("avatar", "https://example.org/ann.png"),
    ("callType", "video"),
    ("category", "medical"),
    ("clusterRoom", "visit:42"),
    ("content", "Hello"),
    ("customStatus", "In a meeting"),
    ("description", "Needs help at the station"),
    ("displayName", "Ann"),
    ("email", "ann@example.org"),
    ("endedBy", "ann"),
    ("epoch", "5f2c1a90"),
    ("error", "Invalid room id"),
    ("event", "price"),
    ("file", "socket.io.js"),
    ("message", "Hello"),
    ("name", "Ann"),
    ("namespace", "/"),
    ("nearbyHelperId", "bob"),
    ("nextCursor", "eyJkIjozMzAuNX0"),
    ("node", "3f9a1c07"),
    ("notes", "On my way"),
    ("ownerId", "ann"),
    ("password", "correct horse battery staple"),
    ("recipientId", "bob"),
    ("resolutionNotes", "Help has arrived"),
    ("resolutionType", "helped"),
    ("resolvedBy", "ann"),
    ("role", "helper"),
    ("room", "general"),
    ("roomId", "general"),
    ("senderId", "ann"),
    ("socketId", "k5Dl0yCwXzq3t1ZBAAAB"),
    ("title", "Appointment at 10"),
    ("token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"),
    ("type", "medical"),
    ("user", "ann"),
    ("userId", "ann"),
    ("userType", "citizen"),
    ("version", "0.2.0"),
];

/// Numbers by the name of their field.
const NUMBERS: &[(&str, f64)] = &[
    ("accuracy", 12.0),
    ("average", 4.8),
    ("distance", 330.5),
    ("duration", 64.0),
    ("latitude", 52.5219),
    ("limit", 50.0),
    ("longitude", 13.4132),
    ("radius", 5_000.0),
    ("timestamp", 1_795_253_400_000.0),
];

/// A value that fits `schema`, of which `root` has the definitions; `name` is its field.
pub(super) fn sample(root: &Value, schema: &Value, name: &str) -> Value {
    of(root, schema, name, 0)
}

fn of(root: &Value, schema: &Value, name: &str, depth: usize) -> Value {
    let Value::Object(fields) = schema else { return json!({"any": "value"}) };
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
        let found = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return found.map_or(Value::Null, |found| of(root, found, name, depth + 1));
    }
    if let Some(value) = fields.get("const") {
        return value.clone();
    }
    if let Some(first) = fields.get("enum").and_then(Value::as_array).and_then(|values| values.first()) {
        return first.clone();
    }
    for several in ["allOf", "anyOf", "oneOf"] {
        if let Some(choices) = fields.get(several).and_then(Value::as_array) {
            let present = choices.iter().find(|choice| choice["type"] != "null");
            return present.map_or(Value::Null, |choice| of(root, choice, name, depth + 1));
        }
    }
    let kind = match fields.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if fields.contains_key("properties") => "object",
        _ => return json!({"any": "value"}),
    };
    match kind {
        "object" => object(root, fields, depth),
        "array" => {
            let item = fields.get("items").unwrap_or(&Value::Null);
            let one = of(root, item, name.strip_suffix('s').unwrap_or(name), depth + 1);
            Value::Array(vec![one])
        }
        "string" => json!(text(fields, name)),
        "integer" => json!(format!("{:.0}", number(fields, name)).parse::<i64>().unwrap_or_default()),
        "number" => json!(number(fields, name)),
        "boolean" => json!(!matches!(name, "hasMore" | "truncated" | "stale" | "incomplete" | "repeated")),
        _ => Value::Null,
    }
}

fn object(root: &Value, fields: &Map<String, Value>, depth: usize) -> Value {
    let required = fields.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|wanted| wanted == name));
    let mut made = Map::new();
    for (name, schema) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if is_required(name) || depth < OPTIONAL_DEPTH_MAX {
            made.insert(name.clone(), of(root, schema, name, depth + 1));
        }
    }
    // An object of one field with alternatives, such as the receivers of an emit.
    for several in ["anyOf", "oneOf"] {
        let choice = fields.get(several).and_then(Value::as_array).and_then(|choices| choices.first());
        if let Some(Value::Object(more)) = choice.map(|choice| of(root, choice, "", depth + 1)) {
            made.extend(more);
        }
    }
    Value::Object(made)
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    match fields.get("format").and_then(Value::as_str) {
        Some("date-time") => return TIME.to_owned(),
        Some("uuid") => return ID.to_owned(),
        Some("uri") => return "https://example.org".to_owned(),
        _ => {}
    }
    if let Some((_, text)) = TEXTS.iter().find(|(known, _)| *known == name) {
        return (*text).to_owned();
    }
    match name {
        _ if name.ends_with("At") => TIME.to_owned(),
        _ if name.ends_with("Id") || name == "id" => ID.to_owned(),
        _ => "text".to_owned(),
    }
}

fn number(fields: &Map<String, Value>, name: &str) -> f64 {
    let bound = |key: &str| fields.get(key).and_then(Value::as_f64);
    let wanted = NUMBERS.iter().find(|(known, _)| *known == name).map_or(1.0, |(_, number)| *number);
    let least = bound("minimum").map_or(wanted, |least| wanted.max(least));
    bound("maximum").map_or(least, |most| least.min(most))
}

//! The pages of the API: the endpoints and events of the node and of each app, with examples, generated from the two
//! documents that a node serves.

use std::fmt::Write as _;

use serde_json::Value;

use super::text::paragraph;

/// The page of one app, or of the node itself.
pub(super) fn body(app: &str, openapi: &Value, asyncapi: &Value) -> String {
    let mut out = String::new();
    let about = tag(&openapi["tags"], app).or_else(|| tag(&asyncapi["info"]["tags"], app));
    out.push_str(&prose(about.unwrap_or_default()));
    out.push_str(
        "\nA running node shows the same, for the apps that are mounted on it, at\n\
         [`/api/docs`](http://127.0.0.1:8080/api/docs), and as OpenAPI and AsyncAPI documents. Examples show one value\n\
         for each field; what a field may hold is in those documents.\n",
    );
    endpoints(&mut out, app, openapi);
    events(&mut out, app, asyncapi);
    webhooks(&mut out, app, openapi);
    out
}

fn tag<'a>(tags: &'a Value, app: &str) -> Option<&'a str> {
    let mut tags = tags.as_array().into_iter().flatten();
    tags.find(|tag| tag["name"] == app).and_then(|tag| tag["description"].as_str())
}

/// Several paragraphs.
fn prose(text: &str) -> String {
    text.split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n")
}

fn endpoints(out: &mut String, app: &str, openapi: &Value) {
    let mut first = true;
    for (path, methods) in openapi["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            if operation["tags"][0] != app {
                continue;
            }
            if std::mem::take(&mut first) {
                out.push_str("\n## Endpoints\n");
            }
            endpoint(out, &format!("{} {path}", method.to_uppercase()), operation);
        }
    }
}

fn endpoint(out: &mut String, title: &str, operation: &Value) {
    let text = |key: &str| operation[key].as_str().unwrap_or_default();
    // Writing to a String does not fail.
    let _ = write!(out, "\n### `{title}`\n\n{}", prose(text("summary")));
    if operation["description"].is_string() {
        let _ = write!(out, "\n{}", prose(text("description")));
    }
    let servers: Vec<&Value> = operation["servers"].as_array().into_iter().flatten().collect();
    let listener = match servers.as_slice() {
        [only] if only["url"] == "/" => "The public listener.",
        [_] => "The internal listener.",
        _ => "Both listeners.",
    };
    let wants = |name: &str| {
        let mut ways = operation["security"].as_array().into_iter().flatten();
        ways.any(|way| way.get(name).is_some())
    };
    let caller = if wants("userToken") {
        " Needs a user's token: `Authorization: Bearer TOKEN`."
    } else if wants("internalRequest") {
        " For backends: `X-Internal-Request: true`, and `Authorization: Bearer INTERNAL_TOKEN` if one is set."
    } else {
        ""
    };
    let _ = write!(out, "\n{}", paragraph(&format!("{listener}{caller}")));
    parameters(out, operation);
    let content = |value: &Value| value["content"]["application/json"]["example"].clone();
    let body = content(&operation["requestBody"]);
    if !body.is_null() {
        let _ = write!(out, "\nBody:\n\n{}", block(&body));
    }
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        if status.starts_with('2') {
            let about = answer["description"].as_str().unwrap_or_default();
            let _ = write!(out, "\n{}", paragraph(&format!("Answers {status}. {about}")));
            let example = content(answer);
            if !example.is_null() {
                let _ = write!(out, "\n{}", block(&example));
            }
        }
    }
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        if answer["x-errors"].is_array() {
            let errors = answer["description"].as_str().unwrap_or_default();
            let _ = write!(out, "\n{}", paragraph(&format!("Refuses with {status}: {errors}.")));
        }
    }
}

fn webhooks(out: &mut String, app: &str, openapi: &Value) {
    let webhooks = openapi["webhooks"].as_object().into_iter().flatten();
    let mut own = webhooks.filter(|(_, methods)| methods["post"]["tags"][0] == app).peekable();
    if own.peek().is_some() {
        out.push_str("\n## Webhooks\n");
    }
    own.for_each(|(name, methods)| webhook(out, name, &methods["post"]));
}

fn webhook(out: &mut String, name: &str, operation: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // Writing to a String does not fail.
    let _ = write!(out, "\n### `{name}`\n\n{}", prose(&text(&operation["summary"])));
    let _ = write!(out, "\n{}", prose(&text(&operation["description"])));
    parameters(out, operation);
    let _ = write!(
        out,
        "\nBody:\n\n{}",
        block(&operation["requestBody"]["content"]["application/json"]["example"])
    );
    out.push_str("\nWhat the node does after an answer:\n\n");
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        let _ = write!(out, "- {status}: {}", paragraph(&text(&answer["description"])));
    }
    for sample in operation["x-codeSamples"].as_array().into_iter().flatten() {
        let lang = text(&sample["lang"]).to_lowercase();
        let _ = write!(out, "\n```{lang}\n{}```\n", text(&sample["source"]));
    }
}

fn parameters(out: &mut String, operation: &Value) {
    let mut first = true;
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["in"] == "path" {
            continue;
        }
        if std::mem::take(&mut first) {
            out.push('\n');
        }
        let name = parameter["name"].as_str().unwrap_or_default();
        let kind = if parameter["in"] == "header" { "Header" } else { "Query" };
        let must = if parameter["required"] == true { " (required)" } else { "" };
        let about = parameter["description"].as_str().unwrap_or_default();
        let line = paragraph(&format!("- {kind} `{name}`{must}. {about}"));
        out.push_str(&line.trim_end().replace('\n', "\n  "));
        out.push('\n');
    }
}

fn events(out: &mut String, app: &str, asyncapi: &Value) {
    for (action, title, verb) in [
        ("receive", "Events that a client sends", "Send"),
        ("send", "Events that a client receives", "Receive"),
    ] {
        let operations = asyncapi["operations"].as_object().into_iter().flatten();
        let mut own = operations
            .map(|(_, operation)| operation)
            .filter(|operation| operation["tags"][0]["name"] == app && operation["action"] == action)
            .peekable();
        if own.peek().is_some() {
            // Writing to a String does not fail.
            let _ = write!(out, "\n## {title}\n");
        }
        own.for_each(|operation| event(out, verb, operation));
    }
}

fn event(out: &mut String, verb: &str, operation: &Value) {
    let text = |key: &str| operation[key].as_str().unwrap_or_default();
    let name = text("title");
    // Writing to a String does not fail.
    let _ = write!(out, "\n### {verb} `{name}`\n\n{}", prose(text("summary")));
    if operation["description"].is_string() {
        let _ = write!(out, "\n{}", prose(text("description")));
    }
    if operation["x-to"].is_string() {
        let _ = write!(out, "\n{}", paragraph(&format!("Goes to {}.", text("x-to"))));
    }
    let code = operation["x-codeSamples"][0]["source"].as_str().unwrap_or_default();
    let _ = write!(out, "\n```js\n{code}\n```\n");
    let errors: Vec<String> = operation["x-errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|error| Some(format!("`{}`", error.as_str()?)))
        .collect();
    if !errors.is_empty() {
        let _ = write!(out, "\n{}", paragraph(&format!("Refuses with {}.", errors.join(", "))));
    }
}

fn block(value: &Value) -> String {
    format!("```json\n{}\n```\n", format_args!("{value:#}"))
}

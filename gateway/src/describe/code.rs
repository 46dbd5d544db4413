//! Code samples: code that sends or receives a request or an event, in the languages that the documents show.
//!
//! The values are the documents' own examples ([`super::sample`]), so that code and schema cannot differ. The documents
//! carry the samples as `x-codeSamples`, a name that other viewers read, too. The page `/api/docs` and the reference
//! pages show them.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// The public listener's address in samples. The page replaces it with its own.
pub(super) const PUBLIC: &str = "http://127.0.0.1:8080";

/// The internal listener's address in samples.
pub(super) const INTERNAL: &str = "http://127.0.0.1:9090";

/// Spaces per level of indentation in Python.
const INDENT: usize = 4;

/// The security schemes, and the environment variables that hold the caller's tokens in samples.
const SECRETS: [(&str, &str); 2] = [("userToken", "TOKEN"), ("internalToken", "INTERNAL_TOKEN")];

/// A request to an endpoint: a command line and Python.
pub(super) fn request(method: &str, path: &str, operation: &Value) -> Value {
    let mut url = format!("{}{path}", if is_internal(operation) { INTERNAL } else { PUBLIC });
    let mut query = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (name, example) = (plain(&parameter["name"]), &parameter["example"]);
        if parameter["in"] == "path" {
            url = url.replace(&format!("{{{name}}}"), &plain(example));
        } else if parameter["in"] == "query" && parameter["required"] == true {
            query.push((name, example));
        }
    }
    let answered = operation["responses"].as_object().into_iter().flatten();
    let is_json = answered
        .filter(|(status, _)| status.starts_with('2'))
        .all(|(_, response)| response["content"]["application/json"].is_object());
    let call = Call {
        method,
        url: &url,
        query: &query,
        secret: SECRETS.into_iter().find(|(scheme, _)| wants(operation, scheme)).map(|(_, name)| name),
        is_of_backend: wants(operation, "internalRequest"),
        body: operation["requestBody"]["content"]["application/json"].get("example"),
        is_json,
    };
    json!([sample("Shell", "curl", call.curl()), sample("Python", "requests", call.python())])
}

/// An event that a client sends, and its ack: JavaScript and Python.
pub(super) fn emit(namespace: &str, event: &str, payload: Option<&Value>, ack: Option<&Value>) -> Value {
    let argument = payload.map(|payload| format!(", {payload:#}")).unwrap_or_default();
    let javascript = match ack {
        Some(ack) => format!(
            "const ack = await socket.emitWithAck('{event}'{argument});\n{}",
            commented("// ", &format!("{ack:#}"))
        ),
        None => format!("socket.emit('{event}'{argument});"),
    };
    let argument = payload.map(|payload| format!(", {}", literal(payload, 0))).unwrap_or_default();
    let call = match ack {
        Some(ack) => format!(
            "ack = client.call(\"{event}\"{argument}, namespace=\"{namespace}\")\nprint(ack)\n{}",
            commented("# ", &literal(ack, 0))
        ),
        None => format!("client.emit(\"{event}\"{argument}, namespace=\"{namespace}\")"),
    };
    let python =
        format!("{}\n{}\n{call}\nclient.disconnect()\n", imports("socketio"), connected("", namespace));
    json!([sample("JavaScript", "socket.io-client", javascript), sample("Python", "python-socketio", python)])
}

/// An event that a client receives: JavaScript and Python.
pub(super) fn on(namespace: &str, event: &str, payload: Option<&Value>) -> Value {
    let (javascript, parameter, shown) = match payload {
        Some(payload) => (
            format!(
                "socket.on('{event}', (data) => console.log(data));\n{}",
                commented("// ", &format!("{payload:#}"))
            ),
            "data",
            format!("{}\n    print(data)", commented("    # ", &literal(payload, 0))),
        ),
        None => (format!("socket.on('{event}', () => {{}});"), "", format!("    print(\"{event}\")")),
    };
    let name: String = event.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let handler = format!(
        "\n\n@client.on(\"{event}\", namespace=\"{namespace}\")\ndef on_{name}({parameter}):\n{shown}\n\n\n"
    );
    let python = format!("{}\n{}\nclient.wait()\n", imports("socketio"), connected(&handler, namespace));
    json!([sample("JavaScript", "socket.io-client", javascript), sample("Python", "python-socketio", python)])
}

/// How a receiver verifies that the node signed a request.
pub(super) fn verification() -> Value {
    let python = "\
import hashlib
import hmac


def is_genuine(secret, headers, body):
    \"\"\"Whether the node signed this request. `body` is its unparsed bytes.\"\"\"
    signed = headers[\"X-Muster-Timestamp\"].encode() + b\".\" + body
    expected = \"sha256=\" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, headers[\"X-Muster-Signature\"])
";
    json!([sample("Python", "signature check", python.to_owned())])
}

/// The parts of a request that samples show.
struct Call<'a> {
    method: &'a str,
    url: &'a str,
    query: &'a [(String, &'a Value)],
    /// The environment variable with the caller's token.
    secret: Option<&'static str>,
    is_of_backend: bool,
    body: Option<&'a Value>,
    /// Whether the answer is JSON.
    is_json: bool,
}

impl Call<'_> {
    fn curl(&self) -> String {
        let query: Vec<String> =
            self.query.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut out =
            format!("curl -X {} '{}{mark}{}'", self.method.to_uppercase(), self.url, query.join("&"));
        // Writing to a String does not fail.
        if self.is_of_backend {
            out.push_str(" \\\n  -H 'X-Internal-Request: true'");
        }
        if let Some(secret) = self.secret {
            let _ = write!(out, " \\\n  -H \"Authorization: Bearer ${secret}\"");
        }
        if let Some(body) = self.body {
            let body = body.to_string().replace('\'', r"'\''");
            let _ = write!(out, " \\\n  -H 'Content-Type: application/json' \\\n  -d '{body}'");
        }
        out
    }

    fn python(&self) -> String {
        let mut arguments = vec![format!("\"{}\"", self.url)];
        if !self.query.is_empty() {
            let query: Vec<String> =
                self.query.iter().map(|(name, value)| format!("\"{name}\": {}", literal(value, 0))).collect();
            arguments.push(format!("params={{{}}}", query.join(", ")));
        }
        let mut headers = Vec::new();
        if self.is_of_backend {
            headers.push("\"X-Internal-Request\": \"true\"".to_owned());
        }
        if let Some(secret) = self.secret {
            headers.push(format!("\"Authorization\": f\"Bearer {{os.environ['{secret}']}}\""));
        }
        if !headers.is_empty() {
            arguments.push(format!("headers={{{}}}", headers.join(", ")));
        }
        if let Some(body) = self.body {
            arguments.push(format!("json={}", literal(body, INDENT)));
        }
        arguments.push("timeout=10".to_owned());
        let imports = match self.secret {
            Some(_) => imports("requests"),
            None => "import requests\n".to_owned(),
        };
        let print = if self.is_json { "answer.json()" } else { "answer.text" };
        format!(
            "{imports}\nanswer = requests.{}(\n    {},\n)\nanswer.raise_for_status()\nprint({print})\n",
            self.method,
            arguments.join(",\n    ")
        )
    }
}

fn sample(lang: &str, label: &str, source: String) -> Value {
    json!({"lang": lang, "label": label, "source": source})
}

/// The imports of a sample that reads a token.
fn imports(library: &str) -> String {
    format!("import os\n\nimport {library}\n")
}

/// Creates a client, adds its handlers and connects.
fn connected(handlers: &str, namespace: &str) -> String {
    format!(
        "client = socketio.Client()\n{handlers}client.connect(\n    \"{PUBLIC}\",\n    \
         auth={{\"token\": os.environ[\"TOKEN\"]}},\n    namespaces=[\"{namespace}\"],\n)"
    )
}

fn is_internal(operation: &Value) -> bool {
    let servers = operation["servers"].as_array();
    servers.is_some_and(|servers| servers.iter().all(|server| server["url"] != "/"))
}

/// Whether a caller may use a security scheme.
fn wants(operation: &Value, scheme: &str) -> bool {
    let mut ways = operation["security"].as_array().into_iter().flatten();
    ways.any(|way| way.get(scheme).is_some())
}

/// A text without quotes, or any other value as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `text` with `mark` before each line.
fn commented(mark: &str, text: &str) -> String {
    text.lines().map(|line| format!("{mark}{line}")).collect::<Vec<_>>().join("\n")
}

/// A JSON value as a Python literal. Lines after the first are indented by `indent` spaces.
fn literal(value: &Value, indent: usize) -> String {
    let lines = |open: &str, items: Vec<String>, close: &str| {
        let inner = " ".repeat(indent + INDENT);
        let items: Vec<String> = items.into_iter().map(|item| format!("{inner}{item},\n")).collect();
        format!("{open}\n{}{}{close}", items.concat(), " ".repeat(indent))
    };
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        // A JSON string is a valid Python string.
        Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) if items.is_empty() => "[]".to_owned(),
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Array(items) => {
            lines("[", items.iter().map(|item| literal(item, indent + INDENT)).collect(), "]")
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                format!("{}: {}", json!(name), literal(value, indent + INDENT))
            };
            lines("{", fields.iter().map(field).collect(), "}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_python() {
        let value = json!({"a": [1, null, {}], "b": true, "c": "it's \"so\""});
        let expected = "{\n    \"a\": [\n        1,\n        None,\n        {},\n    ],\n    \"b\": True,\n    \
                        \"c\": \"it's \\\"so\\\"\",\n}";
        assert_eq!(literal(&value, 0), expected);
        assert_eq!(literal(&json!([]), 4), "[]");
    }

    #[test]
    fn a_request_has_its_parameters_secret_and_body() {
        let operation = json!({
            "servers": [{"url": "http://{address}"}],
            "security": [{"internalRequest": [], "internalToken": []}],
            "parameters": [
                {"in": "path", "name": "room", "example": "general"},
                {"in": "query", "name": "limit", "required": true, "example": 5},
                {"in": "query", "name": "after", "required": false, "example": "x"},
            ],
            "requestBody": {"content": {"application/json": {"example": {"text": "it's"}}}},
            "responses": {"200": {"content": {"application/json": {}}}},
        });
        let samples = request("put", "/internal/rooms/{room}", &operation);
        assert_eq!(
            samples[0]["source"],
            "curl -X PUT 'http://127.0.0.1:9090/internal/rooms/general?limit=5' \\\n  \
             -H 'X-Internal-Request: true' \\\n  -H \"Authorization: Bearer $INTERNAL_TOKEN\" \\\n  \
             -H 'Content-Type: application/json' \\\n  -d '{\"text\":\"it'\\''s\"}'"
        );
        assert_eq!(
            samples[1]["source"],
            "import os\n\nimport requests\n\nanswer = requests.put(\n    \
             \"http://127.0.0.1:9090/internal/rooms/general\",\n    params={\"limit\": 5},\n    \
             headers={\"X-Internal-Request\": \"true\", \
             \"Authorization\": f\"Bearer {os.environ['INTERNAL_TOKEN']}\"},\n    \
             json={\n        \"text\": \"it's\",\n    },\n    timeout=10,\n)\n\
             answer.raise_for_status()\nprint(answer.json())\n"
        );
    }
}

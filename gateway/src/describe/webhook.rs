//! [`Webhook`]: one kind of request that the node itself sends.

use schemars::JsonSchema;
use serde_json::{Value, json};

use super::sample::sample;
use super::schemas::{Schemas, Way};
use super::{Section, Shape, Text, code, shape};

/// A request that the node sends, and what the node does after each answer.
#[derive(Debug)]
pub(crate) struct Webhook {
    /// Its name in `webhooks`.
    pub(super) name: &'static str,
    summary: Text,
    detail: Text,
    /// Name, description and example of each header.
    headers: Vec<(&'static str, Text, Value)>,
    body: Shape,
    /// Values that replace parts of the schema's example, by JSON pointer.
    shows: Vec<(&'static str, Value)>,
    /// By status, or by class of statuses (`5XX`).
    answers: Vec<(&'static str, Text)>,
}

impl Webhook {
    pub(crate) fn new<Body: JsonSchema>(
        name: &'static str,
        summary: impl Into<Text>,
        detail: impl Into<Text>,
    ) -> Self {
        Self {
            name,
            summary: summary.into(),
            detail: detail.into(),
            headers: Vec::new(),
            body: shape::<Body>(),
            shows: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Adds a header.
    pub(crate) fn header(
        mut self,
        name: &'static str,
        text: impl Into<Text>,
        example: impl Into<Value>,
    ) -> Self {
        self.headers.push((name, text.into(), example.into()));
        self
    }

    /// Replaces a part of the example.
    pub(crate) fn shows(mut self, pointer: &'static str, value: impl Into<Value>) -> Self {
        self.shows.push((pointer, value.into()));
        self
    }

    /// Describes an answer with this status or class of statuses.
    pub(crate) fn answer(mut self, status: &'static str, text: impl Into<Text>) -> Self {
        self.answers.push((status, text.into()));
        self
    }

    pub(super) fn described(&self, section: &Section, schemas: &mut Schemas) -> Value {
        let parameters: Vec<Value> = self
            .headers
            .iter()
            .map(|(name, text, example)| {
                let schema = json!({"type": "string"});
                json!({"name": name, "in": "header", "description": text, "schema": schema, "example": example})
            })
            .collect();
        let mut responses = json!({});
        for (status, text) in &self.answers {
            responses[status] = json!({"description": text});
        }
        let schema = schemas.of(Way::Written, self.body);
        json!({"post": {
            "operationId": self.operation_id(),
            "tags": [section.name],
            "summary": self.summary,
            "description": self.detail,
            "parameters": parameters,
            "requestBody": {"required": true, "content": {"application/json": {"schema": schema}}},
            "responses": responses,
            "security": [],
            "x-codeSamples": code::verification(),
        }})
    }

    /// The name of a receiver's handler, for example `receiveEmergencyCreated`.
    fn operation_id(&self) -> String {
        let mut letters = self.name.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        let rest = letters.as_str();
        format!("receive{}{rest}", first.map(String::from).unwrap_or_default())
    }

    /// Its example. `root` must contain all schemas.
    pub(super) fn example(&self, root: &Value, schema: &Value) -> Value {
        let mut example = sample(root, schema, "");
        for (pointer, value) in &self.shows {
            if let Some(part) = example.pointer_mut(pointer) {
                part.clone_from(value);
            }
        }
        example
    }
}

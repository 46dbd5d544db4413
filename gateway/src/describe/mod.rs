//! What the node offers, as data: every HTTP endpoint as OpenAPI 3.1, every event as AsyncAPI 3.0.
//!
//! Both documents are made from the Rust types that the code reads and writes, so a field cannot be in one
//! and not in the other; and from the declarations by which endpoints are mounted and events are taken, so what is
//! not described is not served:
//!
//! ```text
//! fn routes() -> Routes<Arc<Things>> {
//!     Routes::new().route(
//!         Operation::post("/api/v1/things", "Creates a thing.")
//!             .id("createThing")                        // the method's name in generated clients: a verb and a noun
//!             .of_user()                                // wants a token; 401 comes with it
//!             .body::<NewThing>()                       // what the handler's JsonBody reads; 400, 408, 413, 415
//!             .answer::<Data<Thing>>(201, "The thing.") // what it answers
//!             .refuse(409, "Thing is over"),            // what else it refuses, in the client's words
//!         create,
//!     )
//! }
//!
//! fn describe(section: &mut Section) {
//!     section.event(
//!         Event::from_client("thing:move", "Moves a thing.")
//!             .weight(5)                                // what it costs the node
//!             .payload::<Move>()                        // what `first(args)` reads
//!             .ack::<Ack<Moved>>()                      // what `Reply::success` answers
//!             .refuse("Thing not found"),
//!     );
//!     section.event(
//!         Event::to_client("thing:moved", "A thing has been moved.").to("the others in the room").payload::<Moved>(),
//!     );
//! }
//! ```
//!
//! Ours, because half of it has no library: utoipa and aide make OpenAPI alone.
//!
//! - A doc comment on a type or a field is its description: in words that mean something to a client.
//! - A type with a lifetime is named with `'_`.
//! - Texts that are names, ids or times take `#[schemars(with = "Name")]`, `OwnId` or `Time` from [`forms`].
//! - An `Option` that an answer leaves out by `skip_serializing_if` is never null there: `with` says what it is else.
//! - `#[schemars(rename = "…")]` gives a type its public name if its Rust name is too short to be clear without its
//!   module. Different types need different public names, also in different apps.
//! - A generic envelope is named after what is in it: `#[schemars(rename = "{T}List")]`.

mod asyncapi;
mod code;
mod event;
pub(crate) mod forms;
mod openapi;
mod operation;
mod sample;
mod schemas;
mod typescript;
mod webhook;

use std::borrow::Cow;

use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use event::Direction;
pub(crate) use event::Event;
pub(crate) use operation::{Method, Operation};
pub(crate) use sample::ID as EXAMPLE_ID;
pub(crate) use webhook::Webhook;

/// A type, as far as its schema goes: made late, because the two documents speak different dialects.
pub(crate) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// A sentence of a description.
pub(crate) type Text = Cow<'static, str>;

fn shape<T: JsonSchema + ?Sized>() -> Shape {
    SchemaGenerator::subschema_for::<T>
}

/// One app's part, or the node's own.
#[derive(Debug)]
pub(crate) struct Section {
    /// The app's name.
    name: &'static str,
    summary: Text,
    /// Where its events happen.
    namespaces: Vec<String>,
    operations: Vec<Operation>,
    webhooks: Vec<Webhook>,
    events: Vec<Event>,
}

impl Section {
    pub(crate) fn new(name: &'static str, namespaces: Vec<String>) -> Self {
        Self {
            name,
            summary: Text::default(),
            namespaces,
            operations: Vec::new(),
            webhooks: Vec::new(),
            events: Vec::new(),
        }
    }

    /// What the app is, in a sentence or two.
    pub(crate) fn about(&mut self, summary: impl Into<Text>) {
        self.summary = summary.into();
    }

    pub(crate) fn operations(&mut self, operations: Vec<Operation>) {
        self.operations.extend(operations.into_iter().filter(|operation| !operation.is_hidden));
    }

    pub(crate) fn webhook(&mut self, webhook: Webhook) {
        self.webhooks.push(webhook);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The events that clients send: their names, and what one costs ([`Event::weight`]).
    pub(crate) fn taken(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let taken = self.events.iter().filter(|event| event.direction == Direction::FromClient);
        taken.map(|event| (event.name, event.weight))
    }
}

/// What a node offers.
#[derive(Debug)]
pub(crate) struct Description {
    sections: Vec<Section>,
    /// How the errors look that every endpoint and every event may have.
    errors: Errors,
}

/// The shapes of errors: over HTTP and in acks, and as an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Errors {
    pub(crate) refusal: Shape,
    pub(crate) event: Shape,
}

impl Errors {
    pub(crate) fn of<Refusal: JsonSchema, ErrorEvent: JsonSchema>() -> Self {
        Self { refusal: shape::<Refusal>(), event: shape::<ErrorEvent>() }
    }
}

impl Description {
    pub(crate) fn new(sections: Vec<Section>, errors: Errors) -> Self {
        Self { sections, errors }
    }

    /// The HTTP endpoints.
    pub(crate) fn openapi(&self) -> Value {
        openapi::document(self)
    }

    /// The events.
    pub(crate) fn asyncapi(&self) -> Value {
        asyncapi::document(self)
    }

    /// The events of an AsyncAPI document that [`Self::asyncapi`] has made, as TypeScript.
    pub(crate) fn typescript(asyncapi: &Value) -> String {
        typescript::declarations(asyncapi)
    }
}

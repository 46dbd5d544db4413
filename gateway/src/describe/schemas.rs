//! [`Schemas`]: the schemas of one document, under the public names of their types.
//!
//! A type's name is part of the API, because generated clients use it. It is the type's `schemars(rename)`, or else its
//! Rust name. It is the same in both documents, and does not depend on which apps are mounted.
//!
//! What is read and what is written may differ in one type (a field with a default need not be sent and is always
//! there in answers). So there are two generators with different provisional paths in
//! their references, until [`Schemas::settle`] knows every name.

use std::collections::{BTreeSet, HashMap};

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

use super::Shape;

/// Where components are, in OpenAPI as in AsyncAPI.
const HOME: &str = "#/components/schemas/";

/// The dialect of JSON Schema that a document speaks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dialect {
    /// OpenAPI 3.1.
    Draft2020,
    /// AsyncAPI 3.0.
    Draft7,
}

/// Which way what is described goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Written,
}

pub(super) struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Way {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Written => "written",
        }
    }
}

/// The path of definitions until names are settled.
fn provisional(way: Way) -> String {
    format!("/components/schemas/@{}", way.word())
}

fn generator(dialect: Dialect, way: Way) -> SchemaGenerator {
    let mut settings = match dialect {
        Dialect::Draft2020 => SchemaSettings::draft2020_12(),
        Dialect::Draft7 => SchemaSettings::draft07(),
    };
    settings.definitions_path = provisional(way).into();
    settings.untagged_enum_variant_titles = true;
    let settings = match way {
        Way::Read => settings.for_deserialize(),
        Way::Written => settings.for_serialize(),
    };
    settings.into_generator()
}

impl Schemas {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { read: generator(dialect, Way::Read), written: generator(dialect, Way::Written) }
    }

    /// The schema of a type, or a reference to it.
    pub(super) fn of(&mut self, way: Way, shape: Shape) -> Value {
        let generator = match way {
            Way::Read => &mut self.read,
            Way::Written => &mut self.written,
        };
        shape(generator).into()
    }

    /// The schema of a type that is read, without references.
    pub(super) fn whole(shape: Shape) -> Value {
        let mut settings = SchemaSettings::draft2020_12().for_deserialize();
        settings.inline_subschemas = true;
        shape(&mut settings.into_generator()).into()
    }

    /// Gives every type its name in `document` and puts its schema there.
    pub(super) fn settle(mut self, document: &mut Value) {
        let (read, written) = (self.read.take_definitions(true), self.written.take_definitions(true));
        let differing = differing(&read, &written);
        let (mut components, mut names) = (Map::new(), HashMap::new());
        for (way, definitions) in [(Way::Written, written), (Way::Read, read)] {
            for (name, schema) in definitions {
                let suffix = if way == Way::Read && differing.contains(&name) { "Input" } else { "" };
                let settled = format!("{name}{suffix}");
                names.insert(format!("#{}/{name}", provisional(way)), format!("{HOME}{settled}"));
                components.insert(settled, schema);
            }
        }
        rename(document, &names);
        for schema in components.values_mut() {
            rename(schema, &names);
        }
        document["components"]["schemas"] = Value::Object(components);
    }
}

/// The types that are not the same when read as when written: they, and whatever refers to them.
fn differing(read: &Map<String, Value>, written: &Map<String, Value>) -> BTreeSet<String> {
    let text = |schema: &Value, way| schema.to_string().replace(&provisional(way), "");
    let mut differing: BTreeSet<String> = BTreeSet::new();
    loop {
        let more: Vec<String> = read
            .iter()
            .filter(|(name, _)| written.contains_key(*name) && !differing.contains(*name))
            .filter(|(name, schema)| {
                let here = text(schema, Way::Read);
                here != text(&written[*name], Way::Written)
                    || differing.iter().any(|other| here.contains(&format!("\"#/{other}\"")))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return differing;
        }
        differing.extend(more);
    }
}

/// Puts settled names where provisional ones are.
fn rename(value: &mut Value, names: &HashMap<String, String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(path)) = fields.get_mut("$ref")
                && let Some(settled) = names.get(path.as_str())
            {
                path.clone_from(settled);
            }
            fields.values_mut().for_each(|field| rename(field, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::super::shape;
    use super::*;

    #[derive(Deserialize, Serialize, JsonSchema)]
    struct Place {
        latitude: f64,
        /// Need not be sent, and is always answered.
        address: Option<String>,
    }

    #[derive(Deserialize, Serialize, JsonSchema)]
    struct Visit {
        place: Place,
        next: Option<Box<Self>>,
        same: Same,
    }

    #[derive(Deserialize, Serialize, JsonSchema)]
    struct Same {
        id: String,
    }

    #[test]
    fn what_differs_when_read_has_a_name_of_its_own_and_so_has_what_refers_to_it() {
        for dialect in [Dialect::Draft2020, Dialect::Draft7] {
            let mut schemas = Schemas::new(dialect);
            let read = schemas.of(Way::Read, shape::<Visit>());
            let written = schemas.of(Way::Written, shape::<Visit>());
            let mut document = json!({"read": read, "written": written});
            schemas.settle(&mut document);
            let components = &document["components"]["schemas"];
            let names: Vec<&String> = components.as_object().unwrap().keys().collect();
            assert_eq!(names, ["Place", "PlaceInput", "Same", "Visit", "VisitInput"]);
            assert_eq!(document["read"]["$ref"], "#/components/schemas/VisitInput");
            assert_eq!(document["written"]["$ref"], "#/components/schemas/Visit");
            let place = |of: &str| components[of]["properties"]["place"]["$ref"].clone();
            assert_eq!(place("VisitInput"), "#/components/schemas/PlaceInput");
            assert_eq!(place("Visit"), "#/components/schemas/Place");
            assert_eq!(components["Place"]["required"], json!(["latitude", "address"]));
            assert_eq!(components["PlaceInput"]["required"], json!(["latitude"]));
        }
    }
}

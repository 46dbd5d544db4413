//! [`Schemas`]: the schemas of one document, named after the app they belong to.
//!
//! What is read and what is written may differ in one type (a field with a default need not be sent and is always
//! there in answers), and two apps may have types of one name. So each app has two generators, whose references
//! are told apart by a provisional path until [`Schemas::settle`] knows every name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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

struct App {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

pub(super) struct Schemas {
    dialect: Dialect,
    apps: BTreeMap<&'static str, App>,
}

impl Way {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Written => "written",
        }
    }
}

/// The path of definitions while names are not settled.
fn provisional(app: &str, way: Way) -> String {
    format!("/components/schemas/{app}@{}", way.word())
}

impl App {
    fn new(name: &str, dialect: Dialect) -> Self {
        let generator = |way| {
            let mut settings = match dialect {
                Dialect::Draft2020 => SchemaSettings::draft2020_12(),
                Dialect::Draft7 => SchemaSettings::draft07(),
            };
            settings.definitions_path = provisional(name, way).into();
            settings.untagged_enum_variant_titles = true;
            let settings = match way {
                Way::Read => settings.for_deserialize(),
                Way::Written => settings.for_serialize(),
            };
            settings.into_generator()
        };
        Self { read: generator(Way::Read), written: generator(Way::Written) }
    }
}

impl Schemas {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, apps: BTreeMap::new() }
    }

    /// The schema of a type, or a reference to it.
    pub(super) fn of(&mut self, app: &'static str, way: Way, shape: Shape) -> Value {
        let app = self.apps.entry(app).or_insert_with(|| App::new(app, self.dialect));
        let generator = match way {
            Way::Read => &mut app.read,
            Way::Written => &mut app.written,
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
    pub(super) fn settle(self, document: &mut Value) {
        let mut components = Map::new();
        for (app, App { mut read, mut written }) in self.apps {
            let (read, written) = (read.take_definitions(true), written.take_definitions(true));
            let differing = differing(app, &read, &written);
            let mut names = HashMap::new();
            for (way, definitions) in [(Way::Written, written), (Way::Read, read)] {
                for (name, schema) in definitions {
                    let suffix = if way == Way::Read && differing.contains(&name) { "Input" } else { "" };
                    let settled = format!("{app}.{name}{suffix}");
                    names.insert(format!("#{}/{name}", provisional(app, way)), format!("{HOME}{settled}"));
                    components.insert(settled, schema);
                }
            }
            rename(document, &names);
            for schema in components.values_mut() {
                rename(schema, &names);
            }
        }
        document["components"]["schemas"] = Value::Object(components);
    }
}

/// The types that are not the same when read as when written: they, and whatever refers to them.
fn differing(app: &str, read: &Map<String, Value>, written: &Map<String, Value>) -> BTreeSet<String> {
    let text = |schema: &Value, way| schema.to_string().replace(&provisional(app, way), "");
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
            let read = schemas.of("a", Way::Read, shape::<Visit>());
            let written = schemas.of("a", Way::Written, shape::<Visit>());
            let other = schemas.of("b", Way::Read, shape::<Same>());
            let mut document = json!({"read": read, "written": written, "other": other});
            schemas.settle(&mut document);
            let components = &document["components"]["schemas"];
            let names: Vec<&String> = components.as_object().unwrap().keys().collect();
            assert_eq!(names, ["a.Place", "a.PlaceInput", "a.Same", "a.Visit", "a.VisitInput", "b.Same"]);
            assert_eq!(document["read"]["$ref"], "#/components/schemas/a.VisitInput");
            assert_eq!(document["written"]["$ref"], "#/components/schemas/a.Visit");
            assert_eq!(document["other"]["$ref"], "#/components/schemas/b.Same");
            let place = |of: &str| components[of]["properties"]["place"]["$ref"].clone();
            assert_eq!(place("a.VisitInput"), "#/components/schemas/a.PlaceInput");
            assert_eq!(place("a.Visit"), "#/components/schemas/a.Place");
            assert_eq!(components["a.Place"]["required"], json!(["latitude", "address"]));
            assert_eq!(components["a.PlaceInput"]["required"], json!(["latitude"]));
        }
    }
}

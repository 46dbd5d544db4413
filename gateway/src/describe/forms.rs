//! Forms of texts and numbers that Rust's own types do not tell: for `#[schemars(with = "…")]`.

use std::borrow::Cow;

use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};
use shared::limits::{ID_MAX_BYTES, NAME_MAX, ROOM_MAX_BYTES};

macro_rules! form {
    ($(#[$doc:meta])* $type:ident, $schema:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $type;

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// A text of 1 to `max` characters, none of them a control character.
fn plain(max: usize) -> Schema {
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": max, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
    })
}

form!(
    /// What clients may name (contract, "Names and ids"; [`shared::names::is_name`]).
    Name,
    plain(NAME_MAX)
);
form!(
    /// A user's id ([`shared::names::is_id`]). Its bytes are bounded, so its characters are.
    UserIdText,
    plain(ID_MAX_BYTES)
);
form!(
    /// A room, as the cluster calls it ([`shared::names::Room::of_cluster`]).
    RoomName,
    plain(ROOM_MAX_BYTES)
);
form!(
    /// An event that a backend names. Its bytes are bounded, so its characters are.
    EventName,
    plain(ID_MAX_BYTES)
);
form!(
    /// What programs tell apart ([`shared::names::is_word`]).
    Word,
    json_schema!({"type": "string", "pattern": format!("^[A-Za-z0-9._:-]{{1,{NAME_MAX}}}$")})
);
form!(
    /// An id that was made here (contract: UUIDv7).
    OwnId,
    json_schema!({"type": "string", "format": "uuid"})
);
form!(
    /// A moment, ISO 8601 in UTC.
    Time,
    json_schema!({"type": "string", "format": "date-time"})
);
form!(
    /// A moment, milliseconds since the epoch.
    Millis,
    json_schema!({"type": "integer", "minimum": 0, "description": "Milliseconds since the epoch."})
);
form!(
    /// Degrees north.
    Latitude,
    json_schema!({"type": "number", "minimum": -90, "maximum": 90})
);
form!(
    /// Degrees east.
    Longitude,
    json_schema!({"type": "number", "minimum": -180, "maximum": 180})
);
form!(
    /// What is always `true`.
    True,
    json_schema!({"type": "boolean", "const": true})
);
form!(
    /// What is always `false`.
    False,
    json_schema!({"type": "boolean", "const": false})
);

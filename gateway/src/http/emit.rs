//! `POST /internal/emit`: what the documents call `emitToUser`, `emitToRoom` and `broadcast` (contract, "sos").

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::HeaderMap;
use fanout::{Receipt, Target};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::limits::{ID_MAX_BYTES, REST_BODY_MAX_BYTES};
use shared::names::{Namespace, Room, UserId};
use shared::sio::{Event, RESERVED_EVENTS};

use super::Site;
use crate::describe::Operation;
use crate::describe::forms::{EventName, RoomName, True, UserIdText};
use crate::error::AppError;
use crate::rest::{InternalCaller, Routes, key_of, read_json};

/// The recipient of an event.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "UserOrRoom")]
#[serde(rename_all = "camelCase")]
enum To {
    /// All sockets of a user.
    User(#[schemars(with = "UserIdText")] String),
    /// A room, by its name in the cluster.
    Room(#[schemars(with = "RoomName")] String),
}

/// The recipient of an event, or a word for several.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EmitTarget")]
#[serde(untagged)]
enum Recipient {
    Named(To),
    /// All sockets of the namespace, or the other servers of the cluster.
    Word(#[schemars(extend("enum" = ["all", "servers"]))] String),
}

/// An event to emit.
// Refuses unknown fields: a caller that tries to exclude a user, or sends several arguments, must not get a success.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EmitRequest")]
#[serde(deny_unknown_fields)]
struct Emit {
    /// Default: `/`.
    namespace: Option<String>,
    #[serde(deserialize_with = "recipient")]
    #[schemars(with = "Recipient")]
    to: Option<Recipient>,
    /// The event's name: no reserved name of Socket.IO, and for `servers` neither `connection` nor `new_namespace`.
    #[schemars(with = "EventName")]
    event: String,
    /// The event's argument; without it the event has none.
    data: Option<Box<RawValue>>,
    /// Asks every node how many sockets receive the event, and answers after that. Without it an event is one message;
    /// with it, one more message to and from each node. A single node counts without messages.
    #[serde(default)]
    receipt: bool,
}

/// The body; its payload may be as large as a client's event.
struct EmitBody(Emit);

impl FromRequest<Site> for EmitBody {
    type Rejection = AppError;

    async fn from_request(request: Request, site: &Site) -> Result<Self, AppError> {
        // Leaves room for the other fields beside a payload of the maximum size.
        let max = site.transports.engine.max_payload + REST_BODY_MAX_BYTES;
        read_json(request, max).await.map(Self)
    }
}

/// Parses `to`; `None` if it is not a valid recipient, which has its own error.
fn recipient<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Recipient>, D::Error> {
    let to = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(to.get()).ok())
}

/// Events that a namespace of a Node.js server emits to its own handlers. From outside they would make it handle a
/// socket that does not exist.
const SERVERS_OWN_EVENTS: [&str; 2] = ["connection", "new_namespace"];

/// The result.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "EmitResult")]
pub(super) struct Emitted {
    #[schemars(with = "True")]
    success: bool,
    /// How many nodes and other servers received it, including this one; 0 if it was not emitted again. Absent for
    /// `servers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize")]
    nodes: Option<usize>,
    /// How many sockets of these nodes it reached, counted right after it was sent. In a cluster only with `receipt`,
    /// otherwise `null`; also `null` if not all nodes answered or the event was not sent again. Sockets of Node.js
    /// servers are not counted. Absent for `servers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<usize>")]
    sockets: Option<Option<usize>>,
    /// Its position in the room, `epoch:offset`; `null` if the room has no positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    place: Option<Option<String>>,
    /// It was emitted under this key before, and not again now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    repeated: Option<bool>,
}

/// The route.
pub(super) fn routes() -> Routes<Site> {
    Routes::new().route(
        Operation::post(
            "/internal/emit",
            "Emits an event to a user, a room, a namespace, or the other servers of the cluster.",
        )
        .id("emitEvent")
        .detail("The body may be as large as an event (`MAX_PAYLOAD`).")
        .of_backend()
        .header(
            "Idempotency-Key",
            "1 to 128 visible characters. Under one key an event is emitted once in five minutes, on \
             whichever node.",
        )
        .body::<Emit>()
        .answer::<Emitted>(200, "Emitted, or emitted before.")
        .refuse_all(
            400,
            &[
                "Invalid namespace",
                "Invalid event",
                "Invalid user",
                "Invalid room",
                "Invalid to: expected {user}, {room} or \"all\"",
                "Invalid Idempotency-Key: expected 1 to 128 visible characters",
            ],
        )
        .refuse(404, "Namespace not found")
        .refuse(413, "Message too large")
        .refuse(422, "Idempotency-Key was used for something else"),
        emit,
    )
}

async fn emit(
    _: InternalCaller,
    State(site): State<Site>,
    headers: HeaderMap,
    EmitBody(body): EmitBody,
) -> Result<Json<Emitted>, AppError> {
    let Emit { namespace, to, event, data, receipt: counts } = body;
    let namespace = namespace.as_deref().unwrap_or("/");
    let namespace =
        Namespace::parse(namespace).map_err(|_| AppError::BadInput("Invalid namespace".into()))?;
    if !is_event(&event) || RESERVED_EVENTS.contains(&&*event) {
        return Err(AppError::BadInput("Invalid event".into()));
    }
    let invalid_to = || AppError::BadInput("Invalid to: expected {user}, {room} or \"all\"".into());
    let to = to.ok_or_else(invalid_to)?;
    let (user, room);
    let target = match &to {
        Recipient::Named(To::User(id)) => {
            user = UserId::parse(id).map_err(|_| AppError::BadInput("Invalid user".into()))?;
            Target::user(&namespace, &user)
        }
        Recipient::Named(To::Room(name)) => {
            room = Room::of_cluster(name).ok_or_else(|| AppError::BadInput("Invalid room".into()))?;
            Target::room(&namespace, room.as_str())
        }
        Recipient::Word(word) if word == "all" => Target::all(&namespace),
        Recipient::Word(word) if word == "servers" => {
            if SERVERS_OWN_EVENTS.contains(&&*event) {
                return Err(AppError::BadInput("Invalid event".into()));
            }
            let args: Vec<&str> = data.as_deref().map(RawValue::get).into_iter().collect();
            site.context.fanout.server_side_emit(&namespace, &event, &args).await?;
            return Ok(Json(Emitted { success: true, ..Emitted::default() }));
        }
        Recipient::Word(_) => return Err(invalid_to()),
    };
    let key = key_of(&headers)?;
    let once;
    let target = match &key {
        None => target.tracked(),
        Some(key) => {
            // The key belongs to its first use; the fingerprint detects a different event under it.
            let print = format!("{:016x}", fingerprint(&namespace, &target, &event, data.as_deref()));
            if !site.context.fanout.claim_key(key, &print).await? {
                return Err(AppError::Conflict("Idempotency-Key was used for something else".into()));
            }
            once = format!("{print}:{key}");
            target.once(&once)
        }
    };
    let args: Vec<&str> = data.as_deref().map(RawValue::get).into_iter().collect();
    let packet = {
        let event =
            Event { namespace: namespace.as_str(), name: &event, args: &args, ack: None, attachments: &[] };
        site.context.fanout.packet(&target, &event)
    };
    let receipt = site.context.fanout.broadcast(target, packet).await?;
    Ok(Json(emitted(&site, &target, (receipt, counts)).await))
}

/// Whether backends may emit an event with this name; the rule is that of their rooms.
fn is_event(name: &str) -> bool {
    (1..=ID_MAX_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// The answer. Counts the sockets with `counts`, or if no other node has to be asked.
async fn emitted(site: &Site, target: &Target<'_>, (receipt, counts): (Receipt, bool)) -> Emitted {
    let fanout = &site.context.fanout;
    // The event is on its way, so a failure to count does not fail the request.
    let sockets = if !receipt.repeated && (counts || !fanout.has_peers()) {
        fanout.reach(target).await.unwrap_or_default()
    } else {
        None
    };
    Emitted {
        success: true,
        nodes: Some(receipt.nodes),
        sockets: Some(sockets),
        place: Some(receipt.place),
        repeated: Some(receipt.repeated),
    }
}

/// A digest of the request; the same on every node.
fn fingerprint(namespace: &Namespace, target: &Target<'_>, event: &str, data: Option<&RawValue>) -> u64 {
    use sha1::Digest as _;
    let mut digest = sha1::Sha1::new();
    let to = match target.to {
        fanout::To::Room(room) => ("room", room),
        fanout::To::User(user) => ("user", user.as_str()),
        fanout::To::All => ("all", ""),
    };
    for part in [namespace.as_str(), to.0, to.1, event, data.map(RawValue::get).unwrap_or_default()] {
        digest.update(part.len().to_be_bytes());
        digest.update(part.as_bytes());
    }
    let bytes = digest.finalize();
    bytes.iter().take(8).fold(0, |print, byte| print << 8 | u64::from(*byte))
}

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

/// Whom an event is for.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum To {
    /// All sockets of a user.
    User(#[schemars(with = "UserIdText")] String),
    /// A room, as the cluster calls it.
    Room(#[schemars(with = "RoomName")] String),
}

/// Whom an event is for, or a word for many.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Whom {
    Named(To),
    /// Every socket of the namespace, or the other servers of the cluster.
    Word(#[schemars(extend("enum" = ["all", "servers"]))] String),
}

/// An event to be emitted.
// What is not known is refused: who excepts somebody, or sends several arguments, must not be told that it was done.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Emit {
    /// `/` unless sent.
    namespace: Option<String>,
    #[serde(deserialize_with = "whom")]
    #[schemars(with = "Whom")]
    to: Option<Whom>,
    /// The event's name; none of Socket.IO's own, and to servers neither `connection` nor `new_namespace`.
    #[schemars(with = "EventName")]
    event: String,
    /// The event's argument; without it the event has none.
    data: Option<Box<RawValue>>,
}

/// The body, as large as an event of a client may be.
struct EmitBody(Emit);

impl FromRequest<Site> for EmitBody {
    type Rejection = AppError;

    async fn from_request(request: Request, site: &Site) -> Result<Self, AppError> {
        // Room for the other fields beside a payload of the full size.
        let max = site.transports.engine.max_payload + REST_BODY_MAX_BYTES;
        read_json(request, max).await.map(Self)
    }
}

/// Reads `to`; `None` where it is nothing that an event can be for, which gets an answer of its own.
fn whom<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Whom>, D::Error> {
    let to = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(to.get()).ok())
}

/// Events by which a namespace of a Node.js server speaks to its own handlers: one from outside would have them handle a
/// socket that is none.
const SERVERS_OWN_EVENTS: [&str; 2] = ["connection", "new_namespace"];

/// What became of it.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Emitted {
    #[schemars(with = "True")]
    success: bool,
    /// Nodes and other servers that received it, this one among them; 0 where it was not emitted again. Not given for
    /// `servers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize")]
    nodes: Option<usize>,
    /// Sockets of those nodes that it is for, at the moment after it was sent; `null` where not all nodes have told, or it was
    /// not sent again. Node.js servers' sockets are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<usize>")]
    sockets: Option<Option<usize>>,
    /// Its place in the room, `epoch:offset`; `null` where places are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    place: Option<Option<String>>,
    /// It had been emitted under its key before, and was not again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    repeated: Option<bool>,
}

/// Its route.
pub(super) fn routes() -> Routes<Site> {
    Routes::new().route(
        Operation::post(
            "/internal/emit",
            "Emits an event to a user, a room, a namespace, or the other servers of the cluster.",
        )
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
    let Emit { namespace, to, event, data } = body;
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
        Whom::Named(To::User(id)) => {
            user = UserId::parse(id).map_err(|_| AppError::BadInput("Invalid user".into()))?;
            Target::user(&namespace, &user)
        }
        Whom::Named(To::Room(name)) => {
            room = Room::of_cluster(name).ok_or_else(|| AppError::BadInput("Invalid room".into()))?;
            Target::room(&namespace, room.as_str())
        }
        Whom::Word(word) if word == "all" => Target::all(&namespace),
        Whom::Word(word) if word == "servers" => {
            if SERVERS_OWN_EVENTS.contains(&&*event) {
                return Err(AppError::BadInput("Invalid event".into()));
            }
            let args: Vec<&str> = data.as_deref().map(RawValue::get).into_iter().collect();
            site.context.fanout.server_side_emit(&namespace, &event, &args).await?;
            return Ok(Json(Emitted { success: true, ..Emitted::default() }));
        }
        Whom::Word(_) => return Err(invalid_to()),
    };
    let key = key_of(&headers)?;
    let once;
    let target = match &key {
        None => target.tracked(),
        Some(key) => {
            // The key holds for what it was first used for; anything else under it is told apart by its fingerprint.
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
    Ok(Json(emitted(&site, &target, receipt).await))
}

/// Whether backends may name an event so: by the rule for their rooms.
fn is_event(name: &str) -> bool {
    (1..=ID_MAX_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

async fn emitted(site: &Site, target: &Target<'_>, receipt: Receipt) -> Emitted {
    // It is on its way: what is not known of it does not make it undone.
    let sockets =
        if receipt.repeated { None } else { site.context.fanout.reach(target).await.unwrap_or_default() };
    Emitted {
        success: true,
        nodes: Some(receipt.nodes),
        sockets: Some(sockets),
        place: Some(receipt.place),
        repeated: Some(receipt.repeated),
    }
}

/// What a request asks for, in short; the same on every node.
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

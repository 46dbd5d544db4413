//! `relay`: generic rooms for any client (contract, "relay").
//!
//! The plain form of what the gateway does, and the one to measure. Nothing is stored; payloads pass
//! through as they came, binary and JSON alike. What a client may do stands in its token's claims `rooms`
//! and `publish`.

mod describe;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout::{Answers, Posted, RoomCount, Target};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::auth::Claims;
use shared::config::AppDeclaration;
use shared::ids::SocketId;
use shared::json::without_lone_surrogates;
use shared::limits::{ACK_MAX_MS, MEMBERS_MAX};
use shared::names::{Room, USER_ROOM_PREFIX, is_name, is_word};
use shared::sio::{self, Answer, is_servers_event};

use super::{Admission, App, AppKind, Event, Handling, Mount, OwnRooms, Reply, first, unknown_event};
use crate::context::Context;
use crate::describe::forms::{Name, Word};
use crate::error::AppError;
use crate::members::{Listed, listed};
use crate::metrics::{self, Limit};
use crate::socket::Socket;

/// What the app is.
pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration {
        name: "relay",
        namespace: "/relay",
        keeps_records: false,
        pushes: false,
        settings: &[],
    },
    describe: describe::describe,
    rooms: OwnRooms { names: &[], prefixes: &[] },
    start: |mount| Arc::new(Relay::new(mount)),
};

/// Members of one page.
const PAGE: usize = 1_000;

/// What a receiver who is asked for an ack costs, in receivers of a plain event: it answers, and that is brought back.
const ASKED: usize = 10;

/// The app.
#[derive(Debug)]
struct Relay {
    context: Context,
    /// Rooms that belong to apps on the same namespace.
    reserved: Reserved,
}

/// Rooms that belong to other apps.
#[derive(Debug)]
struct Reserved {
    names: Vec<&'static str>,
    prefixes: Vec<&'static str>,
}

impl Reserved {
    /// Those of the apps on the same namespace, and the rooms of users.
    fn of(neighbours: &[&'static AppKind]) -> Self {
        let of_all =
            |of: fn(&AppKind) -> &[&'static str]| neighbours.iter().flat_map(move |kind| of(kind)).copied();
        let prefixes = [USER_ROOM_PREFIX].into_iter().chain(of_all(|kind| kind.rooms.prefixes));
        Self { names: of_all(|kind| kind.rooms.names).collect(), prefixes: prefixes.collect() }
    }

    fn has(&self, room: &str) -> bool {
        self.names.contains(&room) || self.prefixes.iter().any(|prefix| room.starts_with(prefix))
    }
}

/// A room.
#[derive(Deserialize, Serialize, JsonSchema)]
struct InRoom {
    #[schemars(with = "Name")]
    room: String,
}

/// A page of a room's members.
#[derive(Deserialize, JsonSchema)]
struct PageOf {
    #[schemars(with = "Name")]
    #[expect(dead_code, reason = "it is read and checked with that of every other event")]
    room: String,
    /// The `socketId` after which the page begins; from the first on unless sent.
    after: Option<String>,
    /// 1 to 1,000, clamped; 1,000 unless asked for.
    limit: Option<i64>,
}

/// An event for a room.
#[derive(Deserialize, JsonSchema)]
struct Publish<'a> {
    #[serde(borrow)]
    #[schemars(with = "Name")]
    room: std::borrow::Cow<'a, str>,
    /// The event's name; none of Socket.IO's own, not `error`, and none that begins with `connect` or `muster:`.
    #[serde(borrow)]
    #[schemars(with = "Word")]
    event: std::borrow::Cow<'a, str>,
    /// The event's argument; without it the event has none. Binary data passes through, too.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// Whether the publisher is among the receivers; `true` unless sent.
    #[serde(rename = "self")]
    to_self: Option<bool>,
    /// Milliseconds that acks of the receivers are waited for; they go into the publisher's ack.
    #[schemars(range(min = 1, max = ACK_MAX_MS))]
    ack: Option<u64>,
}

/// What the receivers of an event answered.
#[derive(Serialize, JsonSchema)]
struct Answered<'a> {
    /// How many were asked.
    receivers: usize,
    /// How many of them did not answer in time; `null` where a server has not said how many it asked.
    missing: Option<usize>,
    /// What the others answered, in no order. Binary data passes through: ten values, which is what a client takes in one
    /// packet, and what is more as `{type: "Buffer", data: [...]}`.
    answers: Vec<&'a RawValue>,
}

/// Who is in a room.
#[derive(Serialize, JsonSchema)]
struct Members<'a> {
    #[schemars(with = "Name")]
    room: &'a str,
    /// In the order of their `socketId`.
    members: Vec<Listed<'a>>,
    /// Whether there are others after these.
    #[serde(rename = "hasMore")]
    has_more: bool,
    /// How many sockets there are.
    count: usize,
    /// How many distinct users that is.
    users: usize,
}

/// An event whose receivers are asked for acks.
struct Asked {
    room: String,
    name: String,
    data: Option<String>,
    attachments: Vec<Bytes>,
}

impl App for Relay {
    fn kind(&self) -> &'static AppKind {
        &KIND
    }

    fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling {
        let claims = socket.claims();
        if claims.rooms.is_empty() && claims.publish.is_empty() {
            // The contract: a token without these claims may do nothing here.
            return not_allowed();
        }
        match &*event.name {
            "publish" => self.publish(socket, event),
            "echo" => {
                let json = event.args.raw.first().copied().unwrap_or("null").to_owned();
                Handling::Done(Ok(Reply { json, attachments: event.attachments }))
            }
            name @ ("join" | "leave" | "members") => match first::<InRoom>(&event.args)
                .filter(|asked| self.is_room(&asked.room))
                .and_then(|InRoom { room }| Room::parse(&room).ok())
            {
                None => Handling::refuse("Invalid room"),
                Some(room) if name == "leave" => self.leave(socket, room),
                Some(room) if !claims.may_join(room.as_str()) => not_allowed(),
                Some(room) if name == "join" => self.join(socket, room),
                Some(room) => match first::<PageOf>(&event.args) {
                    Some(PageOf { after, limit, .. }) => self.members(socket, room, after, limit),
                    None => Handling::refuse("Expected {room, after?, limit?}"),
                },
            },
            _ => Handling::Done(Err(unknown_event())),
        }
    }

    fn admits<'a>(&'a self, claims: &'a Claims, room: &'a Room) -> Admission<'a> {
        Admission::Known(self.is_room(room.as_str()).then(|| claims.may_join(room.as_str())))
    }
}

impl Relay {
    fn new(Mount { context, neighbours, .. }: Mount<'_>) -> Self {
        Self { context, reserved: Reserved::of(neighbours) }
    }

    /// Whether clients may name a room so: not like other apps' rooms.
    fn is_name_of_room(&self, name: &str) -> bool {
        is_name(name) && !self.reserved.has(name)
    }

    /// Whether clients may be in a room of this name: not where it is the own room of a socket of this node.
    fn is_room(&self, name: &str) -> bool {
        self.is_name_of_room(name)
            && SocketId::parse(name).is_none_or(|id| id.node() != self.context.fanout.node())
    }

    fn join(&self, socket: &Arc<Socket>, room: Room) -> Handling {
        let (context, socket) = (self.context.clone(), Arc::clone(socket));
        Handling::later(async move {
            if let Some(id) = SocketId::parse(room.as_str())
                && context.fanout.peer(id.node()).await?.is_some()
            {
                // A socket's own room on another node: what is sent to that socket alone would be heard in it.
                return Err(AppError::BadInput("Invalid room".into()));
            }
            context.fanout.enter(socket.local(), &room).await?;
            Ok(Reply::success(&InRoom { room: room.as_str().to_owned() }))
        })
    }

    fn leave(&self, socket: &Arc<Socket>, room: Room) -> Handling {
        let (context, socket) = (self.context.clone(), Arc::clone(socket));
        Handling::later(async move {
            context.fanout.leave(socket.local(), room.as_str()).await;
            Ok(Reply::success(&InRoom { room: room.as_str().to_owned() }))
        })
    }

    fn publish(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling {
        let raw = event.args.raw.first().copied().unwrap_or_default();
        let mut publish: Option<Publish<'_>> = serde_json::from_str(raw).ok();
        let readable = if publish.is_none() { without_lone_surrogates(raw) } else { None };
        if let Some(readable) = &readable {
            publish = serde_json::from_str(readable).ok();
        }
        let Some(publish) = publish else { return Handling::refuse("Expected {room, event, data}") };
        let (room, name) = (&*publish.room, &*publish.event);
        if !self.is_name_of_room(room) {
            return Handling::refuse("Invalid room");
        }
        if !is_word(name) || is_servers_event(name) {
            return Handling::refuse("Invalid event");
        }
        if !socket.claims().may_publish(room) {
            return not_allowed();
        }
        let data = publish.data.map(RawValue::get);
        let to_self = publish.to_self != Some(false);
        if let Some(wait_ms) = publish.ack {
            let (name, data) = (name.to_owned(), data.map(str::to_owned));
            let asked = Asked { room: room.to_owned(), name, data, attachments: event.attachments };
            return self.ask(socket, asked, to_self, wait_ms);
        }
        socket.charge_room(&self.context, room);
        let packet = {
            let event = sio::Event {
                namespace: socket.namespace().as_str(),
                name,
                args: data.as_slice(),
                ack: None,
                attachments: &event.attachments,
            };
            self.context.fanout.packet(&to_room(socket, room, to_self), &event)
        };
        let waiting = match self.context.fanout.post(to_room(socket, room, to_self), packet) {
            Posted::Done(done) => return Handling::Done(done.map(|_| Reply::ok()).map_err(AppError::from)),
            Posted::Waits(waiting) => waiting,
        };
        // It has its place: what the client publishes next comes after it, and need not wait for its answer.
        match socket.post() {
            Some(place) => Handling::Apart(Box::pin(async move {
                let outcome = waiting.await;
                drop(place);
                outcome?;
                Ok(Reply::ok())
            })),
            None => Handling::later(async move {
                waiting.await?;
                Ok(Reply::ok())
            }),
        }
    }

    /// Publishes and answers with what the receivers answered.
    fn ask(&self, socket: &Arc<Socket>, asked: Asked, to_self: bool, wait_ms: u64) -> Handling {
        if !(1..=ACK_MAX_MS).contains(&wait_ms) {
            return Handling::refuse(format!("Invalid ack: expected 1 to {ACK_MAX_MS} milliseconds"));
        }
        let Some(mut asking) = socket.ask() else {
            return Handling::Done(Err(too_many_questions()));
        };
        let (context, socket) = (self.context.clone(), Arc::clone(socket));
        // Not in the publisher's turn: it may be among those asked, and answers with its next packet.
        Handling::Apart(Box::pin(async move {
            let data = asked.data.as_deref();
            let event = sio::Event {
                namespace: socket.namespace().as_str(),
                name: &asked.name,
                args: data.as_slice(),
                ack: None,
                attachments: &asked.attachments,
            };
            let count = context.fanout.count(socket.namespace().as_str(), &asked.room).await?.count;
            if count.sockets > MEMBERS_MAX {
                return Err(AppError::TooLarge(format!("More than {MEMBERS_MAX} receivers").into()));
            }
            if !asking.expect(count.sockets) {
                return Err(too_many_questions());
            }
            socket.charge_receivers(count.sockets.saturating_mul(ASKED));
            let target = to_room(&socket, &asked.room, to_self);
            let answered: Answers =
                context.fanout.ask(target, &event, Duration::from_millis(wait_ms)).await?;
            drop(asking);
            if !socket.claims().may_publish(&asked.room) {
                // Its token was renewed meanwhile, and what is said in the room is not for it any more.
                return Err(AppError::Forbidden("Not allowed".into()));
            }
            let (answers, attachments) = Answer::list(&answered.answers);
            let reply = Reply::success(&Answered {
                receivers: answered.receivers,
                missing: answered.missing(),
                // They are JSON already; one that were not would be no answer.
                answers: answers
                    .iter()
                    .map(|raw| serde_json::from_str(raw).unwrap_or(RawValue::NULL))
                    .collect(),
            });
            Ok(Reply { attachments, ..reply })
        }))
    }

    fn members(
        &self,
        socket: &Arc<Socket>,
        room: Room,
        after: Option<String>,
        limit: Option<i64>,
    ) -> Handling {
        let (context, socket) = (self.context.clone(), Arc::clone(socket));
        let limit = limit.and_then(|limit| usize::try_from(limit.max(1)).ok()).unwrap_or(PAGE).min(PAGE);
        Handling::later(async move {
            let namespace = socket.namespace().as_str();
            let mut members = context.fanout.members(namespace, room.as_str()).await?;
            // All of them have been read.
            socket.charge_receivers(members.len());
            let RoomCount { sockets: count, users } = RoomCount::of(&members);
            members.sort_by_key(|member| member.socket);
            let after = after.as_deref().unwrap_or_default();
            let first = members.partition_point(|member| member.socket.as_str() <= after);
            let page = members.get(first..).unwrap_or_default();
            let has_more = page.len() > limit;
            let members = listed(page.get(..limit).unwrap_or(page));
            Ok(Reply::success(&Members { room: room.as_str(), members, has_more, count, users }))
        })
    }
}

fn too_many_questions() -> AppError {
    metrics::get().rate_limited(Limit::Questions);
    AppError::Limited("Too many open questions".into(), 1)
}

fn to_room<'a>(socket: &'a Socket, room: &'a str, to_self: bool) -> Target<'a> {
    let target = Target::room(socket.namespace(), room);
    if to_self { target } else { target.except(socket.id()) }
}

fn not_allowed() -> Handling {
    Handling::Done(Err(AppError::Forbidden("Not allowed".into())))
}

//! `relay`: generic rooms for any client (contract, "relay").
//!
//! The plainest use of the gateway, and the app to benchmark. Nothing is stored. JSON and binary payloads pass
//! through unchanged. The token's claims `rooms` and `publish` say what a client may do.

mod describe;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout::{Answers, Posted, RoomCount, Target, Turn};
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

pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration { name: "relay", namespace: "/relay", keeps_records: false, settings: &[] },
    describe: describe::describe,
    limits: &[],
    rooms: OwnRooms { names: &[], prefixes: &[] },
    start: |mount| Arc::new(Relay::new(mount)),
};

/// Members per page.
const PAGE: usize = 1_000;

/// The cost of a receiver who is asked for an ack, in receivers of a plain event: its answer has to be collected,
/// too.
const ASKED: usize = 10;

/// The running app.
#[derive(Debug)]
struct Relay {
    context: Context,
    /// Rooms of other apps on the same namespace.
    reserved: Reserved,
}

/// Rooms that belong to other apps.
#[derive(Debug)]
struct Reserved {
    names: Vec<&'static str>,
    prefixes: Vec<&'static str>,
}

impl Reserved {
    /// Reserves the rooms of apps on the same namespace, and the rooms of users.
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
#[schemars(rename = "RelayRoom")]
struct InRoom {
    #[schemars(with = "Name")]
    room: String,
}

/// A request for a page of a room's members.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RelayMembersQuery")]
struct PageOf {
    #[schemars(with = "Name")]
    #[expect(dead_code, reason = "every event's room is read and checked together")]
    room: String,
    /// The `socketId` after which the page begins. Default: from the first.
    after: Option<String>,
    /// 1 to 1,000, clamped. Default: 1,000.
    limit: Option<i64>,
}

/// An event to publish in a room.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RelayPublish")]
struct Publish<'a> {
    #[serde(borrow)]
    #[schemars(with = "Name")]
    room: std::borrow::Cow<'a, str>,
    /// The event's name. Socket.IO's reserved names, `error`, and names that begin with `connect` or `muster:` are
    /// refused.
    #[serde(borrow)]
    #[schemars(with = "Word")]
    event: std::borrow::Cow<'a, str>,
    /// The event's argument. If left out, the event has none. May contain binary data.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// Whether the publisher is among the receivers. Default: `true`.
    #[serde(rename = "self")]
    to_self: Option<bool>,
    /// How many milliseconds to wait for the receivers' acks, which the publisher's ack then contains.
    #[schemars(range(min = 1, max = ACK_MAX_MS))]
    ack: Option<u64>,
}

/// The answers of an event's receivers.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RelayPublished")]
struct Answered<'a> {
    /// How many receivers were asked.
    receivers: usize,
    /// How many of them did not answer in time. `null` if a server did not report how many it asked.
    missing: Option<usize>,
    /// The other receivers' answers, in no particular order. Up to ten binary values pass through as such, which is
    /// what a client accepts in one packet. Further ones become `{type: "Buffer", data: [...]}`.
    answers: Vec<&'a RawValue>,
}

/// The members of a room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RelayMembers")]
struct Members<'a> {
    #[schemars(with = "Name")]
    room: &'a str,
    /// In the order of their `socketId`.
    members: Vec<Listed<'a>>,
    /// Whether more members follow.
    #[serde(rename = "hasMore")]
    has_more: bool,
    /// The number of sockets.
    count: usize,
    /// The number of distinct users.
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
            // The contract: a token without these claims grants nothing here.
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

    /// Whether a client may use this room name. Names of other apps' rooms are reserved.
    fn is_name_of_room(&self, name: &str) -> bool {
        is_name(name) && !self.reserved.has(name)
    }

    /// Whether a client may use a room of this name. A socket's own room on this node is refused.
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
                // This is the own room of a socket on another node. A member would receive that socket's private
                // events.
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
        // The event has its place in the order. The client's next event comes after it and need not wait for its
        // answer.
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

    /// Publishes an event and collects the receivers' answers.
    fn ask(&self, socket: &Arc<Socket>, asked: Asked, to_self: bool, wait_ms: u64) -> Handling {
        if !(1..=ACK_MAX_MS).contains(&wait_ms) {
            return Handling::refuse(format!("Invalid ack: expected 1 to {ACK_MAX_MS} milliseconds"));
        }
        let Some(mut asking) = socket.ask() else {
            return Handling::Done(Err(too_many_questions()));
        };
        let (context, socket) = (self.context.clone(), Arc::clone(socket));
        let (turn, placed) = Turn::new();
        // Do not block the publisher's next events: the publisher may be among the receivers, and would answer with
        // its next packet.
        let work = Box::pin(async move {
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
                context.fanout.ask(target, &event, Duration::from_millis(wait_ms), turn).await?;
            drop(asking);
            if !socket.claims().may_publish(&asked.room) {
                // The token was renewed meanwhile, and no longer allows this room.
                return Err(AppError::Forbidden("Not allowed".into()));
            }
            let (answers, attachments) = Answer::list(&answered.answers);
            let reply = Reply::success(&Answered {
                receivers: answered.receivers,
                missing: answered.missing(),
                // Answers are JSON already. Invalid ones do not count as answers.
                answers: answers
                    .iter()
                    .map(|raw| serde_json::from_str(raw).unwrap_or(RawValue::NULL))
                    .collect(),
            });
            Ok(Reply { attachments, ..reply })
        });
        Handling::Placing { work, placed }
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
            // The node has read all members.
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

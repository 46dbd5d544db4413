//! The applications. Each is a folder with the same face: its events, what it does with them, and what it
//! does when a socket goes. Apps use [`Socket`] and [`Context`] and never each other.
//!
//! A new app is a folder, a variant of [`App`] and of [`AppName`], and the arms that the compiler then asks
//! for.

pub(crate) mod care;
pub(crate) mod chat;
pub(crate) mod emergencies;
pub(crate) mod relay;
pub(crate) mod sos;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanout::{Gone, Left, Sequenced};
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::auth::Claims;
use shared::config::AppName;
use shared::names::{Namespace, Room, USER_ROOM_PREFIX, UserId};
use shared::sio::Args;

use crate::announce::Announcement;
use crate::context::Context;
use crate::describe::Section;
use crate::describe::forms::True;
use crate::error::{AppError, Say};
use crate::limiter::Meters;
use crate::metrics::{self, Limit};
use crate::socket::Socket;
use crate::text::json;

/// An app of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum App {
    Care(Arc<care::Care>),
    Chat(Arc<chat::Chat>),
    Emergencies(Arc<emergencies::Emergencies>),
    Relay(relay::Relay),
    Sos(Arc<sos::Sos>),
}

/// An event for an app.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) args: Args<'a>,
    pub(crate) attachments: Vec<Bytes>,
}

/// A successful answer: raw JSON of the ack's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) json: String,
    pub(crate) attachments: Vec<Bytes>,
}

/// What became of an event.
pub(crate) type Handled = Result<Reply, AppError>;

/// How an app handles an event.
pub(crate) enum Handling {
    /// It is done: nothing had to be waited for.
    Done(Handled),
    /// It waits; the client's next event waits for it.
    Later(BoxFuture<'static, Handled>),
    /// It waits for clients, perhaps for this one, or it has its place in the order already: the client's next
    /// events are handled meanwhile.
    Apart(BoxFuture<'static, Handled>),
}

/// A socket has gone.
#[derive(Debug)]
pub(crate) struct Departure {
    /// The rooms it was in. Whose last socket it was is told later, by [`App::on_gone`].
    pub(crate) rooms: Vec<Room>,
}

impl App {
    /// Makes an app that shares its namespace with `neighbours`.
    pub(crate) fn new(
        name: AppName,
        context: &Context,
        namespace: &Namespace,
        neighbours: &[AppName],
    ) -> Self {
        match name {
            AppName::Chat => Self::Chat(chat::Chat::start(context.clone())),
            AppName::Care => Self::Care(care::Care::start(context.clone(), namespace.clone())),
            AppName::Emergencies => {
                Self::Emergencies(emergencies::Emergencies::start(context.clone(), namespace.clone()))
            }
            AppName::Sos => Self::Sos(sos::Sos::start(context.clone(), namespace.clone())),
            AppName::Relay => {
                let mut reserved = relay::Reserved { names: Vec::new(), prefixes: vec![USER_ROOM_PREFIX] };
                for neighbour in neighbours {
                    match neighbour {
                        AppName::Care => reserved.prefixes.extend(care::ROOM_PREFIXES),
                        AppName::Chat => reserved.prefixes.push(chat::ROOM_PREFIX),
                        AppName::Emergencies => {
                            reserved.prefixes.push(emergencies::ROOM_PREFIX);
                            reserved.names.push(emergencies::HELPERS);
                        }
                        AppName::Sos => reserved.prefixes.push(sos::ROOM_PREFIX),
                        AppName::Relay => {}
                    }
                }
                Self::Relay(relay::Relay::new(context.clone(), reserved))
            }
        }
    }

    pub(crate) fn name(&self) -> AppName {
        match self {
            Self::Sos(_) => AppName::Sos,
            Self::Emergencies(_) => AppName::Emergencies,
            Self::Chat(_) => AppName::Chat,
            Self::Care(_) => AppName::Care,
            Self::Relay(_) => AppName::Relay,
        }
    }

    /// The names of its events, for routing and for telling collisions.
    pub(crate) fn events(&self) -> &'static [&'static str] {
        match self {
            Self::Sos(_) => sos::EVENTS,
            Self::Emergencies(_) => emergencies::EVENTS,
            Self::Chat(_) => chat::EVENTS,
            Self::Care(_) => care::EVENTS,
            Self::Relay(_) => relay::EVENTS,
        }
    }

    /// What one of its events costs the node, in units of its user's budget: a plain one is 1, and none is more than
    /// `USER_EVENTS_FACTOR`, so that a user with one socket meets no other limit than that socket's.
    pub(crate) fn weight(&self, event: &str) -> u32 {
        match self {
            Self::Chat(_) => chat::weight(event),
            Self::Care(_) => care::weight(event),
            Self::Relay(_) => relay::weight(event),
            // Records are asked.
            Self::Emergencies(_) | Self::Sos(_) => 5,
        }
    }

    pub(crate) fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling {
        match self {
            Self::Sos(sos) => sos::on_event(sos, socket, &event),
            Self::Emergencies(app) => emergencies::on_event(app, socket, &event),
            Self::Chat(chat) => chat::on_event(chat, socket, &event),
            Self::Care(care) => care::on_event(care, socket, &event),
            Self::Relay(relay) => relay.on_event(socket, event),
        }
    }

    /// A socket is connected, and its client has been told.
    pub(crate) async fn on_connect(&self, socket: &Arc<Socket>) {
        match self {
            Self::Sos(sos) => sos::on_connect(sos, socket).await,
            Self::Emergencies(app) => emergencies::on_connect(app, socket).await,
            Self::Care(care) => care::on_connect(care, socket).await,
            Self::Chat(_) | Self::Relay(_) => {}
        }
    }

    /// Whether a socket with these claims may be in a room now; `None` where it is none of this app's rooms. The one place
    /// where an app says so: joins ask it, and it is asked again whenever access changes.
    ///
    /// # Errors
    /// Where the records decide and do not answer.
    pub(crate) async fn admits(&self, claims: &Claims, room: &Room) -> Result<Option<bool>, AppError> {
        match self {
            Self::Care(care) => care.admits(claims, room).await,
            Self::Emergencies(app) => app.admits(claims, room).await,
            // Any token opens every room.
            Self::Chat(_) => Ok(chat::is_room(room).then_some(true)),
            Self::Relay(relay) => Ok(relay.admits(claims, room)),
            // The record of who takes part decides, not the token, and it moves the sockets when it changes.
            Self::Sos(_) => Ok(sos::is_room(room).then_some(true)),
        }
    }

    /// A socket was taken out of a room that it may not be in any more: the others are told.
    pub(crate) async fn on_removed(&self, socket: &Arc<Socket>, room: &Room, left: Left) {
        match self {
            Self::Care(care) => care::on_removed(care, socket, room, left).await,
            Self::Emergencies(app) => emergencies::on_removed(app, socket, room, left).await,
            Self::Chat(_) | Self::Relay(_) | Self::Sos(_) => {}
        }
    }

    /// A socket has a newer token, which may give it more rights.
    pub(crate) async fn on_renewed(&self, socket: &Arc<Socket>) {
        match self {
            Self::Emergencies(app) => emergencies::on_renewed(app, socket).await,
            Self::Care(_) | Self::Chat(_) | Self::Relay(_) | Self::Sos(_) => {}
        }
    }

    pub(crate) fn on_disconnect(&self, departure: &Departure) {
        match self {
            Self::Chat(chat) => chat::on_disconnect(chat, departure),
            Self::Care(_) | Self::Emergencies(_) | Self::Relay(_) | Self::Sos(_) => {}
        }
    }

    /// A user's last socket in a room is gone for good.
    pub(crate) async fn on_gone(&self, gone: &Gone) {
        match self {
            Self::Chat(chat) => chat::on_gone(chat, gone).await,
            Self::Emergencies(app) => emergencies::on_gone(app, gone).await,
            Self::Care(care) => care::on_gone(care, gone).await,
            Self::Relay(_) | Self::Sos(_) => {}
        }
    }

    /// A user who was told to be gone is there: their node had been cut off.
    pub(crate) async fn on_back(&self, back: &Gone) {
        match self {
            Self::Chat(chat) => chat::on_back(chat, back).await,
            Self::Emergencies(app) => emergencies::on_back(app, back).await,
            Self::Care(care) => care::on_back(care, back).await,
            Self::Relay(_) | Self::Sos(_) => {}
        }
    }

    /// A broadcast with a place in an order that this app keeps; false when it is none of its.
    pub(crate) fn on_sequenced(&self, broadcast: &Sequenced) -> bool {
        match self {
            Self::Chat(chat) => chat::on_sequenced(chat, broadcast),
            Self::Care(care) => care::on_sequenced(care, broadcast),
            Self::Emergencies(_) | Self::Relay(_) | Self::Sos(_) => false,
        }
    }

    /// An announcement was told that had been left over.
    pub(crate) async fn on_told(&self, announcement: &Announcement) {
        match self {
            Self::Care(care) => care::on_told(care, announcement).await,
            Self::Emergencies(app) => emergencies::on_told(app, announcement).await,
            Self::Sos(sos) => sos::on_told(sos, announcement).await,
            Self::Chat(_) | Self::Relay(_) => {}
        }
    }

    /// Something may have been missed in any room.
    pub(crate) async fn on_resubscribed(&self) {
        match self {
            Self::Chat(chat) => chat::on_resubscribed(chat),
            Self::Sos(sos) => sos::on_resubscribed(sos).await,
            Self::Emergencies(app) => emergencies::on_resubscribed(app).await,
            Self::Care(care) => care::on_resubscribed(care).await,
            Self::Relay(_) => {}
        }
    }
}

/// A success, with what it brings.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Ack")]
pub(crate) struct Success<'a, T> {
    #[schemars(with = "True")]
    success: bool,
    #[serde(flatten)]
    body: &'a T,
}

/// The ack of an event that is answered with `{success: true, …T}`, for its description.
pub(crate) type Ack<T> = Success<'static, T>;

/// A success that brings nothing.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Done {
    #[schemars(with = "True")]
    success: bool,
}

impl Reply {
    /// `{success: true, …body}`.
    pub(crate) fn success(body: &impl Serialize) -> Self {
        Self { json: json(&Success { success: true, body }), attachments: Vec::new() }
    }

    /// `{success: true}`.
    pub(crate) fn ok() -> Self {
        Self { json: json(&Done { success: true }), attachments: Vec::new() }
    }
}

/// Describes an app's events.
pub(crate) fn describe(app: AppName, section: &mut Section) {
    match app {
        AppName::Sos => sos::describe(section),
        AppName::Emergencies => emergencies::describe(section),
        AppName::Care => care::describe(section),
        AppName::Chat => chat::describe(section),
        AppName::Relay => relay::describe(section),
    }
}

impl Handling {
    pub(crate) fn later(future: impl Future<Output = Handled> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    pub(crate) fn refuse(say: impl Into<Say>) -> Self {
        Self::Done(Err(AppError::BadInput(say.into())))
    }
}

/// Takes a unit of a user's rate.
///
/// # Errors
/// [`AppError::Limited`], counted.
fn within(meters: &Meters<UserId>, user: &UserId) -> Result<(), AppError> {
    if meters.take(user.clone(), Instant::now()) {
        return Ok(());
    }
    Err(limited(1))
}

/// What a user is refused who is over a rate, counted; `seconds` are until it is worth trying again.
fn limited(seconds: u64) -> AppError {
    metrics::get().rate_limited(Limit::UserRate);
    AppError::Limited("Too many requests".into(), seconds)
}

/// The first argument as `T`; `None` when it is not there or not one.
pub(crate) fn first<T: DeserializeOwned>(args: &Args<'_>) -> Option<T> {
    shared::json::read(args.raw.first()?).ok()
}

//! `care`: telehealth (document 004; contract, "care").
//!
//! - [`rooms`]: access, members and typing.
//! - [`messages`]: storing, sending, and delivery status.
//! - [`call`]: the states of a call; [`calls`] runs them across nodes.
//! - [`presence`]: one status per user, whatever the number of sockets.
//! - [`notifications`]: stored, and sent to the user's connected sockets.
//!
//! The jobs that follow from a record are stored with it ([`crate::jobs`]).

mod call;
mod call_events;
mod call_store;
mod calls;
mod describe;
mod events;
mod limits;
mod message;
mod message_store;
mod messages;
mod notifications;
mod presence;
mod rates;
mod rest;
mod room_id;
mod rooms;
mod settings;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use dashmap::DashMap;
use fanout::{Gone, Left, Sequenced};
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::config::AppDeclaration;
use shared::ids::SocketId;
use shared::names::{Namespace, Room, UserId};

use super::{Admission, App, AppKind, Event, Handled, Handling, Hook, Mount, OwnRooms, hook};
use crate::context::Context;
use crate::describe::forms::UserIdText;
use crate::error::AppError;
use crate::jobs::{Audience, EventJob, Job, Ran};
use crate::rest::{HasContext, Served};
use crate::socket::Socket;
use events::ClientEvent;
use rates::Rates;
use room_id::ROOM_PREFIXES;
use settings::Settings;

/// The app's name.
const NAME: &str = "care";

/// The prefix of users' notification rooms. All sockets of a user are in theirs, so its members show whether the
/// user is connected.
const NOTIFICATIONS_PREFIX: &str = "notifications:";

pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration { name: NAME, namespace: "/", keeps_records: true, settings: settings::ALL },
    describe: describe::describe,
    limits: limits::ALL,
    rooms: OwnRooms { names: &[], prefixes: ROOM_PREFIXES },
    start: |Mount { context, namespace, .. }| Arc::new(Care::start(context, namespace)),
};

/// The running app.
#[derive(Debug)]
pub(crate) struct Care {
    context: Context,
    namespace: Namespace,
    settings: Settings,
    presence: presence::Local,
    /// The last call that rang at each socket of this node, identified by when it began.
    rung: DashMap<SocketId, i64>,
    rates: Rates,
}

impl Care {
    /// Creates the app and starts its background tasks.
    fn start(context: Context, namespace: Namespace) -> Arc<Self> {
        let (presence, rung) = (presence::Local::default(), DashMap::new());
        let settings = Settings::of(&context.settings);
        let rates = Rates::new(settings.calls_per_minute);
        let care = Arc::new(Self { context, namespace, settings, presence, rung, rates });
        let tasks = &care.context.tasks;
        tasks.spawn_until_stop(presence::settle_offline(Arc::clone(&care)));
        tasks.spawn_until_stop(presence::find_idle(Arc::clone(&care)));
        care
    }

    /// A user has gone offline for good, so their call fails.
    async fn went_offline(self: &Arc<Self>, user: &UserId) -> Result<(), AppError> {
        calls::party_lost(self, user).await
    }

    /// An event to all sockets of a user about a change of `subject`.
    fn to_user(&self, subject: &str, user: &UserId, event: &str, body: &impl Serialize) -> EventJob {
        Job::event_to(subject, (&self.namespace, Audience::User(user.clone())), event, body)
    }
}

fn notifications_room(user: &UserId) -> Room {
    Room::prefixed(NOTIFICATIONS_PREFIX, user.as_str())
}

/// The `realtime` of an ack: `false` if the event will be delivered later.
fn if_late(realtime: bool) -> Option<bool> {
    (!realtime).then_some(false)
}

/// The connected socket and its user.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Connected<'a> {
    socket_id: &'a str,
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
}

impl HasContext for Care {
    fn context(&self) -> &Context {
        &self.context
    }
}

impl App for Arc<Care> {
    fn kind(&self) -> &'static AppKind {
        &KIND
    }

    fn routes(&self) -> Served {
        rest::routes().with_state(Self::clone(self))
    }

    fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling {
        presence::touch(self, socket.user());
        match ClientEvent::decode(&event.name, &event.args) {
            Ok(event) if event.is_snapshot() => {
                Handling::snapshot(handle(Self::clone(self), Arc::clone(socket), event))
            }
            Ok(event) => Handling::later(handle(Self::clone(self), Arc::clone(socket), event)),
            Err(error) => Handling::Done(Err(error)),
        }
    }

    fn admits<'a>(&'a self, claims: &'a Claims, room: &'a Room) -> Admission<'a> {
        rooms::admits(self, claims, room)
    }

    fn holds_connect(&self) -> bool {
        true
    }

    fn on_connect<'a>(&'a self, socket: &'a Arc<Socket>) -> Hook<'a> {
        hook(on_connect(self, socket))
    }

    fn on_removed<'a>(&'a self, socket: &'a Arc<Socket>, room: &'a Room, left: Left) -> Hook<'a> {
        hook(rooms::removed(self, socket, room, left))
    }

    fn on_gone<'a>(&'a self, gone: &'a Gone) -> Hook<'a> {
        hook(async move {
            if gone.room == notifications_room(&gone.user) {
                presence::gone(self, &gone.user, self.context.fanout.holdback()).await;
            }
            rooms::gone(self, gone).await;
        })
    }

    fn on_back<'a>(&'a self, back: &'a Gone) -> Hook<'a> {
        hook(async move {
            if back.room == notifications_room(&back.user) {
                presence::came(self, &back.user).await;
            }
            rooms::back(self, back).await;
        })
    }

    /// Rings a call, once at each of the recipient's sockets.
    fn on_sequenced(&self, broadcast: Sequenced) -> Option<Sequenced> {
        // Other events to this room carry no sequence number.
        let (Some(user), Some(began)) =
            (broadcast.room.strip_prefix(NOTIFICATIONS_PREFIX), broadcast.sequence)
        else {
            return Some(broadcast);
        };
        if let Ok(user) = UserId::parse(user) {
            calls::rings(self, &user, (began, &broadcast.packet));
        }
        None
    }

    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Ran> {
        Box::pin(async move {
            match job.kind() {
                messages::DELIVERED => messages::run_delivered(self, job).await,
                calls::PRESENCE => calls::run_presence(self, job).await,
                calls::LOOK_AFTER => calls::look_after(self, job).await,
                _ => Ran::done(),
            }
        })
    }

    fn repeats(&self, job: &Job) -> bool {
        job.kind() == calls::PRESENCE
    }

    fn adopt_older(&self) -> Hook<'_> {
        hook(calls::adopt_older(self))
    }

    /// This node may have missed events of other nodes.
    fn on_resubscribed(&self) -> Hook<'_> {
        hook(async move {
            presence::find_missing(self).await;
            calls::ring_all(self).await;
        })
    }
}

async fn handle(care: Arc<Care>, socket: Arc<Socket>, event: ClientEvent) -> Handled {
    match event {
        ClientEvent::RoomJoin(room) => rooms::join(&care, &socket, &room).await,
        ClientEvent::Participants(page) => rooms::participants(&care, &socket, page).await,
        ClientEvent::RoomLeave(room) => rooms::leave(&care, &socket, &room).await,
        ClientEvent::TypingStart(room) => rooms::typing(&care, &socket, &room, true).await,
        ClientEvent::TypingStop(room) => rooms::typing(&care, &socket, &room, false).await,
        ClientEvent::Send(message) => messages::send(&care, &socket, message).await,
        ClientEvent::Read(ids) => messages::read(&care, &socket, ids).await,
        ClientEvent::History(page) => messages::history(&care, &socket, page).await,
        ClientEvent::Conversations(page) => messages::conversations(&care, &socket, page).await,
        ClientEvent::Initiate(call) => calls::initiate(&care, &socket, call).await,
        ClientEvent::Accept(id) => calls::accept(&care, &socket, id).await,
        ClientEvent::Reject(id, reason) => calls::reject(&care, &socket, id, reason).await,
        ClientEvent::End(id) => calls::end(&care, &socket, id).await,
        ClientEvent::Signal(id, signal) => calls::signal(&care, &socket, &id, &signal).await,
        ClientEvent::PresenceGet(users) => presence::get(&care, &socket, &users).await,
        ClientEvent::SetStatus(chosen) => presence::set_status(&care, &socket, chosen).await,
        ClientEvent::Subscribe(users) => presence::subscribe(&care, &socket, &users).await,
        ClientEvent::Unsubscribe(users) => presence::unsubscribe(&care, &socket, users.as_deref()),
        ClientEvent::NotificationRead(id) => notifications::read(&care, &socket, Some(id)).await,
        ClientEvent::NotificationReadAll => notifications::read(&care, &socket, None).await,
        ClientEvent::NotificationList(page) => notifications::list(&care, &socket, page).await,
        ClientEvent::UnreadCount => notifications::unread(&care, &socket).await,
    }
}

/// A socket has connected: marks its user as present.
async fn on_connect(care: &Arc<Care>, socket: &Arc<Socket>) {
    let id = socket.id();
    let body = Connected { socket_id: id.as_str(), user_id: socket.user().as_str() };
    socket.emit(&care.context, "connected", &body);
    if care.context.fanout.enter_own(socket.local(), &notifications_room(socket.user())).await.is_err() {
        // The socket has disconnected.
        return;
    }
    presence::came(care, socket.user()).await;
    let (care, socket) = (Arc::clone(care), Arc::clone(socket));
    drop(care.context.clone().tasks.spawn(async move { calls::ring_again(&care, &socket).await }));
}

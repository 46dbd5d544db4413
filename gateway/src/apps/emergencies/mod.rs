//! `emergencies`: emergencies, their owners and their helpers (document 002; contract, "emergencies").
//!
//! What happens is a record first ([`stories`]); what it tells goes out with the record, or later if it must
//! ([`crate::announce`]). Helpers' positions are live state: whoever left, or whose node died, is near nothing. Rooms
//! follow the records ([`rooms`]): the sockets of an owner and of responding helpers are in an open emergency's room
//! wherever they connect.

mod alert;
mod describe;
mod emergency;
mod events;
mod messages;
mod rooms;
mod store;
mod stories;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fanout::{Gone, Left};
use shared::limits::{HELPER_POSITION_S, LOOKS_BURST, LOOKS_PER_SECOND, RAISE_BURST, RATED_USERS_MAX};
use shared::names::{Namespace, Room, UserId};

use super::{Event, Handled, Handling, limited, within};
use crate::announce::Announcement;
use crate::context::Context;
use crate::limiter::{Meters, Rate};
use crate::socket::Socket;
pub(crate) use describe::describe;
pub(crate) use emergency::{HelperStatus, Priority, ShownMessage};
pub(crate) use events::EVENTS;
pub(crate) use stories::{Detailed, Near, Raise, Resolution, ShownRaised};

/// What the rooms of emergencies are called in the cluster.
pub(crate) const ROOM_PREFIX: &str = "emergency:";

/// The room of all helpers' sockets.
pub(crate) const HELPERS: &str = "helpers";

/// Where helpers are, in the live state.
const POSITIONS: &str = "helpers";

/// How long a helper's position is good.
const POSITION_KEPT: Duration = Duration::from_secs(HELPER_POSITION_S);

/// The app.
#[derive(Debug)]
pub(crate) struct Emergencies {
    context: Context,
    namespace: Namespace,
    helpers: Room,
    rates: Rates,
    alerts: alert::Alerts,
    /// Whether all open emergencies have their squares, as far as this node knows.
    is_filled: AtomicBool,
}

/// Rates of every user, by the class of what they do.
#[derive(Debug)]
struct Rates {
    /// Well above what the records allow on all nodes together, so that a flood does not reach them.
    creations: Meters<UserId>,
    looks: Meters<UserId>,
    messages: Meters<UserId>,
    locations: Meters<UserId>,
    joins: Meters<UserId>,
    responses: Meters<UserId>,
}

impl Default for Rates {
    fn default() -> Self {
        let meters = |per_second, burst| Meters::new(Rate::new(per_second, burst), RATED_USERS_MAX);
        Self {
            creations: meters(1, 2 * RAISE_BURST),
            looks: meters(LOOKS_PER_SECOND, LOOKS_BURST),
            messages: meters(5, 20),
            locations: meters(5, 20),
            joins: meters(10, 40),
            responses: meters(2, 20),
        }
    }
}

impl Emergencies {
    /// Makes the app and starts the task that alerts helpers where that could not be done at once.
    pub(crate) fn start(context: Context, namespace: Namespace) -> Arc<Self> {
        let helpers = Room::prefixed(HELPERS, "");
        let this = Arc::new(Self {
            context,
            namespace,
            helpers,
            rates: Rates::default(),
            alerts: alert::Alerts::default(),
            is_filled: AtomicBool::default(),
        });
        this.context.tasks.spawn_until_stop(alert::alert_left_over(Arc::clone(&this)));
        this
    }
}

/// The room of an emergency.
fn room(id: &str) -> Room {
    Room::prefixed(ROOM_PREFIX, id)
}

pub(crate) fn on_event(app: &Arc<Emergencies>, socket: &Arc<Socket>, event: &Event<'_>) -> Handling {
    let (app, socket) = (Arc::clone(app), Arc::clone(socket));
    match events::ClientEvent::decode(&event.name, &event.args) {
        Ok(event) => Handling::later(handle(app, socket, event)),
        Err(error) => Handling::Done(Err(error)),
    }
}

async fn handle(app: Arc<Emergencies>, socket: Arc<Socket>, event: events::ClientEvent) -> Handled {
    use events::ClientEvent;
    match event {
        ClientEvent::Join(id) => rooms::join(&app, &socket, &id).await,
        ClientEvent::Leave(id) => rooms::leave(&app, &socket, &id).await,
        ClientEvent::Message(message) => messages::send(&app, &socket, message).await,
        ClientEvent::Location(place) => rooms::locate(&app, &socket, place).await,
    }
}

/// A socket is connected: it enters the rooms that the records say.
pub(crate) async fn on_connect(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    rooms::welcome(app, socket).await;
}

/// A socket was taken out of a room that it may not be in any more.
pub(crate) async fn on_removed(app: &Emergencies, socket: &Socket, room: &Room, left: Left) {
    rooms::removed(app, socket, room, left).await;
}

/// A socket has a newer token: it may be a helper's now.
pub(crate) async fn on_renewed(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    rooms::renewed(app, socket).await;
}

/// A user's last socket in a room is gone for good.
pub(crate) async fn on_gone(app: &Emergencies, gone: &Gone) {
    if gone.room == app.helpers {
        rooms::helper_gone(app, &gone.user).await;
    }
}

/// A helper who was told to be gone is there.
pub(crate) async fn on_back(app: &Emergencies, back: &Gone) {
    if back.room == app.helpers {
        rooms::tell_helper(app, &back.user, "helper:online").await;
    }
}

/// An announcement was told that had been left over: a helper whose node died may not be in the room.
pub(crate) async fn on_told(app: &Emergencies, announcement: &Announcement) {
    rooms::told_later(app, announcement).await;
}

/// What another node asked of this one may have been missed.
pub(crate) async fn on_resubscribed(app: &Emergencies) {
    rooms::bring_all(app).await;
}

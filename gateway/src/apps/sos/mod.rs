//! `sos`: participants of an SOS incident (documents 000 and 001; contract, "sos").
//!
//! A participation is a record first; the user's sockets, wherever they are, follow it into the incident's
//! room, and those who are there are told. The REST API of citizens and the internal one of backends run the
//! same [`stories`].

mod ending;
mod events;
mod incidents;
mod internal;
mod owed;
mod rest;
mod store;
mod stories;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shared::auth::Claims;
use shared::config::{AppDeclaration, AppSetting};
use shared::limits::{
    AUTO_JOIN_RETRY_MS, LOOKS_BURST, LOOKS_PER_SECOND, MARKS_BURST, MARKS_PER_SECOND, PARTICIPATIONS_MAX,
    RAISE_BURST, RATED_USERS_MAX,
};
use shared::names::{Namespace, Room, UserId};

use super::{Admission, App, AppKind, Event, Handling, Hook, Mount, OwnRooms, hook, unknown_event};
use crate::announce::Announcement;
use crate::context::Context;
use crate::limiter::{Meters, Rate};
use crate::metrics::{self, Limit};
use crate::rest::{HasContext, Served};
use crate::socket::Socket;

/// What the rooms of incidents are called in the cluster.
const ROOM_PREFIX: &str = "sos:";

static AGE: AppSetting<Duration> = AppSetting::age(
    "sos_age",
    "24h",
    "How long after it was raised an incident of `sos` ends by itself, up to 30d; 0: never.",
);

/// What the app is.
pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration {
        name: "sos",
        namespace: "/",
        keeps_records: true,
        pushes: false,
        settings: &[&AGE],
    },
    describe: events::describe,
    rooms: OwnRooms { names: &[], prefixes: &[ROOM_PREFIX] },
    start: |Mount { context, namespace, .. }| Arc::new(Sos::start(context, namespace)),
};

/// The app.
#[derive(Debug)]
pub(crate) struct Sos {
    context: Context,
    namespace: Namespace,
    owed: owed::Owed,
    rates: Rates,
    /// Whether all open incidents have their squares, as far as this node knows.
    is_filled: AtomicBool,
}

/// Rates of every user on this node.
#[derive(Debug)]
struct Rates {
    /// Well above what the records allow on all nodes together, so that a flood does not reach them.
    raises: Meters<UserId>,
    looks: Meters<UserId>,
    marks: Meters<UserId>,
}

impl Default for Rates {
    fn default() -> Self {
        let meters = |per_second, burst| Meters::new(Rate::new(per_second, burst), RATED_USERS_MAX);
        Self {
            raises: meters(1, 2 * RAISE_BURST),
            looks: meters(LOOKS_PER_SECOND, LOOKS_BURST),
            marks: meters(MARKS_PER_SECOND, MARKS_BURST),
        }
    }
}

impl Sos {
    /// Makes the app and starts the tasks that do later what could not be done at once, and that end what is old.
    fn start(context: Context, namespace: Namespace) -> Arc<Self> {
        let (owed, rates, is_filled) = (owed::Owed::default(), Rates::default(), AtomicBool::default());
        let sos = Arc::new(Self { context, namespace, owed, rates, is_filled });
        sos.context.tasks.spawn_until_stop(owed::settle(Arc::clone(&sos)));
        sos.context.tasks.spawn_until_stop(ending::end_old(Arc::clone(&sos)));
        sos
    }
}

/// The room of an incident.
pub(crate) fn room(sos_id: &str) -> Room {
    Room::prefixed(ROOM_PREFIX, sos_id)
}

/// The incident of a room.
fn id_of(room: &Room) -> Option<String> {
    room.as_str().strip_prefix(ROOM_PREFIX).map(str::to_owned)
}

impl HasContext for Sos {
    fn context(&self) -> &Context {
        &self.context
    }
}

impl App for Arc<Sos> {
    fn kind(&self) -> &'static AppKind {
        &KIND
    }

    fn routes(&self) -> Served {
        rest::routes().merge(internal::routes()).with_state(Self::clone(self))
    }

    fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling {
        if event.name != "sos:location" {
            return Handling::Done(Err(unknown_event()));
        }
        match events::Location::decode(&event.args) {
            Ok(location) => {
                let (sos, socket) = (Self::clone(self), Arc::clone(socket));
                Handling::later(async move { events::share_location(&sos, &socket, location).await })
            }
            Err(error) => Handling::Done(Err(error)),
        }
    }

    /// The record of who takes part decides, not the token, and it moves the sockets when it changes.
    fn admits<'a>(&'a self, _claims: &'a Claims, room: &'a Room) -> Admission<'a> {
        Admission::Known(room.as_str().starts_with(ROOM_PREFIX).then_some(true))
    }

    fn on_connect<'a>(&'a self, socket: &'a Arc<Socket>) -> Hook<'a> {
        hook(on_connect(self, socket))
    }

    /// Perhaps it was another node that ended the incident.
    fn on_told<'a>(&'a self, announcement: &'a Announcement) -> Hook<'a> {
        hook(ending::told_later(self, announcement))
    }

    /// Requests of other nodes may have been missed.
    fn on_resubscribed(&self) -> Hook<'_> {
        hook(owed::look_at_all(self))
    }
}

/// A socket enters the rooms of its user's active participations. Where the records cannot be asked, that is
/// tried again for as long as the socket is there: who takes part must not miss what happens.
async fn on_connect(sos: &Arc<Sos>, socket: &Arc<Socket>) {
    if enter_active(sos, socket).await {
        return;
    }
    let (sos, socket) = (Arc::clone(sos), Arc::clone(socket));
    let context = sos.context.clone();
    context.tasks.spawn_until_stop(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(AUTO_JOIN_RETRY_MS)).await;
            if !socket.local().is_attached() || enter_active(&sos, &socket).await {
                return;
            }
        }
    });
}

async fn enter_active(sos: &Sos, socket: &Socket) -> bool {
    let records = &sos.context.records;
    let Ok(active) = records.run(store::active_of(records.pool(), socket.user().as_str())).await else {
        return false;
    };
    if active.len() > PARTICIPATIONS_MAX {
        metrics::get().rate_limited(Limit::RoomsPerSocket);
        tracing::warn!(user = %socket.user(), "a socket is in too many rooms for all participations");
    }
    for sos_id in active.iter().take(PARTICIPATIONS_MAX) {
        // The records say so, not the client: `ROOMS_PER_SOCKET` does not matter.
        if sos.context.fanout.enter_own(socket.local(), &room(sos_id)).await.is_err() {
            // It has gone.
            return true;
        }
    }
    if active.is_empty() {
        return true;
    }
    // Who left meanwhile was disconnected before the socket was there to be.
    let still = records.run(store::active_of(records.pool(), socket.user().as_str())).await;
    for sos_id in active {
        if !still.as_ref().is_ok_and(|still| still.contains(&sos_id)) {
            sos.owed.add(&sos_id, socket.user());
        }
    }
    true
}

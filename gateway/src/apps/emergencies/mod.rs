//! `emergencies`: emergencies, their owners and their helpers (document 002; contract, "emergencies").
//!
//! Every change is stored first ([`stories`]), together with the jobs that follow ([`crate::jobs`]). Helpers'
//! positions are live state, so they disappear when the helper leaves or their node dies. Rooms follow the records
//! ([`super::reconciler`]): on every node, sockets of owners and responding helpers are in the rooms of their open
//! emergencies.

mod alert;
mod describe;
mod emergency;
mod events;
mod limits;
mod messages;
mod rest;
mod rooms;
mod store;
mod stories;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use fanout::{Fanout, FanoutError, Gone, Left};
use futures_util::future::BoxFuture;
use shared::auth::Claims;
use shared::config::AppDeclaration;
use shared::limits::{LOOKS_BURST, LOOKS_PER_SECOND, RAISE_BURST, RATED_USERS_MAX};
use shared::names::{Namespace, Room, UserId};

use self::limits::HELPER_POSITION_S;
use super::reconciler::{self, Membership, Placed, Standing};
use super::{
    Admission, App, AppKind, Event, Handled, Handling, Hook, Mount, OwnRooms, hook, limited, within,
};
use crate::context::Context;
use crate::error::AppError;
use crate::jobs::{Job, Ran};
use crate::limiter::{Meters, Rate};
use crate::push;
use crate::records::raisers::Squares;
use crate::rest::{HasContext, Served};
use crate::socket::Socket;

/// The app's name.
const NAME: &str = "emergencies";

/// The prefix of emergency rooms.
const ROOM_PREFIX: &str = "emergency:";

/// The room of all helpers' sockets.
const HELPERS: &str = "helpers";

/// The key of helpers' positions in the live state.
const POSITIONS: &str = "helpers";

/// How long a helper's position is valid.
const POSITION_KEPT: Duration = Duration::from_secs(HELPER_POSITION_S);

pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration {
        name: NAME,
        namespace: "/emergencies",
        keeps_records: true,
        settings: &[&push::WEBHOOK_URL, &push::WEBHOOK_SECRET],
    },
    describe: describe::describe,
    limits: limits::ALL,
    rooms: OwnRooms { names: &[HELPERS], prefixes: &[ROOM_PREFIX] },
    start: |Mount { context, namespace, .. }| Arc::new(Emergencies::start(context, namespace)),
};

/// The running app.
#[derive(Debug)]
pub(crate) struct Emergencies {
    context: Context,
    namespace: Namespace,
    helpers: Room,
    rates: Rates,
    squares: Squares,
}

/// Each user's rates, by operation.
#[derive(Debug)]
struct Rates {
    /// Well above what the records allow on all nodes together, so that floods do not reach them.
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
    fn start(context: Context, namespace: Namespace) -> Arc<Self> {
        let helpers = Room::prefixed(HELPERS, "");
        let (rates, squares) = (Rates::default(), Squares::default());
        Arc::new(Self { context, namespace, helpers, rates, squares })
    }
}

/// The room of an emergency.
fn room(id: &str) -> Room {
    reconciler::room_of::<Emergencies>(id)
}

impl HasContext for Emergencies {
    fn context(&self) -> &Context {
        &self.context
    }
}

impl App for Arc<Emergencies> {
    fn kind(&self) -> &'static AppKind {
        &KIND
    }

    fn routes(&self) -> Served {
        rest::routes().with_state(Self::clone(self))
    }

    fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling {
        match events::ClientEvent::decode(&event.name, &event.args) {
            Ok(event @ events::ClientEvent::Join(_)) => {
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

    /// Enters the rooms that the records give the socket.
    fn on_connect<'a>(&'a self, socket: &'a Arc<Socket>) -> Hook<'a> {
        hook(rooms::welcome(self, socket))
    }

    fn on_removed<'a>(&'a self, socket: &'a Arc<Socket>, room: &'a Room, left: Left) -> Hook<'a> {
        hook(rooms::removed(self, socket, room, left))
    }

    /// The new token may have a helper's role.
    fn on_renewed<'a>(&'a self, socket: &'a Arc<Socket>) -> Hook<'a> {
        hook(rooms::renewed(self, socket))
    }

    fn on_gone<'a>(&'a self, gone: &'a Gone) -> Hook<'a> {
        if gone.room == self.helpers { hook(rooms::helper_gone(self, &gone.user)) } else { None }
    }

    fn on_back<'a>(&'a self, back: &'a Gone) -> Hook<'a> {
        if back.room == self.helpers {
            hook(rooms::announce_helper(self, &back.user, "helper:online"))
        } else {
            None
        }
    }

    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Ran> {
        Box::pin(async move {
            match job.kind() {
                reconciler::PLACE => reconciler::run(&**self, job).await,
                alert::ALERT => alert::run(self, job).await,
                _ => Ran::done(),
            }
        })
    }

    fn repeats(&self, job: &Job) -> bool {
        job.kind() == reconciler::PLACE
    }

    fn adopt_older(&self) -> Hook<'_> {
        hook(alert::adopt_older(self))
    }

    /// This node may have missed requests of other nodes.
    fn on_resubscribed(&self) -> Hook<'_> {
        hook(reconciler::place_all(&**self))
    }
}

impl Placed for Emergencies {
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = ROOM_PREFIX;
    // Verified helpers and admins may join any emergency's room.
    const IS_EXCLUSIVE: bool = false;

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    async fn standing(&self, id: &str, user: &UserId) -> Result<Standing, AppError> {
        let records = &self.context.records;
        records.run(store::standing(records.pool(), id, user.as_str())).await
    }

    async fn entities_of(&self, claims: &Claims) -> Result<Vec<String>, AppError> {
        rooms::of_claims(self, claims).await
    }

    async fn memberships(&self, after: Option<&Membership>) -> Result<Vec<Membership>, AppError> {
        let records = &self.context.records;
        records.run(store::involved(records.pool(), after)).await
    }

    async fn bring(&self, fanout: &Fanout, user: &UserId, room: &Room) -> Result<(), FanoutError> {
        fanout.bring_user(&self.namespace, user, room).await
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

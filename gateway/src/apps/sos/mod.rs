//! `sos`: participants of an SOS incident (documents 000 and 001; contract, "sos").
//!
//! Every participation is stored first. The reconciler then moves the user's sockets on all nodes into the
//! incident's room ([`super::reconciler`]), and the room receives an event. The citizens' REST API and the
//! backends' internal API run the same operations ([`stories`]).

mod ending;
mod events;
mod incidents;
mod internal;
mod limits;
mod participants;
mod rest;
mod store;
mod stories;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use fanout::{Fanout, FanoutError};
use futures_util::future::BoxFuture;
use shared::auth::Claims;
use shared::config::{AppDeclaration, AppSetting};
use shared::limits::{LOOKS_BURST, LOOKS_PER_SECOND, RAISE_BURST, RATED_USERS_MAX};
use shared::names::{Namespace, Room, UserId};

use self::limits::{MARKS_BURST, MARKS_PER_SECOND};
use super::reconciler::{self, Membership, Placed, Standing};
use super::{Admission, App, AppKind, Event, Handling, Hook, Mount, OwnRooms, hook, unknown_event};
use crate::context::Context;
use crate::error::AppError;
use crate::jobs::{Job, Ran};
use crate::limiter::{Meters, Rate};
use crate::records::raisers::Squares;
use crate::rest::{HasContext, Served};
use crate::socket::Socket;

/// The app's name.
const NAME: &str = "sos";

/// The prefix of incident rooms.
const ROOM_PREFIX: &str = "sos:";

static AGE: AppSetting<Duration> =
    AppSetting::age("sos_age", "24h", "Age at which the node ends an `sos` incident, up to 30d. 0: never.");

pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration { name: NAME, namespace: "/", keeps_records: true, settings: &[&AGE] },
    describe: events::describe,
    limits: limits::ALL,
    rooms: OwnRooms { names: &[], prefixes: &[ROOM_PREFIX] },
    start: |Mount { context, namespace, .. }| Arc::new(Sos::start(context, namespace)),
};

/// The running app.
#[derive(Debug)]
pub(crate) struct Sos {
    context: Context,
    namespace: Namespace,
    rates: Rates,
    squares: Squares,
}

/// Each user's rates on this node.
#[derive(Debug)]
struct Rates {
    /// Well above what the records allow on all nodes together, so that floods do not reach them.
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
    /// Creates the app and starts the task that ends old incidents.
    fn start(context: Context, namespace: Namespace) -> Arc<Self> {
        let (rates, squares) = (Rates::default(), Squares::default());
        let sos = Arc::new(Self { context, namespace, rates, squares });
        sos.context.tasks.spawn_until_stop(ending::end_old(Arc::clone(&sos)));
        sos
    }
}

/// The room of an incident.
pub(crate) fn room(sos_id: &str) -> Room {
    reconciler::room_of::<Sos>(sos_id)
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

    /// Participation records decide, not the token, and the reconciler moves the sockets when they change.
    fn admits<'a>(&'a self, _claims: &'a Claims, room: &'a Room) -> Admission<'a> {
        Admission::Known(room.as_str().starts_with(ROOM_PREFIX).then_some(true))
    }

    fn holds_connect(&self) -> bool {
        true
    }

    fn on_connect<'a>(&'a self, socket: &'a Arc<Socket>) -> Hook<'a> {
        hook(reconciler::welcome(self, socket))
    }

    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Ran> {
        Box::pin(async move {
            match job.kind() {
                reconciler::PLACE => reconciler::run(&**self, job).await,
                ending::EMPTY => ending::run_empty(self, job).await,
                _ => Ran::done(),
            }
        })
    }

    fn repeats(&self, job: &Job) -> bool {
        matches!(job.kind(), reconciler::PLACE | ending::EMPTY)
    }

    /// This node may have missed requests of other nodes.
    fn on_resubscribed(&self) -> Hook<'_> {
        hook(reconciler::place_all(&**self))
    }
}

impl Placed for Sos {
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = ROOM_PREFIX;
    const IS_EXCLUSIVE: bool = true;

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    async fn standing(&self, sos_id: &str, user: &UserId) -> Result<Standing, AppError> {
        let records = &self.context.records;
        let standing = records.run(store::standing(records.pool(), sos_id, user.as_str())).await?;
        if standing == Standing::Outside && self.context.jobs.is_pending(&ending::empty_id(sos_id)).await? {
            // The room must receive the end event before its sockets leave.
            return Ok(Standing::Undecided);
        }
        Ok(standing)
    }

    async fn entities_of(&self, claims: &Claims) -> Result<Vec<String>, AppError> {
        let records = &self.context.records;
        records.run(store::active_of(records.pool(), claims.user.as_str())).await
    }

    async fn memberships(&self, after: Option<&Membership>) -> Result<Vec<Membership>, AppError> {
        let records = &self.context.records;
        records.run(store::active_after(records.pool(), after)).await
    }

    async fn bring(&self, fanout: &Fanout, user: &UserId, room: &Room) -> Result<(), FanoutError> {
        fanout.join_user(&self.namespace, user, room).await
    }
}

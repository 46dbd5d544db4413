//! Sockets are where the records say: the one place that puts them there.
//!
//! Records change while sockets are being moved, on any node. So each move is followed by another look at the record, until the
//! two agree. It is done when a socket connects ([`welcome`]), by a job after a record has changed ([`run`]), and for all
//! sockets of this node when its subscriptions were made anew, since requests of other nodes may have been missed
//! ([`place_all`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fanout::{Fanout, FanoutError, LocalSocket};
use serde::{Deserialize, Serialize};
use shared::auth::Claims;
use shared::limits::{AUTO_JOIN_RETRY_MS, PARTICIPATIONS_MAX};
use shared::names::{Namespace, Room, UserId};

use crate::error::AppError;
use crate::jobs::{Job, Ran};
use crate::metrics::{self, Limit};
use crate::rest::HasContext;
use crate::socket::Socket;

/// The kind of the job that puts a user's sockets where the record of one entity says.
pub(crate) const PLACE: &str = "place";

/// How often a record is looked at that changes while sockets are being moved; then the job is run again.
const LOOKS: usize = 4;

/// Between two tries for a socket whose records cannot be asked.
const RETRY: Duration = Duration::from_millis(AUTO_JOIN_RETRY_MS);

/// Where the sockets of a user belong, in regard to the room of one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In it.
    Inside,
    /// Out of it.
    Outside,
    /// Out of it, and those that were in it are disconnected from the namespace.
    Disconnected,
    /// The record does not say. Users may enter and leave as they wish.
    Anywhere,
    /// Something else has to be done first.
    Undecided,
}

/// The entity of a room, and a user whose sockets belong there.
pub(crate) type Membership = (String, UserId);

/// An app whose records say who is in the rooms of its entities.
pub(crate) trait Placed: HasContext + Send + Sync + 'static {
    /// Its name.
    const NAME: &'static str;
    /// How its rooms begin.
    const PREFIX: &'static str;
    /// Nobody is in a room but those of whom the records say so.
    const IS_EXCLUSIVE: bool;

    /// Where it is mounted.
    fn namespace(&self) -> &Namespace;

    /// Where a user's sockets belong.
    fn standing(
        &self,
        entity: &str,
        user: &UserId,
    ) -> impl Future<Output = Result<Standing, AppError>> + Send;

    /// The entities in whose rooms a socket with these claims belongs.
    fn entities_of(&self, claims: &Claims) -> impl Future<Output = Result<Vec<String>, AppError>> + Send;

    /// A page of all memberships, in their order, behind one of them; empty at the end.
    fn memberships(
        &self,
        after: Option<&Membership>,
    ) -> impl Future<Output = Result<Vec<Membership>, AppError>> + Send;

    /// Has a user's sockets enter a room, on all nodes.
    fn bring<'a>(
        &'a self,
        fanout: &'a Fanout,
        user: &'a UserId,
        room: &'a Room,
    ) -> impl Future<Output = Result<(), FanoutError>> + Send + 'a;
}

/// A user, and an entity.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Placement {
    entity: String,
    user: String,
}

/// The room of an entity.
pub(crate) fn room_of<P: Placed>(entity: &str) -> Room {
    Room::prefixed(P::PREFIX, entity)
}

/// What jobs about an entity have as their subject.
pub(crate) fn subject_of<P: Placed>(entity: &str) -> String {
    format!("{}:{entity}", P::NAME)
}

/// A job that puts a user's sockets where the record says.
pub(crate) fn job<P: Placed>(entity: &str, user: &UserId) -> Job {
    let placement = Placement { entity: entity.to_owned(), user: user.as_str().to_owned() };
    Job::of_app(P::NAME, PLACE, &subject_of::<P>(entity), &placement)
}

/// Runs such a job.
pub(crate) async fn run<P: Placed>(app: &P, job: &Job) -> Ran {
    let Some(Placement { entity, user }) = job.payload() else { return Ran::done() };
    let Ok(user) = UserId::parse(&user) else { return Ran::done() };
    match try_to_place(app, &entity, &user).await {
        Ok(Standing::Undecided) => Ran::Later(RETRY),
        Ok(_) => Ran::done(),
        Err(error) => {
            tracing::warn!(
                error = error.say(),
                entity,
                "a user's sockets are not where they belong; trying on"
            );
            Ran::Failed
        }
    }
}

/// Puts a user's sockets where the record says, on all nodes; by a job where that cannot be done now.
pub(crate) async fn place<P: Placed>(app: &P, entity: &str, user: &UserId) {
    if !matches!(try_to_place(app, entity, user).await, Ok(standing) if standing != Standing::Undecided) {
        app.context().jobs.store_and_run(vec![job::<P>(entity, user)]);
    }
}

async fn try_to_place<P: Placed>(app: &P, entity: &str, user: &UserId) -> Result<Standing, AppError> {
    let (fanout, namespace, room) = (&app.context().fanout, app.namespace(), room_of::<P>(entity));
    let mut standing = app.standing(entity, user).await?;
    for _ in 0..LOOKS {
        match standing {
            Standing::Inside => app.bring(fanout, user, &room).await?,
            Standing::Outside => fanout.leave_user(namespace, user, &room).await?,
            Standing::Disconnected => {
                fanout.disconnect_user(namespace, user, &room).await?;
                return Ok(standing);
            }
            Standing::Anywhere | Standing::Undecided => return Ok(standing),
        }
        // The record may have changed while the sockets moved.
        let now = app.standing(entity, user).await?;
        if now == standing {
            return Ok(standing);
        }
        standing = now;
    }
    Ok(Standing::Undecided)
}

/// A socket is connected: it enters the rooms in which it belongs. Where the records cannot be asked, that is tried again for as
/// long as the socket is there: its user must not miss what happens.
pub(crate) async fn welcome<P: Placed>(app: &Arc<P>, socket: &Arc<Socket>) {
    if try_to_welcome(&**app, socket).await.is_ok() {
        return;
    }
    let (app, socket) = (Arc::clone(app), Arc::clone(socket));
    app.context().clone().tasks.spawn_until_stop(async move {
        loop {
            tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.75..1.25))).await;
            if !socket.local().is_attached() || try_to_welcome(&*app, &socket).await.is_ok() {
                return;
            }
        }
    });
}

async fn try_to_welcome<P: Placed>(app: &P, socket: &Arc<Socket>) -> Result<(), AppError> {
    let context = app.context();
    // Its token cannot be judged again before it has entered.
    let lock = context.access.of(socket.id()).await;
    let claims = socket.claims();
    let entities = app.entities_of(&claims).await?;
    if entities.len() > PARTICIPATIONS_MAX {
        metrics::get().rate_limited(Limit::RoomsPerSocket);
        tracing::warn!(socket = %socket.id(), "a socket belongs in too many rooms to enter all of them");
    }
    for entity in entities.iter().take(PARTICIPATIONS_MAX) {
        // The records say so, not the client: `ROOMS_PER_SOCKET` does not matter.
        if context.fanout.enter_own(socket.local(), &room_of::<P>(entity)).await.is_err() {
            // It has left.
            return Ok(());
        }
    }
    drop(lock);
    if entities.is_empty() {
        return Ok(());
    }
    // Where the record changed before the socket was there to be moved.
    let still: HashSet<String> = app.entities_of(&claims).await.unwrap_or_default().into_iter().collect();
    let changed = entities.iter().take(PARTICIPATIONS_MAX).filter(|entity| !still.contains(*entity));
    let jobs: Vec<Job> = changed.map(|entity| job::<P>(entity, socket.user())).collect();
    if !jobs.is_empty() {
        context.jobs.store_and_run(jobs);
    }
    Ok(())
}

/// Puts this node's sockets where the records say.
pub(crate) async fn place_all<P: Placed>(app: &P) {
    let (fanout, namespace) = (&app.context().fanout, app.namespace());
    let mut sockets = HashMap::<UserId, Vec<Arc<LocalSocket>>>::new();
    let mut inside = HashSet::<Membership>::new();
    for socket in fanout.sockets(namespace) {
        if P::IS_EXCLUSIVE {
            let rooms = socket.rooms();
            let entities = rooms.iter().filter_map(|room| room.as_str().strip_prefix(P::PREFIX));
            inside.extend(entities.map(|entity| (entity.to_owned(), socket.user().clone())));
        }
        sockets.entry(socket.user().clone()).or_default().push(socket);
    }
    if sockets.is_empty() {
        return;
    }
    let mut last: Option<Membership> = None;
    loop {
        // Where the records are away, the sockets' rooms are judged later all the same, and they enter when they connect again.
        let Ok(page) = app.memberships(last.as_ref()).await else { return };
        let Some(end) = page.last().cloned() else { break };
        for (entity, user) in page {
            let room = room_of::<P>(&entity);
            let outside = sockets.get(&user).into_iter().flatten();
            if outside.clone().any(|socket| !socket.is_in(room.as_str())) {
                place(app, &entity, &user).await;
            }
            inside.remove(&(entity, user));
        }
        last = Some(end);
    }
    for (entity, user) in inside {
        place(app, &entity, &user).await;
    }
}

//! The reconciler: moves sockets into and out of rooms to match the records. Only this module does so.
//!
//! Records can change on any node while sockets move. So nodes take turns to move a user's sockets for an entity, and
//! every move is followed by another read of the record, until both agree. The reconciler runs when a socket connects
//! ([`welcome`]), as a job after a record has changed ([`run`]), and for all sockets of this node after it has
//! resubscribed, because it may have missed requests of other nodes ([`place_all`]).

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

/// The kind of the job that moves a user's sockets to match the record of one entity.
pub(crate) const PLACE: &str = "place";

/// How many times to reread a record that keeps changing while sockets move. After that, the job runs again.
const LOOKS: usize = 4;

/// The delay between attempts for a socket while the records are unavailable.
const RETRY: Duration = Duration::from_millis(AUTO_JOIN_RETRY_MS);

/// Where a user's sockets belong relative to the room of one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In the room.
    Inside,
    /// Out of the room.
    Outside,
    /// Out of the room; sockets that were in it are disconnected from the namespace.
    Disconnected,
    /// The record does not decide. Users may enter and leave freely.
    Anywhere,
    /// Other work must finish first.
    Undecided,
}

/// An entity, and a user whose sockets belong in its room.
pub(crate) type Membership = (String, UserId);

/// An app whose records decide who is in its entities' rooms.
pub(crate) trait Placed: HasContext + Send + Sync + 'static {
    const NAME: &'static str;
    /// The prefix of its room names.
    const PREFIX: &'static str;
    /// Whether only users with a record may be in a room.
    const IS_EXCLUSIVE: bool;

    /// Where it is mounted.
    fn namespace(&self) -> &Namespace;

    /// Reads where a user's sockets belong.
    fn standing(
        &self,
        entity: &str,
        user: &UserId,
    ) -> impl Future<Output = Result<Standing, AppError>> + Send;

    /// The entities whose rooms a socket with these claims belongs in.
    fn entities_of(&self, claims: &Claims) -> impl Future<Output = Result<Vec<String>, AppError>> + Send;

    /// A page of all memberships in their order, starting after `after`. Empty at the end.
    fn memberships(
        &self,
        after: Option<&Membership>,
    ) -> impl Future<Output = Result<Vec<Membership>, AppError>> + Send;

    /// Moves a user's sockets into a room on all nodes.
    fn bring<'a>(
        &'a self,
        fanout: &'a Fanout,
        user: &'a UserId,
        room: &'a Room,
    ) -> impl Future<Output = Result<(), FanoutError>> + Send + 'a;
}

/// The payload of a [`PLACE`] job.
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

/// The subject of jobs about an entity.
pub(crate) fn subject_of<P: Placed>(entity: &str) -> String {
    format!("{}:{entity}", P::NAME)
}

/// A job that moves a user's sockets to match the record.
pub(crate) fn job<P: Placed>(entity: &str, user: &UserId) -> Job {
    let placement = Placement { entity: entity.to_owned(), user: user.as_str().to_owned() };
    Job::of_app(P::NAME, PLACE, &subject_of::<P>(entity), &placement)
}

/// Runs a [`PLACE`] job.
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
                "a user's sockets do not match the records yet; retrying"
            );
            Ran::Failed
        }
    }
}

/// Moves a user's sockets on all nodes to match the record, or stores a job that does so later. Returns whether it
/// is done.
pub(crate) async fn place<P: Placed>(app: &P, entity: &str, user: &UserId) -> bool {
    let placed = try_to_place(app, entity, user).await;
    let is_done = matches!(placed, Ok(standing) if standing != Standing::Undecided);
    if !is_done {
        app.context().jobs.store_and_run(vec![job::<P>(entity, user)]);
    }
    is_done
}

/// Callers on all nodes move a user's sockets one after the other. Otherwise a slow node that has read an older record
/// could still remove the sockets after another node has brought them back and answered.
async fn try_to_place<P: Placed>(app: &P, entity: &str, user: &UserId) -> Result<Standing, AppError> {
    let key = format!("place:{}:{}:{entity}:{}", P::NAME, entity.len(), user.as_str());
    let placing = place_in_turn(app, entity, user);
    Box::pin(app.context().fanout.live().exclusively(&key, placing)).await
}

async fn place_in_turn<P: Placed>(app: &P, entity: &str, user: &UserId) -> Result<Standing, AppError> {
    let (fanout, namespace, room) = (&app.context().fanout, app.namespace(), room_of::<P>(entity));
    let mut standing = app.standing(entity, user).await?;
    for _ in 0..LOOKS {
        match standing {
            Standing::Inside => app.bring(fanout, user, &room).await?,
            Standing::Outside => fanout.leave_user(namespace, user, &room).await?,
            Standing::Disconnected => {
                fanout.disconnect_user(namespace, user, &room).await?;
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

/// Enters a newly connected socket into the rooms that the records give it. While the records are unavailable,
/// retries for as long as the socket is connected, so that its user misses no events.
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
    // Keeps its token from being reevaluated before it has entered.
    let lock = context.access.of(socket.id()).await;
    let claims = socket.claims();
    let placement = context.fanout.begin_placement(socket.local());
    let entities = app.entities_of(&claims).await?;
    if entities.len() > PARTICIPATIONS_MAX {
        metrics::get().rate_limited(Limit::RoomsPerSocket);
        tracing::warn!(socket = %socket.id(), "a socket belongs in more rooms than it may enter");
    }
    let rooms: Vec<Room> =
        entities.iter().take(PARTICIPATIONS_MAX).map(|entity| room_of::<P>(entity)).collect();
    placement.narrow(rooms.iter());
    for room in &rooms {
        // `ROOMS_PER_SOCKET` does not apply: the records decide here, not the client.
        if context.fanout.enter_own(socket.local(), room).await.is_err() {
            // The socket has disconnected.
            return Ok(());
        }
    }
    let left = placement.end().await;
    drop(lock);
    if entities.is_empty() {
        return Ok(());
    }
    // Catches records that changed before the socket could be found and moved.
    let still: HashSet<String> = app.entities_of(&claims).await.unwrap_or_default().into_iter().collect();
    let changed = entities.iter().take(PARTICIPATIONS_MAX).filter(|entity| !still.contains(*entity));
    // Those that it was ordered to leave may have got it back since.
    let ordered =
        left.iter().filter_map(|room| room.strip_prefix(P::PREFIX).filter(|entity| still.contains(*entity)));
    let moved: HashSet<&str> = changed.map(String::as_str).chain(ordered).collect();
    let jobs: Vec<Job> = moved.into_iter().map(|entity| job::<P>(entity, socket.user())).collect();
    if !jobs.is_empty() {
        context.jobs.store_and_run(jobs);
    }
    Ok(())
}

/// Moves this node's sockets to match the records.
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
        // Without records, give up: the rooms are still reevaluated later, and sockets enter when they reconnect.
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

//! Broadcasts later what could not be broadcast at once.
//!
//! Each message has a sequence number in its room. When a node receives the last message of a room, it reads all
//! missing earlier ones from the records ([`super::order`]). So broadcasting the last message of a room is enough,
//! both after Redis was unavailable and after a node died that may have stored messages without broadcasting them.
//! Storing a message needs no extra work for this.

use dashmap::DashSet;
use fanout::{Fanout, FanoutError, Gone, Posted, Target};
use serde::{Deserialize, Serialize};
use shared::names::{Namespace, Room, UserId};

use super::events::{self, Message, RoomId};
use super::limits::CHAT_RECOVERED_MS;
use super::{Chat, NAME, store};
use crate::clock::{ago_ms, iso, now_ms};
use crate::context::Context;
use crate::error::AppError;
use crate::jobs::{Job, Ran};
use crate::socket;

/// The kind of the job that broadcasts the last message of a room.
pub(super) const LAST_MESSAGE: &str = "last_message";

/// The kind of the job that finds the rooms in which a dead node may have stored messages without broadcasting
/// them.
pub(super) const RECOVER: &str = "recover";

/// The kind of the job that announces who entered or left.
pub(super) const MOVED: &str = "moved";

/// Rooms whose last message still has to be broadcast, with one job each.
#[derive(Debug, Default)]
pub(super) struct Behind(DashSet<Room>);

/// A room and its namespace.
#[derive(Serialize, Deserialize)]
struct InRoom {
    namespace: String,
    room: String,
}

/// A user who entered or left a room.
#[derive(Serialize, Deserialize)]
struct Move {
    #[serde(flatten)]
    of: InRoom,
    user: String,
    email: Option<String>,
    is_there: bool,
}

impl InRoom {
    fn of(namespace: &Namespace, room: &Room) -> Self {
        Self { namespace: namespace.as_str().to_owned(), room: room.as_str().to_owned() }
    }

    fn read(&self) -> Option<(Namespace, RoomId)> {
        Some((Namespace::parse(&self.namespace).ok()?, RoomId::of_cluster(&self.room)?))
    }
}

impl Behind {
    /// Forgets which rooms have a job.
    pub(super) fn clear(&self) {
        self.0.clear();
    }

    /// Stores a job that broadcasts the last message of a room, after broadcasting it failed.
    pub(super) fn add(&self, context: &Context, namespace: &Namespace, room: &RoomId) {
        if self.0.insert(room.room().clone()) {
            let subject = format!("chat:{}", room.as_str());
            let payload = InRoom::of(namespace, room.room());
            context.jobs.store_and_run(vec![Job::of_app(NAME, LAST_MESSAGE, &subject, &payload)]);
        }
    }
}

/// Broadcasts a message with its sequence number.
pub(super) fn post(context: &Context, namespace: &Namespace, (room, message): (&Room, &Message)) -> Posted {
    let target = Target::room(namespace, room.as_str()).sequenced(message.seq);
    socket::post(context, target, "new_message", message)
}

/// Broadcasts the last message of a room.
pub(super) async fn run_last_message(chat: &Chat, job: &Job) -> Ran {
    let Some((namespace, room)) = job.payload::<InRoom>().and_then(|of| of.read()) else {
        return Ran::done();
    };
    // A later failure gets its own job.
    chat.behind.0.remove(room.room());
    match broadcast_last(&chat.context, &namespace, &room).await {
        Ok(()) => Ran::done(),
        Err(_) => {
            // This job will be retried, so no other job is needed.
            chat.behind.0.insert(room.room().clone());
            Ran::Failed
        }
    }
}

async fn broadcast_last(context: &Context, namespace: &Namespace, room: &RoomId) -> Result<(), AppError> {
    let last = context.records.run(store::last(context.records.pool(), room)).await?;
    let Some(message) = last else { return Ok(()) };
    match post(context, namespace, (room.room(), &message)).outcome().await {
        Err(FanoutError::Unavailable) => Err(AppError::Unavailable),
        // Retrying does not help with other errors.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// After a node is gone, rebroadcasts the last message of every room with recent messages.
pub(super) fn recover(chat: &Chat, namespace: &Namespace) {
    let payload = (namespace.as_str(), ago_ms(CHAT_RECOVERED_MS));
    chat.context.jobs.store_and_run(vec![Job::of_app(NAME, RECOVER, "chat:recover", &payload)]);
}

/// See [`recover`].
pub(super) async fn run_recover(chat: &Chat, job: &Job) -> Ran {
    let Some((namespace, since_ms)) = job.payload::<(String, u64)>() else { return Ran::done() };
    let Ok(namespace) = Namespace::parse(&namespace) else { return Ran::done() };
    let records = &chat.context.records;
    let Ok(rooms) = records.run(store::spoken_in_since(records.pool(), since_ms)).await else {
        return Ran::Failed;
    };
    for room in rooms {
        if broadcast_last(&chat.context, &namespace, &room).await.is_err() {
            return Ran::Failed;
        }
    }
    Ran::done()
}

/// Announces to a room who entered or left. While Redis is unavailable, a job does so later, if it is still true
/// then.
pub(super) async fn report(chat: &Chat, moved: &Gone, is_there: bool) {
    let Some(room) = RoomId::of_cluster(moved.room.as_str()) else { return };
    let of = InRoom::of(&moved.namespace, &moved.room);
    let (user, email) = (moved.user.as_str().to_owned(), moved.email.as_deref().map(str::to_owned));
    let moved = Move { of, user, email, is_there };
    if broadcast_move(chat, &moved).await == Err(FanoutError::Unavailable) {
        let subject = format!("chat:{}", room.as_str());
        chat.context.jobs.store_and_run(vec![Job::of_app(NAME, MOVED, &subject, &moved)]);
    }
}

/// See [`report`].
pub(super) async fn run_moved(chat: &Chat, job: &Job) -> Ran {
    let Some(moved) = job.payload::<Move>() else { return Ran::done() };
    let Ok(user) = UserId::parse(&moved.user) else { return Ran::done() };
    let Ok(is_there) = is_in(&chat.context.fanout, &moved.of, &user).await else { return Ran::Failed };
    if is_there != moved.is_there {
        return Ran::done();
    }
    match broadcast_move(chat, &moved).await {
        Err(FanoutError::Unavailable) => Ran::Failed,
        Ok(()) | Err(_) => Ran::done(),
    }
}

async fn is_in(fanout: &Fanout, of: &InRoom, user: &UserId) -> Result<bool, FanoutError> {
    let members = fanout.members(&of.namespace, &of.room).await?;
    Ok(members.iter().any(|member| member.user == *user))
}

async fn broadcast_move(chat: &Chat, moved: &Move) -> Result<(), FanoutError> {
    let Ok(namespace) = Namespace::parse(&moved.of.namespace) else { return Ok(()) };
    let event = if moved.is_there { "user_joined" } else { "user_left" };
    let timestamp = iso(now_ms());
    let body = events::UserMoved { user_id: &moved.user, email: moved.email.as_deref(), timestamp };
    let Ok(user) = UserId::parse(&moved.user) else { return Ok(()) };
    let target = Target::room(&namespace, &moved.of.room).except_user(&user);
    let outcome = socket::broadcast(&chat.context, target, event, &body).await.map(drop);
    if let Err(error) = &outcome {
        tracing::debug!(%error, room = moved.of.room, event, "a room could not be notified that a user entered or left");
    }
    outcome
}

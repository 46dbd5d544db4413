//! Rooms: entering, leaving, participants, typing, and grants by backends.

use std::sync::Arc;

use crate::records::Pool;
use fanout::{FirstMembers, Gone, Left as LeftRoom, Member, RoomCount, Target};
use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::limits::PAGE_MAX;
use shared::names::{Room, UserId};
use sqlx::Row as _;

use super::events::OfRoom;
use super::room_id::{Access, PRESENCE_PREFIX, RoomId};
use super::{Admission, Care, call_store};
use crate::apps::{Handled, Reply};
use crate::clock::{iso, now_ms};
use crate::describe::forms::{RoomName, Time, True, UserIdText};
use crate::error::AppError;
use crate::socket::{self, Socket};

const GRANTED: &str = "SELECT 1 FROM care_room_members WHERE room_id = $1 AND user_id = $2";
const GRANTS: &str = "SELECT user_id FROM care_room_members WHERE room_id = $1 ORDER BY user_id";
const REVOKE: &str = "DELETE FROM care_room_members WHERE room_id = $1";
const LOCK: &str = "INSERT INTO care_granted_rooms (room_id, revision) VALUES ($1, 1) \
    ON CONFLICT (room_id) DO UPDATE SET revision = care_granted_rooms.revision + 1";
const GRANT: &str = "INSERT INTO care_room_members (room_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// A user who entered or left a room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomMembershipChanged")]
#[serde(rename_all = "camelCase")]
pub(super) struct UserMoved<'a> {
    #[schemars(with = "RoomName")]
    room_id: &'a str,
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    role: Option<&'a str>,
    display_name: &'a str,
    #[schemars(with = "Time")]
    timestamp: String,
}

/// A user who is typing or has stopped.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TypingChanged")]
#[serde(rename_all = "camelCase")]
pub(super) struct Typing<'a> {
    #[schemars(with = "RoomName")]
    room_id: &'a str,
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    role: Option<&'a str>,
    display_name: &'a str,
}

/// A user in a room.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomParticipant")]
#[serde(rename_all = "camelCase")]
struct Participant<'a> {
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    role: Option<&'a str>,
    display_name: &'a str,
    /// When the user's socket in the room connected.
    #[schemars(with = "Time")]
    joined_at: String,
}

/// The room that the socket entered, and its participants.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomJoined")]
#[serde(rename_all = "camelCase")]
pub(super) struct Joined<'a> {
    #[schemars(with = "RoomName")]
    room_id: &'a str,
    /// Each user once, including the caller; at most 100, in no particular order. `room:participants` lists the
    /// rest.
    participants: Vec<Participant<'a>>,
    /// The number of users.
    count: usize,
    /// Whether there are more users than these.
    has_more: bool,
    /// Set while Redis is unavailable and users on other nodes are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    stale: Option<bool>,
}

/// A page of a room's participants.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomParticipants")]
#[serde(rename_all = "camelCase")]
pub(super) struct Participants<'a> {
    #[schemars(with = "RoomName")]
    room_id: &'a str,
    /// Each user once, ordered by id.
    participants: Vec<Participant<'a>>,
    /// The number of users.
    count: usize,
    /// Whether more users follow.
    has_more: bool,
}

impl<'a> Participant<'a> {
    fn of(member: &'a Member) -> Self {
        Self {
            user_id: member.user.as_str(),
            role: member.role.as_deref(),
            display_name: &member.display_name,
            joined_at: iso(member.connected_at_ms),
        }
    }
}

/// The room that the socket left.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoomLeft")]
#[serde(rename_all = "camelCase")]
pub(super) struct Left<'a> {
    #[schemars(with = "RoomName")]
    room_id: &'a str,
}

/// Whether a socket with these claims may be in a room.
pub(super) fn admits<'a>(care: &'a Care, claims: &'a Claims, room: &Room) -> Admission<'a> {
    if room.as_str().starts_with(PRESENCE_PREFIX) {
        // Any token may watch any user's presence.
        return Admission::Known(Some(true));
    }
    match RoomId::of_cluster(room) {
        Some(room) => {
            Admission::Asked(Box::pin(async move { care.has_access(claims, &room).await.map(Some) }))
        }
        None => Admission::Known(None),
    }
}

impl Care {
    /// Checks that a user may enter, write to and read a room.
    ///
    /// # Errors
    /// 403 with the document's wording.
    pub(super) async fn must_have_access(&self, claims: &Claims, room: &RoomId) -> Result<(), AppError> {
        if self.has_access(claims, room).await? { Ok(()) } else { Err(denied()) }
    }

    async fn has_access(&self, claims: &Claims, room: &RoomId) -> Result<bool, AppError> {
        if let Some(may) = room.opens_for(claims) {
            return Ok(may);
        }
        let (records, user) = (&self.context.records, claims.user.as_str());
        if records.run(is_granted(records.pool(), room.as_str(), user)).await? {
            return Ok(true);
        }
        match room.as_str().strip_prefix("call:") {
            Some(call) => records.run(call_store::is_party(records.pool(), call, user)).await,
            None => Ok(false),
        }
    }

    /// The users with a grant for a room.
    ///
    /// # Errors
    /// 400 for rooms that cannot be granted.
    pub(crate) async fn grants(&self, room: &str) -> Result<Vec<String>, AppError> {
        let room = granted_room(room)?;
        let records = &self.context.records;
        records.run(grants(records.pool(), room.as_str())).await
    }

    /// Grants a room to exactly these users, and removes members who have lost access. Users whose token lists the
    /// room, and the parties of a call, keep it. Returns the users with a grant, and whether all nodes have removed
    /// their sockets.
    ///
    /// # Errors
    /// 400 for rooms that cannot be granted.
    pub(crate) async fn grant(
        self: &Arc<Self>,
        room: &str,
        users: Vec<UserId>,
    ) -> Result<(Vec<String>, bool), AppError> {
        let room = granted_room(room)?;
        let care = Arc::clone(self);
        self.context
            .to_the_end(async move {
                let records = &care.context.records;
                records.run(set_grants(records.pool(), room.as_str(), &users)).await?;
                let granted = records.run(grants(records.pool(), room.as_str())).await?;
                let is_done = care.context.fanout.review(&care.namespace, room.room()).await;
                Ok((granted, is_done))
            })
            .await
    }

    async fn notify_room(&self, target: Target<'_>, event: &str, body: &(impl Serialize + Sync)) {
        if let Err(error) = socket::broadcast(&self.context, target, event, body).await {
            tracing::warn!(%error, event, "the other members of a room were not notified");
        }
    }
}

fn granted_room(room: &str) -> Result<RoomId, AppError> {
    let room = RoomId::parse(room)?;
    if room.is_granted() {
        Ok(room)
    } else {
        Err(AppError::BadInput("Only rooms that begin with visit: or call: are granted".into()))
    }
}

async fn is_granted(pool: &Pool, room: &str, user: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(GRANTED).bind(room).bind(user).fetch_optional(pool).await?.is_some())
}

async fn grants(pool: &Pool, room: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(GRANTS).bind(room).fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

async fn set_grants(pool: &Pool, room: &str, users: &[UserId]) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    // Serialize the changes, so that only the last change's users remain.
    sqlx::query(LOCK).bind(room).execute(&mut *transaction).await?;
    sqlx::query(REVOKE).bind(room).execute(&mut *transaction).await?;
    for user in users {
        sqlx::query(GRANT).bind(room).bind(user.as_str()).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

fn moved<'a>(room: &'a RoomId, claims: &'a Claims) -> UserMoved<'a> {
    UserMoved {
        room_id: room.as_str(),
        user_id: claims.user.as_str(),
        role: claims.role.as_deref(),
        display_name: &claims.display_name,
        timestamp: iso(now_ms()),
    }
}

fn denied() -> AppError {
    AppError::Forbidden("Room access denied".into())
}

/// Refuses other apps' rooms and rooms that clients may only watch.
fn must_be_enterable(room: &RoomId) -> Result<(), AppError> {
    if room.access() == Access::Nobody { Err(denied()) } else { Ok(()) }
}

/// Enters a room. Returns one page of its users, so that the cost does not grow with the room.
pub(super) async fn join(care: &Care, socket: &Arc<Socket>, room: &RoomId) -> Handled {
    care.rates.join(socket.user())?;
    let claims = socket.claims();
    let fanout = &care.context.fanout;
    let lock = care.context.access.of(socket.id()).await;
    care.must_have_access(&claims, room).await?;
    let entered = fanout.enter(socket.local(), room.room()).await?;
    if let Err(refused) = care.must_have_access(&claims, room).await {
        // Access was revoked meanwhile, before the socket could be found and removed.
        fanout.leave(socket.local(), room.as_str()).await;
        return Err(refused);
    }
    drop(lock);
    if entered.first_of_user {
        let target = Target::room(socket.namespace(), room.as_str()).except(socket.id());
        care.notify_room(target, "room:userJoined", &moved(room, &claims)).await;
    }
    // While Redis is unavailable, users on other nodes are unknown.
    let page = PAGE_MAX as usize;
    let found = fanout.first_members(care.namespace.as_str(), room.as_str(), page).await;
    let is_stale = found.is_err();
    let alone = || FirstMembers { members: Vec::new(), count: RoomCount { sockets: 1, users: 1 } };
    let FirstMembers { members, count } = found.unwrap_or_else(|_| alone());
    let mut participants: Vec<Participant<'_>> = members.iter().map(Participant::of).collect();
    if !members.iter().any(|member| member.user == claims.user) {
        participants.truncate(page - 1);
        participants.push(Participant {
            user_id: claims.user.as_str(),
            role: claims.role.as_deref(),
            display_name: &claims.display_name,
            joined_at: iso(now_ms()),
        });
    }
    let has_more = count.users > participants.len();
    let (count, stale) = (count.users.max(participants.len()), is_stale.then_some(true));
    Ok(Reply::success(&Joined { room_id: room.as_str(), participants, count, has_more, stale }))
}

/// A page of the users in a room that the socket is in.
pub(super) async fn participants(care: &Care, socket: &Socket, asked: OfRoom) -> Handled {
    must_be_enterable(&asked.room)?;
    care.rates.list_users(socket.user(), asked.limit)?;
    must_be_in(socket, &asked.room)?;
    let mut members = care.context.fanout.members(care.namespace.as_str(), asked.room.as_str()).await?;
    // The node has read all members.
    socket.charge_receivers(members.len());
    members.sort_by(|a, b| a.user.cmp(&b.user));
    members.dedup_by(|a, b| a.user == b.user);
    let count = members.len();
    let first = asked.after.map_or(0, |after| members.partition_point(|member| member.user <= after));
    let page = members.iter().skip(first).take(asked.limit);
    let participants: Vec<Participant<'_>> = page.map(Participant::of).collect();
    let has_more = first + participants.len() < count;
    let room_id = asked.room.as_str();
    Ok(Reply::success(&Participants { room_id, participants, count, has_more }))
}

fn must_be_in(socket: &Socket, room: &RoomId) -> Result<(), AppError> {
    if socket.local().is_in(room.as_str()) {
        Ok(())
    } else {
        Err(AppError::Forbidden("You must join the room first".into()))
    }
}

/// Leaves a room.
pub(super) async fn leave(care: &Care, socket: &Arc<Socket>, room: &RoomId) -> Handled {
    must_be_enterable(room)?;
    if *room.room() == super::notifications_room(socket.user()) {
        // This membership marks the user as connected, so keep it.
        return Ok(Reply::success(&Left { room_id: room.as_str() }));
    }
    let left = care.context.fanout.leave(socket.local(), room.as_str()).await;
    if left.last_of_user {
        let target = Target::room(socket.namespace(), room.as_str()).except(socket.id());
        care.notify_room(target, "room:userLeft", &moved(room, &socket.claims())).await;
    }
    Ok(Reply::success(&Left { room_id: room.as_str() }))
}

/// Notifies the other members that the user is typing or has stopped.
pub(super) async fn typing(care: &Care, socket: &Socket, room: &RoomId, starts: bool) -> Handled {
    must_be_enterable(room)?;
    care.rates.typing(socket.user())?;
    must_be_in(socket, room)?;
    socket.charge_room(&care.context, room.as_str());
    let claims = socket.claims();
    let body = Typing {
        room_id: room.as_str(),
        user_id: claims.user.as_str(),
        role: claims.role.as_deref(),
        display_name: &claims.display_name,
    };
    let target = Target::room(socket.namespace(), room.as_str()).except(socket.id());
    // Only the start is volatile: clients that miss the stop would wait forever.
    let (target, event) = if starts { (target.volatile(), "typing:start") } else { (target, "typing:stop") };
    socket::broadcast(&care.context, target, event, &body).await?;
    Ok(Reply::ok())
}

/// A socket lost access to a room and was removed from it.
pub(super) async fn removed(care: &Care, socket: &Socket, room: &Room, left: LeftRoom) {
    let Some(room) = RoomId::of_cluster(room).filter(RoomId::opens_for_members) else { return };
    if left.last_of_user {
        let target = Target::room(socket.namespace(), room.as_str());
        care.notify_room(target, "room:userLeft", &moved(&room, &socket.claims())).await;
    }
}

/// A user's last socket in a room is gone for good.
pub(super) async fn gone(care: &Care, gone: &Gone) {
    announce_move(care, gone, "room:userLeft").await;
}

/// A user whose departure was announced is in the room.
pub(super) async fn back(care: &Care, back: &Gone) {
    announce_move(care, back, "room:userJoined").await;
}

async fn announce_move(care: &Care, gone: &Gone, event: &str) {
    let Ok(room) = RoomId::parse(gone.room.as_str()) else { return };
    if room.opens_for_members() {
        let body = UserMoved {
            room_id: room.as_str(),
            user_id: gone.user.as_str(),
            role: gone.role.as_deref(),
            display_name: gone.display_name.as_deref().unwrap_or(gone.user.as_str()),
            timestamp: iso(now_ms()),
        };
        let target = Target::room(&care.namespace, room.as_str()).except_user(&gone.user);
        care.notify_room(target, event, &body).await;
    }
}

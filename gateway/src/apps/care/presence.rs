//! Presence: one status per user, derived from all their sockets on all nodes.
//!
//! The members of a user's notification room, which the fan-out counts with leases, show whether the user has a
//! socket. Everything else is one record per user in the live state, changed by compare-and-swap, so that nodes do
//! not overwrite each other's changes. When a user's last socket is gone, a timer starts, and any node may handle
//! it. The user goes offline only when the timer fires and they have not reconnected.
//!
//! A change is broadcast to the room of the user's watchers. The broadcast carries the current record, and the node
//! reads the record again afterwards. So the last broadcast is the newest, whichever node sends it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use fanout::Target;
use futures_util::{StreamExt as _, stream};
use schemars::JsonSchema;
use serde::Serialize;
use shared::ids::SocketId;
use shared::limits::DUE_EVERY_MS;
use shared::names::{Room, UserId};

use super::limits::{PRESENCE_AT_ONCE, PRESENCE_COALESCE_MS, PRESENCE_RECORD_KEPT_S, PRESENCE_USERS_MAX};
use super::room_id::PRESENCE_PREFIX;
use super::status::{Chosen, Record, Shown, Status};
use super::{Care, notifications_room};
use crate::apps::{Handled, Reply};
use crate::clock::{now_ms, passed_ms};
use crate::error::AppError;
use crate::socket::{self, Socket};

/// Timers of users who may go offline.
const OFFLINE: &str = "care:offline";

const KEPT: Duration = Duration::from_secs(PRESENCE_RECORD_KEPT_S);
const COALESCE: Duration = Duration::from_millis(PRESENCE_COALESCE_MS);

/// How early the timer may fire before the grace period's end, because clocks are read at different moments.
const SLACK: Duration = Duration::from_millis(100);

/// Idle checks between two checks for users whose presence is missing.
const PASSES: u32 = 10;

/// The presence of some users, in the requested order without duplicates.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Presences {
    presences: Vec<Shown>,
}

/// The users that a socket has started to watch.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PresenceSubscription")]
pub(super) struct Subscribed {
    presences: Vec<Shown>,
    /// The number of users that the socket watches in total.
    subscribed: usize,
}

/// The user's new presence.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PresenceUpdated")]
pub(super) struct StatusSet {
    status: Status,
}

/// This node's knowledge about its connected users.
#[derive(Debug, Default)]
pub(super) struct Local {
    activity: DashMap<UserId, Activity>,
    /// Users whose change is being broadcast, or was a moment ago. The value is true if there is a newer change.
    announcing: DashMap<UserId, bool>,
}

#[derive(Debug)]
struct Activity {
    last: Instant,
    /// When the activity was last written to the record.
    recorded: Option<Instant>,
    is_idle: bool,
}

fn key(user: &UserId) -> String {
    format!("care:presence:{user}")
}

fn watchers(user: &UserId) -> Room {
    Room::prefixed(PRESENCE_PREFIX, user.as_str())
}

/// Changes a user's record, and broadcasts it if the visible presence differs. Returns the new record.
async fn change(
    care: &Arc<Care>,
    user: &UserId,
    change: impl Fn(&mut Record) + Send + Sync,
) -> Result<Record, AppError> {
    let changed = |before: Option<&str>| {
        let (was, mut record) = (Record::read(before), Record::read(before));
        change(&mut record);
        // Write nothing if the record is unchanged, even if none exists.
        if record == was { before.map(str::to_owned) } else { Some(record.write()) }
    };
    let (before, after) = care.context.fanout.live().update(&key(user), KEPT, changed).await?;
    let (before, after) = (Record::read(before.as_deref()), Record::read(after.as_deref()));
    if before.shown(user) != after.shown(user) {
        announce(care, user);
    }
    Ok(after)
}

/// Like [`change`], but ignores failures: a later check repairs the record.
async fn try_change(care: &Arc<Care>, user: &UserId, act: impl Fn(&mut Record) + Send + Sync) {
    if let Err(error) = change(care, user, act).await {
        tracing::debug!(error = error.say(), "a user's presence was not changed");
    }
}

/// Broadcasts a user's presence to its watchers. If another broadcast was sent a moment ago, waits and combines the
/// changes since.
fn announce(care: &Arc<Care>, user: &UserId) {
    if let Some(mut is_news) = care.presence.announcing.get_mut(user) {
        *is_news = true;
        return;
    }
    care.presence.announcing.insert(user.clone(), false);
    let (care, user) = (Arc::clone(care), user.clone());
    drop(care.context.clone().tasks.spawn(async move {
        loop {
            announce_now(&care, &user).await;
            tokio::time::sleep(COALESCE).await;
            // From here on, a new task announces the next change.
            if care.presence.announcing.remove_if(&user, |_, is_news| !*is_news).is_some() {
                return;
            }
            care.presence.announcing.insert(user.clone(), false);
        }
    }));
}

async fn announce_now(care: &Care, user: &UserId) {
    let live = care.context.fanout.live();
    let keys = [key(user)];
    let mut announced = None;
    // Repeat while the presence changes during the broadcast. After three broadcasts, the caller's loop continues.
    for _ in 0..3 {
        let Ok(now) = live.get(&keys).await else { return };
        let record = Record::read(now.first().and_then(Option::as_deref));
        let shown = crate::text::json(&record.shown(user));
        if announced.as_ref() == Some(&shown) {
            return;
        }
        let room = watchers(user);
        let target = Target::room(&care.namespace, room.as_str());
        if socket::broadcast(&care.context, target, "presence:changed", &record.shown(user)).await.is_err() {
            // Redis is unavailable. Clients receive `muster:resync` when it is back.
            return;
        }
        announced = Some(shown);
    }
    if let Some(mut is_news) = care.presence.announcing.get_mut(user) {
        *is_news = true;
    }
}

/// A user has a socket.
pub(super) async fn came(care: &Arc<Care>, user: &UserId) {
    let (arrival, now) = (rand::random(), now_ms());
    try_change(care, user, |record| {
        if record.is_on && record.lost_ms.is_none() {
            // The user was already connected with another socket.
            return;
        }
        if !record.is_on {
            // A call ends when its party goes offline.
            record.call = None;
        }
        (record.is_on, record.lost_ms, record.is_idle) = (true, None, false);
        (record.arrival, record.active_ms) = (arrival, now);
    })
    .await;
    let _ = care.context.fanout.live().cancel(OFFLINE, user.as_str()).await;
}

/// A user lost their last socket `held` ago. They go offline after the grace period, unless they reconnect.
pub(super) async fn gone(care: &Arc<Care>, user: &UserId, held: Duration) {
    let lost = now_ms().saturating_sub(u64::try_from(held.as_millis()).unwrap_or_default());
    let left = care.settings.presence_grace.saturating_sub(held).max(Duration::from_millis(1));
    if let Err(error) = care.context.fanout.live().schedule(OFFLINE, user.as_str(), left).await {
        tracing::debug!(%error, "a user's grace period was not scheduled; the next presence request schedules it");
        return;
    }
    // Only now, so that every user who is recorded as lost has a timer.
    try_change(care, user, |record| {
        record.lost_ms.get_or_insert(lost);
    })
    .await;
}

/// Sets users offline when their grace period is over, until the node stops.
pub(super) async fn settle_offline(care: Arc<Care>) {
    // Check short grace periods, as in tests, more often.
    let every = (care.settings.presence_grace / 4)
        .clamp(Duration::from_millis(50), Duration::from_millis(DUE_EVERY_MS));
    loop {
        tokio::time::sleep(every).await;
        while settle_some(&care).await {}
    }
}

/// Handles some due timers. Returns whether more may be due.
async fn settle_some(care: &Arc<Care>) -> bool {
    let again = Duration::from_secs(5);
    let Ok(due) = care.context.fanout.live().due(OFFLINE, PRESENCE_AT_ONCE, again).await else {
        return false;
    };
    let settled = due.iter().filter_map(|id| UserId::parse(id).ok()).map(|user| {
        let care = Arc::clone(care);
        async move {
            if let Err(error) = settle(&care, &user).await {
                tracing::debug!(error = error.say(), "a user's grace period could not be ended; retrying");
            }
        }
    });
    futures_util::future::join_all(settled).await;
    due.len() >= PRESENCE_AT_ONCE
}

async fn settle(care: &Arc<Care>, user: &UserId) -> Result<(), AppError> {
    let live = care.context.fanout.live();
    let before = live.get(&[key(user)]).await?.pop().flatten();
    let is_there = is_there(care, user).await?;
    let Record { arrival, lost_ms, .. } = Record::read(before.as_deref());
    let grace = care.settings.presence_grace;
    let gone_for = lost_ms.map(|lost| Duration::from_millis(passed_ms(lost)));
    if !is_there && gone_for.is_none_or(|gone_for| gone_for + SLACK < grace) {
        // They were lost again meanwhile, or no node recorded since when they are lost.
        gone(care, user, gone_for.unwrap_or_default()).await;
        return Ok(());
    }
    let (now, is_offline) = (now_ms(), AtomicBool::new(false));
    change(care, user, |record| {
        is_offline.store(false, Ordering::Relaxed);
        if is_there {
            (record.is_on, record.lost_ms) = (true, None);
        } else if record.arrival == arrival {
            // The arrival differs if they have reconnected meanwhile.
            is_offline.store(true, Ordering::Relaxed);
            if record.is_on {
                record.is_on = false;
                record.seen_ms = record.lost_ms.or(Some(now));
                (record.lost_ms, record.is_idle) = (None, false);
            }
        }
    })
    .await?;
    if is_offline.load(Ordering::Relaxed) {
        care.went_offline(user).await?;
    }
    live.cancel(OFFLINE, user.as_str()).await?;
    Ok(())
}

/// Whether a user has a socket on any node.
async fn is_there(care: &Care, user: &UserId) -> Result<bool, AppError> {
    let room = notifications_room(user);
    let counted = care.context.fanout.count(care.namespace.as_str(), room.as_str()).await?;
    Ok(counted.count.sockets > 0)
}

/// Records that a user is in `call`, or (`is_in` is false) that they no longer are.
pub(super) async fn set_call(
    care: &Arc<Care>,
    user: &UserId,
    call: &str,
    is_in: bool,
) -> Result<(), AppError> {
    change(care, user, |record| {
        if is_in {
            record.call = Some(call.to_owned());
        } else if record.call.as_deref() == Some(call) {
            record.call = None;
        }
    })
    .await
    .map(drop)
}

/// Records a user's activity.
pub(super) fn touch(care: &Arc<Care>, user: &UserId) {
    let (now, away) = (Instant::now(), care.settings.presence_away);
    let is_news = {
        let mut activity = care.presence.activity.entry(user.clone()).or_insert_with(|| Activity {
            last: now,
            recorded: None,
            is_idle: false,
        });
        activity.last = now;
        let is_news =
            activity.is_idle || activity.recorded.is_none_or(|at| now.duration_since(at) > away / 4);
        if is_news {
            (activity.recorded, activity.is_idle) = (Some(now), false);
        }
        is_news
    };
    if is_news {
        let (care, user, at) = (Arc::clone(care), user.clone(), now_ms());
        drop(care.context.clone().tasks.spawn(async move {
            // If the socket has disconnected meanwhile, its activity must not bring the user back.
            let is_here = !care.context.fanout.sockets_of(&care.namespace, &user).is_empty();
            try_change(&care, &user, |record| {
                record.is_on |= is_here;
                record.is_idle &= !is_here;
                record.active_ms = record.active_ms.max(at);
            })
            .await;
        }));
    }
}

/// Sets inactive users to idle, until the node stops.
pub(super) async fn find_idle(care: Arc<Care>) {
    let away = care.settings.presence_away;
    let every = (away / 10).clamp(Duration::from_millis(50), Duration::from_secs(15));
    for pass in 0_u32.. {
        tokio::time::sleep(every).await;
        if pass % PASSES == 0 {
            find_missing(&care).await;
        }
        let sockets = care.context.fanout.sockets(&care.namespace);
        let here: HashSet<UserId> = sockets.iter().map(|socket| socket.user().clone()).collect();
        let ids: HashSet<SocketId> = sockets.iter().map(|socket| socket.id()).collect();
        care.rung.retain(|socket, _| ids.contains(socket));
        let now = Instant::now();
        care.presence.activity.retain(|user, _| here.contains(user));
        for user in &here {
            // Connecting counts as the first activity.
            care.presence.activity.entry(user.clone()).or_insert_with(|| Activity {
                last: now,
                recorded: None,
                is_idle: false,
            });
        }
        let is_idle = |activity: &Activity| !activity.is_idle && now.duration_since(activity.last) >= away;
        let idle: Vec<UserId> = {
            let found = care.presence.activity.iter().filter(|entry| is_idle(entry.value()));
            found.map(|entry| entry.key().clone()).collect()
        };
        let away_ms = u64::try_from(away.as_millis()).unwrap_or(u64::MAX);
        for user in idle {
            // The user may have been active on another node.
            let set = |record: &mut Record| {
                record.is_idle |= record.is_on && passed_ms(record.active_ms) >= away_ms
            };
            let is_known = matches!(change(&care, &user, set).await, Ok(record) if record.is_idle);
            if let Some(mut activity) = care.presence.activity.get_mut(&user)
                && is_idle(&activity)
            {
                activity.is_idle = is_known;
            }
        }
    }
}

/// Restores the presence of users with a socket here whose record is missing, because Redis was unavailable when
/// they connected or has lost the record.
pub(super) async fn find_missing(care: &Arc<Care>) {
    let sockets = care.context.fanout.sockets(&care.namespace);
    let users: HashSet<UserId> = sockets.iter().map(|socket| socket.user().clone()).collect();
    let users: Vec<UserId> = users.into_iter().collect();
    for some in users.chunks(PRESENCE_USERS_MAX) {
        let keys: Vec<String> = some.iter().map(key).collect();
        let Ok(kept) = care.context.fanout.live().get(&keys).await else { return };
        for (user, kept) in some.iter().zip(kept) {
            if !Record::read(kept.as_deref()).is_on {
                came(care, user).await;
            }
        }
    }
}

/// The visible presence of some users.
async fn shown(care: &Arc<Care>, users: &[UserId]) -> Result<Vec<Shown>, AppError> {
    let keys: Vec<String> = users.iter().map(key).collect();
    let kept = care.context.fanout.live().get(&keys).await?;
    let look = |(user, kept): (UserId, Option<String>)| {
        let care = Arc::clone(care);
        async move {
            let mut record = Record::read(kept.as_deref());
            // The record may be lost with Redis, or may list a user as online whom no living node knows. The room's
            // members are reliable.
            let grace = care.settings.presence_grace;
            let lost = record.lost_ms.map(|lost| Duration::from_millis(passed_ms(lost)));
            // Within their grace period, users keep their presence.
            if lost.is_none_or(|lost| lost > grace) {
                match is_there(&care, &user).await {
                    Ok(true) => record.is_on = true,
                    Ok(false) if record.is_on => gone(&care, &user, Duration::ZERO).await,
                    Ok(false) | Err(_) => {}
                }
            }
            record.shown(&user)
        }
    };
    let asked = users.iter().cloned().zip(kept).map(look);
    let looked: Vec<_> = asked.collect();
    Ok(stream::iter(looked).buffered(PRESENCE_AT_ONCE).collect().await)
}

pub(super) async fn get(care: &Arc<Care>, socket: &Socket, users: &[UserId]) -> Handled {
    care.rates.list_users(socket.user(), users.len())?;
    Ok(Reply::success(&Presences { presences: shown(care, users).await? }))
}

pub(super) async fn set_status(care: &Arc<Care>, socket: &Socket, chosen: Chosen) -> Handled {
    let user = socket.user();
    care.rates.set_status(user)?;
    let Chosen { mode, custom } = &chosen;
    change(care, user, |record| {
        record.is_on = true;
        (record.mode, record.is_idle) = (*mode, false);
        record.custom.clone_from(custom);
    })
    .await?;
    let kept = care.context.fanout.live().get(&[key(user)]).await?.pop().flatten();
    let record = Record::read(kept.as_deref());
    Ok(Reply::success(&StatusSet { status: record.status() }))
}

/// Starts watching users, and returns their presence.
pub(super) async fn subscribe(care: &Arc<Care>, socket: &Arc<Socket>, users: &[UserId]) -> Handled {
    care.rates.list_users(socket.user(), users.len())?;
    let fanout = &care.context.fanout;
    let watched: HashSet<Room> = fanout.watched(socket.local()).into_iter().collect();
    let new: Vec<Room> = users.iter().map(watchers).filter(|room| !watched.contains(room)).collect();
    if watched.len() + new.len() > PRESENCE_USERS_MAX {
        let say = format!("Too many subscriptions (max {PRESENCE_USERS_MAX})");
        return Err(AppError::Limited(say.into(), 1));
    }
    // Watch before reading, so that no change is missed between.
    let watching: Vec<_> = new.iter().map(|room| fanout.watch(socket.local(), room)).collect();
    let outcomes = futures_util::future::join_all(watching).await;
    if let Some(refused) = outcomes.into_iter().find_map(Result::err) {
        // Watch all of them or none.
        new.iter().for_each(|room| fanout.unwatch(socket.local(), room.as_str()));
        return Err(refused.into());
    }
    let presences = shown(care, users).await?;
    Ok(Reply::success(&Subscribed { presences, subscribed: watched.len() + new.len() }))
}

/// Stops watching these users, or all users.
pub(super) fn unsubscribe(care: &Care, socket: &Arc<Socket>, users: Option<&[UserId]>) -> Handled {
    let fanout = &care.context.fanout;
    let rooms =
        users.map_or_else(|| fanout.watched(socket.local()), |users| users.iter().map(watchers).collect());
    for room in rooms {
        fanout.unwatch(socket.local(), room.as_str());
    }
    Ok(Reply::ok())
}

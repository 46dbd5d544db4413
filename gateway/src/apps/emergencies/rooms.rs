//! Who is in the rooms of emergencies and among the helpers, and where helpers are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanout::{Left as LeftRoom, LocalSocket, Place, Target};
use serde::Deserialize;
use shared::auth::Claims;
use shared::limits::{AUTO_JOIN_RETRY_MS, EMERGENCIES_INVOLVED_AT_ONCE, PARTICIPATIONS_MAX};
use shared::names::{Room, UserId};

use super::emergency::{Emergency, HelperStatus, is_admin, is_helper};
use super::events::{Entered, HelperLocation, HelperPresence, Joined, Left, Located};
use super::{Admission, Emergencies, POSITION_KEPT, POSITIONS, ROOM_PREFIX, room, store, within};
use crate::announce::Announcement;
use crate::apps::{Handled, Reply};
use crate::clock::{iso, now_ms};
use crate::error::AppError;
use crate::metrics::{self, Limit};
use crate::socket::{self, Socket};

/// A client wants to hear of an emergency.
pub(super) async fn join(app: &Emergencies, socket: &Arc<Socket>, id: &str) -> Handled {
    within(&app.rates.joins, socket.user())?;
    let claims = socket.claims();
    let lock = app.context.access.of(socket.id()).await;
    let emergency = app.find(id).await?;
    if !may_join(app, &claims, &emergency).await? {
        return Err(AppError::Forbidden("Not authorized to join this emergency room".into()));
    }
    let room = room(id);
    app.context.fanout.enter(socket.local(), &room).await?;
    if !may_join(app, &claims, &emergency).await? {
        // They have cancelled meanwhile, before there was anybody to be taken out.
        app.context.fanout.leave(socket.local(), room.as_str()).await;
        return Err(AppError::Forbidden("Not authorized to join this emergency room".into()));
    }
    drop(lock);
    let message = "Successfully joined emergency room";
    let entered = Entered { emergency_id: id, room: room.as_str(), message };
    socket.emit(&app.context, "emergency:joined", &entered);
    Ok(Reply::success(&Joined { entered, emergency: emergency.shown(emergency.viewer(&claims)) }))
}

async fn may_join(app: &Emergencies, claims: &Claims, emergency: &Emergency) -> Result<bool, AppError> {
    if emergency.is_of(claims) || is_admin(claims) {
        return Ok(true);
    }
    if !is_helper(claims) {
        return Ok(false);
    }
    let records = &app.context.records;
    let of = store::find_helper(records.pool(), &emergency.id, claims.user.as_str());
    let responds = |helper: super::emergency::Helper| helper.status != HelperStatus::Cancelled;
    Ok(claims.verified || records.run(of).await?.is_some_and(responds))
}

/// A client does not want to hear of it any more.
pub(super) async fn leave(app: &Emergencies, socket: &Arc<Socket>, id: &str) -> Handled {
    let room = room(id);
    app.context.fanout.leave(socket.local(), room.as_str()).await;
    let body = Left { emergency_id: id, room: room.as_str() };
    socket.emit(&app.context, "emergency:left", &body);
    Ok(Reply::success(&body))
}

/// A client tells where it is. A helper's place is kept for a while, and told to whom they help.
pub(super) async fn locate(app: &Emergencies, socket: &Arc<Socket>, place: Place) -> Handled {
    within(&app.rates.locations, socket.user())?;
    let Place { latitude, longitude } = place;
    if is_helper(&socket.claims()) {
        let user = socket.user().as_str();
        app.context.fanout.live().put(POSITIONS, user, place, POSITION_KEPT).await?;
        if !socket.local().is_attached() {
            // It went meanwhile, perhaps after its place was forgotten.
            app.context.fanout.live().forget(POSITIONS, user).await?;
        }
        tell_place(app, socket, place).await?;
    }
    let body = Located { latitude, longitude, message: "Location updated successfully" };
    socket.emit(&app.context, "location:updated", &body);
    Ok(Reply::success(&body))
}

async fn tell_place(app: &Emergencies, socket: &Arc<Socket>, place: Place) -> Result<(), AppError> {
    if !socket.local().rooms().iter().any(|room| room.as_str().starts_with(ROOM_PREFIX)) {
        // Whoever helps is in a room.
        return Ok(());
    }
    let records = &app.context.records;
    let helps_in = records.run(store::helps_in(records.pool(), socket.user().as_str())).await?;
    let timestamp = iso(now_ms());
    for id in &helps_in {
        let body = HelperLocation {
            emergency_id: id,
            helper_id: socket.user().as_str(),
            latitude: place.latitude,
            longitude: place.longitude,
            timestamp: &timestamp,
        };
        let room = room(id);
        // The next one replaces it.
        let target = Target::room(&app.namespace, room.as_str()).except(socket.id()).volatile();
        socket::broadcast(&app.context, target, "helper:location", &body).await?;
    }
    Ok(())
}

async fn enter_helpers(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    let Ok(entered) = app.context.fanout.enter_own(socket.local(), &app.helpers).await else { return };
    let (app, user) = (Arc::clone(app), socket.user().clone());
    drop(app.context.clone().tasks.spawn(async move {
        // The node that was told their place may be going.
        let _ = app.context.fanout.live().adopt(POSITIONS, user.as_str()).await;
        if entered.first_of_user {
            tell_helper(&app, &user, "helper:online").await;
        }
    }));
}

/// A socket has a newer token: a helper's enters the helpers' room. What it does not give any more is taken away by the
/// platform, which asks [`Emergencies::admits`].
pub(super) async fn renewed(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    if is_helper(&socket.claims()) {
        enter_helpers(app, socket).await;
    }
}

/// A socket was taken out of a room that it may not be in any more.
pub(super) async fn removed(app: &Emergencies, socket: &Socket, room: &Room, left: LeftRoom) {
    if *room == app.helpers && left.last_of_user {
        helper_gone(app, socket.user()).await;
    }
}

/// Whether a socket with these claims may be in a room.
pub(super) fn admits<'a>(app: &'a Emergencies, claims: &'a Claims, room: &'a Room) -> Admission<'a> {
    if *room == app.helpers {
        return Admission::Known(Some(is_helper(claims)));
    }
    let Some(id) = room.as_str().strip_prefix(ROOM_PREFIX) else { return Admission::Known(None) };
    Admission::Asked(Box::pin(async move {
        match app.find(id).await {
            Ok(emergency) => may_join(app, claims, &emergency).await.map(Some),
            Err(AppError::NotFound(_)) => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }))
}

/// A socket is connected: a helper's is among the helpers', and everybody's is in the rooms of the open emergencies that
/// they own or help in. Where the records cannot be asked, that is tried again for as long as the socket is there.
pub(super) async fn welcome(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    if is_helper(&socket.claims()) {
        enter_helpers(app, socket).await;
    }
    if bring(app, socket).await.is_ok() {
        return;
    }
    let (app, socket) = (Arc::clone(app), Arc::clone(socket));
    app.context.clone().tasks.spawn_until_stop(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(AUTO_JOIN_RETRY_MS)).await;
            if !socket.local().is_attached() || bring(&app, &socket).await.is_ok() {
                return;
            }
        }
    });
}

async fn bring(app: &Emergencies, socket: &Arc<Socket>) -> Result<(), AppError> {
    let (records, user) = (&app.context.records, socket.user().as_str());
    // Its token cannot be judged anew before it has entered.
    let _lock = app.context.access.of(socket.id()).await;
    let owned = records.run(store::owns(records.pool(), user)).await?;
    let helped = helped_by(app, socket).await?;
    if owned.len() + helped.len() > PARTICIPATIONS_MAX {
        metrics::get().rate_limited(Limit::RoomsPerSocket);
        tracing::warn!(socket = %socket.id(), "a socket is in too many rooms for all its emergencies");
    }
    for id in owned.iter().chain(&helped).take(PARTICIPATIONS_MAX) {
        enter(app, socket.local(), id).await;
    }
    if !helped.is_empty() {
        let still = helped_by(app, socket).await?;
        for id in helped.iter().filter(|id| !still.contains(id) && !owned.contains(id)) {
            app.context.fanout.leave(socket.local(), room(id).as_str()).await;
        }
    }
    Ok(())
}

/// The open emergencies that a socket's user helps in; none where its token is no helper's.
async fn helped_by(app: &Emergencies, socket: &Socket) -> Result<Vec<String>, AppError> {
    if !is_helper(&socket.claims()) {
        return Ok(Vec::new());
    }
    let records = &app.context.records;
    records.run(store::helps_in(records.pool(), socket.user().as_str())).await
}

async fn enter(app: &Emergencies, socket: &Arc<LocalSocket>, id: &str) {
    // The records say so, not the client: `ROOMS_PER_SOCKET` does not matter. A socket that has gone stays out.
    let _ = app.context.fanout.enter_own(socket, &room(id)).await;
}

/// Brings this node's sockets into the rooms that the records say: nodes ask each other to do so, and that may have been
/// missed.
pub(super) async fn bring_all(app: &Emergencies) {
    let records = &app.context.records;
    let mut sockets = HashMap::<UserId, Vec<Arc<LocalSocket>>>::new();
    for socket in app.context.fanout.sockets(&app.namespace) {
        sockets.entry(socket.user().clone()).or_default().push(socket);
    }
    if sockets.is_empty() {
        return;
    }
    let mut last = (String::new(), String::new());
    loop {
        let some = store::involved(records.pool(), (&last.0, &last.1));
        let Ok(involved) = records.run(some).await else { return };
        for (id, user) in &involved {
            let outside = sockets.get(user.as_str()).into_iter().flatten();
            let room = room(id);
            let outside: Vec<_> = outside.filter(|socket| !socket.is_in(room.as_str())).cloned().collect();
            if !outside.is_empty() {
                app.context.fanout.bring(outside, room).await;
            }
        }
        match involved.last() {
            Some(to_here) if involved.len() == EMERGENCIES_INVOLVED_AT_ONCE as usize => {
                last = to_here.clone()
            }
            _ => return,
        }
    }
}

/// Takes a helper who has cancelled out of a room; tried again where Redis is away.
pub(super) fn take_out(app: &Arc<Emergencies>, user: UserId, id: String) {
    let app = Arc::clone(app);
    app.context.clone().tasks.spawn_until_stop(async move {
        while let Err(error) = app.context.fanout.leave_user(&app.namespace, &user, &room(&id)).await {
            tracing::debug!(%error, emergency = id, "a helper is still to be taken out of a room");
            tokio::time::sleep(Duration::from_millis(AUTO_JOIN_RETRY_MS)).await;
        }
        // Who responds again meanwhile belongs there.
        let records = &app.context.records;
        let helps_in = records.run(store::helps_in(records.pool(), user.as_str())).await;
        if helps_in.is_ok_and(|ids| ids.contains(&id)) {
            app.bring_user(&user, &id).await;
        }
    });
}

/// That a helper responds was told late: their node may have died before their sockets were in the room.
pub(super) async fn told_later(app: &Emergencies, announcement: &Announcement) {
    #[derive(Deserialize)]
    struct Who {
        id: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Joined {
        emergency_id: String,
        helper: Who,
    }
    if announcement.event != "helper:joined" {
        return;
    }
    let Ok(joined) = serde_json::from_str::<Joined>(&announcement.body) else { return };
    if let Ok(helper) = UserId::parse(&joined.helper.id) {
        app.bring_user(&helper, &joined.emergency_id).await;
    }
}

/// A helper has no socket any more: they are near nothing, and whom they help is told.
pub(super) async fn helper_gone(app: &Emergencies, user: &UserId) {
    let namespace = app.namespace.as_str();
    if let Ok(true) = app.context.fanout.is_in(namespace, app.helpers.as_str(), user).await {
        // They are back; that was told when they came.
        return;
    }
    if let Err(error) = app.context.fanout.live().forget(POSITIONS, user.as_str()).await {
        tracing::debug!(%error, "a helper's place was not forgotten; it will be in a while");
    }
    tell_helper(app, user, "helper:offline").await;
}

/// Tells the rooms in which a helper helps that they came or went.
pub(super) async fn tell_helper(app: &Emergencies, user: &UserId, event: &str) {
    let records = &app.context.records;
    let Ok(helps_in) = records.run(store::helps_in(records.pool(), user.as_str())).await else { return };
    let timestamp = iso(now_ms());
    for id in &helps_in {
        let body = HelperPresence { emergency_id: id, helper_id: user.as_str(), timestamp: &timestamp };
        let room = room(id);
        let target = Target::room(&app.namespace, room.as_str()).tracked();
        if let Err(error) = socket::broadcast(&app.context, target, event, &body).await {
            tracing::warn!(%error, event, "an emergency's room was not told");
        }
    }
}

//! Who is in the rooms of emergencies and among the helpers, and where helpers are.

use std::sync::Arc;

use fanout::{Left as LeftRoom, Place, Target};
use shared::auth::Claims;
use shared::names::{Room, UserId};

use super::emergency::{Emergency, HelperStatus, is_admin, is_helper};
use super::events::{Entered, HelperLocation, HelperPresence, Joined, Left, Located};
use super::{Admission, Emergencies, POSITION_KEPT, POSITIONS, ROOM_PREFIX, room, store, within};
use crate::apps::{Handled, Reply, reconciler};
use crate::clock::{iso, now_ms};
use crate::error::AppError;
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
/// platform, which asks [`App::admits`](crate::apps::App::admits).
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

/// A socket is connected: a helper's is among the helpers', and everybody's is in the rooms of the open emergencies that they own
/// or help in.
pub(super) async fn welcome(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    if is_helper(&socket.claims()) {
        enter_helpers(app, socket).await;
    }
    reconciler::welcome(app, socket).await;
}

/// The open emergencies that a user owns, and those that they help in where their token is a helper's.
pub(super) async fn of_claims(app: &Emergencies, claims: &Claims) -> Result<Vec<String>, AppError> {
    let (records, user) = (&app.context.records, claims.user.as_str());
    let mut ids = records.run(store::owns(records.pool(), user)).await?;
    if is_helper(claims) {
        ids.extend(records.run(store::helps_in(records.pool(), user)).await?);
    }
    Ok(ids)
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

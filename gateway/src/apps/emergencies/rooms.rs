//! Membership in emergency rooms and in the helpers' room, and helpers' positions.

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

/// A client joins an emergency's room.
pub(super) async fn join(app: &Emergencies, socket: &Arc<Socket>, id: &str) -> Handled {
    within(&app.rates.joins, socket.user())?;
    let claims = socket.claims();
    let lock = app.context.access.of(socket.id()).await;
    find_joinable(app, &claims, id).await?;
    let room = room(id);
    let entered = app.context.fanout.enter(socket.local(), &room).await?;
    // Read again: the room reports later changes, but not those from before the socket entered.
    let emergency = match find_joinable(app, &claims, id).await {
        Ok(emergency) => emergency,
        Err(error) => {
            // A socket that was already a member stays while the records are unavailable.
            if entered.new || matches!(error, AppError::Forbidden(_) | AppError::NotFound(_)) {
                app.context.fanout.leave(socket.local(), room.as_str()).await;
            }
            return Err(error);
        }
    };
    drop(lock);
    let message = "Successfully joined emergency room";
    let entered = Entered { emergency_id: id, room: room.as_str(), message };
    socket.emit_with_answer("emergency:joined", &entered);
    Ok(Reply::success(&Joined { entered, emergency: emergency.shown(emergency.viewer(&claims)) }))
}

/// Reads the current emergency if these claims may join it.
async fn find_joinable(app: &Emergencies, claims: &Claims, id: &str) -> Result<Emergency, AppError> {
    let emergency = app.find(id).await?;
    if may_join(app, claims, &emergency).await? {
        Ok(emergency)
    } else {
        Err(AppError::Forbidden("Not authorized to join this emergency room".into()))
    }
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

/// A client leaves an emergency's room.
pub(super) async fn leave(app: &Emergencies, socket: &Arc<Socket>, id: &str) -> Handled {
    let room = room(id);
    app.context.fanout.leave(socket.local(), room.as_str()).await;
    let body = Left { emergency_id: id, room: room.as_str() };
    socket.emit(&app.context, "emergency:left", &body);
    Ok(Reply::success(&body))
}

/// A client sends its location. For a helper, the node keeps it for a while and sends it to the emergencies they
/// help in.
pub(super) async fn locate(app: &Emergencies, socket: &Arc<Socket>, place: Place) -> Handled {
    within(&app.rates.locations, socket.user())?;
    let Place { latitude, longitude } = place;
    if is_helper(&socket.claims()) {
        let user = socket.user().as_str();
        app.context.fanout.live().put(POSITIONS, user, place, POSITION_KEPT).await?;
        if !socket.local().is_attached() {
            // The socket disconnected meanwhile, perhaps after its position was removed.
            app.context.fanout.live().forget(POSITIONS, user).await?;
        }
        share_location(app, socket, place).await?;
    }
    let body = Located { latitude, longitude, message: "Location updated successfully" };
    socket.emit(&app.context, "location:updated", &body);
    Ok(Reply::success(&body))
}

async fn share_location(app: &Emergencies, socket: &Arc<Socket>, place: Place) -> Result<(), AppError> {
    if !socket.local().rooms().iter().any(|room| room.as_str().starts_with(ROOM_PREFIX)) {
        // Responding helpers are always in a room.
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
        // Volatile, because the next location replaces it.
        let target = Target::room(&app.namespace, room.as_str()).except(socket.id()).volatile();
        socket::broadcast(&app.context, target, "helper:location", &body).await?;
    }
    Ok(())
}

async fn enter_helpers(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    let Ok(entered) = app.context.fanout.enter_own(socket.local(), &app.helpers).await else { return };
    let (app, user) = (Arc::clone(app), socket.user().clone());
    drop(app.context.clone().tasks.spawn(async move {
        // The node that owns their position may be leaving.
        let _ = app.context.fanout.live().adopt(POSITIONS, user.as_str()).await;
        if entered.first_of_user {
            announce_helper(&app, &user, "helper:online").await;
        }
    }));
}

/// A socket renewed its token. If the token has a helper's role, the socket enters the helpers' room. The platform
/// removes lost access; it asks [`App::admits`](crate::apps::App::admits).
pub(super) async fn renewed(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    if is_helper(&socket.claims()) {
        enter_helpers(app, socket).await;
    }
}

/// A socket lost access to a room and was removed from it.
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

/// Enters a connected socket into the rooms of the open emergencies that its user owns or helps in, and a helper's
/// socket into the helpers' room.
pub(super) async fn welcome(app: &Arc<Emergencies>, socket: &Arc<Socket>) {
    if is_helper(&socket.claims()) {
        enter_helpers(app, socket).await;
    }
    reconciler::welcome(app, socket).await;
}

/// The open emergencies that a user owns and, if the token has a helper's role, helps in.
pub(super) async fn of_claims(app: &Emergencies, claims: &Claims) -> Result<Vec<String>, AppError> {
    let (records, user) = (&app.context.records, claims.user.as_str());
    let mut ids = records.run(store::owns(records.pool(), user)).await?;
    if is_helper(claims) {
        ids.extend(records.run(store::helps_in(records.pool(), user)).await?);
    }
    Ok(ids)
}

/// A helper's last socket is gone: removes their position and notifies the emergencies they help in.
pub(super) async fn helper_gone(app: &Emergencies, user: &UserId) {
    let namespace = app.namespace.as_str();
    if let Ok(true) = app.context.fanout.is_in(namespace, app.helpers.as_str(), user).await {
        // They have reconnected, and the rooms were notified then.
        return;
    }
    if let Err(error) = app.context.fanout.live().forget(POSITIONS, user.as_str()).await {
        tracing::debug!(%error, "a helper's position was not removed; it will expire");
    }
    announce_helper(app, user, "helper:offline").await;
}

/// Notifies the rooms of the emergencies in which a helper helps.
pub(super) async fn announce_helper(app: &Emergencies, user: &UserId, event: &str) {
    let records = &app.context.records;
    let Ok(helps_in) = records.run(store::helps_in(records.pool(), user.as_str())).await else { return };
    let timestamp = iso(now_ms());
    for id in &helps_in {
        let body = HelperPresence { emergency_id: id, helper_id: user.as_str(), timestamp: &timestamp };
        let room = room(id);
        let target = Target::room(&app.namespace, room.as_str()).tracked();
        if let Err(error) = socket::broadcast(&app.context, target, event, &body).await {
            tracing::warn!(%error, event, "an emergency's room was not notified");
        }
    }
}

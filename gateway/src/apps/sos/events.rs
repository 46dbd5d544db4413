//! Events of clients: where a participant is.

use serde::{Deserialize, Serialize};
use shared::names::is_name;
use shared::sio::Args;

use super::{Sos, room};
use crate::apps::{Handled, Reply, first};
use crate::clock::now_ms;
use crate::error::AppError;
use crate::geo::Degrees;
use crate::socket::{self, Socket};

/// Events of clients.
pub(crate) const EVENTS: &[&str] = &["sos:location"];

/// `sos:location`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Location {
    sos_id: String,
    latitude: f64,
    longitude: f64,
}

/// `participant:location`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shared<'a> {
    sos_id: &'a str,
    user_id: &'a str,
    latitude: f64,
    longitude: f64,
    timestamp: u64,
}

impl Location {
    pub(super) fn decode(args: &Args<'_>) -> Result<Self, AppError> {
        let location: Self =
            first(args).ok_or_else(|| AppError::BadInput("Expected {sosId, latitude, longitude}".into()))?;
        if !is_name(&location.sos_id) {
            return Err(AppError::BadInput("Invalid sosId".into()));
        }
        let Self { latitude, longitude, .. } = location;
        Degrees { latitude, longitude }.place()?;
        Ok(location)
    }
}

/// Tells the others of an incident where the user is. The next one replaces it, so it is kept nowhere.
pub(super) async fn share_location(sos: &Sos, socket: &Socket, location: Location) -> Handled {
    let Location { sos_id, latitude, longitude } = location;
    let room = room(&sos_id);
    if !socket.local().is_in(room.as_str()) {
        return Err(AppError::Forbidden("You must join the SOS first".into()));
    }
    let user_id = socket.user().as_str();
    let body = Shared { sos_id: &sos_id, user_id, latitude, longitude, timestamp: now_ms() };
    let target = fanout::Target::room(socket.namespace(), room.as_str()).except(socket.id());
    socket::broadcast(&sos.context, target, "participant:location", &body).await?;
    Ok(Reply::ok())
}

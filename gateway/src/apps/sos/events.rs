//! Events of clients: where a participant is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::names::is_name;
use shared::sio::Args;

use super::{Sos, ending, room, stories};
use crate::apps::{Done, Handled, Reply, first};
use crate::clock::now_ms;
use crate::describe::forms::{Latitude, Longitude, Millis, Name, UserIdText};
use crate::describe::{Event, Section};
use crate::error::AppError;
use crate::geo::Degrees;
use crate::jobs::Identified;
use crate::socket::{self, Socket};

/// Where the user is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Location {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "Latitude")]
    latitude: f64,
    #[schemars(with = "Longitude")]
    longitude: f64,
}

/// Where a participant is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Shared<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    #[schemars(with = "Latitude")]
    latitude: f64,
    #[schemars(with = "Longitude")]
    longitude: f64,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

/// Describes the events.
pub(super) fn describe(section: &mut Section) {
    section.about(
        "Participants of an SOS incident. A socket enters the rooms of its user's active participations by \
         itself: when it connects, and when the user joins.",
    );
    section.event(
        Event::from_client("sos:location", "Tells the others of an incident where the user is.")
            .weight(5)
            .payload::<Location>()
            .ack::<Done>()
            .refuse_all(&[
                "Expected {sosId, latitude, longitude}",
                "Invalid sosId",
                "Invalid latitude or longitude",
                "You must join the SOS first",
            ]),
    );
    section.event(
        Event::to_client(
            "participant:location",
            "Where a participant is. Kept nowhere: the next one replaces it.",
        )
        .to("the others in the incident's room")
        .payload::<Shared<'_>>(),
    );
    section.event(
        Event::to_client("participant:joined", "Somebody takes part.")
            .to("the incident's room, the new participant's sockets among them")
            .payload::<Identified<stories::Joined<'_>>>(),
    );
    section.event(
        Event::to_client(
            "sos:ended",
            "The incident has ended: its last participant has left, its raiser or an admin has ended it, a rescuer or \
             an admin has marked it as false, or it was too old. Nobody takes part any more; no `participant:left` \
             tells of each.",
        )
        .to("the incident's room, whose sockets leave it then and stay connected; and its raiser's sockets where they \
             do not take part")
        .payload::<Identified<ending::Ended<'_>>>(),
    );
    section.event(
        Event::to_client("participant:left", "Somebody takes part no more.")
            .to("the incident's room; the sockets of who left are disconnected after it")
            .payload::<Identified<stories::Left<'_>>>(),
    );
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

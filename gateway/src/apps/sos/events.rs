//! Client events: the location of a participant.

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

/// The user's location.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "IncidentLocation")]
#[serde(rename_all = "camelCase")]
pub(super) struct Location {
    #[schemars(with = "Name")]
    sos_id: String,
    #[schemars(with = "Latitude")]
    latitude: f64,
    #[schemars(with = "Longitude")]
    longitude: f64,
}

/// A participant's location.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ParticipantLocation")]
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
        Event::from_client(
            "sos:location",
            "Sends the user's location to the other participants of an incident.",
        )
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
            "A participant's location. It is not stored; the next one replaces it.",
        )
        .to("the other sockets in the incident's room")
        .payload::<Shared<'_>>(),
    );
    section.event(
        Event::to_client("participant:joined", "A user has joined the incident.")
            .to("the incident's room, including the new participant's sockets")
            .payload::<Identified<stories::Joined<'_>>>(),
    );
    section.event(
        Event::to_client(
            "sos:ended",
            "The incident has ended: its last participant left, its raiser or an admin ended it, a rescuer or \
             an admin marked it as a false alarm, or it expired. This ends every participation, without a \
             `participant:left` for each.",
        )
        .to("the incident's room, whose sockets then leave it and stay connected; and its raiser's sockets if they \
             do not participate")
        .payload::<Identified<ending::Ended<'_>>>(),
    );
    section.event(
        Event::to_client("participant:left", "A participant has left the incident.")
            .to("the incident's room; the participant's sockets are disconnected after it")
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

/// Sends the user's location to the other participants. It is not stored, since the next one replaces it.
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

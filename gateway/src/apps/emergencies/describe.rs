//! Describes the events of `emergencies`.

use serde_json::Value;

use super::emergency::ShownMessage;
use super::events::{
    Cancelled, Created, Ended, Entered, HelperJoined, HelperLocation, HelperMoved, HelperPresence, Joined,
    Left, Located, Nearby, NewMessage, Pushed, Resolved, Sent, StatusChanged, Which,
};
use crate::apps::Ack;
use crate::describe::{Event, Section};
use crate::geo::Degrees;
use crate::jobs::Identified;
use crate::push;

const WHICH: [&str; 2] = ["Expected {emergencyId}", "Invalid emergencyId"];
const TOO_MANY: &str = "Too many requests";
const NOT_FOUND: &str = "Emergency not found";
const THE_ROOM: &str = "the emergency's room";

pub(super) fn describe(section: &mut Section) {
    section.about(
        "Emergencies, their owners and the helpers who respond. Sockets of owners and of responding \
         helpers enter an open emergency's room automatically: when they connect, and when the emergency is \
         raised or responded to. A helper is a user with the role `helper` or `rescuer`.",
    );
    from_clients(section);
    to_whom_it_may_concern(section);
    of_helpers(section);
    of_the_end(section);
    webhooks(section);
}

fn webhooks(section: &mut Section) {
    let created =
        push::described::<Pushed<'_>>("emergencyCreated", "emergency:created", "An emergency was raised.");
    let open = [
        "/emergency/cancelledAt",
        "/emergency/resolvedAt",
        "/emergency/resolvedBy",
        "/emergency/resolutionType",
        "/emergency/resolutionNotes",
    ];
    section.webhook(open.into_iter().fold(created, |webhook, part| webhook.shows(part, Value::Null)));
    section.webhook(
        push::described::<Pushed<'_>>(
            "emergencyEnded",
            "emergency:ended",
            "An emergency was resolved or cancelled.",
        )
        .shows("/emergency/status", "resolved")
        .shows("/emergency/cancelledAt", Value::Null)
        .shows("/nearbyHelperIds", Value::Array(Vec::new())),
    );
}

fn from_clients(section: &mut Section) {
    section.event(
        Event::from_client("emergency:join", "Enters an emergency's room.")
            .weight(5)
            .detail("For its owner, admins, verified helpers and responding helpers.")
            .payload::<Which>()
            .ack::<Ack<Joined<'_>>>()
            .refuse_all(&WHICH)
            .refuse_all(&[TOO_MANY, NOT_FOUND, "Not authorized to join this emergency room"]),
    );
    section.event(
        Event::from_client("emergency:leave", "Leaves an emergency's room.")
            .weight(5)
            .payload::<Which>()
            .ack::<Ack<Left<'_>>>()
            .refuse_all(&WHICH),
    );
    section.event(
        Event::from_client(
            "emergency:message",
            "Sends a message from the owner to helpers, or from a helper to the owner.",
        )
        .weight(5)
        .detail("The message is stored. Apart from sender and recipients, only admins can read it.")
        .payload::<NewMessage>()
        .ack::<Ack<Sent<'_>>>()
        .refuse_all(&[
            "Expected {emergencyId, recipientId?, message}",
            "Invalid emergencyId",
            "Invalid recipientId",
            "Message cannot be empty",
            "Message too long (max 1000 characters)",
            "Message contains a null character",
            TOO_MANY,
            NOT_FOUND,
            "No such helper",
            "Not authorized to write in this emergency",
            "Emergency is over",
        ]),
    );
    section.event(
        Event::from_client("location:update", "Sends the user's location.")
            .weight(5)
            .detail(
                "For a helper, the node keeps it for a while to alert them of emergencies nearby, and the rooms of the \
                 emergencies they respond to receive `helper:location`.",
            )
            .payload::<Degrees>()
            .ack::<Ack<Located>>()
            .refuse_all(&["Expected {latitude, longitude}", "Invalid latitude or longitude", TOO_MANY]),
    );
}

fn to_whom_it_may_concern(section: &mut Section) {
    section.event(
        Event::to_client("emergency:created", "An emergency was raised.")
            .to("all helpers")
            .payload::<Identified<Created<'_>>>(),
    );
    section.event(
        Event::to_client("emergency:nearby", "An emergency was raised near the helper.")
            .to("the nearest helpers with a known location")
            .payload::<Identified<Nearby<'_>>>(),
    );
    section.event(
        Event::to_client("emergency:joined", "The socket has entered an emergency's room.")
            .to("the socket that joined")
            .payload::<Entered<'_>>(),
    );
    section.event(
        Event::to_client("emergency:left", "The socket has left an emergency's room.")
            .to("the socket that left")
            .payload::<Left<'_>>(),
    );
    section.event(
        Event::to_client("location:updated", "The node has accepted the location.")
            .to("the socket that sent it")
            .payload::<Located>(),
    );
    section.event(
        Event::to_client("emergency:message", "A message.")
            .to("the recipients' sockets, and the sender's other sockets")
            .payload::<Identified<ShownMessage<'_>>>(),
    );
}

fn of_helpers(section: &mut Section) {
    section.event(
        Event::to_client("helper:joined", "A helper responds.")
            .to("the emergency's room, including the helper's sockets")
            .payload::<Identified<HelperJoined<'_>>>(),
    );
    section.event(
        Event::to_client("helper:status_update", "A helper has changed their status.")
            .detail("A helper who cancels then leaves the room.")
            .to(THE_ROOM)
            .payload::<Identified<HelperMoved<'_>>>(),
    );
    section.event(
        Event::to_client(
            "helper:location",
            "A helper's location. It may be dropped, because the next one replaces it.",
        )
        .to("the other sockets in the emergency's room")
        .payload::<HelperLocation<'_>>(),
    );
    section.event(
        Event::to_client("helper:online", "A responding helper has connected their first socket.")
            .to(THE_ROOM)
            .payload::<HelperPresence<'_>>(),
    );
    section.event(
        Event::to_client("helper:offline", "A responding helper's last socket is gone.")
            .detail(
                "After a lost connection, the node sends it only if the helper has not reconnected within \
                 `LEAVE_HOLDBACK`.",
            )
            .to(THE_ROOM)
            .payload::<HelperPresence<'_>>(),
    );
}

fn of_the_end(section: &mut Section) {
    section.event(
        Event::to_client("emergency:status_changed", "The first helper has responded.")
            .to(THE_ROOM)
            .payload::<Identified<StatusChanged<'_>>>(),
    );
    section.event(
        Event::to_client("emergency:resolved", "The emergency was resolved.")
            .to(THE_ROOM)
            .payload::<Identified<Resolved<'_>>>(),
    );
    section.event(
        Event::to_client("emergency:cancelled", "The emergency was cancelled.")
            .to(THE_ROOM)
            .payload::<Identified<Cancelled<'_>>>(),
    );
    section.event(
        Event::to_client("emergency:ended", "An emergency was resolved or cancelled.")
            .to("all helpers")
            .payload::<Identified<Ended<'_>>>(),
    );
}

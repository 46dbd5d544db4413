//! The events of `emergencies` in words and types.

use super::emergency::ShownMessage;
use super::events::{
    Cancelled, Created, Ended, Entered, HelperJoined, HelperLocation, HelperMoved, HelperPresence, Joined,
    Left, Located, Nearby, NewMessage, Resolved, Sent, StatusChanged, Which,
};
use crate::apps::Ack;
use crate::describe::{Event, Section};
use crate::geo::Degrees;
use crate::jobs::Identified;

const WHICH: [&str; 2] = ["Expected {emergencyId}", "Invalid emergencyId"];
const TOO_MANY: &str = "Too many requests";
const NOT_FOUND: &str = "Emergency not found";
const THE_ROOM: &str = "the emergency's room";

/// Describes the events.
pub(super) fn describe(section: &mut Section) {
    section.about(
        "Emergencies, their owners and the helpers who respond. The sockets of an owner and of responding \
         helpers enter an open emergency's room by themselves: when they connect, and when the emergency is \
         raised or responded to. A helper is who has the role `helper` or `rescuer`.",
    );
    from_clients(section);
    to_whom_it_may_concern(section);
    of_helpers(section);
    of_the_end(section);
}

fn from_clients(section: &mut Section) {
    section.event(
        Event::from_client("emergency:join", "Enters an emergency's room.")
            .weight(5)
            .detail("For its owner, admins, verified helpers, and who responds to it.")
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
            "Sends a message: the owner to helpers, a helper to the owner.",
        )
        .weight(5)
        .detail("It is stored; nobody else reads it, except admins.")
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
        Event::from_client("location:update", "Tells where the user is.")
            .weight(5)
            .detail(
                "Of a helper it is kept for a while, to tell them of emergencies nearby; and the rooms of the \
                 emergencies they respond to hear `helper:location`.",
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
            .to("the nearest helpers, as far as they have told where they are")
            .payload::<Identified<Nearby<'_>>>(),
    );
    section.event(
        Event::to_client("emergency:joined", "The socket has entered an emergency's room.")
            .to("the socket that asked to")
            .payload::<Entered<'_>>(),
    );
    section.event(
        Event::to_client("emergency:left", "The socket has left an emergency's room.")
            .to("the socket that asked to")
            .payload::<Left<'_>>(),
    );
    section.event(
        Event::to_client("location:updated", "The place was taken.")
            .to("the socket that told it")
            .payload::<Located>(),
    );
    section.event(
        Event::to_client("emergency:message", "A message.")
            .to("the sockets of whom it is for, and the sender's others")
            .payload::<Identified<ShownMessage<'_>>>(),
    );
}

fn of_helpers(section: &mut Section) {
    section.event(
        Event::to_client("helper:joined", "A helper responds.")
            .to("the emergency's room, the helper's sockets among them")
            .payload::<Identified<HelperJoined<'_>>>(),
    );
    section.event(
        Event::to_client("helper:status_update", "A helper has told how far they are.")
            .detail("Who cancels leaves the room after it.")
            .to(THE_ROOM)
            .payload::<Identified<HelperMoved<'_>>>(),
    );
    section.event(
        Event::to_client("helper:location", "Where a helper is. May be lost: the next one replaces it.")
            .to("the others in the emergency's room")
            .payload::<HelperLocation<'_>>(),
    );
    section.event(
        Event::to_client("helper:online", "A helper who responds has their first socket.")
            .to(THE_ROOM)
            .payload::<HelperPresence<'_>>(),
    );
    section.event(
        Event::to_client("helper:offline", "A helper who responds has no socket any more.")
            .detail(
                "After a lost connection it is held back for a while (`LEAVE_HOLDBACK`): the helper may be \
                 back.",
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
        Event::to_client("emergency:cancelled", "The emergency was called off.")
            .to(THE_ROOM)
            .payload::<Identified<Cancelled<'_>>>(),
    );
    section.event(
        Event::to_client("emergency:ended", "An emergency was resolved or called off.")
            .to("all helpers")
            .payload::<Identified<Ended<'_>>>(),
    );
}

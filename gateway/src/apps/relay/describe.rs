//! Describes the events of `relay`.

use serde_json::Value;

use super::{Answered, InRoom, Members, PageOf, Publish};
use crate::apps::{Ack, Done};
use crate::describe::{Event, Section};

const NOT_ALLOWED: &str = "Not allowed";
const NO_ROOM: &str = "Invalid room";

pub(super) fn describe(section: &mut Section) {
    section.about(
        "Generic rooms for any client. The token grants rights: `rooms` (may join and list \
         members) and `publish` (may publish), lists of names or prefixes ending in `*`. Besides the events \
         below, a room's members receive the events that clients publish in it.",
    );
    section.event(
        Event::from_client("join", "Enters a room.")
            .weight(2)
            .payload::<InRoom>()
            .ack::<Ack<InRoom>>()
            .refuse_all(&[NOT_ALLOWED, NO_ROOM, "Too many rooms"]),
    );
    section.event(
        Event::from_client("leave", "Leaves a room.")
            .weight(2)
            .payload::<InRoom>()
            .ack::<Ack<InRoom>>()
            .refuse_all(&[NOT_ALLOWED, NO_ROOM]),
    );
    section.event(
        Event::from_client("publish", "Sends an event to a room. Nothing is stored.")
            .detail(
                "With `ack`, every receiver is asked for an ack. The publisher's ack comes when all \
                 have answered or the time has passed.",
            )
            .payload::<Publish<'_>>()
            .ack::<Done>()
            .ack::<Ack<Answered<'_>>>()
            .refuse_all(&[
                NOT_ALLOWED,
                "Expected {room, event, data}",
                NO_ROOM,
                "Invalid event",
                "Attachments must be named once each",
                "Message too large",
                "Invalid ack: expected 1 to 30000 milliseconds",
                "Too many open questions",
                "More than 10000 receivers",
            ]),
    );
    section.event(
        Event::from_client("members", "Lists the members of a room on all nodes.")
            .weight(10)
            .detail("Paged: `after` is the last `socketId` of the previous page.")
            .payload::<PageOf>()
            .ack::<Ack<Members<'_>>>()
            .refuse_all(&[NOT_ALLOWED, NO_ROOM, "Expected {room, after?, limit?}"]),
    );
    section.event(
        Event::from_client("echo", "Returns the arguments, including binary data, without adding `success`.")
            .payload::<Value>()
            .ack::<Value>()
            .refuse(NOT_ALLOWED),
    );
}

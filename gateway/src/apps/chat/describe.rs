//! The events of `chat` in words and types.

use super::events::{
    InRoom, Message, PageBody, RoomHistory, SendBody, Sent, UserMoved, UserStoppedTyping, UserTyping,
};
use crate::apps::{Ack, Done};
use crate::describe::forms::Name;
use crate::describe::{Event, Section};

const NOT_IN: &str = "You must join the room first";
const NO_ROOM: &str = "Invalid room id";

/// Describes the events.
pub(super) fn describe(section: &mut Section) {
    section.about(
        "Discussion rooms with history and typing. A message is stored before it is told; all members of a \
         room see one order.",
    );
    moving(section);
    messages(section);
    typing(section);
}

fn moving(section: &mut Section) {
    section.event(
        Event::from_client("join_room", "Enters a room.")
            .weight(10)
            .detail(
                "The joiner gets `room_history`; the others `user_joined`, if it is the user's first socket \
                 there.",
            )
            .payload::<Name>()
            .ack::<Ack<InRoom<'_>>>()
            .refuse_all(&[NO_ROOM, "Too many rooms"]),
    );
    section.event(
        Event::from_client("leave_room", "Leaves a room.")
            .detail("The others get `user_left`, if it was the user's last socket there.")
            .payload::<Name>()
            .ack::<Ack<InRoom<'_>>>()
            .refuse(NO_ROOM),
    );
    section.event(
        Event::to_client("user_joined", "A user has entered the room.")
            .to("the others in the room, on the user's first socket there")
            .payload::<UserMoved<'_>>(),
    );
    section.event(
        Event::to_client("user_left", "A user has left the room.")
            .detail(
                "After a lost connection it is held back for a while (`LEAVE_HOLDBACK`): the user may be \
                 back.",
            )
            .to("the others in the room, when the user's last socket there has gone")
            .payload::<UserMoved<'_>>(),
    );
}

fn messages(section: &mut Section) {
    section.event(
        Event::from_client("send_message", "Sends a message to a room that the socket is in.")
            .weight(10)
            .payload::<SendBody>()
            .ack::<Ack<Sent>>()
            .refuse_all(&[
                "Expected {roomId, content}",
                NO_ROOM,
                "Message cannot be empty",
                "Message too long (max 1000 characters)",
                "Message contains a null character",
                NOT_IN,
                "Too many messages, try again",
            ]),
    );
    section.event(
        Event::to_client("new_message", "A message.")
            .to("the room, its sender included")
            .payload::<Message>(),
    );
    section.event(
        Event::from_client("room_history", "Asks for an older page.")
            .weight(10)
            .detail("Answered by the event `room_history`, and in the ack.")
            .payload::<PageBody>()
            .ack::<Ack<RoomHistory<'_>>>()
            .refuse_all(&["Expected {roomId, before?, limit?}", NO_ROOM, NOT_IN, "Message not found"]),
    );
    section.event(
        Event::to_client(
            "room_history",
            "Messages of a room, oldest first: the last 50 on joining, or the page that was asked for.",
        )
        .to("the socket that joined or asked")
        .payload::<RoomHistory<'_>>(),
    );
}

fn typing(section: &mut Section) {
    for (name, summary) in [("typing_start", "The user types."), ("typing_stop", "The user types no more.")] {
        section.event(
            Event::from_client(name, summary).payload::<Name>().ack::<Done>().refuse_all(&[NO_ROOM, NOT_IN]),
        );
    }
    section.event(
        Event::to_client("user_typing", "A user types. May be lost.")
            .to("the others in the room")
            .payload::<UserTyping<'_>>(),
    );
    section.event(
        Event::to_client("user_stopped_typing", "A user types no more.")
            .to("the others in the room")
            .payload::<UserStoppedTyping<'_>>(),
    );
}

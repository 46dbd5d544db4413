//! Describes the events of `chat`.

use super::events::{
    InRoom, Message, PageBody, RoomHistory, SendBody, Sent, UserMoved, UserStoppedTyping, UserTyping,
};
use crate::apps::{Ack, Done};
use crate::describe::forms::Name;
use crate::describe::{Event, Section};

const NOT_IN: &str = "You must join the room first";
const NO_ROOM: &str = "Invalid room id";

pub(super) fn describe(section: &mut Section) {
    section.about(
        "Discussion rooms with history and typing. The node stores a message before it broadcasts it; all members of a \
         room see the same order.",
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
                "The socket receives `room_history`. If it is the user's first socket in the room, the other members \
                 receive `user_joined`.",
            )
            .payload::<Name>()
            .ack::<Ack<InRoom<'_>>>()
            .refuse_all(&[NO_ROOM, "Too many rooms"]),
    );
    section.event(
        Event::from_client("leave_room", "Leaves a room.")
            .detail("If it was the user's last socket in the room, the other members receive `user_left`.")
            .payload::<Name>()
            .ack::<Ack<InRoom<'_>>>()
            .refuse(NO_ROOM),
    );
    section.event(
        Event::to_client("user_joined", "A user has entered the room.")
            .to("the other members of the room, when the user's first socket enters")
            .payload::<UserMoved<'_>>(),
    );
    section.event(
        Event::to_client("user_left", "A user has left the room.")
            .detail(
                "After a lost connection, the node sends it only if the user has not reconnected within \
                 `LEAVE_HOLDBACK`.",
            )
            .to("the other members of the room, when the user's last socket leaves")
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
            .to("the room, including its sender")
            .payload::<Message>(),
    );
    section.event(
        Event::from_client("room_history", "Requests an older page.")
            .weight(10)
            .detail("Answered by the event `room_history`, and in the ack.")
            .payload::<PageBody>()
            .ack::<Ack<RoomHistory<'_>>>()
            .refuse_all(&["Expected {roomId, before?, limit?}", NO_ROOM, NOT_IN, "Message not found"]),
    );
    section.event(
        Event::to_client(
            "room_history",
            "Messages of a room, oldest first: the last 50 on joining, or the requested page.",
        )
        .to("the socket that joined or requested the page")
        .payload::<RoomHistory<'_>>(),
    );
}

fn typing(section: &mut Section) {
    for (name, summary) in
        [("typing_start", "The user is typing."), ("typing_stop", "The user has stopped typing.")]
    {
        section.event(
            Event::from_client(name, summary).payload::<Name>().ack::<Done>().refuse_all(&[NO_ROOM, NOT_IN]),
        );
    }
    section.event(
        Event::to_client("user_typing", "A user is typing. The event may be dropped.")
            .to("the other members of the room")
            .payload::<UserTyping<'_>>(),
    );
    section.event(
        Event::to_client("user_stopped_typing", "A user has stopped typing.")
            .to("the other members of the room")
            .payload::<UserStoppedTyping<'_>>(),
    );
}

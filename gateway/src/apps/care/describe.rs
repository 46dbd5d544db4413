//! Describes the events of `care`.

use super::Connected;
use super::call_events::{
    Accepted, AnsweredElsewhere, Ended, Incoming, Missed, Rejected, Signalled, Stepped, SteppedToEnd,
};
use super::events::{
    CallBody, HistoryBody, InitiateBody, NotificationBody, PageBody, ParticipantsBody, ReadBody, RejectBody,
    RoomBody, SendBody, SignalBody, StatusBody, UsersBody, UsersOrAllBody,
};
use super::message::Message;
use super::messages::{Conversations, Found, Sent, StatusChanged, Updated};
use super::notifications::{AllRead, Listed, Notification, Unread};
use super::presence::{Presences, StatusSet, Subscribed};
use super::rooms::{Joined, Left, Participants, Typing, UserMoved};
use super::status::Shown;
use crate::apps::{Ack, Done};
use crate::describe::{Event, Section};
use crate::jobs::Identified;

const ROOM: [&str; 2] = ["Expected {roomId}", "Invalid room id"];
const NO_ACCESS: &str = "Room access denied";
const PEER: [&str; 4] = [
    "Expected one of recipientId, visitId and roomId",
    "Invalid recipientId",
    "Invalid visitId",
    "Invalid room id",
];
const PAGE: [&str; 2] = ["Expected {before?, limit?}", "Invalid before"];
const CALL: [&str; 3] = ["Expected {callId}", "Invalid callId", "Call not found"];
const OVER: &str = "Call is over";
const NOT_RINGING: &str = "Call is not ringing";
const ONLY_RECIPIENT: &str = "Only the recipient may do this";
const OTHERS_ONLY: &str = "Recipient must be another user";
const USERS: [&str; 3] = ["Expected {userIds}", "Too many userIds (max 500)", "Invalid userId"];
const TOO_MANY: &str = "Too many requests";
const NOT_IN: &str = "You must join the room first";
const BOTH: &str = "both parties' sockets";

pub(super) fn describe(section: &mut Section) {
    section.about(
        "Telehealth: rooms, stored messages, calls, presence and notifications. The node stores events with \
         the record and delivers them at once, or later if it cannot.",
    );
    section.event(
        Event::to_client("connected", "The socket is connected.").to("the socket").payload::<Connected<'_>>(),
    );
    rooms(section);
    typing(section);
    messages(section);
    pages_of_messages(section);
    news_of_messages(section);
    calls(section);
    signals(section);
    news_of_calls(section);
    presence(section);
    subscriptions(section);
    notifications(section);
    counts_of_notifications(section);
}

fn rooms(section: &mut Section) {
    section.event(
        Event::from_client("room:join", "Enters a room.").weight(10)
            .detail(
                "`chat:a:b` is for these two users, sorted, with `%` and `:` in their ids written as `%25` and `%3A`; `visit:…` and `call:…` for users with a grant from \
                 a backend or in the token, and a call's room for its parties; `topic:…` for all users; \
                 `notifications:…` for that user. If it is the user's first socket in the room, the other members \
                 receive `room:userJoined`.",
            )
            .payload::<RoomBody>()
            .ack::<Ack<Joined<'_>>>()
            .refuse_all(&ROOM)
            .refuse_all(&[NO_ACCESS, TOO_MANY, "Too many rooms"]),
    );
    section.event(
        Event::from_client("room:participants", "Lists the users in a room that the socket is in.")
            .weight(10)
            .detail("Paged: `after` is the last user of the previous page.")
            .payload::<ParticipantsBody>()
            .ack::<Ack<Participants<'_>>>()
            .refuse_all(&["Expected {roomId, after?, limit?}", "Invalid after", ROOM[1]])
            .refuse_all(&[NO_ACCESS, NOT_IN, TOO_MANY]),
    );
    section.event(
        Event::from_client("room:leave", "Leaves a room.")
            .weight(5)
            .detail(
                "If it was the user's last socket in the room, the other members receive `room:userLeft`.",
            )
            .payload::<RoomBody>()
            .ack::<Ack<Left<'_>>>()
            .refuse_all(&ROOM)
            .refuse(NO_ACCESS),
    );
    section.event(
        Event::to_client("room:userJoined", "A user has entered the room.")
            .to("the other members of the room, when the user's first socket enters")
            .payload::<UserMoved<'_>>(),
    );
    section.event(
        Event::to_client("room:userLeft", "A user has left the room or was removed from it.")
            .detail(
                "After a lost connection, the node sends it only if the user has not reconnected within \
                 `LEAVE_HOLDBACK`.",
            )
            .to("the other members of the room, when the user's last socket leaves")
            .payload::<UserMoved<'_>>(),
    );
}

fn typing(section: &mut Section) {
    for (name, summary, description) in [
        ("typing:start", "The user is typing.", "A user is typing. The event may be dropped."),
        ("typing:stop", "The user has stopped typing.", "A user has stopped typing."),
    ] {
        section.event(
            Event::from_client(name, summary)
                .payload::<RoomBody>()
                .ack::<Done>()
                .refuse_all(&ROOM)
                .refuse_all(&[NO_ACCESS, NOT_IN, TOO_MANY]),
        );
        section.event(
            Event::to_client(name, description).to("the other members of the room").payload::<Typing<'_>>(),
        );
    }
}

fn messages(section: &mut Section) {
    section.event(
        Event::from_client("message:send", "Sends a message to a user, a visit or a room.")
            .weight(5)
            .detail(
                "A second message with the same `clientMessageId` gets the first one's answer and sends no event.",
            )
            .payload::<SendBody>()
            .ack::<Ack<Sent<'_>>>()
            .refuse("Expected {recipientId | visitId | roomId, message}")
            .refuse_all(&PEER)
            .refuse_all(&[
                "Message cannot be empty",
                "Message too long (max 5000 characters)",
                "Message contains a null character",
                "Invalid attachments: expected at most 10 objects",
                "Attachments too large (max 8192 bytes)",
                "Metadata too large (max 8192 bytes)",
                "Invalid clientMessageId",
                "clientMessageId was used for something else",
                OTHERS_ONLY,
                NO_ACCESS,
                TOO_MANY,
            ]),
    );
    section.event(
        Event::from_client("message:read", "Marks messages as read.")
            .weight(5)
            .detail(
                "Ignores messages that are not for the user. Senders receive `message:status` for messages \
                 that were unread.",
            )
            .payload::<ReadBody>()
            .ack::<Ack<Updated>>()
            .refuse_all(&["Expected {messageIds}", "Invalid messageIds: expected 1 to 100 ids", TOO_MANY]),
    );
}

fn pages_of_messages(section: &mut Section) {
    section.event(
        Event::from_client("message:history", "Requests a page of a conversation.")
            .weight(10)
            .detail("Messages that the user sees for the first time become `delivered`.")
            .payload::<HistoryBody>()
            .ack::<Ack<Found>>()
            .refuse_all(&PEER)
            .refuse_all(&PAGE)
            .refuse_all(&[OTHERS_ONLY, NO_ACCESS, "Message not found", TOO_MANY]),
    );
    section.event(
        Event::from_client("message:conversations", "Requests the user's conversations.")
            .weight(10)
            .detail("The argument may be left out. `before` is the id of a conversation's last message.")
            .payload::<PageBody>()
            .ack::<Ack<Conversations>>()
            .refuse_all(&PAGE)
            .refuse(TOO_MANY),
    );
}

fn news_of_messages(section: &mut Section) {
    section.event(
        Event::to_client("message:new", "A message.")
            .to("the recipient's sockets, or the room except the sender's sockets")
            .payload::<Identified<Message>>(),
    );
    section.event(
        Event::to_client("message:sent", "A message that the user has sent from another socket.")
            .to("the sender's other sockets")
            .payload::<Identified<Message>>(),
    );
    section.event(
        Event::to_client("message:status", "A message was delivered or read.")
            .to("the sender's sockets")
            .payload::<Identified<StatusChanged<'_>>>(),
    );
}

fn calls(section: &mut Section) {
    section.event(
        Event::from_client("call:initiate", "Calls a user.")
            .weight(5)
            .detail("It rings at all the user's sockets, including those that connect meanwhile.")
            .payload::<InitiateBody>()
            .ack::<Ack<Stepped<'_>>>()
            .refuse_all(&[
                "Expected {recipientId, callType?}",
                "Invalid callType: expected video or audio",
                "Invalid visitId",
                "Invalid recipientId",
                OTHERS_ONLY,
                "You are already in a call",
                "User is busy",
                "Too many calls, try again later",
            ]),
    );
    section.event(
        Event::from_client("call:accept", "Accepts a call with this socket.")
            .weight(5)
            .payload::<CallBody>()
            .ack::<Ack<Stepped<'_>>>()
            .refuse_all(&CALL)
            .refuse_all(&[ONLY_RECIPIENT, NOT_RINGING, OVER]),
    );
    section.event(
        Event::from_client("call:reject", "Rejects a call.")
            .weight(5)
            .payload::<RejectBody>()
            .ack::<Ack<Stepped<'_>>>()
            .refuse_all(&CALL)
            .refuse_all(&["Reason too long (max 128 characters)", "Reason contains a null character"])
            .refuse_all(&[ONLY_RECIPIENT, NOT_RINGING, OVER]),
    );
    section.event(
        Event::from_client("call:end", "Ends a call, which may still be ringing.")
            .weight(5)
            .payload::<CallBody>()
            .ack::<Ack<SteppedToEnd<'_>>>()
            .refuse_all(&CALL)
            .refuse(OVER),
    );
}

fn signals(section: &mut Section) {
    section.event(
        Event::from_client("call:signal", "Sends a WebRTC signal to the other party.")
            .weight(5)
            .payload::<SignalBody>()
            .ack::<Done>()
            .refuse_all(&CALL)
            .refuse_all(&["Expected {callId, signal}", "Signal too large", "Call is not active", OVER])
            .refuse(TOO_MANY),
    );
    section.event(
        Event::to_client("call:signal", "A WebRTC signal.")
            .to("the other party's socket in the call")
            .payload::<Signalled<'_>>(),
    );
}

fn news_of_calls(section: &mut Section) {
    section.event(
        Event::to_client("call:incoming", "A user calls.")
            .to("each of the recipient's sockets, once")
            .payload::<Identified<Incoming<'_>>>(),
    );
    section.event(
        Event::to_client("call:accepted", "The recipient has accepted the call.")
            .to("the caller's sockets")
            .payload::<Identified<Accepted<'_>>>(),
    );
    section.event(
        Event::to_client("call:answered_elsewhere", "Another socket of the user has accepted the call.")
            .to("the recipient's other sockets")
            .payload::<Identified<AnsweredElsewhere<'_>>>(),
    );
    section.event(
        Event::to_client("call:rejected", "The recipient has rejected the call.")
            .to(BOTH)
            .payload::<Identified<Rejected<'_>>>(),
    );
    section.event(
        Event::to_client("call:ended", "A party has ended the call or was lost.")
            .to(BOTH)
            .payload::<Identified<Ended<'_>>>(),
    );
    section.event(
        Event::to_client("call:missed", "The recipient did not accept the call in time.")
            .to(BOTH)
            .payload::<Identified<Missed<'_>>>(),
    );
}

fn presence(section: &mut Section) {
    section.event(
        Event::from_client("presence:get", "Requests users' presence.")
            .weight(10)
            .payload::<UsersBody>()
            .ack::<Ack<Presences>>()
            .refuse_all(&USERS)
            .refuse(TOO_MANY),
    );
    section.event(
        Event::from_client("presence:setStatus", "Sets the user's status while they are connected.")
            .weight(5)
            .detail(
                "The node sets `offline` and `in_call`, and `away` after the user has been inactive for a \
                 while.",
            )
            .payload::<StatusBody>()
            .ack::<Ack<StatusSet>>()
            .refuse_all(&[
                "Expected {status, customStatus?}",
                "Invalid status: expected online, away or busy",
                "customStatus too long (max 128 characters)",
                "customStatus contains a null character",
                TOO_MANY,
            ]),
    );
    section.event(
        Event::to_client("presence:changed", "A user's presence has changed.")
            .detail("Changes in quick succession are sent as one event.")
            .to("the sockets that watch the user")
            .payload::<Shown>(),
    );
}

fn subscriptions(section: &mut Section) {
    section.event(
        Event::from_client("presence:subscribe", "Starts watching users.")
            .weight(10)
            .payload::<UsersBody>()
            .ack::<Ack<Subscribed>>()
            .refuse_all(&USERS)
            .refuse_all(&[
                TOO_MANY,
                "Too many subscriptions (max 500)",
                "Too many subscriptions (max 2000 of all your devices)",
            ]),
    );
    section.event(
        Event::from_client("presence:unsubscribe", "Stops watching these users, or all users.")
            .weight(5)
            .detail("The argument may be left out.")
            .payload::<UsersOrAllBody>()
            .ack::<Done>()
            .refuse("Expected {userIds?}")
            .refuse_all(&USERS[1..]),
    );
}

fn notifications(section: &mut Section) {
    section.event(
        Event::from_client("notification:list", "Requests a page of the user's notifications.")
            .weight(5)
            .detail("The argument may be left out.")
            .payload::<PageBody>()
            .ack::<Ack<Listed>>()
            .refuse_all(&PAGE)
            .refuse(TOO_MANY),
    );
    section.event(
        Event::to_client("notification:new", "A notification from a backend.")
            .to("the user's sockets")
            .payload::<Identified<Notification>>(),
    );
}

fn counts_of_notifications(section: &mut Section) {
    section.event(
        Event::from_client("notification:read", "Marks a notification as read.")
            .weight(5)
            .payload::<NotificationBody>()
            .ack::<Ack<Unread>>()
            .refuse_all(&["Expected {notificationId}", "Notification not found"]),
    );
    section.event(
        Event::from_client("notification:readAll", "Marks all notifications as read.")
            .weight(5)
            .ack::<Ack<AllRead>>(),
    );
    section.event(
        Event::from_client("notification:getUnreadCount", "Requests the number of unread notifications.")
            .weight(5)
            .ack::<Ack<Unread>>(),
    );
}

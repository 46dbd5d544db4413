//! The events of every namespace, whatever is mounted on it.

use super::access::{REMOVED, Removed};
use super::connect::ConnectError;
use super::dispatch::REFRESH;
use super::expiry::{Refresh, Refreshed};
use crate::apps::Ack;
use crate::describe::{Event, Section};
use crate::error::ErrorEvent;
use crate::socket::Resync;

/// Describes these events.
pub(crate) fn describe(section: &mut Section) {
    section.event(
        Event::from_client(REFRESH, "Extends the socket's life with a newer token of the same user.")
            .payload::<Refresh>()
            .ack::<Ack<Refreshed>>()
            .refuse_all(&[
                "Expected {token}",
                "Authentication required",
                "Invalid token",
                "Token expired",
                "Token is of another user",
                "Too many requests",
            ])
            .detail(
                "Every room of the socket is judged by the new token before the ack. A room that it may not be in any \
                 more is left, and the client receives `muster:removed`. Rooms that a backend has put the socket into \
                 stay.",
            ),
    );
    section.event(
        Event::to_client("error", "The server refused an event that the client sent without an ack.")
            .to("the socket that sent it")
            .payload::<ErrorEvent<'_>>(),
    );
    section.event(
        Event::to_client(
            "connect_error",
            "The namespace was not entered. A CONNECT_ERROR packet, which the stock client hands on as this \
             event.",
        )
        .to("the client that sent CONNECT")
        .payload::<ConnectError>(),
    );
    section.event(
        Event::to_client(REMOVED, "The socket lost access to a room and has left it.")
            .detail(
                "After `auth:refresh` with a token that does not open the room, or when a backend withdraws a grant. \
                 Nothing comes from the room after this event.",
            )
            .to("the socket")
            .payload::<Removed<'_>>(),
    );
    section.event(
        Event::to_client(
            "muster:resync",
            "The client may have missed events: it should request the state that it shows again.",
        )
        .detail(
            "After an outage of Redis. With a room, of that room; without, of what was sent to the socket \
             directly or live only.",
        )
        .to("the members of the room, or every socket")
        .payload::<Resync<'_>>(),
    );
}

//! The events of every namespace, whatever is mounted on it.

use super::access::{REMOVED, Removed};
use super::connect::ConnectError;
use super::dispatch::REFRESH;
use super::expiry::{Refresh, Refreshed};
use crate::apps::Ack;
use crate::describe::{Event, Section};
use crate::error::ErrorEvent;
use crate::socket::Resync;

/// Describes them.
pub(crate) fn describe(section: &mut Section) {
    section.event(
        Event::from_client(REFRESH, "Lets the socket live on under a newer token of the same user.")
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
        Event::to_client("error", "An event of the client without an ack was refused.")
            .to("the socket that sent it")
            .payload::<ErrorEvent<'_>>(),
    );
    section.event(
        Event::to_client(
            "connect_error",
            "The namespace was not entered. A CONNECT_ERROR packet, which the stock client hands on as this \
             event.",
        )
        .to("the client that asked to enter")
        .payload::<ConnectError>(),
    );
    section.event(
        Event::to_client(REMOVED, "The socket may not be in a room any more, and has left it.")
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
            "Something may have been missed: what is shown should be asked for anew.",
        )
        .detail(
            "After an outage of Redis. With a room, of that room; without, of what was sent to the socket \
             directly or live only.",
        )
        .to("the members of the room, or every socket")
        .payload::<Resync<'_>>(),
    );
}
